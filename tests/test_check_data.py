"""`check_data`: each finding appears where its cause is, and nowhere else."""

import csv
import dataclasses
import gc
import json
import random
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lora_lab as lab
from lora_lab.cli.app import app
from lora_lab.models.built_in import base_folder
from lora_lab.review import data, data_lengths
from lora_lab.review.data_lengths import Bounds, TokenCounter, counter_here, lengths_of
from lora_lab.review.data_twins import twins_of
from lora_lab.tasks import personal_data
from lora_lab.tasks.examples import Example, encode
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.personal_data import kinds_of_personal_data, without_personal_data
from lora_lab.tasks.splits import UsedRow
from lora_lab.tasks.templates import templates_of

SUBJECTS = "fox owl cat crow hare mole newt pike seal toad wolf wren".split()
VERBS = "sleeps hunts sings digs swims hides eats runs".split()
PAIRS = [  # 96 prompts, each of a template of its own
    (f"what does a {subject} do when it {verb}", f"it {verb} like any {subject}")
    for subject in SUBJECTS
    for verb in VERBS
]
LABELS = [(prompt, ("yes", "no", "maybe")[place % 3]) for place, (prompt, _) in enumerate(PAIRS)]


@pytest.fixture
def table(tmp_path):
    """Writes pairs as CSV, row 2 the first of them, and gives the path."""

    def write(pairs, name="a.csv", encoding="utf-8"):
        path = tmp_path / name
        with path.open("w", newline="", encoding=encoding) as out:
            csv.writer(out).writerows([("prompt", "answer"), *pairs])
        return path

    return write


def found(review, part):
    """The finding whose `what` has these words."""
    (finding,) = [finding for finding in review if part in finding.what]
    return finding


def beyond_size(review):
    """The findings but the note on how few rows a test has."""
    return [finding.what for finding in review if "for the test is" not in finding.what]


@pytest.mark.parametrize("pairs", [PAIRS, LABELS])
def test_data_with_nothing_odd_has_no_finding_but_its_size(table, pairs):
    review = lab.check_data(table(pairs))
    assert beyond_size(review) == []
    assert not review.is_grave
    assert review.facts["rows"] == "96 rows read, 96 used"
    assert review.facts["taken"] == "'prompt' to 'answer'"
    assert review.facts["encoding"] == "UTF-8"
    assert review.facts["splits"] == "76 to train, 10 to validate, 10 to test, at random"
    assert found(review, "for the test is 10 rows of 96").severity == "note"


def test_the_facts_agree_with_the_task_that_is_trained(table):
    path = table([*PAIRS, ("", "x"), PAIRS[0], (PAIRS[1][0], "else")])
    review, task = lab.check_data(path), load_task(path)
    assert review.facts["rows"] == "99 rows read, 97 used, 2 left out"
    assert "99 rows read, 97 used" in task.about
    assert len({*task.train, *task.validation, *task.test}) == 97
    sizes = [f"{len(task.train)} to train", f"{len(task.validation)} to validate"]
    assert review.facts["splits"] == f"{', '.join(sizes)}, {len(task.test)} to test, at random"


# --- rows ---------------------------------------------------------------------------------------


def test_rows_that_are_left_out_are_named_with_their_reason(table):
    review = lab.check_data(table([*PAIRS, ("x", ""), ("", "y"), ("z",)]))
    finding = found(review, "left out")
    assert "3 of 99 rows are left out. blank 'answer': rows 98, 100; blank 'prompt': row 99" in (
        finding.what
    )
    assert finding.severity == "warning"


def test_data_of_which_half_is_left_out_is_grave(table):
    assert lab.check_data(table([*PAIRS, *[("x", "")] * 97])).is_grave


@pytest.mark.parametrize("given", [None, 5, [("a question", "an answer")], b"a.csv"])
def test_what_is_no_path_is_refused_in_words(given):
    with pytest.raises(TypeError, match="isn't a path; give the path of a CSV, TSV, JSON or JSONL"):
        lab.check_data(given)


def test_repeats_are_named(table):
    review = lab.check_data(table([*PAIRS, PAIRS[0], PAIRS[0]]))
    assert found(review, "2 of 98 rows repeat an earlier row: rows 98, 99").severity == "note"
    review = lab.check_data(table(PAIRS + PAIRS[:20]))
    assert found(review, "repeat an earlier row").severity == "warning"


def test_all_rows_of_a_prompt_with_different_answers_are_named(table):
    more = [(PAIRS[0][0], "b"), (PAIRS[0][0], "c"), (PAIRS[5][0], "d")]
    review = lab.check_data(table([*PAIRS, *more]))
    finding = found(review, "different answers")
    assert finding.what == "2 prompts have different answers: rows 2, 98, 99; rows 7, 100"
    assert finding.severity == "warning"


def test_a_prompt_whose_label_is_spelled_in_two_ways_has_no_different_answers(table):
    more = [(LABELS[0][0], "Yes."), (LABELS[1][0], "yes")]
    review = lab.check_data(table([*LABELS, *more]))
    alike = found(review, "1 prompt has one label in several spellings: rows 2, 98")
    assert alike.severity == "warning"
    assert found(review, "1 prompt has different answers: rows 3, 99").severity == "warning"
    texts = lab.check_data(table([*PAIRS, (PAIRS[1][0], PAIRS[1][1].upper())]))
    assert found(texts, "1 prompt has different answers: rows 3, 98")


def test_many_prompts_with_different_answers_are_grave(table):
    review = lab.check_data(table([*PAIRS, *((prompt, "else") for prompt, _ in PAIRS[:20])]))
    assert found(review, "20 prompts have different answers").severity == "grave"


def test_where_no_prompt_is_left_to_test_on_the_reason_is_a_fact(table):
    review = lab.check_data(table([*PAIRS[:5], *((prompt, "else") for prompt, _ in PAIRS[:5])]))
    assert review.facts["splits"].startswith(
        "none: no row of a.csv is left for validation and test: prompts with several"
    )
    assert review.is_grave


def test_too_few_rows_are_grave(table):
    review = lab.check_data(table(PAIRS[:2]))
    assert found(review, "2 rows of 2 can be used").severity == "grave"


def test_a_guessed_encoding_names_rows_with_letters_beyond_ascii(table):
    review = lab.check_data(table([*PAIRS, ("café or tea", "thé")], encoding="cp1252"))
    assert "read as cp1252; letters beyond ASCII are in row 98" in beyond_size(review)[0]
    assert review.facts["encoding"] == "cp1252"
    assert beyond_size(lab.check_data(table([*PAIRS, ("café or tea", "thé")]))) == []


def test_a_byte_order_mark_is_a_fact_and_no_finding(table):
    review = lab.check_data(table(PAIRS, encoding="utf-8-sig"))
    assert review.facts["encoding"] == "UTF-8 with a byte order mark"
    assert beyond_size(review) == []


@pytest.mark.parametrize("text", ["über", "it’s", "“so”", "café", "naïve €5"])
def test_letters_that_were_read_in_a_wrong_encoding_are_found_and_right_ones_are_not(table, text):
    wrong = text.encode().decode("cp1252", errors="replace")
    review = lab.check_data(table([*PAIRS, (f"{wrong} or not", "fine"), (f"{text} or so", "fine")]))
    assert "letters look garbled, such as Ã¼ for ü, in 1 row: row 98" in beyond_size(review)


@pytest.mark.parametrize("answer", ["-", "n/a", "N/A", "none", "...", "TBD", "null"])
def test_placeholders_as_answers_are_named(table, answer):
    review = lab.check_data(table([*PAIRS, ("and what else is there", answer)]))
    assert "nothing but a placeholder" in beyond_size(review)[0]
    assert beyond_size(review)[0].endswith("row 98")


def test_labels_may_be_called_none_or_be_signs(table):
    pairs = [(prompt, ("none", "+", "-")[place % 3]) for place, (prompt, _) in enumerate(PAIRS)]
    assert beyond_size(lab.check_data(table(pairs))) == []


def test_columns_that_are_not_used_are_a_fact(tmp_path):
    rows = [{"prompt": prompt, "answer": answer, "id": 1} for prompt, answer in PAIRS]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert lab.check_data(tmp_path / "a.json").facts["not used"] == "'id'"


# --- chats --------------------------------------------------------------------------------------


def messages(*turns):
    roles = ("user", "assistant") * len(turns)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, turns, strict=False)]}


def test_rounds_and_dropped_chats_are_named_by_line(tmp_path):
    records = [messages(*pair) for pair in PAIRS]
    records += [
        messages("a b c", "d", "e f g", "h"),
        messages("only asked"),
        messages("q", "a", "b"),
    ]
    records += [{"question": "of another form", "answer": "yes"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    review = lab.check_data(tmp_path / "a.jsonl")
    assert review.facts["taken"] == "the turns in 'messages'"
    assert "several rounds in 1 chat: row 97" in found(review, "several rounds").what
    assert "turns after the last answer in 1 chat: row 99" in found(review, "turns after").what
    assert "the assistant has no turn: row 98" in found(review, "left out").what
    mixed = found(review, "would fit")
    assert "1 row would fit 'question' to 'answer', while the turns in 'messages' was taken" in (
        mixed.what
    )


def test_a_last_line_that_is_cut_off_is_named_by_its_number(tmp_path):
    lines = [json.dumps(messages(*pair)) for pair in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines, lines[0][:-9]]))
    review = lab.check_data(tmp_path / "a.jsonl")
    assert review.facts["rows"] == "97 rows read, 96 used, 1 left out"
    left = found(review, "an interrupted write leaves it: row 97")
    assert left.what.startswith("1 of 97 rows are left out. broken JSON")
    assert not review.is_grave


def test_rows_of_other_kinds_of_training_are_a_warning_and_not_grave(tmp_path):
    call = {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}
    records = [messages(*pair) for pair in PAIRS[:20]] + [call] * 30
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    review = lab.check_data(tmp_path / "a.jsonl")
    assert found(review, "30 of 50 rows are left out, since they call tools").severity == "warning"
    assert not review.is_grave
    records = [{"prompt": p, "chosen": a, "rejected": "no"} for p, a in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    review = lab.check_data(tmp_path / "a.jsonl")
    assert review.facts["taken"] == "'prompt' to 'chosen'"
    assert found(review, "'rejected' holds the worse answers").severity == "warning"
    records = [{"prompt": p, "answer": a, "images": ["a.png"]} for p, a in PAIRS]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert found(lab.check_data(tmp_path / "a.jsonl"), "'images' are not used")


# --- labels -------------------------------------------------------------------------------------


def test_labels_are_counted_and_a_rare_one_is_a_note(table):
    review = lab.check_data(table([*LABELS, ("and what else is there", "perhaps")]))
    assert review.facts["answers"] == "4 labels: 'yes' 33 %, 'no' 33 %, 'maybe' 33 %, 'perhaps' 1 %"
    assert found(review, "1 label of 4 with fewer than 5 rows: 'perhaps' (1)").severity == "note"


def test_a_label_that_nearly_all_rows_have_sets_what_a_score_means(table):
    pairs = [(prompt, "no" if place % 10 else "yes") for place, (prompt, _) in enumerate(PAIRS)]
    review = lab.check_data(table(pairs))
    assert found(review, "'no' is the answer of 90 % of the rows").severity == "warning"


def test_one_label_alone_is_grave(table):
    assert lab.check_data(table([(prompt, "yes") for prompt, _ in PAIRS])).is_grave


def test_a_label_in_two_spellings_is_a_warning(table):
    review = lab.check_data(
        table([*LABELS, *[(f"how about {n} of them", "Yes.") for n in range(6)]])
    )
    assert found(review, "1 label in several spellings: 'yes' and 'Yes.'").severity == "warning"


# --- templates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("turn on the 3 lights", "turn on the 12 lights"),
        ("meet at 10:30 in room 4", "meet at 9:15 in room 12"),
        ('translate "good day" please', 'translate "so long" please'),
        ("translate «jour» please", "translate «nuit» please"),
        ("where does Ada live now", "where does Bob Hill live now"),
        ("Does Ada Fell live here?", "Does Bob live here?"),
        ("write to ada@a.org today", "write to bob@b.com today"),
        ("Where is it?", "where is it"),
        ("send A-12 and B-7 back", "send C-9 and D-105 back"),
        ("town 3", "town 4"),
    ],
)
def test_prompts_that_differ_in_numbers_quotes_or_names_alone_share_a_template(one, other):
    assert len({*templates_of([one, other])}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("turn on the light", "turn off the light"),
        ("Who wrote it then?", "What wrote it then?"),
        ("12 + 7", "3 + 4"),  # no words: the numbers are the question
        ("Paris", "London"),
        ("I am here", "We am here"),
        ("I can't do 'it", "you can't do 'it"),
    ],
)
def test_other_prompts_do_not(one, other):
    assert len({*templates_of([one, other])}) == 2


def test_a_name_that_begins_a_sentence_is_known_from_within_another():
    texts = ["Ada wants a pizza", "Bob wants a pizza", "we met Ada and Bob"]
    assert templates_of(texts) == ["_ wants a pizza", "_ wants a pizza", "we met _ and _"]
    assert templates_of(texts[:2]) == ["ada wants a pizza", "bob wants a pizza"]


def test_twins_are_the_held_out_prompts_whose_template_is_in_training():
    training = ["turn on 3 lights", "turn on 4 lights", "say a word"]
    twins = twins_of(training, ["turn on 5 lights", "sing a song"])
    assert twins.twins == ("turn on 5 lights",)
    assert (twins.held_out, twins.templates, twins.prompts) == (2, 3, 5)
    assert twins.shared == (("turn on _ lights", 3),)


def test_near_twins_in_the_test_are_counted_by_the_tasks_own_splits(table):
    pairs = [*PAIRS[:48], *((f"how many legs have {n} foxes", f"{n * 4}") for n in range(48))]
    path = table(pairs)
    task = load_task(path)
    number = {prompt: row for row, (prompt, _) in enumerate(pairs, start=2)}
    rows = sorted(number[e.prompt] for e in task.test if e.prompt.startswith("how many"))
    assert rows
    finding = found(lab.check_data(path), "near-twin")
    assert f"{len(rows)} of {len(task.test)} test prompts" in finding.what
    assert f"{', '.join(map(str, rows))}. The largest template has" in finding.what
    assert "'how many legs have … foxes'" in finding.what


# --- lengths ------------------------------------------------------------------------------------

TEXTS = [
    "Where is Ada Fell?",
    "a\n\n  b\tc",
    "日本 ünïcode “q” 🙂",
    "\nnew",
    "x" * 300,
    "<|end|> 12.5",
]


def counters():
    return [
        name for name in data_lengths.TOKENIZERS if (base_folder(name) / "tokenizer.json").is_file()
    ]


@pytest.mark.parametrize("name", counters())
def test_tokens_are_counted_as_training_counts_them(name):
    base = lab.load_base(name)
    counter = TokenCounter.of(name, base_folder(name))
    examples = [Example(prompt.strip(), "an answer 42") for prompt in TEXTS]
    examples += [Example("ask", text.strip()) for text in TEXTS]
    expected = [len(encode(base.tokenizer, example, 10**6).input_ids) for example in examples]
    assert [*counter.lengths(examples)] == expected


@pytest.mark.parametrize("name", counters())
@pytest.mark.parametrize("seed", range(4))
def test_no_example_has_more_tokens_than_its_bound(name, seed):
    generator = random.Random(seed)
    counter = TokenCounter.of(name, base_folder(name))
    pieces = [*"ab \n\t.,'-_", "the ", " house", "🙂", "é", "def f(x):\n    ", "123", "…", " ' s"]

    def text():
        return "".join(generator.choices(pieces, k=generator.randint(1, 60))).strip() or "a"

    examples = [Example(text(), text()) for _ in range(300)]
    bounds = Bounds(counter, examples[:100])
    lengths = counter.lengths(examples)
    for n, example in zip(lengths, examples, strict=True):
        assert n <= bounds.most(example)
        assert bounds.may_exceed(example, n - 1)


def test_a_sample_finds_every_row_that_is_too_long(monkeypatch):
    counter = counter_here()
    generator = random.Random(0)
    pairs = [
        UsedRow(Example(" ".join(generator.choices(SUBJECTS + VERBS, k=k)), "yes"), row, None)
        for row, k in enumerate(generator.choices([5, 20, 60, 200], k=300))
    ]
    whole = lengths_of(pairs, 64, counter)
    monkeypatch.setattr(data_lengths, "ALL", 0)
    monkeypatch.setattr(data_lengths, "SAMPLE", 30)
    part = lengths_of(pairs, 64, counter)
    assert part.too_long == whole.too_long != ()
    assert part.most == whole.most
    assert part.counted < whole.counted == 300


def test_rows_above_max_length_are_named(table):
    long = "word and " * 160
    review = lab.check_data(
        table([*PAIRS, (f"{long}one", "yes it is"), (f"{long}two", "no it is")])
    )
    finding = found(review, "more than max_length=256")
    assert finding.what.startswith("2 of 98 rows")
    assert finding.what.endswith("rows 98, 99")
    assert finding.lesson == "11"
    assert beyond_size(lab.check_data(table(PAIRS), max_length=10**4)) == []
    assert lab.check_data(table(PAIRS), max_length=2).is_grave


def test_without_a_tokenizer_lengths_are_words_and_the_reason_is_said(table, monkeypatch):
    monkeypatch.setattr(data, "counter_here", lambda: None)
    review = lab.check_data(table([*PAIRS, ("word " * 300, "yes it is")]))
    assert "301 words" not in review.facts["lengths"]
    assert "the longest of 97 303 words; no base is here" in review.facts["lengths"]
    assert found(review, "more than max_length=256 words").what.endswith("row 98")


def test_a_max_length_without_room_is_refused(table):
    with pytest.raises(ValueError, match="max_length=0 leaves no room"):
        lab.check_data(table(PAIRS), max_length=0)


# --- personal data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("mail ada.fell+x@firm.co.uk now", "e-mail addresses"),
        ("call +49 170 1234567", "telephone numbers"),
        ("call 0049 170 1234567", "telephone numbers"),
        ("030 1234567 is mine", "telephone numbers"),
        ("(415) 234-5678", "telephone numbers"),
        ("GB82 WEST 1234 5698 7654 32", "bank accounts (IBAN)"),  # ISO 13616's example
        ("pay DE89370400440532013000.", "bank accounts (IBAN)"),
        ("4111 1111 1111 1111", "payment cards"),  # test numbers of card networks
        ("378282246310005", "payment cards"),
    ],
)
def test_each_kind_of_personal_data_is_known(text, kind):
    assert kinds_of_personal_data(text) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-01-02 at 12:30:45 UTC",
        "12.11.2023 to 13.11.2023",
        "pi is 3.14159265358979",
        "order 1234567890 of 2023",
        "192.168.100.200:8080",
        "ISBN 978-3-16-148410-0",
        "1,234,567,890 people",
        "GB82 WEST 1234 5698 7654 33",
        "DE89370400440532013001",
        "4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "ada@example.com and bob@mail.example.org",
        "a @ b, x@y",
        "version 10.0.19045.3803",
        "1990 - 2000 and 1234567",
    ],
)
def test_other_numbers_and_nobodys_addresses_are_none(text):
    assert kinds_of_personal_data(text) == []


PLAIN = {  # the patterns as one would write them: slow, and easy to read
    "EMAIL": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}",
    "IBAN": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b",
    "CARD": r"(?<![\w.-])[3-6](?:[ -]?\d){12,18}(?![\w-])",
    "PHONE": r"(?<![\w./,-])(?:(?:\+|00)[1-9]\d{0,2}[ ./()-]*\d(?:[ ./()-]{0,2}\d){6,11}"
    r"|\(?0[1-9]\d{1,3}\)?[ /-]\d(?:[ -]?\d){4,8}|\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4})"
    r"(?![\w-]|[.,]\d)",
}
PIECES = (
    "+49 00 (0 0 ) (212) 555 - . , / ( + @ é Z _ 22 1 DE89 3704 0044 0532 013 4111 1111 0170 "
    "1234567 a x.y .com ab@c.de"
).split()


@pytest.mark.parametrize("name", PLAIN)
def test_the_fast_patterns_of_personal_data_find_what_the_plain_ones_find(name):
    plain, fast = re.compile(PLAIN[name]), getattr(personal_data, name)
    generator, found = random.Random(name), 0
    pieces = [*PIECES, " ", "\n", " ", "-"]
    for _ in range(8000):
        text = "".join(generator.choices(pieces, k=generator.randint(2, 12)))
        places = [match.span() for match in plain.finditer(text)]
        assert [match.span() for match in fast.finditer(text)] == places, text
        found += len(places)
    assert found > 20


def test_a_check_leaves_pythons_collector_as_it_was(table):
    path = table(PAIRS)
    for was_on in (True, False):
        (gc.enable if was_on else gc.disable)()
        try:
            lab.check_data(path)
            with pytest.raises(ValueError, match="no column 'x'"):
                lab.check_data(path, prompt="x")
            assert gc.isenabled() == was_on
        finally:
            gc.enable()


def test_what_is_found_is_replaced_by_its_kind_and_counted():
    text = "ada@firm.de or bob@example.com, +49 170 1234567, DE89370400440532013000, ada@x.io"
    hidden, counts = without_personal_data(text)
    assert hidden == "[e-mail] or bob@example.com, [phone], [IBAN], [e-mail]"
    assert counts == {"e-mail addresses": 2, "telephone numbers": 1, "bank accounts (IBAN)": 1}
    assert without_personal_data("4111 1111 1111 1111 is [card]")[0] == "[card] is [card]"
    assert without_personal_data("no. 4111 1111 1111 1112") == ("no. 4111 1111 1111 1112", {})


SECRETS = [
    "ada.fell.of.the.third.floor@long-named-firm.de",
    "+49 170 1234567",
    "4111 1111 1111 1111",
    "DE89370400440532013000",
]


def test_personal_data_is_named_by_row_and_never_printed(table):
    labelled = [(f"who is number {n} of them", SECRETS[n % 4]) for n in range(40)]
    asked = [(f"write to {secret} in room {n}", "ok") for n, secret in enumerate(SECRETS * 10)]
    for pairs in (labelled, asked):
        review = lab.check_data(table([*PAIRS, *pairs]))
        assert found(review, "hints of e-mail").what.startswith(
            "hints of e-mail addresses in 10 rows"
        )
        assert "rows 98, 102" in found(review, "hints of e-mail").what
        for text in (str(review), review._repr_html_(), json.dumps(dict(review.facts))):
            assert not [secret for secret in SECRETS if secret in text]
    labels = lab.check_data(table(labelled))
    assert "4 labels" in labels.facts["answers"]
    assert not [secret for secret in SECRETS if secret in str(labels)]


# --- files that can't be read -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "a.csv is empty"),
        ("a.csv", b"\xef\xbb\xbf", "a.csv is empty"),
        ("a.jsonl", b"\x89PNG\0\0", "a.jsonl holds binary data"),
        ("a.json", b'[{"messages": [{"role": "us', "a.json is broken at line 1"),
        (
            "a.jsonl",
            b'{"prompt": "a"\n{"prom',
            "a.jsonl is broken in 2 of 2 lines, first in line 1",
        ),
        ("a.jsonl", b'{"messages": []}', "a.jsonl has no row that the turns in 'messages'"),
        ("a.csv", b'prompt,answer\n"a,b\n', "a.csv is broken near line 2"),
        (
            "a.csv",
            b"one,two\na,b\n",
            "no columns 'prompt' and 'answer', nor another pair that is known, such",
        ),
        ("a.jsonl", b'{"text": "a document"}', "a.jsonl has no columns 'prompt' and 'answer'"),
        ("a.tsv", b"prompt\tanswer\n\t\n", "column 'prompt' of a.tsv is blank in every row"),
    ],
)
def test_a_broken_file_is_one_line_and_exit_code_2(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    result = CliRunner().invoke(app, ["check", str(tmp_path / name)])
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert words in line


# --- on the command line ------------------------------------------------------------------------


def test_the_command_prints_the_review_and_its_exit_code_says_whether_it_is_grave(table):
    good = CliRunner().invoke(app, ["check", str(table(PAIRS))])
    assert good.exit_code == 0
    assert good.stdout.startswith("a.csv: data\n  rows")
    bad = CliRunner().invoke(app, ["check", str(table(PAIRS[:2])), "--json"])
    assert bad.exit_code == 1
    facts = json.loads(bad.stdout)
    assert facts["kind"] == "data"
    assert facts["findings"][0]["severity"] == "grave"


def test_the_commands_options_choose_columns_and_length(tmp_path):
    (tmp_path / "a.csv").write_text("asked,given\n" + "".join(f"{p},{a}\n" for p, a in PAIRS))
    words = ["--prompt", "asked", "--answer", "given", "--max-length", "2"]
    result = CliRunner().invoke(app, ["check", str(tmp_path / "a.csv"), *words])
    assert "'asked' to 'given'" in result.stdout
    assert "more than max_length=2 " in result.stdout
    (tmp_path / "a.yaml").write_text("r: 8")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "a.yaml"), *words])
    assert result.exit_code == 2
    assert "--prompt is about data" in result.stderr


def test_a_file_is_checked_without_torch(table):
    code = (
        "import sys\nfrom lora_lab.review.data import check_data\ncheck_data(sys.argv[1])\n"
        "print(*{'torch', 'transformers', 'peft', 'pandas', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, table(PAIRS)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "\n"


# --- the summary of the commands that train -----------------------------------------------------


def test_the_summary_says_in_three_lines_what_the_check_says(table):
    path = table([*LABELS, ("", "x"), (LABELS[0][0], "else")], "my data.csv")
    task = load_task(path)
    first, second, third = data.summary(path, task)
    assert first == (
        "my data.csv: 98 rows read; 77 to train, 10 to validate, 10 to test; 'prompt' to 'answer' "
        "(blank 'prompt': row 98)"
    )
    assert second == (
        "  1 prompt with different answers (rows 2, 99); 0 of 10 test prompts have a near-twin in "
        "training"
    )
    assert third.startswith("  4 labels, the largest 33 %; 1 warning about rows; more: lora-lab")
    assert third.endswith(f"check '{path}'")


def test_one_reading_serves_the_task_and_its_summary(table):
    path = table([*LABELS, ("", "x")])
    task = load_task(path)
    path.unlink()
    assert "97 rows read" in data.summary(path, task)[0]
    assert not any(row.table.rows for row in task.read.used)  # no second copy of the texts
    other = dataclasses.replace(task, read=None)
    assert other == task
    assert other.fingerprint() == task.fingerprint()
    assert load_task("sentiment").read is None


def test_the_summary_counts_the_rows_of_the_splits_and_warns_of_few_groups(table):
    path = table([(f"{group} {n}?", "x") for group in "abcdefgh" for n in range(10)])
    task = load_task(path, group_by="template")
    first, *_ = data.summary(path, task)
    counts = [len(split) for split in (task.train, task.validation, task.test)]
    assert "80 rows read; {} to train, {} to validate, {} to test".format(*counts) in first
    assert "so few that their scores say next to nothing" in first


# --- groups -------------------------------------------------------------------------------------


@pytest.fixture
def people(tmp_path):
    """Writes PAIRS with a person in each row, and gives the path."""

    def write(person_of, pairs=PAIRS):
        path = tmp_path / "people.csv"
        with path.open("w", newline="", encoding="utf-8") as out:
            rows = [(*pair, person_of(place)) for place, pair in enumerate(pairs)]
            csv.writer(out).writerows([("prompt", "answer", "person"), *rows])
        return path

    return write


def test_groups_are_counted_as_training_splits_them(people):
    path = people(lambda place: f"p{place % 24}")
    review, task = lab.check_data(path, group_by="person"), load_task(path, group_by="person")
    splits = {"train": task.train, "validate": task.validation, "test": task.test}
    words = [
        f"{len(rows)} to {verb} ({len({task.groups[row.prompt] for row in rows})} groups)"
        for verb, rows in splits.items()
    ]
    assert review.facts["splits"] == f"{', '.join(words)}, no group in two"
    assert review.facts["groups"] == (
        "24 by 'person', half of them with up to 4 rows, the largest with 4 of 96"
    )
    assert "not used" not in review.facts
    few = found(review, "few groups: 2 in the test and 2 in validation, of 24")
    assert few.severity == "warning"
    assert "says next to nothing about other groups" in few.why


def test_a_column_whose_name_and_repeats_speak_of_groups_is_named_where_none_were_asked(people):
    path = people(lambda place: f"p{place % 24}")
    hint = found(lab.check_data(path), "rows may belong together by 'person' (24 values)")
    assert hint.severity == "note"
    assert "give --group-by person" in hint.do
    assert not [
        finding for finding in lab.check_data(path, group_by="person") if "belong" in finding.what
    ]
    alone = people(lambda place: f"p{place}")
    assert not [finding for finding in lab.check_data(alone) if "belong together" in finding.what]


def test_with_many_groups_only_the_leak_of_a_split_at_random_is_noted(people):
    pairs = [(f"{asked} {n}", said) for n in range(4) for asked, said in PAIRS]
    path = people(lambda place: f"p{place % 200}", pairs)
    review = lab.check_data(path, group_by="person")
    leak = found(review, "would be of a group that is in training too")
    assert leak.severity == "note"
    assert "--group-by person in train" in leak.do
    task = load_task(path)  # at random, as without group_by
    person = {row["prompt"]: row["person"] for row in csv.DictReader(path.open())}
    trained = {person[example.prompt] for example in task.train}
    torn = sum(person[example.prompt] in trained for example in task.test)
    assert 0 < torn < len(task.test)
    assert leak.what.startswith(f"at random, {torn} of {len(task.test)} test rows")
    assert not [finding for finding in review if "groups" in finding.what]


def test_a_group_for_each_row_keeps_nothing_together(people):
    path = people(lambda place: f"row {place}")
    alone = found(lab.check_data(path, group_by="person"), "nearly every row is a group of its own")
    assert alone.severity == "warning"
    by_template = lab.check_data(path, group_by="template")
    assert found(by_template, "nearly every row is a group of its own").severity == "note"


def test_a_large_group_stays_in_training_and_is_named_without_personal_data(people):
    path = people(lambda place: "ann@firm.org" if place % 3 == 0 else f"p{place % 31}")
    review = lab.check_data(path, group_by="person")
    large = found(review, "more than a fifth of the rows are of one group: '[e-mail]' (33 %)")
    assert large.severity == "note"


def test_too_few_groups_are_grave(people, capsys):
    path = people(lambda place: "xy"[place % 2])
    review = lab.check_data(path, group_by="person")
    assert found(review, "no splits can be drawn: group_by='person' makes 2 groups").severity == (
        "grave"
    )
    assert CliRunner().invoke(app, ["check", str(path), "--group-by", "person"]).exit_code == 1
    assert CliRunner().invoke(app, ["check", str(path)]).exit_code == 0


def test_by_template_near_twins_are_in_one_split(table):
    path = table([(f"{prompt} {n}", answer) for prompt, answer in PAIRS for n in range(3)])
    assert "have a near-twin in training" in "".join(
        finding.what for finding in lab.check_data(path)
    )
    review = lab.check_data(path, group_by="template")
    assert not [finding for finding in review if "near-twin" in finding.what]
    assert review.facts["groups"].startswith("96 by template, half of them with up to 3 rows")


def test_a_column_to_group_by_is_checked(people):
    path = people(lambda place: f"p{place % 24}")
    for column, complaint in (
        ("persn", "no column 'persn'; did you mean 'person'"),
        ("answer", "group_by='answer' is the column of answer too"),
    ):
        with pytest.raises(ValueError, match=complaint):
            lab.check_data(path, group_by=column)


def test_a_guessed_column_can_not_group_the_rows_either(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,label\n" + "".join(f"{p},{a}\n" for p, a in LABELS))
    for make in (lab.check_data, load_task):
        with pytest.raises(ValueError, match="group_by='label' is the column of answer too"):
            make(path, group_by="label")


def test_the_summarys_command_checks_with_the_same_options(people):
    path = people(lambda place: f"p{place % 24}")
    task = load_task(path, group_by="person")
    *_, third = data.summary(path, task, options=["--group-by", "person"])
    assert third.endswith(f"more: lora-lab check {path} --group-by person")


def test_the_summary_counts_tokens_with_the_bases_tokenizer(table):
    base = lab.load_base("pocket")
    path = table(PAIRS)
    task = load_task(path)
    lengths = sorted(len(encode(base.tokenizer, example, 999).input_ids) for example in task.train)
    *_, third = data.summary(path, task, tokenizer=base.tokenizer, max_length=lengths[-2])
    over = sum(length > lengths[-2] for length in lengths)
    beyond = f", {over} beyond {lengths[-2]}" if over else ""
    assert f"answers are texts; up to {lengths[-2]} tokens to train on{beyond};" in third


def test_the_summary_says_which_encoding_was_guessed(table):
    path = table([*LABELS, ("café", "x")], encoding="cp1252")
    assert ": 97 rows read as cp1252, a guess; " in data.summary(path, load_task(path))[0]

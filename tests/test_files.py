import json
import os
import random
from pathlib import Path

import pytest

from lora_lab.tasks.examples import Example
from lora_lab.tasks.files import file_task
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.tables import rows_in_words
from lora_lab.training.evaluation import field_f1

TOWNS = [f"town {i}" for i in range(20)]


@pytest.fixture
def write(tmp_path):
    """Writes a file from text (or bytes) and gives its path."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def csv_of(pairs):
    return "prompt,answer\n" + "".join(f"{prompt},{answer}\n" for prompt, answer in pairs)


def everything(task):
    return [*task.train, *task.validation, *task.test]


PAIRS = [(town, f"answer {i}") for i, town in enumerate(TOWNS)]
EXAMPLES = {Example(prompt, answer) for prompt, answer in PAIRS}
RECORDS = [{"prompt": prompt, "answer": answer, "other": 1} for prompt, answer in PAIRS]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", csv_of(PAIRS)),
        ("a.CSV", csv_of(PAIRS)),
        ("a.csv", csv_of(PAIRS).replace(",", ";")),
        ("a.tsv", csv_of(PAIRS).replace(",", "\t")),
        ("a.json", json.dumps(RECORDS)),
        ("a.jsonl", "\n".join(json.dumps(record) for record in RECORDS)),
    ],
    ids=["csv", "capitals", "semicolons", "tsv", "json", "jsonl"],
)
def test_each_kind_of_file_gives_the_same_examples(write, name, content):
    task = file_task(write(name, content))
    assert set(everything(task)) == EXAMPLES
    assert len(everything(task)) == len(EXAMPLES)
    assert task.name == name


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_each_encoding_gives_the_same_letters(write, encoding):
    pairs = [(f"café – {town}", "“naïve”") for town in TOWNS]
    task = file_task(write("a.csv", csv_of(pairs), encoding))
    assert {example.prompt for example in everything(task)} == {prompt for prompt, _ in pairs}
    assert {example.answer for example in everything(task)} == {"“naïve”"}
    assert ("read as" in task.about) == (encoding not in ("utf-8", "utf-8-sig"))


def test_quoted_commas_quotes_and_line_breaks_are_part_of_the_value(write):
    pairs = [(f'"line {i}\nsaid ""no"", twice"', "yes") for i in range(5)]
    task = file_task(write("a.csv", csv_of(pairs)))
    expected = {f'line {i}\nsaid "no", twice' for i in range(5)}
    assert {example.prompt for example in everything(task)} == expected


def test_lines_that_end_as_on_windows_give_the_same_examples(write):
    task = file_task(write("a.csv", csv_of(PAIRS).replace("\n", "\r\n")))
    assert set(everything(task)) == EXAMPLES


def test_a_line_separator_inside_json_does_not_break_a_line(write):
    records = [{"prompt": f"{town}\u2028next", "answer": "x"} for town in TOWNS]
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    task = file_task(write("a.jsonl", lines))
    assert {example.prompt for example in everything(task)} == {f"{t}\u2028next" for t in TOWNS}


def test_columns_are_chosen_by_name_and_numbers_become_text(write):
    records = [{"q": i, "label": i % 2 == 0, "prompt": "no"} for i in range(10)]
    task = file_task(write("a.json", json.dumps(records)), prompt="q", answer="label")
    expected = {Example(str(i), "true" if i % 2 == 0 else "false") for i in range(10)}
    assert set(everything(task)) == expected


# --- splits -----------------------------------------------------------------------------------


def test_eight_tenths_train_one_validates_one_tests(write):
    task = file_task(write("a.csv", csv_of(PAIRS)))
    assert [len(split) for split in (task.train, task.validation, task.test)] == [16, 2, 2]


@pytest.mark.parametrize("seed", range(10))
def test_no_prompt_is_in_two_splits(write, seed):
    generator = random.Random(seed)
    towns = [f"town {i}" for i in range(40)]
    pairs = [(generator.choice(towns), generator.choice("ab")) for _ in range(60)]
    task = file_task(write("a.csv", csv_of(pairs)), seed=seed)
    train, *held_out = (
        {example.prompt for example in split} for split in (task.train, task.validation, task.test)
    )
    assert train.isdisjoint(held_out[0] | held_out[1])
    assert held_out[0].isdisjoint(held_out[1])


def test_the_seed_decides_the_splits(write):
    path = write("a.csv", csv_of(PAIRS))
    assert file_task(path, seed=1) == file_task(path, seed=1)
    assert file_task(path, seed=1).test != file_task(path, seed=2).test


def test_n_takes_fewer_training_examples_and_the_same_test(write):
    path = write("a.csv", csv_of(PAIRS))
    whole, part = file_task(path), file_task(path, n=5)
    assert (part.train, part.test) == (whole.train[:5], whole.test)


@pytest.mark.parametrize("n", [0, 17])
def test_an_n_that_is_not_to_be_had_is_refused_with_the_most(write, n):
    with pytest.raises(
        ValueError, match=f"a.csv doesn't have n={n} training examples; give 1 to 16"
    ):
        file_task(write("a.csv", csv_of(PAIRS)), n=n)


@pytest.mark.parametrize("seed", range(8))
def test_a_label_that_occurs_once_stays_in_training_and_is_named(write, seed):
    pairs = [(town, "ab"[i % 2]) for i, town in enumerate(TOWNS)] + [("extra", "rare")]
    task = file_task(write("a.csv", csv_of(pairs)), seed=seed)
    assert Example("extra", "rare") in task.train
    assert "only in training, because it occurs once: 'rare'" in task.about


# --- what is left out, is named ---------------------------------------------------------------


def test_blank_values_are_left_out_and_named_by_the_spreadsheets_row(write):
    text = csv_of(PAIRS) + "lonely,\n,nobody\n\nshort\n"
    task = file_task(write("a.csv", text))
    assert set(everything(task)) == EXAMPLES
    assert "23 rows read, 20 used (16 to train, 2 to validate, 2 to test); 3 left out" in task.about
    assert "blank 'answer': rows 22, 25" in task.about
    assert "blank 'prompt': row 23" in task.about


def test_null_and_missing_keys_are_left_out_and_named_by_line(write):
    lines = [json.dumps(record) for record in RECORDS]
    lines += ['{"prompt": "x", "answer": null}', '{"prompt": "y"}']
    task = file_task(write("a.jsonl", "\n".join(lines)))
    assert "2 left out (blank 'answer': rows 21, 22)" in task.about


def test_exact_repeats_are_taken_once_and_counted(write):
    task = file_task(write("a.csv", csv_of([*PAIRS, PAIRS[3], PAIRS[3]])))
    assert set(everything(task)) == EXAMPLES
    assert len(everything(task)) == 20
    assert "2 left out (the same as an earlier row: rows 22, 23)" in task.about


@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_with_two_answers_is_in_training_only_with_both_of_them(write, seed):
    path = write("a.csv", csv_of([*PAIRS, ("town 3", "another"), ("town 3", "another")]))
    task = file_task(path, seed=seed)
    both = {Example("town 3", "answer 3"), Example("town 3", "another")}
    assert set(everything(task)) == EXAMPLES | both
    assert both <= set(task.train)
    assert "one prompt with several answers: rows 5, 22" in task.about
    assert "1 left out (the same as an earlier row: row 23)" in task.about


def test_prompts_that_nearly_all_have_two_answers_are_refused(write):
    pairs = [(town, answer) for town in TOWNS[:5] for answer in "ab"]
    with pytest.raises(
        ValueError, match="no row of a.csv is left for validation: prompts with several"
    ):
        file_task(write("a.csv", csv_of([*pairs, ("alone", "a")])))


def test_a_row_with_too_many_values_is_left_out_and_named(write):
    task = file_task(write("a.csv", csv_of(PAIRS) + "a, b, c\n"))
    assert set(everything(task)) == EXAMPLES
    assert "more values than the header's 2: row 22" in task.about


def test_many_rows_left_out_are_counted_and_the_first_are_named(write):
    more = "".join(f"x,\nnew {number},a\n" for number in range(30))
    task = file_task(write("a.csv", csv_of(PAIRS) + more))
    named = "22, 24, 26, 28, 30, 32, 34, 36 and 22 more"
    assert f"30 left out (blank 'answer': rows {named})" in task.about


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([3], "row 3"),
        ([3, 4], "rows 3, 4"),
        ([3, 4, 5], "rows 3 to 5"),
        ([2, 5, 6, 7, 9, 10, 98], "rows 2, 5 to 7, 9, 10, 98"),
        ([*range(2, 2000)], "rows 2 to 1999"),
        ([*range(2, 40, 2)], "rows 2, 4, 6, 8, 10, 12, 14, 16 and 11 more"),
        (
            [1, 2, 3, *range(10, 40, 2), 50, 51, 52],
            "rows 1 to 3, 10, 12, 14, 16, 18, 20, 22 and 11 more",
        ),
        ([7, 3, 4, 5], "rows 7, 3 to 5"),
    ],
)
def test_rows_that_follow_each_other_are_named_by_the_first_and_the_last(numbers, words):
    assert rows_in_words(numbers) == words


# --- the metric -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "metric"),
    [
        (["yes", "no"] * 10, "accuracy"),
        (["yes"] * 13 + [f"{i}" for i in range(7)], "exact match"),
        (["yes"] * 14 + [f"{i}" for i in range(6)], "accuracy"),
        ([f"answer {i}" for i in range(20)], "exact match"),
        (['{"a": 1}'] * 20, "field F1"),
        (['{"a": 1}'] * 19 + ["none"], "accuracy"),
        (["1", "2"] * 10, "accuracy"),
    ],
)
def test_the_metric_fits_the_answers(write, answers, metric):
    records = [{"prompt": t, "answer": a} for t, a in zip(TOWNS, answers, strict=True)]
    assert file_task(write("a.json", json.dumps(records))).metric == metric


def test_an_object_as_answer_is_taught_as_json(write):
    records = [{"prompt": town, "answer": {"name": "Zoë"}} for town in TOWNS]
    task = file_task(write("a.json", json.dumps(records)))
    assert task.metric == "field F1"
    assert {example.answer for example in everything(task)} == {'{"name": "Zoë"}'}


# --- what can't be used -----------------------------------------------------------------------


def test_a_file_that_is_not_there_is_named_with_the_nearest(write):
    path = write("reviews.csv", csv_of(PAIRS))
    with pytest.raises(FileNotFoundError, match="did you mean 'reviews.csv'"):
        file_task(path.with_name("review.csv"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", " \n\n", "a.csv is empty"),
        ("a.csv", "prompt,answer\n", "has no rows of data"),
        ("a.json", "[]", "has no rows of data"),
        ("a.csv", csv_of(PAIRS[:1]), "has 1 row to use, and .* one each; give 3 or more"),
        ("a.csv", csv_of(PAIRS[:2]), "has 2 rows to use"),
        ("a.csv", csv_of([(t, " ") for t in TOWNS]), "column 'answer' of a.csv is blank in every"),
        ("a.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "holds binary data, not text"),
        ("a.csv", csv_of(PAIRS) + "\0", "holds binary data, not text"),
        ("a.csv", bytes(range(1, 32)) * 9, "holds binary data, not text"),
        ("a.csv", "\ufeff".encode("utf-16") + b"\0\xd8\0\xd8", "holds binary data"),
        ("a.csv", 'prompt,answer\n"a,b\n', "a.csv is broken near line 2, in row 2"),
        ("a.csv", "prompt,answer,answer\n1,2,3\n", "has two columns called 'answer'"),
        (
            "a.jsonl",
            '{"prompt": "a", "answer": "b"}\n\n{"prompt"\n}\n',
            "a.jsonl is broken in 2 of 3 lines, first in line 3, column 10: .*; give one object",
        ),
        ("a.jsonl", "{'prompt': 'a'}\n" * 9, "a.jsonl is broken in 9 of 9 lines, first in line 1"),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n{"prompt"', "has 1 row to use"),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n[1]\n', "line 2, is a list, not an object"),
        ("a.json", '[{"prompt": "a"},\n {"prompt" 1}]', "a.json is broken at line 2, column 12"),
        ("a.json", '{"prompt": "a"}', "holds an object, not a list of objects"),
        ("a.json", '[{"prompt": "a"}, "b"]', "entry 2, is a text, not an object"),
        ("a.csv", b"\xef\xbb\xbf", "a.csv is empty"),
        ("a.tsv", b"\xff\xfe", "a.tsv is empty"),
        ("a.csv", b"\xff\xfe\0\0", "a.csv is empty"),
        ("a.json", b"\xef\xbb\xbf\n\n", "a.json is empty"),
        ("a.json", "[" * 200_000, "a.json nests lists or objects deeper .*; give flat objects"),
        ("a.json", '{"a":' * 200_000, "a.json nests lists or objects deeper"),
        ("a.jsonl", '{"prompt": "a", "answer": "b"}\n' + "[" * 200_000, "line 2, nests lists"),
        ("a.json", '[{"prompt": ' + "9" * 5000 + "}]", "a whole number with thousands of digits"),
        ("a.jsonl", "9" * 5000, "a.jsonl, line 1, holds a whole number with thousands of digits"),
        ("a.json", '[{"prompt": 1, "prompt": 2}]', "an object that says 'prompt' twice; keep one"),
        ("a.json", "5", "holds a number, not a list of objects"),
        ("a.json", "[[1, 2]]", "entry 1, is a list, not an object"),
        ("a.csv", "prompt,answer\na," + "x" * 200_000, "more than 131,072 letters near line 2"),
        ("a.csv", 'prompt,answer\na,"' + "x" * 200_000, "or close the quotation mark"),
        ("a.csv", csv_of(PAIRS).encode("utf-16-le"), "holds binary data, not text"),
        ("a.csv", ",,\n1,2,3\n", "a.csv names no column in its first line; begin it with prompt"),
        ("a.jsonl", "{}\n" * 5, "a.jsonl holds empty objects; give"),
        (
            "a.csv",
            f"{','.join(map(str, range(50)))}\n1\n",
            r"10, 11 … \(50 columns\): say which is asked .prompt=..., or --prompt. and which",
        ),
        (
            "a.csv",
            csv_of(PAIRS).encode() + "café,é\n".encode() + "Köln,ö\n".encode("cp1252"),
            "a.csv mixes encodings: some of its lines are UTF-8, and line 23 is not",
        ),
        ("a.xlsx", "PK", "'a.xlsx' is of a kind that is not read.*saved as CSV"),
        ("a.jsnl", "{}", "did you mean '.jsonl'"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_what_would(write, name, content, words):
    with pytest.raises(ValueError, match=words):
        file_task(write(name, content))


CUT = "broken JSON, as an interrupted write leaves it"


@pytest.mark.parametrize("lost", [1, 4, 12, 21])  # bytes: 4 end inside the letter ü of two bytes
def test_a_last_line_that_is_cut_off_is_left_out_by_its_number(write, lost):
    lines = "".join(
        json.dumps(dict(zip(("prompt", "answer"), p, strict=True))) + "\n" for p in PAIRS
    )
    last = '{"prompt": "Where?", "answer": "Süd"}'.encode()
    task = file_task(write("a.jsonl", lines.encode() + last[:-lost]))
    assert f"{len(PAIRS) + 1} rows read, {len(PAIRS)} used" in task.about
    assert f"1 left out ({CUT}: row {len(PAIRS) + 1})" in task.about
    assert len(task.train) + len(task.validation) + len(task.test) == len(PAIRS)


def test_a_broken_line_among_sound_ones_is_left_out_by_its_number(write):
    chats = [
        json.dumps(
            {"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]}
        )
        for a, b in PAIRS
    ]
    chats[4:4] = [chats[4][:20] + chats[4], "", "{]"]
    about = file_task(write("a.jsonl", "\n".join(chats))).about
    assert f"{len(PAIRS) + 2} rows read, {len(PAIRS)} used" in about
    assert "2 left out (broken JSON: rows 5, 7)" in about


def test_lines_in_another_encoding_are_not_taken_for_cut_off(write):
    lines = ['{"prompt": "Köln", "answer": "west"}', *map(json.dumps, RECORDS)]
    task = file_task(write("a.jsonl", "\n".join(lines).encode("cp1252")))
    assert Example("Köln", "west") in everything(task)
    assert "left out" not in task.about


def test_a_cut_off_letter_in_a_csv_file_is_no_utf_8(write):
    content = csv_of(PAIRS).encode() + "Köln,west\nUlm,Sü".encode()[:-1]
    with pytest.raises(ValueError, match="mixes encodings"):
        file_task(write("a.csv", content))


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder; give one file"):
        file_task(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_refused_before_anything_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="a.csv' is a pipe or a device, which may never end"):
        file_task(tmp_path / "a.csv")


def test_a_file_that_memory_would_not_hold_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    with pytest.raises(ValueError, match="a.csv has 1,000,000 MB.*; give a part of it, up to 268"):
        file_task(path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_that_of_no_file(name):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        file_task(f"{name}.csv")
    with pytest.raises(ValueError, match="no task is called"):
        load_task(name)


def test_a_file_that_may_not_be_read_is_refused_in_words(write, monkeypatch):
    path = write("a.csv", csv_of(PAIRS))
    monkeypatch.setattr(Path, "read_bytes", _forbidden)  # root may read anything
    with pytest.raises(PermissionError, match="a.csv' may not be read by you; change its"):
        file_task(path)


def _forbidden(path):
    raise PermissionError(13, "Permission denied", path)


def test_empty_lines_above_the_header_are_passed_over_and_counted(write):
    task = file_task(write("a.csv", "\n\n" + csv_of(PAIRS) + "alone,\n"))
    assert set(everything(task)) == EXAMPLES
    assert "blank 'answer': row 24" in task.about


def test_half_a_letter_is_left_out_and_named(write):
    lines = [json.dumps(record) for record in RECORDS] + ['{"prompt": "\\ud800", "answer": "b"}']
    task = file_task(write("a.jsonl", "\n".join(lines)))
    assert set(everything(task)) == EXAMPLES
    assert "1 left out (half a letter (a surrogate alone), which no model can read: row 21)" in (
        task.about
    )


@pytest.mark.parametrize("answer", ["[" * 100_000, "9" * 5000])
def test_an_answer_that_json_cannot_hold_is_text(write, answer):
    records = [{"prompt": town, "answer": answer} for town in TOWNS]
    assert file_task(write("a.json", json.dumps(records))).metric == "accuracy"
    assert field_f1([(answer, answer)]) == 0  # no object, so there are no fields


def test_a_misspelt_column_is_refused_with_the_nearest_and_the_list(write):
    path = write("a.csv", "question,label\na,b\n")
    words = (
        "no column 'qestion'; did you mean 'question'. name one of question, label as its prompt"
    )
    with pytest.raises(ValueError, match=words):
        file_task(path, prompt="qestion", answer="label")


def test_one_column_cannot_be_both_prompt_and_answer(write):
    with pytest.raises(ValueError, match="are one column; give two: a.csv has prompt, answer"):
        file_task(write("a.csv", csv_of(PAIRS)), answer="prompt")


def test_too_few_rows_say_what_was_left_out(write):
    with pytest.raises(ValueError, match=r"3 left out \(blank 'answer': rows 4 to 6\)"):
        file_task(write("a.csv", csv_of([*PAIRS[:2], ("x", ""), ("y", ""), ("z", "")])))

"""Prompt, retrieval or LoRA, tried on the same rows in a given time; and the report of it."""

import csv
import dataclasses
import json
import re
from unittest import mock

import pytest
from typer.testing import CliRunner

from lora_lab import plots
from lora_lab.cli.app import app
from lora_lab.cli.report import _word_without_folder, page
from lora_lab.decision import asking, trial
from lora_lab.decision.asking import Asked, ask_in, best_of, in_words, ways_to_ask, with_test
from lora_lab.decision.outcome import stands_for, with_measurements
from lora_lab.decision.report import answers_table, report_of_decision
from lora_lab.decision.trial import decide
from lora_lab.lessons.deciding import Situation
from lora_lab.maths.grouped import grouped_interval, independent_questions
from lora_lab.maths.statistics import wilson
from lora_lab.models.bases import load_base
from lora_lab.records import Answer
from lora_lab.tasks.examples import Example
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import answers_to, evaluate
from lora_lab.training.fit import fit
from lora_lab.training.store import list_runs, read_run

SITUATION = Situation(goal="format", needed=0.5)


@pytest.fixture(scope="module")
def base():
    return load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task(base):
    whole = load_task("json", base)
    few = {"old_knowledge": whole.old_knowledge[:5], "strangers": whole.strangers[:5]}
    return dataclasses.replace(whole, test=whole.test[:30], **few)


@pytest.fixture(scope="module")
def events():
    return []


@pytest.fixture(scope="module")
def decision(base, task, events, tmp_path_factory):
    """A whole decision. Its time is ample, so that a busy machine changes nothing but the rows."""
    store = tmp_path_factory.mktemp("store")
    options = {"minutes": 60, "situation": SITUATION, "store": store, "tell": events.append}
    return decide(base, dataclasses.replace(task, validation=task.validation[:24]), **options)


def asked(name, right, count, tokens=10.0):
    answers = tuple(
        Answer("q", "a", "a" if one < right else "b", one < right) for one in range(count)
    )
    return Asked(
        name=name, choice="", answers=answers, worth=count, prompt_tokens=tokens, seconds=0.1
    )


# --- ways ---


def test_the_ways_begin_bare_and_the_instruction_names_the_fields_of_the_answers(base, task):
    ways = ways_to_ask(base, task)
    assert [way.name for way in ways] == [
        "prompt",
        "instruction",
        *["few-shot"] * 3,
        *["retrieval"] * 3,
    ]
    assert ways[0].rewrite("Hello?") == "Hello?"
    for field in json.loads(task.train[0].answer):
        assert field in ways[1].choice


def test_an_instruction_for_labels_names_them_and_one_can_be_given(base):
    reviews = load_task("sentiment", base)
    made = ways_to_ask(base, reviews)[1]
    assert all(label in made.choice for label in ("positive", "negative", "mixed"))
    given = ways_to_ask(base, reviews, "Be brief.")[1]
    assert given.rewrite("Hello?") == "Be brief.\n\nHello?"


def test_no_more_examples_are_shown_than_there_are(base, task):
    few = dataclasses.replace(task, train=task.train[:5])
    assert {way.choice for way in ways_to_ask(base, few)[2:]} == {"4 examples", "2 examples"}


def test_a_way_is_asked_in_batches_and_marked_as_the_task_marks(base, task):
    way = next(way for way in ways_to_ask(base, task) if str(way) == "few-shot, 4 examples")
    with mock.patch.object(asking, "answers_to", wraps=answers_to) as asked:
        last = ask_in(way, base, task, task.validation[:5], batch=2)
    assert [len(call.args[2]) for call in asked.call_args_list] == [2, 2, 1]
    prompted = [
        dataclasses.replace(example, prompt=way.rewrite(example.prompt))
        for example in task.validation[:5]
    ]
    assert [answer.given for answer in last.answers] == [
        answer.given for answer in answers_to(base, task, prompted)
    ]
    assert [row.prompt for row in last.answers] == [row.prompt for row in task.validation[:5]]
    assert last.interval == wilson(last.right, 5)


# --- a decision ---


def test_every_way_is_asked_the_same_validation_rows_and_the_test_once_at_the_end(decision, task):
    rows = [example.prompt for example in task.validation[: decision.rows]]
    assert decision.rows == 24
    assert {asked.name for asked in decision.tried} == {
        "prompt", "instruction", "few-shot", "retrieval", "LoRA",
    }  # fmt: skip
    for one in decision.tried:
        assert [answer.prompt for answer in one.answers] == rows
    for one in (decision.test, decision.bare_test):
        assert [answer.prompt for answer in one.answers] == [one.prompt for one in task.test]


def test_the_measured_counts_decide_and_the_best_of_the_recommended_kind_takes_the_test(decision):
    assert decision.advice.recommendation == "LoRA"
    lora = [way for way in decision.tried if way.name == "LoRA"]
    assert decision.situation.lora_right == max(way.right for way in lora)
    assert decision.situation.prompt_asked == 24
    assert (decision.test.name, decision.test.choice) == (
        decision.chosen.name,
        decision.chosen.choice,
    )
    assert decision.chosen.right == decision.situation.lora_right
    assert decision.change.low > 0


def test_the_test_is_answered_by_the_adapter_that_was_chosen(decision, task):
    scores = evaluate(decision.run, dataclasses.replace(task, old_knowledge=[], strangers=[]))
    assert [answer.given for answer in decision.test.answers] == [
        answer.given for answer in scores.answers
    ]
    assert decision.after.old_knowledge == evaluate(decision.run, task).old_knowledge
    recipe = decision.run.recipe
    assert decision.chosen.choice == f"rate {recipe.learning_rate:g}, up to {recipe.steps} steps"
    assert recipe.seed == task.recipe.seed
    kept = read_run(decision.run.path)
    assert kept.scores.split == "test"
    assert kept.scores.answers == decision.test.answers


def test_three_rates_are_trained_with_early_stopping_and_all_events_are_told(decision, events):
    rates = {way.choice.split(",")[0] for way in decision.tried if way.name == "LoRA"}
    rate = decision.task.recipe.learning_rate
    assert rates == {f"rate {float(f'{times * rate:.2g}'):g}" for times in (1, 3, 1 / 3)}
    assert decision.run.recipe.patience == trial.PATIENCE
    assert sum(": trains" in line for line in events) == 3
    assert events[-1].startswith("recommended: LoRA")


@pytest.mark.parametrize(
    ("times", "shares", "further"),
    [
        (9.0, {1.0: 0.5, 3.0: 0.6, 1 / 3: 0.4}, True),
        (9.0, {1.0: 0.6, 3.0: 0.6, 1 / 3: 0.4}, False),  # as good in the middle
        (1 / 9, {1.0: 0.5, 3.0: 0.6, 1 / 3: 0.4}, False),  # the other end
        (1 / 9, {1.0: 0.5, 3.0: 0.4, 1 / 3: 0.6}, True),
        (27.0, {1.0: 0.5, 3.0: 0.6, 1 / 3: 0.4}, False),  # 9 was not tried
        (27.0, {1.0: 0.5, 3.0: 0.6, 1 / 3: 0.4, 9.0: 0.7}, True),
        (9.0, {}, False),  # every training diverged
    ],
)
def test_a_further_rate_is_tried_only_where_the_end_towards_it_was_the_best(times, shares, further):
    assert trial._is_beyond_the_best(times, shares) is further


def test_where_the_largest_rate_is_the_best_a_larger_one_is_trained_or_named(
    base, task, monkeypatch
):
    slow = dataclasses.replace(task.recipe, learning_rate=1e-5, steps=40)
    few = dataclasses.replace(task, validation=task.validation[:24])
    shares = iter([0.1, 0.2, 0.0, 0.3, 0.25])  # as if so many had been right, rate by rate
    trained = []

    def train(self, way, recipe, reserve):
        trained.append(recipe.learning_rate)
        right = round(100 * next(shares))
        self.tried.append(dataclasses.replace(asked("LoRA", right, 100), choice=way.choice))
        self.runs[str(way)] = None

    monkeypatch.setattr(trial._Trial, "_train", train)
    trying = trial._Trial(base, few, 3600, lambda words: None, None)
    trying.ask_ways(None)
    trying.train_ways(slow)
    assert trained == pytest.approx([1e-5, 3e-5, 3.3e-6, 9e-5, 2.7e-4])
    shares, trained = iter([0.1, 0.2, 0.0]), []
    short = trial._Trial(base, few, 3600, lambda words: None, None)
    short.ask_ways(None)
    spent = iter([0, 0, 0, 3600, 3600, 3600])
    monkeypatch.setattr(trial._Trial, "spent", property(lambda self: next(spent)))
    short.train_ways(slow)
    assert trained == pytest.approx([1e-5, 3e-5, 3.3e-6])
    (why,) = [why for way, why in short.left_out.items() if "rate 9e-05" in way]
    assert "the best rate is the largest of those" in why


def test_a_way_whose_prompt_is_longer_than_the_context_is_left_out_with_the_reason(decision):
    assert "512 tokens of the model's context" in decision.left_out["few-shot, 16 examples"]


def a_row_too_long():
    return Example("word " * 2000, "[]")


def test_a_question_too_long_for_the_context_counts_as_wrong_and_is_named(base, task):
    way = ways_to_ask(base, task)[0]
    asked = ask_in(way, base, task, [task.validation[0], a_row_too_long()])
    assert (asked.unasked, asked.count) == (1, 2)
    assert asked.answers[0] == answers_to(base, task, [task.validation[0]])[0]
    assert (asked.answers[1].given, asked.answers[1].right) == ("", False)
    assert in_words(asked).endswith("; 1 question too long to ask, so wrong")


def test_the_test_of_a_trained_run_may_hold_a_row_too_long_for_the_context(base, task, tmp_path):
    learnt = dataclasses.replace(task, test=[*task.test[:2], a_row_too_long()])
    recipe = dataclasses.replace(task.recipe, steps=2, warmup_steps=0)
    run = fit(base, learnt, recipe, store=tmp_path, evaluate=False)
    same, tested = with_test(base, learnt, run, asked("LoRA", 1, 2))
    assert same is run
    assert (tested.unasked, tested.count) == (1, 3)


def test_where_no_validation_row_fits_the_context_nothing_is_tried(base, task):
    long = dataclasses.replace(task, validation=[a_row_too_long()])
    with pytest.raises(ValueError, match="no validation row fits into the 512 tokens of pocket"):
        decide(base, long, minutes=5, situation=SITUATION, store=None)


def test_where_time_is_short_the_dearest_ways_are_dropped_first(base, task, monkeypatch):
    short = trial._Trial(base, task, 100.0, tell=lambda words: None)
    costs = {"prompt": 0.1, "few-shot, 4 examples": 0.2, "retrieval, 8 examples": 5.0}
    monkeypatch.setattr(short, "_costs", lambda ways: costs)
    monkeypatch.setattr(short, "_ask", lambda way, model: short.tried.append(asked("prompt", 1, 2)))
    short.ways = {name: way for way in ways_to_ask(base, task) if (name := str(way)) in costs}
    short.ask_ways(None)
    assert "an answer takes 5 s" in short.left_out["retrieval, 8 examples"]
    assert "few-shot, 4 examples" not in short.left_out
    assert 20 <= len(short.rows) <= 0.3 * 100 / 0.3  # three tenths of the time, 0.3 s a row


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_that_are_no_time_are_refused(base, task, minutes):
    with pytest.raises(ValueError, match="leave no time to try anything; give 1 or more"):
        decide(base, task, minutes=minutes, situation=SITUATION)


def test_too_little_time_is_refused_with_the_minutes_that_would_do(base, task):
    with pytest.raises(
        ValueError, match=r"too few: .* an answer of pocket .* give \d+ minutes or more"
    ):
        decide(base, task, minutes=0.0001, situation=SITUATION)


def test_the_minutes_that_would_do_count_what_the_start_took(base, task):
    with pytest.raises(ValueError, match="s went to the start") as refused:
        decide(base, task, minutes=3, spent=70, situation=SITUATION, store=None)
    (minutes,) = re.findall(r"give (\d+) minutes", str(refused.value))
    (seconds,) = re.findall(r"(\d+) s went", str(refused.value))
    assert int(seconds) >= 70  # and what came to it here
    assert int(minutes) > 3
    trying = trial._Trial(base, task, 60 * int(minutes), lambda words: None, None)
    trying.start -= 70
    trying.ask_ways(None)
    assert trying.tried


def test_of_equal_ways_the_one_with_the_shorter_prompts_is_best():
    long, short = asked("few-shot", 9, 10, tokens=400), asked("retrieval", 9, 10, tokens=80)
    assert best_of([long, short]) is short
    assert stands_for("a stronger base", [long, short]) is short
    assert stands_for("stay with the prompt", [long, short]) is long


def test_rows_of_a_few_groups_count_as_the_fewer_questions_that_tell_as_much(base, task):
    few = dataclasses.replace(
        task, groups={example.prompt: place % 4 for place, example in enumerate(task.validation)}
    )
    way = ways_to_ask(base, few)[3]  # right in some
    grouped = ask_in(way, base, few, few.validation[:20])
    alone = ask_in(way, base, task, task.validation[:20])
    hits = [0, 0, 0, 0]
    for place, answer in enumerate(alone.answers):
        hits[place % 4] += answer.right
    assert alone.worth == 20
    assert grouped.worth == independent_questions(hits, [5] * 4)
    assert grouped.interval == pytest.approx(grouped_interval(hits, [5] * 4))
    situation = with_measurements(SITUATION, few, [grouped])
    assert situation.prompt_asked == max(1, round(grouped.worth)) < 20


def test_where_time_is_left_the_best_of_each_kind_is_asked_further_rows(base, task, monkeypatch):
    whole = trial._Trial(base, task, 3600.0, tell=lambda words: None)
    ways = {str(way): way for way in ways_to_ask(base, task)}
    whole.ways, whole.rows = ways, task.validation[:6]
    names = ("prompt", "few-shot, 4 examples", "retrieval, 2 examples", "retrieval, 8 examples")
    for name in names:
        one = ask_in(ways[name], base, task, whole.rows)
        whole.tried.append(one)
    best = {str(best_of(whole.tried[:2])), str(best_of(whole.tried[2:]))}
    assert whole.ask_more() == len(task.validation) - 6
    for one in whole.tried:
        asked_for = task.validation if str(one) in best else whole.rows
        assert [answer.prompt for answer in one.answers] == [row.prompt for row in asked_for]
        alone = ask_in(ways[str(one)], base, task, asked_for)
        assert [answer.given for answer in one.answers] == [a.given for a in alone.answers]
        assert one.prompt_tokens == pytest.approx(alone.prompt_tokens)
        assert one.worth == len(asked_for)
    short = trial._Trial(base, task, 1e-9, tell=lambda words: None)
    short.ways, short.rows, short.tried = ways, whole.rows, whole.tried[:1]
    assert short.ask_more() == 0


# --- the report ---


def test_the_report_names_every_way_the_recipe_and_what_was_left_out(decision):
    text = report_of_decision(decision, ["a line about data"], "lora-lab decide x")
    assert "- a line about data" in text
    for way in decision.tried:
        assert f"{way.right} of {way.count}" in text
    assert "Recommended: **LoRA**" in text
    assert "few-shot, 16 examples" in text
    assert f"| learning_rate | `{decision.run.recipe.learning_rate}` |" in text
    assert "`lora-lab decide x`" in text


def test_a_decision_prints_its_recommendation_every_way_and_the_test(decision):
    first, *middle, last = repr(decision).splitlines()
    assert first.startswith("LoRA: ")
    assert len(middle) == len(decision.tried) + len(decision.left_out)
    assert last.startswith("The test, asked once: LoRA, rate ")


def short_of(decision, needed, validated, tested):
    """A decision with other counts of right answers on validation and on the test."""
    return dataclasses.replace(
        decision,
        situation=dataclasses.replace(decision.situation, needed=needed),
        chosen=asked("LoRA", *validated),
        test=tested and asked("LoRA", *tested),
    )


def test_a_test_below_the_need_that_validation_had_met_is_said_with_the_outcome(decision):
    short = short_of(decision, 0.85, (96, 100), (60, 100))
    words = "You need 85 %, and the test reaches 50 to 69 %: too little. Believe the test"
    assert short.shortfall.startswith(words)
    assert words in repr(short).splitlines()[-1]
    assert f"\n\n**{words}" in report_of_decision(short)
    unsure = short_of(decision, 0.85, (96, 100), (87, 100)).shortfall
    assert "reaches 79 to 92 %: too few questions to be sure" in unsure


def test_a_test_that_reaches_the_need_or_that_validation_foretold_needs_no_such_words(decision):
    assert short_of(decision, 0.85, (96, 100), (97, 100)).shortfall == ""
    assert short_of(decision, 0.85, (60, 100), (60, 100)).shortfall == ""
    assert short_of(decision, 0.85, (96, 100), None).shortfall == ""


def test_wrong_answers_come_first_and_a_cell_cannot_break_the_table():
    answers = [Answer("fine", "a", "a", True), Answer("x | y\n`z`", "<b>", "</td><script>", False)]
    first, second = answers_table(answers).splitlines()[2:]
    assert first.startswith("| ``x \\| y `z` ``") or first.startswith("| `` x \\| y `z` ``")
    assert first.endswith("**wrong** |")
    assert second.endswith("right |")
    shown = page(answers_table(answers), {})
    assert "<script>" not in shown.partition("</style>")[2]
    assert shown.count("<tr>") == 3


def test_personal_data_in_the_answers_shown_are_hidden_and_counted():
    said = "write to ada_fell@firm.de or +49 170 1234567"
    answers = [Answer(said, "ada_fell@firm.de", "bob@example.org", False)]
    table = answers_table(answers)
    assert "`write to [e-mail] or [phone]` | `[e-mail]` | `bob@example.org`" in table
    assert table.endswith("personal data: 2 × \\[e-mail\\], 1 × \\[phone\\].")
    assert "[e-mail], 1 ×" in page(table, {})
    assert "firm" not in table
    whole = answers_table(answers, show_personal=True)
    assert said in whole
    assert "Hidden" not in whole
    assert "Hidden" not in answers_table([Answer("a", "b", "c", False)])


def test_the_report_hides_personal_data_and_says_so_unless_it_is_asked_for_them(decision):
    answers = (Answer("who is ada@firm.de", "ada", "ada", True), *decision.test.answers[:3])
    test = dataclasses.replace(decision.test, answers=answers, choice="ask ada@firm.de")
    tested = dataclasses.replace(decision, test=test)
    text = report_of_decision(tested)
    assert "firm.de" not in text
    assert "(`ask [e-mail]`) has" in text
    assert "are looked for and hidden; names and streets are not" in text
    text = report_of_decision(tested, show_personal=True)
    assert "(`ask ada@firm.de`) has" in text
    assert "who is ada@firm.de" in text
    assert "shows rows of the data as they are" in text


def test_personal_data_are_hidden_in_every_text_of_the_page_and_counted(decision):
    mail = "ada@firm.de"
    choices = {"choice": f"copy {mail}"}
    task = dataclasses.replace(decision.task, name=f"{mail}.csv", about=f"large group: {mail}")
    tested = dataclasses.replace(
        decision,
        task=task,
        tried=[dataclasses.replace(decision.tried[0], **choices), *decision.tried[1:]],
        test=dataclasses.replace(decision.test, **choices),
        left_out={f"instruction, {mail}": "no time"},
    )
    command = "lora-lab decide x --instruction 'write to +49 170 1234567'"
    given = (tested, [f"odd: {mail}"], command)
    text = report_of_decision(*given)
    assert "firm.de" not in text
    assert "Made by `lora-lab decide x --instruction 'write to [phone]'`." in text
    counted = "Hidden outside the answers: 6 × \\[e-mail\\], 1 × \\[phone\\]."
    assert counted in text
    seen = text.replace(counted, "").replace("\\", "")
    assert (seen.count("[e-mail]"), seen.count("[phone]")) == (6, 1)
    shown = report_of_decision(*given, show_personal=True)
    assert command in shown
    assert shown.replace("\\", "").count(mail) == 6
    assert "Hidden" not in shown
    assert "Hidden" not in report_of_decision(decision, [], "lora-lab decide x")


def test_where_the_test_has_groups_the_limits_speak_of_groups(decision):
    groups = {example.prompt: example.prompt[-3:] for example in decision.task.test}
    task = dataclasses.replace(decision.task, groups=groups)
    tried = tuple(
        dataclasses.replace(asked, answers=decision.test.answers) for asked in decision.tried
    )
    text = report_of_decision(dataclasses.replace(decision, task=task, tried=tried))
    count = len({groups[answer.prompt] for answer in decision.test.answers})
    assert f"{decision.test.count} test rows of {count} group" in text
    assert ("More groups in the test would narrow it" in text) == (count < 20)
    assert "test rows or more would" not in text


def test_time_that_is_gone_before_the_trial_is_taken_off_the_minutes(base, task):
    with pytest.raises(ValueError, match="minutes are too few"):
        decide(base, task, minutes=10, spent=599.9, situation=SITUATION, store=None)


def test_a_long_command_is_shown_to_its_end(decision):
    command = f"lora-lab decide x --instruction '{'word ' * 60}' --out here"
    assert "--out here`." in report_of_decision(decision, [], command)


def test_the_page_needs_no_network():
    shown = page("# A\n\n![loss](picture:loss)\n", {"loss": b"\x89PNG"})
    assert re.findall(r'src="([^"]{5})', shown) == ["data:"]
    assert "http" not in shown


def test_the_picture_shows_the_intervals_of_the_table_and_names_the_way_that_is_ahead():
    shares = {"prompt": (0.1, 0.05, 0.2), "LoRA, rate 1": (0.9, 0.5, 1.0)}
    drawn = plots.picture(plots.draw_ways, shares)
    assert drawn.title == "LoRA is ahead"
    assert "LoRA, rate 1: 90 % (50 to 100 %)" in drawn.alt
    assert "prompt: 10 % (5 to 20 %)" in drawn.alt


# --- the command line ---


@pytest.fixture
def letters(tmp_path):
    file = tmp_path / "letters.csv"
    with file.open("w", newline="") as out:
        rows = ([f"Which letter is {a}{b}?", a] for a in "abc" for b in range(60))
        csv.writer(out).writerows([["question", "label"], *rows])
    return file


def run(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_decide_writes_one_page_its_markdown_and_the_numbers(letters, tmp_path):
    out, store = tmp_path / "report", tmp_path / "store"
    columns = ["--prompt", "question", "--answer", "label", "--base", "pocket", "--steps", 5]
    done = run(
        *("decide", letters, *columns, "--minutes", 60, "--out", out, "--store", store),
        *("--instruction", "ask ada@firm.de", "--json"),
    )
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert json.loads((out / "decision.json").read_text())["test"] == printed["test"]
    assert {path.name for path in out.iterdir()} == {
        "report.html", "report.md", "decision.json", "ways.png", "loss.png",
    }  # fmt: skip
    assert "ask ada@firm.de" in [way["choice"] for way in printed["validation"]]
    texts = [(out / name).read_text() for name in ("report.html", "report.md", "decision.json")]
    assert all("ask [e-mail]" in text and "firm.de" not in text for text in texts)
    assert "](ways.png)" in (out / "report.md").read_text()
    assert (out / "report.md").read_text().count(" to train, ") == 1, "the splits are said once"
    assert printed["shortfall"] in (out / "report.md").read_text()
    assert "data:image/png" in (out / "report.html").read_text()
    again = run("decide", letters, *columns, "--out", out, "--store", store)
    assert again.exit_code == 2
    assert "is not an empty folder; give a new one with --out" in again.stderr
    assert printed["test"]["way"] == "LoRA"
    name = printed["run"].rpartition("/")[2]
    second = run("report", name, "--out", tmp_path / "second", "--store", store)
    assert second.exit_code == 0, second.output
    counts = f"{printed['test']['right']} of {printed['test']['asked']} answers are right"
    page_of_run = (tmp_path / "second" / "report.md").read_text()
    assert counts in page_of_run
    assert "lora-lab check letters.csv" in page_of_run
    assert str(tmp_path) not in page_of_run
    other = next(run.path.name for run in list_runs(store) if run.scores is None)
    refused = run("report", other, "--out", tmp_path / "third", "--store", store)
    assert refused.exit_code == 2
    assert "is finished and has no scores to report; give the command" in refused.stderr


def test_an_exports_own_columns_are_in_the_command_that_checks_its_file(letters, tmp_path):
    store, odd = tmp_path / "store", tmp_path / "odd.csv"
    odd.write_text(letters.read_text().replace("question,label", "asked,wanted"))
    columns = ["--prompt", "asked", "--answer", "wanted"]
    made = run("train", odd, *columns, "--base", "pocket", "--steps", 2, "--store", store, "--json")
    assert made.exit_code == 0, made.output
    name = json.loads(made.stdout)["path"].rpartition("/")[2]
    assert run("export", name, tmp_path / "mine", "--store", store).exit_code == 0
    evaluated = run("evaluate", tmp_path / "mine", "--task", odd, "--base", "pocket")
    assert evaluated.exit_code == 0, evaluated.output
    assert "odd.csv --prompt asked --answer wanted" in evaluated.stderr


def test_report_tells_of_a_run_with_interval_and_old_skills(tmp_path):
    store = tmp_path / "store"
    made = run("train", "sentiment", "--n", 40, "--steps", 4, "--store", store, "--json")
    assert made.exit_code == 0, made.output
    name = json.loads(made.stdout)["path"].rpartition("/")[2]
    done = run("report", name, "--out", tmp_path / "out", "--store", store)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "out" / "report.md").read_text()
    scores = json.loads(made.stdout)["scores"]
    right = sum(answer["right"] for answer in scores["answers"])
    assert f"{right} of {len(scores['answers'])} answers are right" in text
    assert "## Old skills" in text


def test_the_command_on_a_report_names_files_without_their_folders(tmp_path):
    file = tmp_path / "mine" / "rows.csv"
    file.parent.mkdir()
    file.touch()
    for word, shown in {
        str(file): "rows.csv",
        f"--test={file}": "--test=rows.csv",
        "--minutes": "--minutes",
        "gate_proj/up": "gate_proj/up",  # no such file
        "a=b": "a=b",
    }.items():
        assert _word_without_folder(word) == shown

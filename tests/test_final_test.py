"""The test is asked once, of the way that validation prefers, and a second look is refused."""

from dataclasses import replace

import pytest

import lora_lab as lab
from lora_lab.decision.report import report_of_decision
from lora_lab.lessons.deciding import Situation

NEEDS = Situation(goal="format", needed=1.0)


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task(base):
    whole = lab.load_task("sentiment", base, n=120)
    few = {"validation": whole.validation[:24], "test": whole.test[:30]}
    few |= {"old_knowledge": (), "strangers": ()}
    recipe = replace(whole.recipe, steps=20, learning_rate=1e-4)  # learns next to nothing
    return replace(whole, **few, recipe=recipe)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def untested(base, task, store):
    options = {"minutes": 60, "situation": NEEDS, "store": store}
    return lab.decide(base, task, test=False, **options)


@pytest.fixture(scope="module")
def better(base, task, store):
    recipe = replace(task.recipe, steps=120, learning_rate=4e-3)
    return lab.fit(base, task, recipe, store=store, evaluate="validation")


@pytest.fixture(scope="module")
def tested(base, untested, better):
    return lab.final_test(base, untested, better)


def test_a_decision_may_keep_its_test(untested):
    assert (untested.test, untested.bare_test, untested.change) == (None, None, None)
    assert repr(untested).endswith("The test was not asked yet.")
    with pytest.raises(ValueError, match=r"no test yet.*lab.final_test"):
        report_of_decision(untested)
    with pytest.raises(ValueError, match=r"lab.final_test"):
        untested.tested()


def test_the_swept_run_stands_among_the_ways_on_the_same_rows(untested, tested, task):
    *ways, swept = tested.tried
    assert tuple(ways) == untested.tried
    assert swept.name == "LoRA"
    assert swept.choice == "swept: r 8, rate 0.004, 120 steps"
    asked = task.validation[: untested.rows + untested.more_rows]
    assert [answer.prompt for answer in swept.answers] == [question.prompt for question in asked]
    assert tested.situation.lora_right == swept.right


def test_the_better_run_takes_the_test_once_with_its_own_answers(base, tested, better, task):
    assert tested.advice.recommendation == "LoRA"
    assert tested.chosen is tested.tried[-1]
    assert [answer.prompt for answer in tested.test.answers] == [
        example.prompt for example in task.test
    ]
    again = lab.evaluate(better, task)
    assert [answer.given for answer in tested.test.answers] == [
        answer.given for answer in again.answers
    ]
    assert tested.run.scores.split == "test"
    assert tested.run.scores.value == pytest.approx(tested.test.share)
    assert tested.change.difference == pytest.approx(tested.test.share - tested.bare_test.share)
    assert "asked once: LoRA" in report_of_decision(tested)


def test_a_second_look_at_the_test_is_refused(base, tested, better):
    with pytest.raises(ValueError, match="was asked already: LoRA, swept.* collect new rows"):
        lab.final_test(base, tested, better)


def test_without_a_run_the_best_that_was_tried_takes_the_test(base, untested, task):
    given = replace(untested, situation=replace(untested.situation, needed=0.05))
    found = lab.final_test(base, given)
    assert found.tried == untested.tried
    assert found.test.name == found.chosen.name
    assert found.test.count == len(task.test)


def test_a_run_of_another_task_is_refused(base, untested, better):
    with pytest.raises(ValueError, match=r"learned 'style' on pocket.*'sentiment' on pocket"):
        lab.final_test(base, untested, replace(better, task_name="style"))


def test_validation_and_test_stand_side_by_side(tested):
    table = tested.tested()
    assert [*table.columns] == ["on validation", "on the test", "95 % interval", "rows"]
    assert table.index[0] == "LoRA, swept: r 8, rate 0.004, 120 steps"
    assert [*table["rows"]] == [30, 30]


def test_the_report_is_written_as_a_page_with_its_numbers(tested, tmp_path):
    page = lab.write_report(tested, tmp_path / "report", ["comments.csv: 3 rows read"])
    assert {path.name for path in page.parent.iterdir()} == {
        "report.html", "report.md", "decision.json", "ways.png", "loss.png",
    }  # fmt: skip
    assert "comments.csv: 3 rows read" in page.with_name("report.md").read_text(encoding="utf-8")
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        lab.write_report(tested, tmp_path / "report")

"""A sweep in a given time: as many settings as fit, whole, and never much later than promised."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import lora_lab as lab
from lora_lab.decision import timed_sweep


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def task(base):
    whole = lab.load_task("sentiment", base, n=60)
    few = {"validation": whole.validation[:20], "old_knowledge": (), "strangers": ()}
    return replace(whole, **few, recipe=replace(whole.recipe, steps=12, batch_size=8))


@pytest.fixture
def grid(task):
    return [replace(task.recipe, learning_rate=rate) for rate in (1e-3, 2e-3, 4e-3, 8e-3)]


@pytest.fixture
def known(monkeypatch):
    """A step takes 0.1 s and scoring 0.8 s, whatever the machine does."""
    monkeypatch.setattr(timed_sweep, "step_seconds", lambda base, task, recipe: 0.1)
    monkeypatch.setattr(timed_sweep, "_scoring_seconds", lambda base, task: 0.8)


def test_so_many_settings_are_planned_as_their_runs_fit_into_the_time(base, task, grid, known):
    # a run: 12 × 0.1 + 0.8 = 2 s; 0.85 × 10 = 8.5 s hold four of one seed, and two of two seeds
    one = lab.sweep_within(base, task, grid, seconds=10)
    assert (len(one.recipes), len(one.left_out), one.expected) == (4, 0, pytest.approx(8))
    two = lab.sweep_within(base, task, grid, seconds=10, seeds=(0, 1))
    assert two.recipes == (*grid[:2],)
    assert two.left_out == (*grid[2:],)
    assert repr(two) == ("4 runs of 2 settings, about 8 of 10 seconds; 2 settings left out")
    table = two.table()
    assert [*table.columns] == ["learning_rate", "seconds", "tried"]
    assert [*table["tried"]] == ["yes", "yes", "no time", "no time"]
    assert {*table["seconds"]} == {"4"}


def test_no_later_setting_takes_the_place_of_one_that_does_not_fit(base, task, grid, known):
    long = [grid[0], replace(grid[1], steps=600), grid[2]]
    plan = lab.sweep_within(base, task, long, seconds=10)
    assert plan.recipes == (grid[0],)


def test_the_first_setting_is_planned_whatever_it_takes_and_the_plan_says_so(
    base, task, grid, known
):
    plan = lab.sweep_within(base, task, grid, seconds=1)
    assert plan.recipes == (grid[0],)
    assert repr(plan).endswith("the first takes more than the time, and is trained all the same")
    assert "all the same" not in repr(lab.sweep_within(base, task, grid, seconds=10))


def test_a_sweep_of_nothing_is_refused(base, task):
    with pytest.raises(ValueError, match=r"0 settings × 1 seeds make no run"):
        lab.sweep_within(base, task, [], seconds=2)


def test_the_runs_are_scored_on_validation_and_told(base, task, grid, tmp_path):
    plan = lab.sweep_within(base, task, grid[:2], seconds=600)
    lines = []
    swept = plan.run(store=tmp_path, tell=lines.append)
    assert [run.recipe for run in swept.runs] == grid[:2]
    assert {run.scores.split for run in swept.runs} == {"validation"}
    assert [line.partition(":")[0] for line in lines] == [
        "learning_rate 0.001", "learning_rate 0.002",
    ]  # fmt: skip


def test_when_the_time_is_up_whole_settings_are_kept_and_the_rest_is_named(
    base, task, grid, tmp_path, monkeypatch
):
    plan = lab.sweep_within(base, task, grid, seconds=600, seeds=(0, 1))
    news = []

    def clock():  # after three runs, of 12 steps and an end each, 601 seconds have passed
        news.append(1)
        return 601.0 if len(news) > 3 * 13 else 0.0

    monkeypatch.setattr(timed_sweep, "time", SimpleNamespace(monotonic=clock))
    lines = []
    swept = plan.run(store=tmp_path, tell=lines.append)
    assert [(run.recipe.learning_rate, run.recipe.seed) for run in swept.runs] == [
        (1e-3, 0), (1e-3, 1),
    ]  # fmt: skip
    assert lines[-1] == "time is up: 3 settings of the plan left out"


def test_where_time_is_up_at_once_the_first_setting_is_trained_to_its_end(base, task, grid):
    plan = replace(lab.sweep_within(base, task, grid, seconds=600, seeds=(0, 1)), seconds=1e-9)
    lines = []
    swept = plan.run(store=None, tell=lines.append)
    assert [(run.recipe.learning_rate, run.recipe.seed) for run in swept.runs] == [
        (1e-3, 0), (1e-3, 1),
    ]  # fmt: skip
    assert lines[-1] == "time is up: 3 settings of the plan left out"

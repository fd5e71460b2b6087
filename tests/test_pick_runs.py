"""Headless: a learning rate and a seed are picked, and scores and confounds follow."""

import dataclasses

import pytest

from lora_lab.records import Scores
from lora_lab.training.store import Run
from lora_lab.training.sweep import Sweep
from lora_lab.widgets.pick_runs import PickRuns
from tiny import recipe


def run(r, rate, seed, value):
    scores = Scores("accuracy", value, {}, None, None, 0.1, (), "test")
    made = recipe(r=r, lora_alpha=2 * r, learning_rate=rate, seed=seed)
    return Run(
        recipe=made, records=(), scores=scores, base_name="tiny", task_name="letters", path=None
    )


@pytest.fixture
def sweep():
    runs = [
        run(r, rate, seed, r / 10 + rate + seed / 100)
        for r in (1, 4)
        for rate in (0.1, 0.2)
        for seed in (0, 3)
    ]
    return Sweep(tuple(runs))


def test_what_is_picked_is_scored_and_told_with_what_else_differs(sweep):
    pick = PickRuns(sweep, "r")
    assert pick.said[0] == "accuracy: r 1: 20%; r 4: 50%"
    pick.rates[1].value, pick.seeds[4].value = 0.2, 3
    assert [
        (run.recipe.r, run.recipe.learning_rate, run.recipe.seed) for run in pick.picked.runs
    ] == [
        (1, 0.2, 0),
        (4, 0.1, 3),
    ]
    assert pick.said == ("accuracy: r 1: 30%; r 4: 53%", *pick.picked.confounds())
    assert any("same learning rates" in line for line in pick.said)
    assert any("luck was picked" in line for line in pick.said)


def test_each_confound_is_an_item_in_the_widget_and_follows_the_controls(sweep):
    pick = PickRuns(sweep, "r")
    before = pick.outcome.value
    pick.seeds[1].value = 3
    assert pick.outcome.value != before
    assert pick.outcome.value.count("<li>") == len(pick.picked.confounds()) == 3


def test_where_no_widget_can_be_shown_it_has_fixed_words(sweep):
    assert PickRuns(sweep, "r")._repr_mimebundle_()["text/plain"] == "PickRuns: r 1, 4"


def test_a_sweep_with_a_gap_or_without_scores_is_refused(sweep):
    with pytest.raises(ValueError, match="7 runs of 2 values of 'r' × 2 learning rates × 2 seeds"):
        PickRuns(Sweep(sweep.runs[1:]), "r")
    unmarked = dataclasses.replace(sweep.runs[0], scores=None)
    with pytest.raises(ValueError, match="were not evaluated; give a whole sweep"):
        PickRuns(Sweep((unmarked, *sweep.runs[1:])), "r")

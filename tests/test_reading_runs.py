"""Runs that are read: two recipes by rate, the spread by chance, and the curves of lesson 04."""

import dataclasses
import statistics

import pytest

from lora_lab.lessons import reading_runs
from lora_lab.lessons.reading_runs import CURVES, RECIPES, TwoRecipes, chance, train_curves
from lora_lab.maths.statistics import standard_error
from lora_lab.records import Scores, StepRecord
from lora_lab.training.pairing import compare
from lora_lab.training.store import Run
from lora_lab.training.sweep import Sweep
from lora_lab.widgets.pairs import PairsExplorer
from tiny import letters_task, recipe, tiny_base

RIGHT = {  # five seeds each: (recipe, rate) -> shares
    ("A", 0.1): (0.50, 0.52, 0.51, 0.53, 0.50),
    ("B", 0.1): (0.70, 0.72, 0.69, 0.75, 0.70),
    ("A", 0.2): (0.60, 0.62, 0.61, 0.63, 0.60),
    ("B", 0.2): (0.10, 0.00, 0.20, 0.10, 0.05),
}
LOSSES = {("A", 0.1): 0.9, ("A", 0.2): 0.8, ("B", 0.1): 0.5, ("B", 0.2): 2.0}


def run(name, rate, seed, value):
    scores = Scores("accuracy", value, {}, None, None, 0.1, (), "test")
    made = dataclasses.replace(RECIPES[name], learning_rate=rate, seed=seed)
    records = (StepRecord(1, 1.0, rate, 1.0, 9, validation_loss=LOSSES[name, rate]),)
    return Run(recipe=made, records=records, scores=scores, base_name="t", task_name="l", path=None)


@pytest.fixture
def both():
    runs = (
        run(*setting, seed, value)
        for setting, values in RIGHT.items()
        for seed, value in enumerate(values)
    )
    return TwoRecipes(Sweep(tuple(runs)))


def test_the_table_shows_each_seed_and_the_difference_with_its_interval(both):
    table = both.table(0.1)
    assert table.loc["A"].tolist()[:2] == ["50 %", "52 %"]
    assert table.loc["B − A, points"].tolist()[:6] == ["+20", "+20", "+18", "+22", "+20", "+20"]
    found = compare(both.runs("A", 0.1), both.runs("B", 0.1))
    assert table.loc["B − A, points", "95 % interval"] == found.interval.removesuffix(" points")
    assert both.shares["B"] == {rate: [*RIGHT["B", rate]] for rate in (0.1, 0.2)}


def test_a_comparison_at_one_rate_is_about_that_rate(both):
    assert both.compare(0.1).verdict.startswith("B is better by 20.0 points")
    assert both.compare(0.2).verdict.startswith("B is worse by 52")


def test_each_recipe_has_the_rate_of_its_lowest_validation_loss(both):
    assert (both.best_rate("A"), both.best_rate("B")) == (0.2, 0.1)
    tuned = both.compare_tuned()
    means = [statistics.mean(RIGHT[setting]) for setting in (("B", 0.1), ("A", 0.2))]
    assert tuned.difference == pytest.approx(means[0] - means[1])


def test_chance_asks_one_model_other_test_sets_and_gives_the_formulas_range(both, monkeypatch):
    asked = []

    def evaluate(model, task):
        asked.append((model, task.test))
        return dataclasses.replace(model.scores, value=0.5 + len(asked) / 100)

    monkeypatch.setattr(reading_runs, "evaluate", evaluate)
    monkeypatch.setattr(
        reading_runs,
        "load_task",
        lambda name, base, seed: dataclasses.replace(letters_task(), test=(seed,)),
    )
    task, runs = letters_task(), both.runs("A", 0.1)
    causes, low, high = chance(None, task, runs)
    assert [test for _, test in asked] == [(seed,) for seed in range(1, 9)]
    assert {model for model, _ in asked} == {runs[0]}
    assert causes["other seeds"] == [*RIGHT["A", 0.1]]
    share = statistics.mean([0.5, *causes["other test sets"]])
    margin = 1.96 * standard_error(share, len(task.test))
    assert (low, high) == pytest.approx((share - margin, share + margin))


def test_the_found_rate_is_a_tenth_of_that_of_the_lowest_smooth_loss(monkeypatch):
    pairs = ((1e-4, 4.0), (1e-3, 0.1), (1e-2, 2.0), (1e-1, 1.0), (1.0, 0.5), (10.0, 9.0))
    records = tuple(StepRecord(step, loss, rate, 1.0, 9) for step, (rate, loss) in enumerate(pairs))
    monkeypatch.setattr(reading_runs, "try_learning_rates", lambda *_: records)
    # means of three: 2.03, 1.03, 1.17, 3.5; the second is around 1e-2
    assert reading_runs.find_rate(None, None) == (records, pytest.approx(1e-3))


def test_each_curve_has_its_own_rate_and_examples(monkeypatch):
    monkeypatch.setattr(reading_runs, "RECIPE", recipe(steps=5))
    curves = train_curves(tiny_base(), letters_task(48))
    assert [*curves] == [*CURVES]
    for name, records in curves.items():
        assert records[0].learning_rate == CURVES[name][1]
    assert curves[2][-1].validation_loss is not None
    assert curves[3][-1].loss != curves[2][-1].loss, "other examples"


def test_the_slider_says_how_many_seeds_are_looked_at(both):
    sides = both.runs("A", 0.1), both.runs("B", 0.1)
    pairs = PairsExplorer({"ranks": (sides[0][::-1], sides[1])})  # each side by its seeds
    assert pairs.picture.alt.startswith("ranks: B less A is +20.0 points")
    pairs.seeds.value = 3
    assert "+19.3 points" in pairs.picture.alt
    assert pairs.picture.alt.endswith("not settled.")
    assert repr(pairs) == "PairsExplorer: ranks"

"""Lesson 14's tables: costs, leaks by template, the best of many, and kept predictions."""

from dataclasses import replace

import pytest

import lora_lab as lab
from lora_lab.lessons import your_data
from lora_lab.lessons.predictions import Log, Prediction, Question
from lora_lab.review.data_twins import twins_of
from lora_lab.tasks.examples import Example


@pytest.fixture(scope="module")
def base():
    return lab.load_base("pocket", device="cpu", dtype="float32")


@pytest.fixture
def task(base):
    """Ten comments of four visitors each, split by template: 32 to train, 8 to validate."""
    rows = [
        Example(f"Visit {10 * place + visitor}. The {word} was dull.", "blame")
        for place, word in enumerate("film book play song show hotel room food tour train".split())
        for visitor in range(4)
    ]
    groups = {row.prompt: row.prompt.partition(". ")[2] for row in rows}
    whole = lab.load_task("sentiment", base, n=4)
    return replace(
        whole, name="mine.csv", train=rows[:32], validation=rows[32:], test=rows[:1], groups=groups
    )


def test_a_split_at_random_has_as_many_of_the_same_rows_and_leaves_the_test(task):
    mixed = your_data.split_at_random(task)
    assert (len(mixed.train), len(mixed.validation)) == (32, 8)
    rows = {*task.train, *task.validation}
    assert {*mixed.train, *mixed.validation} == rows
    assert mixed.validation != task.validation
    assert (mixed.test, mixed.groups) == (task.test, None)


def test_twins_in_training_are_those_that_the_check_counts(task):
    assert your_data.twins_in_training(task) == 0
    mixed = your_data.split_at_random(task)
    prompts = [[row.prompt for row in rows] for rows in (mixed.train, mixed.validation)]
    assert your_data.twins_in_training(mixed) == len(twins_of(*prompts).twins) / 8 > 0.5


def test_a_leak_is_asked_on_both_splits_with_similar_examples(base, task):
    found = your_data.leak(base, task)
    assert [*found] == ["split by template", "split at random"]
    assert found["split by template"]["twins"] == 0 < found["split at random"]["twins"]
    table = your_data.leak_table(found)
    assert [*table.columns] == ["near-twin in training", "right"]
    assert table.loc["split by template", "near-twin in training"] == "0 %"


def test_costs_are_those_of_the_estimates_here_and_on_the_card(base, task):
    recipe = replace(task.recipe, r=8, steps=10)
    table = your_data.costs(base, task, recipe, "llama-3.1-8b", "L4")
    assert [*table.columns] == ["pocket", "llama-3.1-8b on a L4"]
    assert table.loc["trained parameters", "llama-3.1-8b on a L4"] == "21.0 M"
    assert table.loc["does it fit?", "llama-3.1-8b on a L4"] == "fits"
    small = your_data.costs(base, task, recipe, "llama-3.1-8b", "RTX 3060")
    assert small.loc["does it fit?", "llama-3.1-8b on a RTX 3060"] == "does not fit"
    with pytest.raises(ValueError, match="no card is called 'RTX 4091'; did you mean 'RTX 4090'"):
        your_data.costs(base, task, recipe, "llama-3.1-8b", "RTX 4091")


def test_the_best_of_one_setting_is_not_flattered_and_of_many_is_more_so():
    table = your_data.best_of_many()
    too_many = table["points too many"].tolist()
    assert [*table.index] == ["best of 1", "best of 4", "best of 16"]
    assert abs(too_many[0]) < 1 < too_many[1] < too_many[2]


def test_the_best_is_chosen_on_one_half_and_asked_on_the_other(monkeypatch):
    class Kept:
        rows = ({"right": [1, 1, 0, 0], "groups": [0, 0, 1, 1]},
                {"right": [0, 0, 1, 1], "groups": [0, 0, 1, 1]})  # fmt: skip

    monkeypatch.setattr(your_data, "recording", lambda name: Kept)
    table = your_data.best_of_many(draws=50)
    assert table.loc["best of 2", "rows that chose"] == "100 %"
    assert table.loc["best of 2", "other rows"] == "0 %"
    assert table.loc["best of 2", "points too many"] == 100


def test_held_out_answers_are_asked_of_validation_and_test(base, task):
    recipe = replace(task.recipe, steps=2)
    (row,) = your_data.held_out_answers(base, task, [recipe])
    assert len(row["right"]) == len(row["groups"]) == 9
    assert row["groups"] == [0] * 4 + [1] * 4 + [2]
    assert (row["rate"], row["r"], row["seed"]) == (recipe.learning_rate, recipe.r, 0)


def test_predictions_are_counted_by_how_sure_they_were():
    def made(name, guess, sure):
        return Prediction(Question(name, "?", ("a", "b")), guess, ("a",), sure)

    log = Log((made("1", "a", 0.5), made("2", "b", 0.6), made("3", "a", 0.7), made("4", "a", 1.0)))
    table = your_data.by_sureness(log)
    assert [*table.index] == ["0 to 50 %", "50 to 75 %", "75 to 100 %"]
    assert [*table["predictions"]] == [1, 2, 1]
    assert [*table["right"]] == ["100 %", "50 %", "100 %"]
    assert [*your_data.by_sureness(Log(()))["right"]] == ["–"] * 3

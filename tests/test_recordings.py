"""Measurements and sweeps of data/recorded/: read as they were made, and found by name."""

import dataclasses
import math
import re
import tomllib
from importlib.metadata import version

import pytest

from lora_lab.findings.recordings import (
    keep_recording,
    recipes_of,
    record_sweep,
    recorded_names,
    recorded_sweep,
    recording,
    task_of,
)
from lora_lab.places import data_folder
from lora_lab.training.store import FINISHED
from lora_lab.training.sweep import sweep
from tiny import letters_task, recipe, tiny_base

PLANS = tomllib.loads((data_folder() / "recorded" / "rank.toml").read_text("utf-8"))
MADE = sorted(path.stem for path in (data_folder() / "recorded" / "rank").glob("*.json"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_lab.findings.recordings.data_folder", lambda: tmp_path)
    (tmp_path / "recorded").mkdir()
    for settings in ("rank.toml", "target_modules.toml"):
        (tmp_path / "recorded" / settings).touch()
    return tmp_path / "recorded"


def test_what_is_kept_is_read_as_it_was_made_with_place_and_date(folder):
    rows = [{"r": 1, "value": 0.5}, {"r": 2, "value": None}]
    keep_recording(folder / "rank/tiny.json", {"n": 2}, iter(rows), "some CPU")
    made = recording("rank/tiny")
    assert (made.settings, [*made.rows], made.device) == ({"n": 2}, rows, "some CPU")
    assert made.versions["torch"] == version("torch")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made.date)
    assert made.table().r.tolist() == [1, 2]


def test_a_measurement_that_breaks_off_leaves_nothing_behind(folder):
    def rows():
        yield {"r": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep_recording(folder / "rank/tiny.json", {}, rows(), "some CPU")
    assert recorded_names() == ()


def test_a_misspelt_recording_is_refused_with_the_nearest(folder):
    keep_recording(folder / "target_modules/facts.json", {}, [], "some CPU")
    with pytest.raises(ValueError, match="did you mean 'target_modules/facts'"):
        recording("target_modules/fact")


@pytest.mark.parametrize("name", recorded_names())
def test_each_recording_of_the_course_can_be_read_and_is_not_empty(name):
    made = recording(name)
    assert made.rows
    assert made.settings
    assert made.device


# --- sweeps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANS)
def test_every_setting_is_tried_with_every_learning_rate(name):
    plan = PLANS[name]
    recipes = recipes_of(plan)
    assert len({*recipes}) == len(plan["settings"]) * len(plan["learning_rates"])
    assert {recipe.learning_rate for recipe in recipes} == {*plan["learning_rates"]}
    assert {recipe.steps for recipe in recipes} == {plan["common"]["steps"]}


def test_where_facts_are_asked_as_taught_the_test_is_made_of_training_examples():
    task = task_of({"task": "new-facts", "n": 30, "asked_as_taught": True}, tiny_base())
    assert [*task.test] == [*task.train]
    assert not task.old_knowledge
    plain = task_of({"task": "new-facts", "n": 30}, tiny_base())
    assert not {*plain.test} & {*plain.train}
    assert len(plain.old_knowledge) == 200
    assert not plain.strangers
    strange = task_of({"task": "new-facts", "n": 30, "strangers": True}, tiny_base())
    assert len(strange.strangers) == 100


@pytest.mark.parametrize("name", MADE)
def test_a_recorded_sweep_is_of_the_settings_that_were_committed(name):
    made, plan = recorded_sweep(name), PLANS[name]
    recipes = [
        dataclasses.replace(recipe, seed=seed)
        for recipe in recipes_of(plan)
        for seed in plan["seeds"]
    ]
    assert [run.recipe for run in made.runs] == recipes
    assert {run.task_name for run in made.runs} == {plan["task"]}
    assert all(run.about and run.date and run.replayed for run in made.runs)
    assert all(math.isfinite(run.scores.value) for run in made.runs if run.status == FINISHED)


def test_what_is_recorded_is_read_as_the_table_that_was_made(folder):
    plan = {
        "task": "letters",
        "common": {"steps": 2, "batch_size": 2, "target_modules": ["q_proj"], "max_length": 32},
        "settings": [{"r": 1}, {"r": 2}],
        "learning_rates": [1e-3, 1e-2],
        "seeds": [0, 1],
    }
    made = sweep(tiny_base(), letters_task(), recipes_of(plan), seeds=(0, 1), store=None)
    record_sweep(made, plan, tiny_base(), folder / "rank/tiny.json")
    found = recorded_sweep("tiny")
    kept = made.table().drop(columns="last_loss")
    assert found.table().drop(columns="last_loss").equals(kept)
    assert len(kept) == 8
    assert found.confounds() == made.confounds()


def test_a_run_that_diverged_keeps_its_place(folder):
    plan = {
        "task": "letters",
        "common": {"steps": 3, "batch_size": 2, "max_length": 32, "method": "full"},
        "settings": [{}],
        "learning_rates": [1e30],
        "seeds": [0],
    }
    made = sweep(tiny_base(), letters_task(), recipes_of(plan), store=None)
    record_sweep(made, plan, tiny_base(), folder / "rank/tiny.json")
    assert [run.status for run in recorded_sweep("tiny").runs] == [made.runs[0].status]
    assert made.runs[0].status == "diverged"


def test_a_misspelt_sweep_is_refused_with_the_nearest(folder):
    made = sweep(tiny_base(), letters_task(), [recipe(steps=1)], store=None)
    plan = {
        "task": "letters",
        "common": dict(dataclasses.asdict(recipe(steps=1))),
        "settings": [{}],
        "seeds": [0],
    }
    record_sweep(made, plan, tiny_base(), folder / "rank/style.json")
    with pytest.raises(ValueError, match="did you mean 'rank/style'"):
        recorded_sweep("styel")

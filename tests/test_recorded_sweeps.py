import dataclasses
import math

import pytest

from lora_lab.findings.recorded_sweeps import (
    recipes_of,
    record_sweep,
    recorded_settings,
    recorded_sweep,
    task_of,
)
from lora_lab.places import data_folder
from lora_lab.training.store import FINISHED
from lora_lab.training.sweep import sweep
from tiny import letters_task, recipe, tiny_base

WANTED = recorded_settings()
MADE = sorted(path.stem for path in (data_folder() / "recorded" / "rank").glob("*.json"))


@pytest.mark.parametrize("name", WANTED)
def test_every_setting_is_tried_with_every_learning_rate(name):
    wanted = WANTED[name]
    recipes = recipes_of(wanted)
    assert len({*recipes}) == len(wanted["settings"]) * len(wanted["learning_rates"])
    assert {one.learning_rate for one in recipes} == {*wanted["learning_rates"]}
    assert {one.steps for one in recipes} == {wanted["common"]["steps"]}


def test_the_three_conventions_of_alpha_are_what_the_settings_say():
    found = {(one["r"], one["lora_alpha"]) for one in WANTED["alpha-conventions"]["settings"]}
    ranks = (1, 4, 64)
    fixed, twice = {(r, 8) for r in ranks}, {(r, 2 * r) for r in ranks}
    assert found == fixed | twice | {(r, 4 * math.sqrt(r)) for r in ranks}


def test_the_scalings_of_notebook_06_are_what_the_settings_say():
    wanted = WANTED["alpha-and-rank"]
    found = [
        (one.r, one.use_rslora, one.lora_alpha, one.scaling)
        for one in recipes_of(wanted | {"learning_rates": [1e-3]})
    ]
    still = [(r, False, 16, 16 / r) for r in (2, 8, 32)]
    twice = [(r, False, 2 * r, 2) for r in (2, 32)]  # at r 8 it is 16, which stands there
    rslora = [(r, True, 16, 16 / math.sqrt(r)) for r in (2, 8, 32)]
    assert found == still + twice + rslora


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
    made, wanted = recorded_sweep(name), WANTED[name]
    recipes = [
        dataclasses.replace(one, seed=seed)
        for one in recipes_of(wanted)
        for seed in wanted["seeds"]
    ]
    assert [run.recipe for run in made.runs] == recipes
    assert {run.task_name for run in made.runs} == {wanted["task"]}
    assert all(run.about and run.date and run.replayed for run in made.runs)
    assert all(math.isfinite(run.scores.value) for run in made.runs if run.status == FINISHED)


@pytest.fixture
def rank(tmp_path, monkeypatch):
    """Where sweeps are recorded, in a data folder of one's own: empty, beside its settings."""
    monkeypatch.setattr("lora_lab.findings.recordings.data_folder", lambda: tmp_path)
    (tmp_path / "recorded").mkdir()
    (tmp_path / "recorded" / "rank.toml").touch()
    return tmp_path / "recorded" / "rank"


def test_what_is_recorded_is_read_as_the_table_that_was_made(rank):
    wanted = {
        "task": "letters",
        "common": {"steps": 2, "batch_size": 2, "target_modules": ["q_proj"], "max_length": 32},
        "settings": [{"r": 1}, {"r": 2}],
        "learning_rates": [1e-3, 1e-2],
        "seeds": [0, 1],
    }
    made = sweep(tiny_base(), letters_task(), recipes_of(wanted), seeds=(0, 1), store=None)
    record_sweep(made, wanted, tiny_base(), rank / "tiny.json")
    found = recorded_sweep("tiny")
    kept = made.table().drop(columns="last_loss")
    assert found.table().drop(columns="last_loss").equals(kept)
    assert len(kept) == 8
    assert found.confounds() == made.confounds()


def test_a_run_that_diverged_keeps_its_place(rank):
    wanted = {
        "task": "letters",
        "common": {"steps": 3, "batch_size": 2, "max_length": 32, "method": "full"},
        "settings": [{}],
        "learning_rates": [1e30],
        "seeds": [0],
    }
    made = sweep(tiny_base(), letters_task(), recipes_of(wanted), store=None)
    record_sweep(made, wanted, tiny_base(), rank / "tiny.json")
    assert [one.status for one in recorded_sweep("tiny").runs] == [made.runs[0].status]
    assert made.runs[0].status == "diverged"


def test_a_misspelt_sweep_is_refused_with_the_nearest(rank):
    made = sweep(tiny_base(), letters_task(), [recipe(steps=1)], store=None)
    wanted = {
        "task": "letters",
        "common": dict(dataclasses.asdict(recipe(steps=1))),
        "settings": [{}],
        "seeds": [0],
    }
    record_sweep(made, wanted, tiny_base(), rank / "style.json")
    with pytest.raises(ValueError, match="did you mean 'rank/style'"):
        recorded_sweep("styel")

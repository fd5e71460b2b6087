import dataclasses
import importlib
import itertools
import math
import tomllib

import pytest

import lora_lab as lab
from lora_lab.findings.recordings import recorded_runs
from lora_lab.models.built_in import list_bases
from lora_lab.places import data_folder
from lora_lab.training.store import FINISHED

WANTED = tomllib.loads((data_folder() / "recorded" / "recorded.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def base():
    if not any(base.name == "smollm2" and base.prepared for base in list_bases()):
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    return lab.load_base("smollm2", device="cpu", dtype="float32")


@pytest.mark.parametrize("name", WANTED)
def test_each_recorded_run_is_there_once_a_seed_with_the_recipe_that_was_committed(name):
    runs = recorded_runs(name)
    assert [run.recipe.seed for run in runs] == WANTED[name]["seeds"]
    task = lab.load_task(WANTED[name]["task"])
    for run in runs:
        changes = {"seed": run.recipe.seed, "eval_steps": run.recipe.steps // 4}
        assert run.recipe == dataclasses.replace(task.recipe, **changes | WANTED[name]["recipe"])
        assert (run.base_name, run.task_name, run.status) == ("smollm2", task.name, FINISHED)
        assert run.replayed
        assert run.date
        assert len(run.records) == run.recipe.steps
        assert math.isfinite(run.scores.value)
        assert run.scores.answers == ()  # other people's prompts are not committed


def test_a_recorded_run_trains_again_to_the_losses_that_were_recorded(base):
    run = recorded_runs("home-commands")[0]
    task = lab.load_task(run.task_name, base)
    again = itertools.islice(lab.train(base, task, run.recipe), 4)
    expected = [record.loss for record in run.records[:4]]
    assert [record.loss for record in again] == pytest.approx(expected, rel=0.02)  # any processor


def test_a_misspelt_recording_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'home-commands'"):
        recorded_runs("home-comands")


def test_a_recorded_run_is_known_by_its_whole_name():
    assert len(recorded_runs("home-commands")) == 3
    for name in ("", "*", "home-c*", "../recorded/home-commands", "/home-commands", "**", "["):
        with pytest.raises(ValueError, match="no run was recorded as"):
            recorded_runs(name)


@pytest.fixture
def plans(monkeypatch):
    """What the scripts that measure share."""
    monkeypatch.syspath_prepend(data_folder() / "recorded")
    return importlib.import_module("plans")


def test_a_script_makes_the_tables_that_are_named_or_all(plans):
    planned = tomllib.loads((data_folder() / "recorded" / "rank.toml").read_text("utf-8"))
    everything, fresh = plans.chosen_plans("rank.toml", "About it.", [])
    assert [*everything] == [*planned]
    assert not fresh
    some, fresh = plans.chosen_plans("rank.toml", "About it.", ["sick-of-alpha", "--fresh"])
    assert some == {"sick-of-alpha": planned["sick-of-alpha"]}
    assert fresh


def test_a_script_refuses_a_name_that_is_no_table(plans):
    with pytest.raises(SystemExit, match=r"rank.toml names no 'sick'; it has sick-of-alpha, "):
        plans.chosen_plans("rank.toml", "About it.", ["sick"])


@pytest.mark.parametrize("script", sorted((data_folder() / "recorded").glob("make_*.py")))
def test_each_settings_file_has_its_script(script):
    assert script.with_name(f"{script.stem.removeprefix('make_')}.toml").is_file()

"""`kill -9` in mid-training: the store opens, and the run is finished as if unbroken."""

import os

import pytest
from children import output_of
from killed_trainings import STEPS, TASK, recipe_of

from lora_lab.training.fit import fit
from lora_lab.training.store import list_runs
from tiny import tiny_base

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")


@needs_fork
@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_killed_training_leaves_a_store_that_opens_and_a_run_that_is_finished(count, tmp_path):
    printed = output_of("killed_trainings.py", tmp_path, count)
    steps = [*map(int, printed.split()[1:])]
    assert len(steps) == count
    assert sum(0 < done < STEPS for done in steps) >= count // 4, steps  # really in mid-training
    store = tmp_path / "killed"
    assert all(run.status in ("finished", "running", "interrupted") for run in list_runs(store))
    for seed in range(count):
        resumed = fit(tiny_base(), TASK, recipe_of(seed), store=store, evaluate=False)
        whole = fit(tiny_base(), TASK, recipe_of(seed), store=None, evaluate=False)
        assert resumed.records == whole.records
    assert {run.status for run in list_runs(store)} == {"finished"}
    assert len(list_runs(store)) == count
    folders = {run.path.name for run in list_runs(store)}
    left = [path.name for path in store.iterdir() if path.name not in folders]
    assert left in ([], [".lock"]), left

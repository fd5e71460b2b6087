"""The wall clock goes back, as after a dead battery: in mid-training, and between two sessions."""

from pathlib import Path

import pytest
from children import output_of
from clock import RECIPE, TASK

from lora_lab.training.fit import fit
from lora_lab.training.store import list_runs
from tiny import tiny_base

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
pytestmark = pytest.mark.skipif(not FAKETIME, reason="libfaketime is not installed")


def train(store, at, file, clock):
    """Train in a process whose wall clock is another; its steady clock stays."""
    faked = {"LD_PRELOAD": str(FAKETIME[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    return output_of("clock.py", store, at, file, **faked, **clock)


def unbroken():
    return fit(tiny_base(), TASK, RECIPE, store=None, evaluate=False)


def test_a_training_whose_clock_goes_back_in_the_middle_ends_as_if_it_had_not(tmp_path):
    file = tmp_path / "clock"
    file.write_text("+0d")
    clock = {"FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    taken = train(tmp_path / "store", 7, file, clock)
    assert float(taken) < -2 * 86400  # the clock did go back
    (run,) = list_runs(tmp_path / "store")
    assert run.status == "finished"
    assert run.records == unbroken().records


def test_a_run_of_the_future_is_listed_and_resumed_and_keeps_its_date(tmp_path):
    train(tmp_path, 12, "-", {"FAKETIME": "+900d"})
    (broken,) = list_runs(tmp_path)
    assert broken.status != "finished"
    train(tmp_path, 0, "-", {"FAKETIME": "-900d"})
    (run,) = list_runs(tmp_path)
    assert run.status == "finished"
    assert run.date == broken.date
    assert run.records == unbroken().records
    again = fit(tiny_base(), TASK, RECIPE, store=tmp_path, evaluate=False)
    assert again.replayed

"""Published measurements of GPU memory: each has its place, and the estimate meets them."""

import re
import statistics

import pytest

from lora_lab.cost import gpus
from lora_lab.cost.gpus import CACHED, ERROR, FORETOLD
from lora_lab.cost.published_memory import (
    CONTEXT,
    MEASURED,
    OUTCOMES,
    UNITS,
    comparable,
    published,
)
from lora_lab.cost.static_memory import stack_static_memory

PLACE = re.compile(r" at [0-9a-f]{12}|20\d\d-\d\d-\d\d|section \d")


def place(run):
    return run.fields["source"], run.fields["where"].split(": mem_")[0]


def named(run):
    return f"{run.fields['source'].split('/')[-1][:20]}-{run.fields['where'][-30:]}"


# --- the file -----------------------------------------------------------------------------------


def test_there_are_as_many_measurements_as_an_estimate_needs():
    assert len(comparable()) >= 140
    assert len({run.fields["source"] for run in comparable()}) >= 12
    assert sum(run.held_back for run in comparable()) == pytest.approx(
        len(comparable()) / 2, rel=0.1
    )


@pytest.mark.parametrize("run", published(), ids=named)
def test_a_row_names_its_place_and_what_was_measured(run):
    assert "/" in run.fields["source"] or run.fields["source"].startswith("arXiv:")
    assert PLACE.search(run.fields["where"]), run.fields["where"]
    assert set(run.assumed) <= set(run.fields)
    if run["kind"] in OUTCOMES:
        assert run.fields["measured"] == ""
        assert float(run["card_gib"]) > 4
    elif not run["not_compared"]:
        assert run["kind"] in MEASURED
        assert run["unit"] in UNITS
        assert 2**30 < run.measured < 200 * 2**30


@pytest.mark.parametrize("run", comparable(), ids=named)
def test_a_row_that_is_compared_states_or_assumes_all_that_the_estimate_takes(run):
    made, stack = run.recipe, run.stack
    assert made.max_length == run.batch.length
    assert run["dtype"] in ("bfloat16", "float16", "float32")
    assert stack.beside in ("float32", "norms", "16-bit")
    assert stack.loss in ("whole", "chunks")
    assert run["varied"] in ("yes", "no")


def test_no_measurement_stands_twice():
    places = [(*place(run), run.fields["kind"], run.fields["where"]) for run in published()]
    assert len(places) == len(set(places))


def test_both_measurements_of_a_run_are_in_one_half():
    halves = {}
    for run in published():
        halves.setdefault(place(run), set()).add(run.held_back)
    assert all(len(half) == 1 for half in halves.values())
    assert len(halves) < len(published())  # some runs have two, so the test can fail


# --- the estimate -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors():
    """The estimate for the runs that were held back and whose tensors or outcome are known."""
    lone = [
        run for run in comparable() if run.held_back and run["kind"] in ("allocated", *OUTCOMES)
    ]
    return {place(run): (run, run.estimate()) for run in lone}


def test_of_the_runs_held_back_half_are_nearer_than_the_error_that_is_told(tensors):
    errors = [
        abs(memory.total / run.measured - 1)
        for run, memory in tensors.values()
        if run["kind"] == "allocated"
    ]
    assert len(errors) >= 15
    assert statistics.median(errors) <= ERROR


def test_what_torch_keeps_beside_the_tensors_is_fitted_to_the_other_half():
    allocated = {place(run): run for run in comparable() if run["kind"] == "allocated"}
    shares = []
    for run in comparable():
        if run["kind"] == "process" and not run.held_back and place(run) in allocated:
            held = allocated[place(run)].measured
            lasting = sum(
                stack_static_memory(run.shape, run.recipe, run["dtype"], run.stack).values()
            )
            shares.append((run.measured - held - CONTEXT) / (held - lasting))
    assert len(shares) >= 5
    assert statistics.median(shares) == pytest.approx(CACHED, abs=0.005)


def test_the_memory_that_nvidia_smi_shows_is_met_where_all_batches_have_one_length(tensors):
    found = [
        run.expected(tensors[place(run)][1]) / run.measured - 1
        for run in comparable()
        if run["kind"] == "process" and run["varied"] == "no" and place(run) in tensors
    ]
    assert len(found) >= 4
    assert statistics.median(map(abs, found)) <= ERROR


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_what_is_told_of_runs_that_failed_or_ran_is_what_the_estimate_says(outcome, tensors):
    said = dict.fromkeys(gpus.VERDICTS, 0)
    for run, memory in tensors.values():
        if run["kind"] == outcome:
            usable = int(float(run["card_gib"]) * gpus.GIB) - gpus.TAKEN
            said[gpus.verdict_on(usable, memory)] += 1
    assert said == FORETOLD[outcome]

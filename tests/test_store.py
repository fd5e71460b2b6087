import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import torch

from lora_lab.cost import estimates
from lora_lab.cost.estimates import estimate
from lora_lab.tasks.examples import Example
from lora_lab.training import fit as fitting
from lora_lab.training.evaluation import evaluate, generate
from lora_lab.training.fit import fit
from lora_lab.training.loop import Training
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import identity, list_runs, open_run, read_store, stored_status
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()


@pytest.fixture
def base():
    return tiny_base()


@pytest.fixture
def often(monkeypatch):
    """A checkpoint after every step, whatever it costs."""
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(fitting, "CHECKPOINT_SHARE", float("inf"))


def stop_after(monkeypatch, step):
    """Let a run die right after a step, as a killed process would: no code of ours runs then."""
    one_step = Training._one_step

    def dying(self):
        if self.step == step:
            raise MemoryError("killed")
        return one_step(self)

    monkeypatch.setattr(Training, "_one_step", dying)


def test_a_finished_run_is_replayed_with_all_that_it_held(base, tmp_path):
    first = fit(base, TASK, recipe(eval_steps=4), store=tmp_path)
    again = fit(base, TASK, recipe(eval_steps=4), store=tmp_path)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.records == first.records
    assert again.scores == first.scores
    assert again.recipe == first.recipe
    assert [r.seconds for r in again.records] == [r.seconds for r in first.records]


@pytest.mark.parametrize("kept", [True, False])
def test_a_run_has_the_budget_that_estimate_tells(base, kept, tmp_path):
    wanted = recipe(steps=3)
    run = fit(base, TASK, wanted, store=tmp_path if kept else None, evaluate=False)
    assert run.budget == estimate(base, wanted, TASK)
    assert run.budget.memory.total > 0
    if kept:
        assert open_run(run.path.name, tmp_path).budget == run.budget


def test_a_run_that_was_stored_before_the_usual_memory_was_told_can_be_read(base, tmp_path):
    run = fit(base, TASK, recipe(steps=2), store=tmp_path, evaluate=False)
    words = json.loads((run.path / "run.json").read_text())
    del words["budget"]["usual_memory"]
    (run.path / "run.json").write_text(json.dumps(words))
    older = open_run(run.path.name, tmp_path).budget
    assert older == dataclasses.replace(run.budget, usual_memory=None)


def test_a_run_of_a_model_that_no_budget_knows_has_none(base, monkeypatch):
    def unknown(*_, **__):
        raise ValueError("a mixture of experts")

    monkeypatch.setattr(estimates, "_estimate", unknown)
    assert fit(base, TASK, recipe(steps=2), store=None, evaluate=False).budget is None


def test_nothing_is_kept_without_a_store(base, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STORE", str(tmp_path))
    run = fit(base, TASK, recipe(), store=None)
    assert run.path is None
    assert list(tmp_path.iterdir()) == []
    assert fit(base, TASK, recipe()).path.parent == tmp_path  # and by default in the store


def test_a_refused_recipe_leaves_no_folder_behind(base, tmp_path):
    fit(base, TASK, recipe(steps=2), store=tmp_path, evaluate=False)
    kept = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no layer called"):
        fit(base, TASK, recipe(target_modules=("q_porj",)), store=tmp_path)
    assert sorted(tmp_path.iterdir()) == kept


def test_fresh_trains_again(base, tmp_path):
    fit(base, TASK, recipe(), store=tmp_path)
    assert not fit(base, TASK, recipe(), store=tmp_path, fresh=True).replayed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "full", "weight_decay": 0.1},
        {"lora_dropout": 0.3, "eval_steps": 3},
        {"optimizer": "sgd"},
        {"optimizer": "adamw_8bit"},
        {"init_lora_weights": "pissa"},
        {"method": "adalora", "deltaT": 3, "tinit": 1, "tfinal": 4, "lora_dropout": 0.1},
        {"method": "adalora", "init_r": 5, "target_r": 2, "tfinal": 8},  # decided at step 4
    ],
    ids=str,
)
def test_a_killed_run_is_resumed_to_the_records_of_one_never_stopped(
    base, changes, tmp_path, monkeypatch, often
):
    if changes.get("optimizer") == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes does not exist for this machine")
    whole = fit(base, TASK, recipe(**changes), store=tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(MemoryError):
            fit(base, TASK, recipe(**changes), store=tmp_path)
    (half,) = list_runs(tmp_path)
    assert (half.status, len(half.records)) == ("running", 5)
    resumed = fit(base, TASK, recipe(**changes), store=tmp_path)
    assert not resumed.replayed
    assert [r.seconds for r in resumed.records[:5]] == [r.seconds for r in half.records]
    assert resumed.records == whole.records
    for name, tensor in whole.learned.tensors.items():
        assert torch.equal(resumed.learned.tensors[name], tensor), name


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"{half"])
def test_a_damaged_checkpoint_or_note_costs_time_and_nothing_else(
    base, damage, tmp_path, monkeypatch, often
):
    whole = fit(base, TASK, recipe(), store=tmp_path / "whole")
    for name in ("checkpoint.safetensors", "run.json"):
        with monkeypatch.context() as patch:
            stop_after(patch, 5)
            with pytest.raises(MemoryError):
                fit(base, TASK, recipe(), store=tmp_path / name)
        next((tmp_path / name).glob(f"*/{name}")).write_bytes(damage)
        assert read_store(tmp_path / name)[1][0].name == name
        assert fit(base, TASK, recipe(), store=tmp_path / name).records == whole.records


def test_a_half_written_file_is_never_seen(base, tmp_path, monkeypatch, often):
    def full_disk(tensors, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full_disk)
    with pytest.raises(OSError, match="No space left on device"):
        fit(base, TASK, recipe(), store=tmp_path)
    assert list(tmp_path.iterdir()) == []  # of a run without a step nothing is kept


def test_a_folder_that_cannot_be_written_is_named(base, tmp_path):
    place = tmp_path / "a file, not a folder"
    place.write_text("")
    with pytest.raises(OSError, match="a file, not a folder"):
        fit(base, TASK, recipe(), store=place)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from tiny import letters_task, recipe, tiny_base
from lora_lab.training import loop
from lora_lab.training.fit import fit
loop.torch.set_num_threads(1)
real = loop.Training._one_step
def printed(self):
    record = real(self)
    print(record.step, flush=True)
    return record
loop.Training._one_step = printed
fit(tiny_base(), letters_task(), recipe(steps=300), store={store!r})
"""


def test_ctrl_c_keeps_the_run_and_a_later_fit_goes_on(base, tmp_path):
    script = SCRIPT.format(tests=os.path.dirname(__file__), store=str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
    )
    for line in process.stdout:
        if line.strip() == "7":
            process.send_signal(signal.SIGINT)
            break
    _, words = process.communicate(timeout=60)
    assert "KeyboardInterrupt: stopped after step" in words
    (half,) = list_runs(tmp_path)
    assert 7 <= len(half.records) < 300
    resumed = fit(base, TASK, recipe(steps=300), store=tmp_path, evaluate=False)
    whole = fit(base, TASK, recipe(steps=300), store=None, evaluate=False)
    assert resumed.records == whole.records


def test_two_at_once_train_one_run_only(base, tmp_path):
    runs, bases = [], [base, tiny_base()]

    def go(own):
        runs.append(fit(own, TASK, recipe(), store=tmp_path))

    threads = [threading.Thread(target=go, args=(own,)) for own in bases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.replayed for run in runs) == [False, True]


ODD_NAMES = [
    "../../escaped",
    "Q/A set",
    "/absolute",
    "",
    "..",
    "~",
    "-h",
    "CON",
    "n" * 400,
    "é\0\n",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: repr(name[:10]))
def test_a_task_of_any_name_stays_in_the_store_and_is_found_again(base, name, tmp_path):
    store, task = tmp_path / "in" / "store", dataclasses.replace(TASK, name=name)
    run = fit(base, task, recipe(steps=2), store=store, evaluate=False)
    assert run.path.parent == store
    assert [path.name for path in tmp_path.rglob("*") if path.name == "run.json"] == ["run.json"]
    (listed,) = list_runs(store)
    assert listed.task_name == run.task_name == name  # what people see stays
    assert fit(base, task, recipe(steps=2), store=store, evaluate=False).replayed
    assert open_run(run.path.name, store).records == run.records


def test_names_that_give_one_folder_name_are_runs_of_their_own(base, tmp_path):
    for name in ("a/b", "a_b", "a:b"):
        task = dataclasses.replace(TASK, name=name)
        assert not fit(base, task, recipe(steps=2), store=tmp_path, evaluate=False).replayed
    assert {run.task_name for run in list_runs(tmp_path)} == {"a/b", "a_b", "a:b"}


def test_a_run_of_an_ordinary_name_lies_where_it_always_has(base, tmp_path):
    run = fit(base, TASK, recipe(steps=2), store=tmp_path, evaluate=False)
    assert run.path.name == f"letters-lora-{identity(base, TASK, recipe(steps=2))}"


def test_a_run_is_known_by_recipe_base_and_task_content(base):
    same = identity(base, TASK, recipe())
    assert identity(tiny_base(), letters_task(), recipe()) == same
    others = [
        identity(base, TASK, recipe(seed=1)),
        identity(tiny_base(seed=1), TASK, recipe()),
        identity(base, dataclasses.replace(TASK, strangers=(Example("a", "b"),)), recipe()),
    ]
    assert len({same, *others}) == 4


def test_a_run_made_without_scores_is_scored_when_asked_again(base, tmp_path):
    assert fit(base, TASK, recipe(), store=tmp_path, evaluate=False).scores is None
    scored = fit(base, TASK, recipe(), store=tmp_path)
    assert scored.replayed
    assert scored.scores == evaluate(scored, TASK)
    assert open_run(scored.path.name, tmp_path).scores == scored.scores


@pytest.mark.parametrize("method", ["lora", "adalora", "full"])
def test_a_stored_run_answers_as_it_did_in_memory(base, method, tmp_path):
    rate = 5e-2 if method == "adalora" else 3e-3  # E starts at 0, and A and B at 0.02
    wanted = recipe(method=method, steps=40, learning_rate=rate)
    stored = fit(base, TASK, wanted, store=tmp_path)
    kept = fit(base, TASK, wanted, store=None)
    prompts = [example.prompt for example in TASK.test]
    assert generate(stored, prompts) == generate(kept, prompts)
    assert stored.scores == kept.scores
    assert stored.records == kept.records  # what was written and read again
    assert evaluate(kept, TASK).loss < 0.9 * evaluate(base, TASK).loss


def test_runs_are_listed_newest_first_and_opened_by_part_of_their_name(base, tmp_path):
    for seed in (0, 1):
        fit(base, TASK, recipe(seed=seed), store=tmp_path, evaluate=False)
    for place, date in enumerate(["2026-01-01T00:00:00", "2026-01-02T00:00:00"]):
        path = sorted(tmp_path.glob("*/run.json"))[place]
        path.write_text(json.dumps(json.loads(path.read_text()) | {"date": date}))
    (tmp_path / "something else").mkdir()
    runs = list_runs(tmp_path)
    assert [run.date[:10] for run in runs] == ["2026-01-02", "2026-01-01"]
    name = runs[0].path.name
    assert open_run(name[-6:], tmp_path).recipe == runs[0].recipe
    with pytest.raises(FileNotFoundError, match="fits 2 runs"):
        open_run("letters", tmp_path)
    with pytest.raises(FileNotFoundError, match="did you mean"):
        open_run(name[:-1] + "x", tmp_path)


def test_a_run_folder_holds_no_pickle(base, tmp_path):
    run = fit(base, TASK, recipe(), store=tmp_path)
    names = {path.name for path in run.path.rglob("*") if path.is_file()}
    assert names - {".lock"} == {  # some releases of filelock remove it
        "run.json",
        "records.jsonl",
        "scores.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert stored_status(tmp_path, base, TASK, recipe()) == "finished"
    assert RunFolder(tmp_path, base, TASK, recipe()).ended().records == run.records

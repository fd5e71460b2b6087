import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psutil
import pytest
import torch
from filelock import FileLock
from loky import get_reusable_executor

from lora_lab.cost.estimates import more_memory
from lora_lab.models.bases import quantized_base
from lora_lab.models.quantization import Quantization, is_quantized
from lora_lab.tasks.planted import planted_task
from lora_lab.training import processes
from lora_lab.training import sweep as sweeps
from lora_lab.training.evaluation import generate
from lora_lab.training.processes import _pick_up, _put_down, follow_in_processes
from lora_lab.training.store import Run, stored_status
from lora_lab.training.sweep import follow_sweep, sweep
from lora_lab.wording import memory_size
from orphans import family
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
TWO = recipe(r=2)
THREE = [recipe(r=1), recipe(r=2), recipe(r=2, learning_rate=1e30)]  # the last one diverges


@pytest.fixture(scope="module", autouse=True)
def _pool():
    """The pool stays warm from test to test, and no process outlives them."""
    yield
    get_reusable_executor().shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def workers():
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "loky.backend.popen_loky" in " ".join(child.cmdline())]


def outcome(made):
    return [(run.recipe, run.status, run.records, run.scores) for run in made.runs]


def test_runs_in_processes_equal_runs_one_after_the_other(base, tmp_path):
    options = {"seeds": (0, 7), "evaluate": True}
    apart = sweep(base, TASK, THREE, engine="processes", store=None, **options)
    alone = sweep(base, TASK, THREE, engine="sequential", store=None, **options)
    assert outcome(apart) == outcome(alone)
    for one, other in zip(apart.runs, alone.runs, strict=True):
        for name, tensor in other.learned.tensors.items():
            torch.testing.assert_close(one.learned.tensors[name], tensor, rtol=0, atol=0)
    assert generate(apart.runs[0], ["ab"]) == generate(alone.runs[0], ["ab"])
    kept = sweep(base, TASK, THREE, engine="processes", store=tmp_path, **options)
    assert outcome(kept) == outcome(alone)
    again = sweep(base, TASK, THREE, engine="processes", store=tmp_path, **options)
    assert outcome(again) == outcome(alone)
    assert [run.replayed for run in again.runs] == [True] * 4 + [True, True]


def test_a_planted_task_and_a_quantised_recipe_reach_the_workers(base):
    wide = tiny_base(hidden=64)
    task = planted_task(wide, r=2, target_modules="q_proj", n=8)
    recipes = [recipe(steps=3, loss_on="all"), recipe(steps=3, quantize="nf4", loss_on="all")]
    apart = sweep(wide, task, recipes, engine="processes", store=None, evaluate=False)
    alone = sweep(wide, task, recipes, engine="sequential", store=None, evaluate=False)
    assert outcome(apart) == outcome(alone)


def test_a_base_is_put_down_with_each_tensor_once_and_picked_up_tied(base, tmp_path):
    _put_down((base, TASK), tmp_path)
    again, task = _pick_up(tmp_path)
    torch.testing.assert_close(again.model.state_dict(), base.model.state_dict(), rtol=0, atol=0)
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert again.fingerprint() == base.fingerprint()
    assert task == TASK
    size = (tmp_path / "things.pt").stat().st_size
    assert (
        size < 1.1 * sum(4 * parameter.numel() for parameter in base.model.parameters()) + 100_000
    )


KINDS = [("nf4", True), ("nf4", False), ("fp4", True), ("fp4", False), ("int8", True)]


def quantised(quantize, double_quant, **size):
    return quantized_base(tiny_base(**size), Quantization(quantize, double_quant))


@pytest.mark.parametrize(("quantize", "double_quant"), KINDS)
def test_runs_on_a_quantised_base_equal_runs_one_after_the_other(quantize, double_quant, tmp_path):
    base = quantised(quantize, double_quant, hidden=64)
    recipes = [recipe(steps=4, r=r) for r in (1, 2)]
    apart = sweep(base, TASK, recipes, engine="processes", store=tmp_path)
    alone = sweep(base, TASK, recipes, engine="sequential", store=None)
    assert outcome(apart) == outcome(alone)
    for one, other in zip(apart.runs, alone.runs, strict=True):
        for name, tensor in other.learned.tensors.items():
            torch.testing.assert_close(one.learned.tensors[name], tensor, rtol=0, atol=0)
    for one in recipes:  # the workers' base has the same fingerprint: its runs are found here
        assert stored_status(tmp_path, base, TASK, one) == "finished"


def tensors_of(model):
    """Every tensor of a quantised model, with what bitsandbytes keeps beside a weight."""
    yield from model.parameters()
    yield from model.buffers()
    for layer in filter(is_quantized, model.modules()):
        state = layer.weight.quant_state if hasattr(layer, "quant_state") else layer.state
        for kept in (state, getattr(state, "state2", None)):
            beside = vars(kept).values() if kept else ()
            yield from (tensor for tensor in beside if isinstance(tensor, torch.Tensor))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is mapped where")
@pytest.mark.parametrize(("quantize", "double_quant"), KINDS)
def test_a_quantised_weight_and_its_constants_are_mapped(quantize, double_quant, tmp_path):
    base = quantised(quantize, double_quant, hidden=128)
    _put_down(base, tmp_path)
    again = _pick_up(tmp_path)
    state, expected = again.model.state_dict(), base.model.state_dict()
    torch.testing.assert_close(state, expected, rtol=0, atol=0)
    assert again.fingerprint() == base.fingerprint()
    kinds = [
        [type(parameter) for parameter in each.parameters()] for each in (again.model, base.model)
    ]
    assert kinds[0] == kinds[1]
    places = [
        range(*(int(end, 16) for end in region.addr.split("-")))
        for region in psutil.Process().memory_maps(grouped=False)
        if region.path == str(tmp_path / "things.pt")
    ]
    theirs, ours = list(tensors_of(again.model)), list(tensors_of(base.model))
    assert len(theirs) == len(ours) > len(list(base.model.parameters())) + 14
    assert all(any(tensor.data_ptr() in place for place in places) for tensor in theirs)


def test_a_worker_that_dies_is_seen_and_its_run_is_trained_all_the_same(base, tmp_path):
    long = [recipe(steps=300, learning_rate=1e-4, seed=seed) for seed in (1, 2)]

    def kill_one():
        while not any(stored_status(tmp_path, base, TASK, recipe) == "running" for recipe in long):
            time.sleep(0.01)
        workers()[0].kill()

    killer = threading.Thread(target=kill_one)
    killer.start()
    made = sweep(base, TASK, long, seeds=(1,), engine="processes", store=tmp_path, evaluate=False)
    killer.join()
    alone = sweep(base, TASK, long, seeds=(1,), engine="sequential", store=None, evaluate=False)
    assert outcome(made) == outcome(alone)


def test_a_run_that_kills_its_workers_again_and_again_is_given_up(base, monkeypatch):
    monkeypatch.setattr(processes, "_work", _die)
    with pytest.raises(RuntimeError, match="died 3 times with no run finished.*'sequential'"):
        list(follow_in_processes(base, TASK, THREE, store=None, fresh=False, evaluate=False))


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_goes_wrong_in_a_worker_is_raised_here(base):
    with pytest.raises(ValueError, match="no layer called 'q_porj'; did you mean 'q_proj'"):
        sweep(base, TASK, [recipe(target_modules=("q_porj",))], engine="processes", store=None)


def test_auto_takes_processes_where_they_are_worth_their_start(base, monkeypatch):
    def chosen(count, on=base, engine="auto"):
        made = [recipe(r=1 + r) for r in range(count)]
        return sweeps._chosen_engine(engine, on, TASK, made)[0]

    monkeypatch.setattr(sweeps, "cores", lambda: 2.0)
    assert (chosen(3), chosen(4)) == ("sequential", "processes")
    monkeypatch.setattr(sweeps, "cores", lambda: 1.0)
    assert chosen(40) == "sequential"
    elsewhere = dataclasses.replace(base, device=torch.device("cuda"))
    assert (chosen(40, elsewhere), chosen(1, elsewhere)) == ("packed", "sequential")
    with pytest.raises(ValueError, match="give engine='packed'"):
        chosen(2, elsewhere, "processes")


def test_auto_takes_processes_for_a_large_base_where_all_workers_fit_into_memory(base, monkeypatch):
    large = [recipe(r=4), recipe(r=2), recipe(r=2, batch_size=8)]
    each = more_memory(base, TASK, large[2])
    assert each > more_memory(base, TASK, large[0])
    shared = 4 * base.model.num_parameters()
    monkeypatch.setattr(sweeps, "SMALL", 0)
    monkeypatch.setattr(sweeps, "cores", lambda: 2.0)
    needed = shared + 2 * (each + sweeps.WORKER_BYTES)
    for free, engine, why in (
        (
            needed,
            "processes",
            f"2 side by side need {memory_size(needed)} of memory, and {memory_size(needed)} are",
        ),
        (needed - 1, "sequential", f"2 side by side need {memory_size(needed)}"),
        (None, "sequential", "it is not known whether several fit into memory"),
    ):
        monkeypatch.setattr(sweeps, "free_memory", lambda _, free=free: free)
        chosen = sweeps._chosen_engine("auto", base, TASK, large)
        assert chosen[0] == engine
        assert why in chosen[1]
    monkeypatch.setattr(sweeps, "free_memory", lambda _: 2**60)
    assert sweeps._chosen_engine("auto", base, TASK, large[:1])[0] == "sequential"


def followed(base, recipes, engine, **options):
    options = {"store": None, "evaluate": False} | options
    news = list(follow_sweep(base, TASK, recipes, engine=engine, **options))
    return {
        made.recipe: [of for made_of, of in news if made_of == made.recipe]
        for _, made in news
        if isinstance(made, Run)
    }


def test_the_steps_of_workers_are_followed_as_they_happen(base):
    apart = followed(base, THREE, "processes")
    alone = followed(base, THREE, "sequential")
    assert apart.keys() == alone.keys()
    for recipe_, news in alone.items():
        *steps, run = apart[recipe_]
        assert steps == news[:-1] == list(run.records)
    assert [apart[recipe][-1].status for recipe in THREE] == ["finished", "finished", "diverged"]


def test_a_sweep_that_is_closed_keeps_what_it_finished_and_goes_on_later(base, tmp_path):
    long = recipe(steps=100_000, learning_rate=1e-6)
    following = follow_sweep(
        base, TASK, [TWO, long], engine="processes", store=tmp_path, evaluate=False
    )
    kept = next(news for _, news in following if isinstance(news, Run))
    pool = {process.pid for process in workers()}
    following.close()
    assert kept.recipe == TWO
    assert stored_status(tmp_path, base, TASK, TWO) == "finished"
    assert stored_status(tmp_path, base, TASK, long) == "running"
    reached = next(news for _, news in follow_sweep(base, TASK, [long], store=tmp_path)).step
    assert reached > 1  # the steps done before are not trained again
    assert {process.pid for process in workers()} == pool


SCRIPT = """
import dataclasses, sys
import lora_lab as lab
base = lab.load_base("pocket")
task = lab.load_task("sentiment", base)
recipes = [dataclasses.replace(task.recipe, steps=int(sys.argv[1]), r=r) for r in (1, 2)]
print("ready", flush=True)
runs = lab.sweep(base, task, recipes, engine="processes", store=sys.argv[2], evaluate=False).runs
print([len(run.records) for run in runs])
"""


def test_a_script_needs_no_main_guard(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", "3", str(tmp_path / "store")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("ready\n[3, 3]\n", "", 0)


@pytest.fixture
def killed_sweep(tmp_path):
    """A sweep as a process of its own, which the test kills."""
    (tmp_path / "script.py").write_text(SCRIPT + "sys.stdin.read()\n")

    def start(steps):
        command = [sys.executable, "script.py", str(steps), str(tmp_path / "store")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        return family(command, cwd=tmp_path, **pipes)

    return start


@pytest.mark.parametrize("seconds", [0, 0.2, 1, 3])
def test_no_worker_outlives_a_process_that_is_killed_while_they_start(killed_sweep, seconds):
    with killed_sweep(steps=100_000) as sweeping:
        sweeping.wait_for_children(2)
        time.sleep(seconds)
        assert sweeping.left_after_kill() == []


def test_no_worker_outlives_a_process_that_is_killed_while_they_train(killed_sweep, tmp_path):
    with killed_sweep(steps=100_000) as sweeping:
        while not list(tmp_path.glob("store/*/run.json")):
            assert sweeping.parent.poll() is None
            time.sleep(0.1)
        assert len(sweeping.children()) >= 2
        assert sweeping.left_after_kill() == []


def test_what_a_killed_sweep_left_behind_is_deleted_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, in_use, unknown = (tmp_path / f"{processes.PLACE}{name}" for name in ("1", "2", "3"))
    for folder in (left, in_use, unknown):
        folder.mkdir()
    (left / processes.LOCK).touch()
    (left / processes.THINGS).write_bytes(b"weights")
    with FileLock(in_use / processes.LOCK), processes._place_of_sweep() as own:
        assert sorted(tmp_path.iterdir()) == sorted([own, in_use, unknown])
    assert sorted(tmp_path.iterdir()) == sorted([in_use, unknown])


def test_no_idle_worker_outlives_a_process_that_is_killed(killed_sweep):
    with killed_sweep(steps=2) as sweeping:
        said = [sweeping.parent.stdout.readline() for _ in range(2)]
        assert said == ["ready\n", "[2, 2]\n"]
        assert len(sweeping.children()) >= 2
        assert sweeping.left_after_kill() == []


def test_the_workers_of_one_sweep_serve_the_next(base):
    before = []
    for seed in (1, 2):
        sweep(base, TASK, THREE, seeds=(seed,), engine="processes", store=None, evaluate=False)
        before.append({process.pid for process in workers()})
    assert before[0] == before[1]

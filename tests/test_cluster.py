import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time

import pytest
import torch

from lora_lab.models.bases import quantized_base
from lora_lab.models.quantization import Quantization
from lora_lab.training import cluster
from lora_lab.training.cluster import _packed, check_cluster, follow_on_ray
from lora_lab.training.fit import fit, follow_fit
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import Run
from lora_lab.training.sweep import follow_sweep, sweep
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
TWO = recipe(r=2)
THREE = [recipe(r=1), TWO, recipe(r=2, learning_rate=1e30)]  # the last one diverges
ATTEMPTS = 3  # to start a node: on a busy machine Ray's helpers can miss its 15 seconds
NODE = {  # what two small nodes on one machine need, and no more helpers than that
    "num_cpus": 1,
    "object_store_memory": 100 * 2**20,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
}


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def two_nodes():
    """A cluster of two nodes, each with its own processes and one CPU; nobody is connected."""
    pytest.importorskip("ray", reason='no Ray here: pip install "lora-lab[cluster]"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # Cluster makes no token, and connecting asks one
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        from ray.cluster_utils import Cluster

        started = attempt(lambda: Cluster(initialize_head=True, head_node_args=NODE))
        attempt(lambda: started.add_node(**NODE))
        patch.setenv("RAY_ADDRESS", started.address)
        yield started
        started.shutdown()


@pytest.fixture(scope="module")
def connected(two_nodes):
    """The same, connected: the workers that one test has started serve the next."""
    import ray

    ray.init(log_to_driver=False)
    yield two_nodes
    ray.shutdown()


def attempt(start, left=ATTEMPTS):
    try:
        return start()
    except Exception as error:
        if left == 1 or "timed out during startup" not in str(error):
            raise
        return attempt(start, left - 1)


def outcome(runs):
    return [(run.recipe, run.status, run.records, run.scores) for run in runs]


def assert_same_weights(runs, others):
    for run, other in zip(runs, others, strict=True):
        for name, tensor in other.learned.tensors.items():
            torch.testing.assert_close(run.learned.tensors[name], tensor, rtol=0, atol=0)


def followed(base, recipes, **options):
    options = {"store": None, "evaluate": False} | options
    return list(follow_on_ray(base, TASK, recipes, **options))


# --- on two nodes ---


def test_runs_on_two_nodes_equal_runs_one_after_the_other_bit_for_bit(base, two_nodes, tmp_path):
    news = list(follow_sweep(base, TASK, THREE, engine="ray", store=tmp_path))
    assert not sys.modules["ray"].is_initialized()  # as it was before
    alone = sweep(base, TASK, THREE, engine="sequential", store=None).runs
    made = {run.recipe: run for _, run in news if isinstance(run, Run)}
    made = [made[recipe] for recipe in THREE]
    assert outcome(made) == outcome(alone)
    assert_same_weights(made, alone)
    assert [run.status for run in made] == ["finished", "finished", "diverged"]
    for run in made:  # each step was reported, in order, before the run
        items = [item for of, item in news if of == run.recipe]
        assert items == [*run.records, run]
        facts = json.loads((run.path / "run.json").read_text())  # kept by the caller
        assert facts["machine"] == run.machine != ""
        assert facts["date"] == run.date != ""
    again = sweep(base, TASK, THREE, engine="ray", store=tmp_path).runs
    assert [run.replayed for run in again] == [True] * 3
    assert outcome(again) == outcome(made)


@pytest.mark.slow
def test_what_goes_wrong_on_a_node_is_raised_here(base, connected):
    with pytest.raises(ValueError, match="no layer called 'q_porj'; did you mean 'q_proj'") as info:
        followed(base, [recipe(target_modules=("q_porj",))])
    assert type(info.value) is ValueError


@pytest.mark.slow
def test_a_run_that_is_lost_again_and_again_is_given_up(base, connected, monkeypatch):
    def die(*_):
        os._exit(1)
        yield

    monkeypatch.setattr(cluster, "_fit_on_node", die)
    with (
        pytest.warns(UserWarning, match="begins again"),
        pytest.raises(RuntimeError, match="r=2, .*was lost 3 times.*Stored runs are kept"),
    ):
        followed(base, [TWO])


@pytest.mark.slow
def test_closing_ends_the_tasks_and_leaves_the_cluster_that_was_connected(base, connected):
    ray = sys.modules["ray"]
    long = recipe(steps=100_000, learning_rate=1e-6)
    following = follow_on_ray(base, TASK, [long], store=None, evaluate=False)
    assert next(following)[1].step == 1
    assert ray.available_resources()["CPU"] == 1
    following.close()
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert ray.is_initialized()


def test_runs_of_a_lost_node_are_trained_on_another(base, connected):
    # long enough that the node is lost while it trains, on a quick machine too
    long = [recipe(steps=1500, seed=seed, learning_rate=1e-4) for seed in (1, 2)]
    following = follow_on_ray(base, TASK, long, store=None, evaluate=False)
    begun, news = set(), []
    while len(begun) < 2:  # both nodes train
        news.append(next(following))
        begun.add(news[-1][0])
    (other,) = connected.worker_nodes
    connected.remove_node(other, allow_graceful=False)
    with pytest.warns(UserWarning, match="begins again"):
        news += following
    runs = {item.recipe: item for _, item in news if isinstance(item, Run)}
    firsts = [of for of, item in news if not isinstance(item, Run) and item.step == 1]
    assert len(firsts) == 3  # one of them was begun a second time
    alone = [fit(base, TASK, recipe, store=None, evaluate=False) for recipe in long]
    assert outcome(runs[recipe] for recipe in long) == outcome(alone)


# --- without a cluster ---


def test_a_run_trained_elsewhere_is_kept_with_what_only_that_machine_knows(base, tmp_path):
    half = follow_fit(base, TASK, TWO, store=tmp_path)  # begun here: a checkpoint, no scores
    next(half)
    half.close()
    trained = fit(base, TASK, TWO, store=None)
    there = {"machine": "another one", "date": "2026-01-02T03:04:05+00:00", "about": "a sentence"}
    folder = RunFolder(tmp_path, base, TASK, TWO)
    with folder.locked():
        folder.keep(dataclasses.replace(trained, **there))
    kept = fit(base, TASK, TWO, store=tmp_path)
    assert kept.replayed
    assert outcome([kept]) == outcome([trained])
    assert_same_weights([kept], [trained])
    assert {name: getattr(kept, name) for name in there} == there
    assert not (kept.path / "checkpoint.safetensors").exists()


def test_without_ray_the_error_names_what_to_install(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "lora-lab\[cluster\]", or give engine'):
        sweep(base, TASK, [TWO], engine="ray", store=None)


def test_what_a_cluster_cannot_do_is_refused_before_it_starts(base, monkeypatch):
    elsewhere = dataclasses.replace(base, device=torch.device("cuda"))
    with pytest.raises(ValueError, match="load it with device='cpu'"):
        check_cluster(elsewhere)
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(ValueError, match="streams no results; make this machine a node"):
        check_cluster(base)


@pytest.mark.parametrize("name", ["Python", "torch", "lora-lab"])
def test_a_node_with_another_version_is_refused(name):
    wanted = cluster._versions()
    cluster._check_versions(wanted)
    with pytest.raises(RuntimeError, match=f"has {name} .* began the sweep 0.1.9: runs would"):
        cluster._check_versions(wanted | {name: "0.1.9"})


@pytest.mark.parametrize("quantize", [None, "nf4", "int8"])
def test_a_base_travels_as_buffers_that_are_read_in_place(quantize):
    base = tiny_base(hidden=64)
    if quantize:
        base = quantized_base(base, Quantization(quantize, True))
    pickled, buffers = _packed((base, TASK))
    held = sum(buffer.raw().nbytes for buffer in buffers)
    weights = sum(parameter.nbytes for parameter in base.model.parameters())
    assert weights <= held < 1.1 * weights + 20_000  # each tensor once
    assert len(pickled) < 120_000
    again, task = pickle.loads(pickled, buffers=buffers)
    assert again.fingerprint() == base.fingerprint()
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert task == TASK
    norm = again.model.model.norm.weight
    assert norm.data_ptr() == base.model.model.norm.weight.data_ptr()  # nothing was copied


SCRIPT = """
import dataclasses, sys
import lora_lab as lab
base = lab.load_base("pocket")
task = lab.load_task("sentiment", base)
recipes = [dataclasses.replace(task.recipe, steps=3, r=r) for r in (1, 2)]
runs = lab.sweep(base, task, recipes, engine="ray", store=None, evaluate=False).runs
print([len(run.records) for run in runs])
"""


@pytest.mark.slow
def test_a_script_without_a_cluster_starts_one_quietly_and_ends_it(tmp_path):
    pytest.importorskip("ray", reason='no Ray here: pip install "lora-lab[cluster]"')
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "script.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("[3, 3]\n", "", 0)

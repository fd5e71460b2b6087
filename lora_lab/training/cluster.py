"""Fits as tasks of a Ray cluster, on many machines; the only module that imports Ray.

Each task has one CPU and one thread, as a worker in `processes.py` has. Ray keeps one copy of the
base and the task in each node's shared memory, and every task of the node reads it in place.
Machines share no disk: a run comes back whole, and the caller's machine keeps it.
"""

import dataclasses
import importlib
import io
import logging
import os
import pickle
import platform
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, UntypedStorage

from lora_lab import __version__
from lora_lab.machine.resources import processor
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.fit import follow_to_last_good
from lora_lab.training.packages import Pickler
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import Run, read_run
from lora_lab.training.traced import VARIABLE

LOOK_SECONDS = 0.2  # between two looks at what the tasks have sent, and between what they send
TRIES = 3  # how often one run may be lost, with its worker or its node


def check_cluster(base: Base) -> None:
    """Refuse what `follow_on_ray` can't do, before anything is started.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: for a base that is not on the CPU, or a cluster that is reached as a client.
    """
    if base.device.type != "cpu":
        raise ValueError(
            f"engine='ray' sends the base from this machine's memory to the nodes' CPUs, and "
            f"{base.name} is on {base.device}; load it with device='cpu'"
        )
    address = os.environ.get("RAY_ADDRESS", "")
    if address.startswith("ray://"):
        raise ValueError(
            f"RAY_ADDRESS={address} reaches a cluster as Ray's client, which streams no results; "
            "make this machine a node (ray start --address=HEAD:6379), and unset RAY_ADDRESS"
        )
    _ray()


def follow_on_ray(
    base: Base, task: Task, recipes: Sequence[Recipe], *, store: Path | None, evaluate: bool | str
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """The records and runs of `follow_to_last_good` for each recipe, from the nodes of a cluster.

    If Ray is connected already, its cluster is used and left as it is. Else it is the cluster of
    RAY_ADDRESS, or the cluster that this machine joined by `ray start`. If there is none, a cluster
    is started on this machine and ended with the last run.

    A run whose node is lost begins again on another node, and its steps are reported anew. Nodes
    keep no checkpoint. Closing the generator ends all tasks.

    Args:
        base: on the CPU.
        task: what to learn.
        recipes: different ones.
        store: where this machine keeps the runs; None: nowhere.
        evaluate: as in `fit`.

    Raises:
        RuntimeError: if a run was lost three times; if a node has other versions than this machine.
        ConnectionError: if no cluster is reached, and none can be started.
    """
    if store is not None and recipes:  # a store that can't be written is refused now
        with RunFolder(store, base, task, recipes[0]).locked():
            pass
    lost: Counter[Recipe] = Counter()
    with _connected() as ray:
        package = ray.put(_packed((base, task)))
        fit_there = ray.remote(num_cpus=1, max_retries=0)(_fit_on_node)

        def begin(recipe: Recipe) -> object:
            step = os.environ.get(VARIABLE, "")
            return fit_there.remote([package], _versions(), step, recipe, evaluate)

        jobs = {begin(recipe): recipe for recipe in recipes}  # on a GPU a job would be a pack
        try:
            while jobs:
                ready, _ = ray.wait([*jobs], num_returns=len(jobs), timeout=LOOK_SECONDS)
                if not ready:
                    _warn_without_cpus(ray)
                for job in ready:
                    recipe = jobs[job]
                    try:
                        news = _next_of(ray, job)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from error
                    except ray.exceptions.RayError as error:
                        lost[recipe] += 1
                        if lost[recipe] == TRIES:
                            raise RuntimeError(_lost_text(recipe, error)) from error
                        warnings.warn(_again_text(recipe, error), stacklevel=2)
                        del jobs[job]
                        jobs[begin(recipe)] = recipe
                        continue
                    for item in news:
                        if isinstance(item, Run):
                            del jobs[job]
                            item = _kept(item, base, task, store)
                        yield recipe, item
        finally:
            for job in jobs:
                ray.cancel(job)


def _next_of(ray: ModuleType, job: Iterator) -> tuple[StepRecord | Run, ...]:
    """The next bundle that a job has sent, which is there already."""
    return ray.get(next(job))


def _named(recipe: Recipe) -> str:
    rate = recipe.learning_rate
    return f"the run with r={recipe.r}, learning_rate={rate:g} and seed={recipe.seed}"


def _reason(error: Exception) -> str:
    """The first line of Ray's error for a lost task; the other lines are for Ray's makers."""
    return str(error).strip().partition("\n")[0]


def _again_text(recipe: Recipe, error: Exception) -> str:
    return f"{_named(recipe)} was lost with its worker or node, and begins again: {_reason(error)}"


def _lost_text(recipe: Recipe, error: Exception) -> str:
    return (
        f"{_named(recipe)} was lost {TRIES} times with its worker or its node, perhaps of too "
        f"little memory (Ray says: {_reason(error)}); give a smaller batch_size, or nodes with "
        "more memory for each CPU. Stored runs are kept: the same call trains the others"
    )


def _kept(run: Run, base: Base, task: Task, store: Path | None) -> Run:
    """A run that came back, with the base of this machine, and in the store of this machine."""
    if store is None:
        return dataclasses.replace(run, _base=base)
    folder = RunFolder(store, base, task, run.recipe)
    with folder.locked():
        folder.keep(run)
        return read_run(folder.path, base, replayed=False)


# --- on a node --------------------------------------------------------------------------------


def _fit_on_node(
    package: list, versions: dict[str, str], step: str, recipe: Recipe, evaluate: bool | str
) -> Iterator[tuple[StepRecord | Run, ...]]:
    """A fit in bundles of what it gives, a few a second. The last bundle ends with the Run.

    Args:
        package: the reference to what `_packed` made; in a list, so that Ray does not resolve it.
        versions: the versions on the machine that sent it.
        step: LORA_LAB_STEP of that machine.
        recipe: the choices of the training.
        evaluate: as in `fit`.
    """
    os.environ[VARIABLE] = step
    _check_versions(versions)
    torch.set_num_threads(1)
    base, task = _unpacked(package[0])
    date = datetime.now(UTC).isoformat(timespec="seconds")
    bundle: list[StepRecord | Run] = []
    sent = time.monotonic()
    options = {"store": None, "evaluate": evaluate}
    with closing(follow_to_last_good(base, task, recipe, **options)) as followed:
        for news in followed:
            if isinstance(news, Run):  # without its base, which would travel along
                news = dataclasses.replace(news, _base=None, date=date, machine=processor())
            bundle.append(news)
            if isinstance(news, Run) or time.monotonic() - sent > LOOK_SECONDS:
                yield tuple(bundle)
                bundle, sent = [], time.monotonic()


def _versions() -> dict[str, str]:
    """The versions on which the records of a run, or pickles, depend."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"Python": python, "torch": torch.__version__, "lora-lab": __version__}


def _check_versions(wanted: dict[str, str]) -> None:
    for name, version in _versions().items():
        if version != wanted[name]:
            raise RuntimeError(
                f"the node {platform.node()} has {name} {version}, and the machine that began the "
                f"sweep {wanted[name]}: runs would differ; install the same version on every node"
            )


# --- the cluster ------------------------------------------------------------------------------


def _ray() -> ModuleType:
    """The module `ray`, imported at the first use: that takes two seconds."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of a change
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise ImportError(
            "engine='ray' needs Ray, which is not installed here; "
            "pip install \"lora-lab[cluster]\", or give engine='processes'"
        ) from error


@contextmanager
def _connected() -> Iterator[ModuleType]:
    """Ray, connected to a cluster. A connection that is made here is closed afterwards."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray raises a bare Exception where a node is slow
        ray.shutdown()
        address = os.environ.get("RAY_ADDRESS")
        where = f"RAY_ADDRESS={address} was not reached" if address else "Ray did not start here"
        raise ConnectionError(
            f"{where} ({error}); start a node with `ray start --head` (docs/cluster.md), "
            "or give engine='processes'"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _warn_without_cpus(ray: ModuleType) -> None:
    if ray.cluster_resources().get("CPU", 0) < 1:
        warnings.warn(
            "no node of the cluster has a CPU to give: runs wait until one joins "
            "(ray start --address=HEAD:6379)",
            stacklevel=4,
        )


# --- a base and a task, for all nodes to read --------------------------------------------------


class _Pickler(Pickler):
    """Hands over the memory of tensors as buffers beside the pickle, each once and uncopied."""

    def reducer_override(self, value: object) -> tuple:
        """How to make a tensor and its memory again; all else is left to `Pickler`."""
        if type(value) is Tensor:
            place = (value.storage_offset(), value.size(), value.stride())
            return _tensor_in, (value.untyped_storage(), value.dtype, *place)
        if isinstance(value, UntypedStorage):
            return _memory_of, (torch.empty(0, dtype=torch.uint8).set_(value).numpy(),)
        return super().reducer_override(value)


def _tensor_in(memory: UntypedStorage, dtype: torch.dtype, *place: object) -> Tensor:
    return torch.empty(0, dtype=dtype).set_(memory, *place)


def _memory_of(buffer: object) -> UntypedStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of read-only memory; nothing writes to a base
        return torch.from_numpy(buffer).untyped_storage()


def _packed(things: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
    """A pickle, and the buffers that belong to it: Ray keeps these in a node's shared memory."""
    file, buffers = io.BytesIO(), []
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(things)
    return file.getvalue(), buffers


@lru_cache(maxsize=1)
def _unpacked(package: object) -> object:
    """What was packed, by its reference. Its tensors are views of the node's shared memory."""
    pickled, buffers = _ray().get(package)
    return pickle.loads(pickled, buffers=buffers)

"""Fits in worker processes, one a core with one thread each; the only module that imports loky.

Two threads beside a busy core can take sixteen times as long as one, so that many small runs are
best shared out among processes. They stay warm from one sweep to the next, and map one file of
weights into their memory together.
"""

import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cloudpickle
import torch
from loky import get_reusable_executor
from loky.process_executor import TerminatedWorkerError
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_lab.machine.lifelines import end_with
from lora_lab.machine.resources import cores
from lora_lab.models.bases import Base
from lora_lab.models.tensor_files import save_tensors
from lora_lab.places import writing_in
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.fit import fit_or_last_good
from lora_lab.training.store import Run

IDLE_SECONDS = 600  # a worker without work for so long ends itself
TRIES = 3  # how often workers may die without a run being finished in between
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def fit_in_processes(
    base: Base,
    task: Task,
    recipes: Sequence[Recipe],
    *,
    store: Path | None,
    fresh: bool,
    evaluate: bool,
    done: Callable[[], None] = lambda: None,
) -> dict[Recipe, Run]:
    """What `fit` gives for each recipe, trained side by side.

    A worker that dies (of too little memory, say) is replaced, and its run begun again, or gone on
    with where a store has its checkpoint.

    Args:
        base: on the CPU.
        task: what to learn.
        recipes: different ones.
        store: where runs are kept; None: nowhere.
        fresh: as in `fit`.
        evaluate: as in `fit`.
        done: called after each run.

    Raises:
        RuntimeError: if workers died three times with no run finished in between.
        KeyboardInterrupt: after the workers are stopped; what is stored can be gone on with.
    """
    results: dict[Recipe, Run] = {}
    deaths = 0
    workers = max(1, min(int(cores()), len(recipes)))
    with tempfile.TemporaryDirectory(prefix="lora-lab-", ignore_cleanup_errors=True) as place:
        package = _put_down((base, task), Path(place))
        while left := [recipe for recipe in recipes if recipe not in results]:
            executor = _warm_executor(workers)
            jobs = {
                executor.submit(_work, package, recipe, store, fresh, evaluate): recipe
                for recipe in left
            }
            try:
                for job in as_completed(jobs):
                    results[jobs[job]] = replace(job.result(), _base=base)
                    deaths = 0
                    done()
            except TerminatedWorkerError as error:  # the whole pool goes with it
                deaths += 1
                if deaths == TRIES:
                    raise RuntimeError(
                        f"a worker died {TRIES} times with no run finished in between, perhaps of "
                        "too little memory; give engine='sequential', or a smaller batch_size"
                    ) from error
            except BaseException:
                executor.shutdown(wait=True, kill_workers=True)
                raise
    return results


def _warm_executor(workers: int) -> Executor:
    """The pool of the sweep before, or a new one. From its start on, a worker ends with us."""
    return get_reusable_executor(
        workers,
        timeout=IDLE_SECONDS,
        env=ONE_THREAD,
        initializer=end_with,
        initargs=(os.getpid(),),
    )


def _work(package: Path, recipe: Recipe, store: Path | None, fresh: bool, evaluate: bool) -> Run:
    """What a worker does with one recipe."""
    torch.set_num_threads(1)
    base, task = _pick_up(package)
    run = fit_or_last_good(base, task, recipe, store=store, fresh=fresh, evaluate=evaluate)
    return replace(run, _base=None)  # it would travel back with its weights


# --- a base and a task, for all workers to read ---------------------------------------------


class _Pickler(cloudpickle.Pickler):
    """Pickles all but what tensors hold: that is collected, each once, for a file to be mapped.

    A quantised weight is a parameter of bitsandbytes' own class, which keeps constants beside its
    packed numbers: it is made anew from both.
    """

    def __init__(self, file: object) -> None:
        super().__init__(file)
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple, str] = {}

    def persistent_id(self, value: object) -> tuple[str, bool] | None:
        """A tensor's name, and whether it is a parameter; None for what is pickled as usual."""
        if type(value) not in (Tensor, nn.Parameter) or not value.numel():
            return None
        memory = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
        if memory not in self._names:
            self._names[memory] = f"t{len(self._names)}"
            self.tensors[self._names[memory]] = value.detach().clone(
                memory_format=torch.contiguous_format
            )
        return self._names[memory], isinstance(value, nn.Parameter)

    def reducer_override(self, value: object) -> tuple:
        """How to make a quantised weight again; all else is left to cloudpickle."""
        if isinstance(value, nn.Parameter) and type(value) is not nn.Parameter:
            made_from = (value.data, value.requires_grad)
            return type(value), made_from, vars(value), None, None, _keep_beside
        return super().reducer_override(value)


def _keep_beside(parameter: nn.Parameter, constants: dict[str, object]) -> None:
    vars(parameter).update(constants)


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote; tied parameters are one object again."""

    def __init__(self, file: object, tensors: dict[str, Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._parameters: dict[str, nn.Parameter] = {}

    def persistent_load(self, known: tuple[str, bool]) -> Tensor:
        """The tensor, over the mapped memory."""
        name, is_parameter = known
        if not is_parameter:
            return self._tensors[name]
        if name not in self._parameters:
            self._parameters[name] = nn.Parameter(self._tensors[name], requires_grad=False)
        return self._parameters[name]


def _put_down(things: object, folder: Path) -> Path:
    with writing_in(folder), (folder / "things.pickle").open("wb") as file:
        pickler = _Pickler(file)
        pickler.dump(things)
    save_tensors(pickler.tensors, folder / "tensors.safetensors")
    return folder


@lru_cache(maxsize=1)
def _pick_up(folder: Path) -> object:
    tensors = load_file(folder / "tensors.safetensors")  # mapped, not read: workers share the pages
    with (folder / "things.pickle").open("rb") as file:
        return _Unpickler(file, tensors).load()

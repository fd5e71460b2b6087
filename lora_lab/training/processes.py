"""Fits in worker processes, one a core with one thread each; the only module that imports loky.

Two threads beside a busy core can take sixteen times as long as one thread. So many small runs are
best shared out among processes. The processes stay warm from one sweep to the next, and share one
file of weights that is mapped into their memory.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import msgspec
import torch
from filelock import FileLock
from loky import get_reusable_executor
from loky.process_executor import TerminatedWorkerError

from lora_lab.machine.lifelines import end_with
from lora_lab.machine.resources import cores
from lora_lab.models.bases import Base
from lora_lab.places import writing_in
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.fit import follow_to_last_good
from lora_lab.training.packages import Pickler
from lora_lab.training.store import Run
from lora_lab.training.traced import VARIABLE, choose_before_workers

IDLE_SECONDS = 600  # a worker ends itself after this time without work
LOOK_SECONDS = 0.2  # between two looks at what the workers have written
PLACE, LOCK = "lora-lab-sweep-", ".lock"  # a sweep's temporary folder, and the file in it
THINGS = "things.pt"  # the base and the task
STOP = "stop"  # a file beside the package: workers end after their step
TRIES = 3  # how often workers may die without a run being finished in between
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def follow_in_processes(
    base: Base,
    task: Task,
    recipes: Sequence[Recipe],
    *,
    store: Path | None,
    fresh: bool,
    evaluate: bool | str,
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """The records and runs of `follow_to_last_good` for each recipe, trained side by side.

    A worker that dies (of too little memory, say) is replaced. Its run then begins again, or goes
    on from its checkpoint where there is a store; the steps trained anew are reported anew.
    Closing the generator lets the workers end the step at hand, and keeps them for later.

    Args:
        base: on the CPU.
        task: what to learn.
        recipes: different ones.
        store: where runs are kept; None: nowhere.
        fresh: as in `fit`.
        evaluate: as in `fit`.

    Raises:
        RuntimeError: if workers died three times with no run finished in between.
        KeyboardInterrupt: after the workers are stopped; what is stored can be gone on with.
    """
    left = dict.fromkeys(recipes)
    choose_before_workers(base, recipes)
    deaths = 0
    workers = max(1, min(int(cores()), len(recipes)))
    with _place_of_sweep() as place:
        package = _put_down((base, task), place)
        while left:
            executor = _warm_executor(workers)
            tries = Path(tempfile.mkdtemp(dir=place))  # the records of this round of jobs
            jobs: dict[Future, tuple[Recipe, _Lines]] = {}
            for number, recipe in enumerate(left):
                path = tries / f"{number}.jsonl"
                job = executor.submit(_work, package, path, recipe, store, fresh, evaluate)
                jobs[job] = recipe, _Lines(path)
            try:
                for recipe, news in _news_of(jobs):
                    if isinstance(news, Run):
                        news = replace(news, _base=base)
                        del left[recipe]
                        deaths = 0
                    yield recipe, news
            except TerminatedWorkerError as error:  # the whole pool goes with it
                deaths += 1
                if deaths == TRIES:
                    raise RuntimeError(
                        f"a worker died {TRIES} times with no run finished in between, perhaps of "
                        "too little memory; give engine='sequential', or a smaller batch_size"
                    ) from error
            except GeneratorExit:
                _stop(jobs, package)
                raise
            except BaseException:
                executor.shutdown(wait=True, kill_workers=True)
                raise


def _news_of(
    jobs: dict[Future, tuple[Recipe, "_Lines"]],
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """The records of running jobs and the runs of finished ones, a few times a second."""
    pending = set(jobs)
    while pending:
        done, pending = wait(pending, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
        for job in (*done, *pending):
            recipe, lines = jobs[job]
            for record in lines.new_records():
                yield recipe, record
            if job in done:
                yield recipe, job.result()


def _stop(jobs: Iterable[Future], package: Path) -> None:
    """Let no job begin, and end the running ones after their step; the pool stays warm."""
    (package / STOP).touch()
    for job in jobs:
        job.cancel()
    wait(job for job in jobs if not job.cancelled())


def _warm_executor(workers: int) -> Executor:
    """The pool of the sweep before, or a new pool. Its workers end when this process ends."""
    return get_reusable_executor(
        workers,
        timeout=IDLE_SECONDS,
        env=ONE_THREAD | {VARIABLE: os.environ.get(VARIABLE, "")},
        initializer=end_with,
        initargs=(os.getpid(),),
    )


def _work(
    package: Path, path: Path, recipe: Recipe, store: Path | None, fresh: bool, evaluate: bool | str
) -> Run | None:
    """The run of one recipe, its records written to `path`; None where the sweep was stopped."""
    if (package / STOP).exists():
        return None
    torch.set_num_threads(1)
    base, task = _pick_up(package)
    options = {"store": store, "fresh": fresh, "evaluate": evaluate}
    with (
        path.open("wb") as file,
        closing(follow_to_last_good(base, task, recipe, **options)) as followed,
    ):
        for news in followed:
            if isinstance(news, Run):
                return replace(news, _base=None)  # it would travel back with its weights
            file.write(msgspec.json.encode(news) + b"\n")
            file.flush()
            if (package / STOP).exists():
                break
    return None


class _Lines:
    """The records that a worker writes to a file, read while it writes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0  # bytes

    def new_records(self) -> list[StepRecord]:
        """The records since the last call. A half-written last line is left for the next call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + bool(whole)
        return [msgspec.json.decode(line, type=StepRecord) for line in whole.splitlines()]


# --- a base and a task, for all workers to read ---------------------------------------------


@contextmanager
def _place_of_sweep() -> Iterator[Path]:
    """A temporary folder, locked while the sweep goes on, and gone after it.

    A sweep that was killed leaves its folder, whose lock nobody holds. The next one deletes it.
    """
    for folder in filter(_is_ours, Path(tempfile.gettempdir()).glob(f"{PLACE}*")):
        if (folder / LOCK).exists():  # else it is being made
            with suppress(OSError):  # in use
                with FileLock(folder / LOCK, blocking=False):
                    pass
                shutil.rmtree(folder)
    with (
        tempfile.TemporaryDirectory(prefix=PLACE, ignore_cleanup_errors=True) as place,
        FileLock(Path(place, LOCK)),
    ):
        yield Path(place)


def _is_ours(folder: Path) -> bool:
    """Whether this user made a folder; others may write to the system's temporary folder, too."""
    return os.name == "nt" or folder.lstat().st_uid == os.getuid()


def _put_down(things: object, folder: Path) -> Path:
    """Write a base and a task where workers find them: torch stores each tensor once."""
    how = SimpleNamespace(__name__="lora_lab", Pickler=Pickler)  # what torch asks of a module
    with writing_in(folder):
        torch.save(things, folder / THINGS, pickle_module=how)
    return folder


@lru_cache(maxsize=1)
def _pick_up(folder: Path) -> object:
    """The things that `_put_down` wrote. Tensors are mapped, not read: workers share the pages."""
    return torch.load(folder / THINGS, mmap=True, weights_only=False)  # we wrote it ourselves

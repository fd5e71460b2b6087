"""Stored runs: `Run`, and how a store finds and lists runs. `run_folder.py` writes their files."""

from __future__ import annotations  # annotations may then name types that are not imported

import hashlib
import json
import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab import __version__
from lora_lab.models.built_in import BUILT_IN
from lora_lab.places import check_name, folder_name, store_folder
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Budget, Scores, StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.early_stopping import kept_step
from lora_lab.training.run_files import (
    FINISHED,
    LEARNED,
    RUN,
    RUNNING,
    SCORES_OF,
    DamagedRun,
    read_facts,
    read_records,
    read_scores,
)

if TYPE_CHECKING:  # torch and PEFT take seconds to import, and a list of runs needs neither
    from torch import nn

    from lora_lab.models.adapted import Adapted
    from lora_lab.models.bases import Base
    from lora_lab.models.learned import Learned

ATTEMPTS = 20  # reads of a run that is being replaced, before it is called damaged


class Default:
    """The type of DEFAULT: `store=None` keeps nothing, so None can't mean the usual place."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default()  # the store in $LORA_LAB_STORE, else the user's data folder


def resolve_store(store: str | Path | Default | None) -> Path | None:
    """The folder that a `store` argument means, whether it exists or not; None: keep nothing.

    Raises:
        NotADirectoryError: if it is a file, or inside one.
        ValueError: if no folder can have such a name.
    """
    if store is None:
        return None
    folder = store_folder() if isinstance(store, Default) else Path(store)
    check_name(folder)
    existing = next((path for path in (folder, *folder.parents) if os.path.exists(path)), None)
    if existing is not None and not existing.is_dir():
        raise NotADirectoryError(
            f"the store {folder} can't be a folder: {existing} is a file; give a folder, "
            "with store=…, --store or LORA_LAB_STORE"
        )
    return folder


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """A fine-tune: its recipe, its records, its scores, and what it learned.

    It can be evaluated, asked and saved like a base: `model` is the base with what was learned.
    """

    recipe: Recipe
    records: tuple[StepRecord, ...]
    scores: Scores | None  # of the test, else of the validation; None: not evaluated
    base_name: str
    task_name: str
    path: Path | None  # its folder in the store; None: not kept
    replayed: bool = False  # read from the store, not trained just now
    status: str = FINISHED
    message: str = ""  # why it diverged
    about: str = ""  # the base, its size, device and dtype; then how it was trained
    machine: str = ""  # the processor of the machine that trained it; empty: this one, not kept
    date: str = ""  # when it was started, ISO 8601
    budget: Budget | None = None  # estimated before the run; None: not known for this model
    _base: Base | None = field(default=None, repr=False)
    _base_path: str = field(default="", repr=False)
    _learned: Learned | None = field(default=None, repr=False)

    @cached_property
    def learned(self) -> Learned:
        """The learned adapter, or every weight for method "full"."""
        if self._learned is not None:
            return self._learned
        if self.status == RUNNING:
            raise FileNotFoundError(
                f"the run in {self.path} is {self.status} and has learnt nothing to load yet; "
                "call fit with the same arguments to finish it"
            )
        from lora_lab.models.learned import Learned

        try:
            return Learned.load(self.path / LEARNED)
        except FileNotFoundError as error:
            raise DamagedRun(self.path, LEARNED, f"is not whole ({error})") from error
        except ValueError as error:
            raise DamagedRun(self.path, LEARNED, f"can't be read ({error})") from error

    @cached_property
    def base(self) -> Base:
        """The base that the run was trained on, loaded at the first use."""
        from lora_lab.models.bases import load_base

        return self._base or load_base(self.base_place)

    @property
    def base_place(self) -> str:
        """What `load_base` takes for the base: a short name, or the folder where it was."""
        if self._base is not None and self.base_name not in BUILT_IN:
            return str(self._base.path)
        return self._base_path or self.base_name

    @cached_property
    def model(self) -> nn.Module:
        """The base, quantised if the recipe says so, with what was learned."""
        return self.adapted().model

    def adapted(self) -> Adapted:
        """A new copy of the base with what was learned, to be evaluated, weakened or swapped."""
        from lora_lab.models.adapted import Adapted
        from lora_lab.models.adapters import as_trained

        return Adapted(as_trained(self.base, self.recipe), self.learned)

    @property
    def kept_step(self) -> StepRecord | None:
        """The step whose weights the run keeps: with a patience the best validated, else the last.

        None: nothing is trained yet.
        """
        return kept_step(self.records, self.recipe)

    @property
    def trained_on(self) -> str:
        """The base, its size, the device and the dtype: the first part of `about`."""
        return self.about.partition(";")[0]

    @property
    def tokenizer(self) -> object:
        """The base's tokenizer."""
        return self.base.tokenizer


def identity(base: Base, task: Task, recipe: Recipe) -> str:
    """A run's identity: 16 hex digits from recipe, content of base and task, and version."""
    parts = (
        json.dumps(recipe.facts, sort_keys=True),
        base.fingerprint(),
        task.fingerprint(),
        __version__,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# --- where a store keeps a run ---------------------------------------------------------------


def folder_of(store: Path, base: Base, task: Task, recipe: Recipe) -> Path:
    """The folder of this fine-tune in a store, whether it exists or not."""
    return store / f"{folder_name(task.name)}-{recipe.method}-{identity(base, task, recipe)}"


def stored_status(store: Path, base: Base, task: Task, recipe: Recipe) -> str | None:
    """This fine-tune's status in a store: "running", "finished", "diverged"; None: not there."""
    try:
        return read_facts(folder_of(store, base, task, recipe))[0].status
    except (FileNotFoundError, DamagedRun):
        return None


# --- reading runs ---------------------------------------------------------------------------


def read_run(path: Path, base: Base | None = None, *, replayed: bool = True) -> Run:
    """A run read from its folder, each file once. `base` saves loading the base.

    Raises:
        FileNotFoundError: if there is no run in the folder.
        DamagedRun: if the run can't be read.
    """
    for _ in range(ATTEMPTS):
        before = _stamp(path)
        try:
            run: Run | DamagedRun = _read_run(path, base, replayed)
        except DamagedRun as error:
            run = error
        if _stamp(path) == before:  # nobody replaced the run meanwhile
            break
    if isinstance(run, DamagedRun):
        raise run
    return run


def _read_run(path: Path, base: Base | None, replayed: bool) -> Run:
    try:
        facts, recipe = read_facts(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} holds no run (no {RUN})") from None
    return Run(
        recipe=recipe,
        records=read_records(path, facts.status, recipe),
        scores=read_scores(path) or read_scores(path, SCORES_OF["validation"]),
        base_name=facts.base_name,
        task_name=facts.task_name,
        path=path,
        replayed=replayed,
        status=facts.status,
        message=facts.message,
        about=facts.about,
        machine=facts.machine,
        date=facts.date,
        budget=facts.budget,
        _base=base,
        _base_path=facts.base_path,
    )


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Numbers that change when a run's `run.json` is replaced; None: there is no such file."""
    try:
        stat = (path / RUN).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def run_folders(store: str | Path | Default | None = DEFAULT) -> list[Path]:
    """The folders of a store's runs, damaged ones too, by name. No file is read."""
    folder = resolve_store(store)
    if folder is None or not os.path.isdir(folder):
        return []
    return sorted(path for path in folder.iterdir() if os.path.lexists(path / RUN))


def read_store(
    store: str | Path | Default | None = DEFAULT,
) -> tuple[list[Run], list[DamagedRun]]:
    """The runs of a store, newest first, and an error for each run that can't be read."""
    runs, damaged = [], []
    for path in run_folders(store):
        try:
            runs.append(read_run(path))
        except DamagedRun as error:
            damaged.append(error)
        except FileNotFoundError:
            continue  # deleted since
    return sorted(runs, key=lambda run: run.date, reverse=True), damaged


def list_runs(store: str | Path | Default | None = DEFAULT) -> list[Run]:
    """The runs of a store, newest first. A warning names damaged runs.

    `read_store` gives their errors too.
    """
    runs, damaged = read_store(store)
    if damaged:
        several = f" (and {len(damaged) - 3} more)" if len(damaged) > 3 else ""
        warnings.warn(
            f"left out of the list: {'; '.join(map(str, damaged[:3]))}{several}", stacklevel=2
        )
    return runs


def open_run(name: str, store: str | Path | Default | None = DEFAULT) -> Run:
    """The stored run with this name: its folder's name, or an unambiguous part of it.

    Raises:
        FileNotFoundError: if none or several fit, with the names that are there.
        DamagedRun: if it can't be read.
    """
    folders = run_folders(store)
    names = tuple(path.name for path in folders)
    fitting = [path for path in folders if path.name == name] or [
        path for path in folders if name in path.name
    ]
    if len(fitting) == 1:
        return read_run(fitting[0])
    if fitting:
        several = ", ".join(path.name for path in fitting[:5])
        raise FileNotFoundError(f"{name!r} fits {len(fitting)} runs; give one whole: {several}")
    listed = (
        f"There are {len(names)}: `lora-lab runs` lists them" if names else "the store is empty"
    )
    raise FileNotFoundError(f"no run is called {name!r}; {nearest(name, names)}{listed}")

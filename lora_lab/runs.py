"""Runs on disk: found by what they are, written atomically, resumed exactly, listed."""

from __future__ import annotations  # so that a type may be named whose module is not loaded

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock
from safetensors import SafetensorError, safe_open

from lora_lab import __version__
from lora_lab.built_in import BUILT_IN
from lora_lab.machine import processor
from lora_lab.places import data_folder, make_folder_atomically, store_folder, write_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Answer, Budget, Memory, Scores, StepRecord
from lora_lab.tasks.examples import Task

if TYPE_CHECKING:  # torch and PEFT take seconds to import, and a list of runs does without
    from torch import Tensor, nn

    from lora_lab.bases import Base
    from lora_lab.learnt import Learnt

RUNNING, FINISHED, DIVERGED = "running", "finished", "diverged"
CHECKPOINT = "checkpoint.safetensors"


class Default:
    """The type of DEFAULT: `store=None` keeps nothing, so None can't mean the usual place."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default()  # the store in $LORA_LAB_STORE, else the user's data folder


def resolve_store(store: str | Path | Default | None) -> Path | None:
    """The folder that a `store` argument means; None: keep nothing."""
    if isinstance(store, Default):
        return store_folder()
    return None if store is None else Path(store)


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """A finished fine-tune: what was asked, what happened, what came out.

    It can be evaluated, asked and saved like a base: `model` is the base with what was learnt.
    """

    recipe: Recipe
    records: tuple[StepRecord, ...]
    scores: Scores | None  # None: not evaluated
    base_name: str
    task_name: str
    path: Path | None  # its folder in the store; None: not kept
    replayed: bool = False  # read from the store, not trained just now
    status: str = FINISHED
    message: str = ""  # why it diverged
    about: str = ""  # the machine it was trained on
    date: str = ""  # when it was started, ISO 8601
    budget: Budget | None = None  # told before it ran; None: not known for this kind of model
    _base: Base | None = field(default=None, repr=False)
    _base_path: str = field(default="", repr=False)
    _learnt: Learnt | None = field(default=None, repr=False)

    @cached_property
    def learnt(self) -> Learnt:
        """What was learnt: the adapter, or every weight for method "full"."""
        if self._learnt is not None:
            return self._learnt
        if not (self.path / "learnt").is_dir():
            raise FileNotFoundError(
                f"the run in {self.path} is {self.status} and has learnt nothing to load yet; "
                "call fit with the same arguments to finish it"
            )
        from lora_lab.learnt import Learnt

        return Learnt.load(self.path / "learnt")

    @cached_property
    def base(self) -> Base:
        """The base it was trained on, loaded when first asked for."""
        from lora_lab.bases import load_base

        return self._base or load_base(self._base_path or self.base_name)

    @cached_property
    def model(self) -> nn.Module:
        """The base, quantised if the recipe says so, with what was learnt on it."""
        from lora_lab.adapters import as_trained
        from lora_lab.learnt import Adapted

        return Adapted(as_trained(self.base, self.recipe), self.learnt).model

    @property
    def tokenizer(self) -> object:
        """The base's tokenizer."""
        return self.base.tokenizer


def identity(base: Base, task: Task, recipe: Recipe) -> str:
    """What makes a run the same run: recipe, content of base and task, version. 16 hex digits."""
    parts = (
        json.dumps(dataclasses.asdict(recipe), sort_keys=True),
        base.fingerprint(),
        task.fingerprint(),
        __version__,
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


# --- one run's folder -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Enough to go on exactly where a run was stopped, between two steps."""

    records: tuple[StepRecord, ...]
    tensors: dict[str, Tensor]  # trainable parameters, optimizer state, random state
    words: dict[str, object]  # what of the optimizer state is no tensor


def folder_of(store: Path, base: Base, task: Task, recipe: Recipe) -> Path:
    """Where a store keeps this fine-tune, whether it is there or not."""
    return store / f"{task.name}-{recipe.method}-{identity(base, task, recipe)}"


def stored_status(store: Path, base: Base, task: Task, recipe: Recipe) -> str | None:
    """What a store says of this fine-tune: "running", "finished", "diverged"; None: nothing."""
    return _status_in(folder_of(store, base, task, recipe))


def _status_in(folder: Path) -> str | None:
    words = _read_json(folder / "run.json")
    return words.get("status") if words else None


class RunFolder:
    """One run's files. Every write is whole or not there; `run.json` is written last.

    run.json             recipe, names, status: the run exists once this does
    checkpoint.safetensors   while it runs
    records.jsonl, learnt/, scores.json     once it is finished
    """

    def __init__(self, store: Path, base: Base, task: Task, recipe: Recipe) -> None:
        self.base, self.task, self.recipe = base, task, recipe
        self.path = folder_of(store, base, task, recipe)
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.path / ".lock")  # a second process waits, then replays

    @property
    def status(self) -> str | None:
        """What `run.json` says; None: nothing was started, or it can't be read."""
        return _status_in(self.path)

    def drop_if_unused(self) -> None:
        """Leave no folder behind for a run that was refused before it began."""
        if all(path.name == ".lock" for path in self.path.iterdir()):
            shutil.rmtree(self.path, ignore_errors=True)

    def clear(self) -> None:
        """Forget the run, to train it afresh."""
        for path in self.path.iterdir():
            if path.name == ".lock":
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def begin(self, budget: Budget | None) -> None:
        """Note what is being run, and what it was expected to cost."""
        self._write_words(RUNNING, "", budget)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by a newer one."""
        from safetensors.torch import save_file

        words = {
            "records": [dataclasses.asdict(record) for record in checkpoint.records],
            "words": checkpoint.words,
        }
        with write_atomically(self.path / CHECKPOINT) as file:
            save_file(checkpoint.tensors, file, metadata={"run": json.dumps(words)})

    def read_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; None where there is none, or where it is damaged."""
        from safetensors.torch import load_file

        found = _read_checkpoint_words(self.path)
        if found is None:
            return None  # trained again from the start: the same records, only later
        records, words = found
        return Checkpoint(records, load_file(self.path / CHECKPOINT), words)

    def finish(
        self, records: Sequence[StepRecord], learnt: Learnt, status: str, message: str = ""
    ) -> None:
        """Keep what came out, and drop the checkpoint."""
        lines = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
        with write_atomically(self.path / "records.jsonl") as file:
            file.write_text(lines)
        with make_folder_atomically(self.path / "learnt") as folder:
            learnt.save(folder)
        self._write_words(status, message)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def write_scores(self, scores: Scores) -> None:
        """Keep the scores beside the run."""
        with write_atomically(self.path / "scores.json") as file:
            file.write_text(json.dumps(dataclasses.asdict(scores)))

    def _write_words(self, status: str, message: str, budget: Budget | None = None) -> None:
        import torch

        from lora_lab.adapters import about_training

        before = _read_json(self.path / "run.json") or {}
        words = {
            "status": status,
            "message": message,
            "recipe": dataclasses.asdict(self.recipe),
            "base_name": self.base.name,
            "base_path": "" if self.base.name in BUILT_IN else str(self.base.path),
            "task_name": self.task.name,
            "about": about_training(self.base, self.recipe),
            "date": before.get("date") or datetime.now(UTC).isoformat(timespec="seconds"),
            "budget": dataclasses.asdict(budget) if budget else before.get("budget"),
            "machine": processor(),
            "version": __version__,
            "torch": torch.__version__,
        }
        with write_atomically(self.path / "run.json") as file:
            file.write_text(json.dumps(words, indent=1))


# --- reading runs ---------------------------------------------------------------------------


def read_run(path: Path, base: Base | None = None, *, replayed: bool = True) -> Run:
    """A run from its folder. Nothing is trained; `base` saves loading it again.

    Raises:
        FileNotFoundError: if there is no run in the folder.
    """
    words = _read_json(path / "run.json")
    if words is None:
        raise FileNotFoundError(f"{path} holds no run (no readable run.json)")
    scores = _read_json(path / "scores.json")
    return Run(
        recipe=Recipe(**_tuples(words["recipe"])),
        records=_read_records(path, words["status"]),
        scores=_scores(scores) if scores else None,
        base_name=words["base_name"],
        task_name=words["task_name"],
        path=path,
        replayed=replayed,
        status=words["status"],
        message=words["message"],
        about=words["about"],
        date=words["date"],
        budget=_budget(words.get("budget")),
        _base=base,
        _base_path=words["base_path"],
    )


def list_runs(store: str | Path | Default | None = DEFAULT) -> list[Run]:
    """All runs of a store, newest first. Folders without a readable run are passed over."""
    folder = resolve_store(store)
    if folder is None or not folder.is_dir():
        return []
    found = [path.parent for path in folder.glob("*/run.json") if _read_json(path)]
    return sorted((read_run(path) for path in found), key=lambda run: run.date, reverse=True)


def open_run(name: str, store: str | Path | Default | None = DEFAULT) -> Run:
    """The stored run with this name: its folder's name, or an unambiguous part of it.

    Raises:
        FileNotFoundError: if none or several fit, with the names that are there.
    """
    runs = list_runs(store)
    names = tuple(run.path.name for run in runs)
    fitting = [run for run in runs if run.path.name == name] or [
        run for run in runs if name in run.path.name
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = ", ".join(run.path.name for run in fitting[:5])
        raise FileNotFoundError(f"{name!r} fits {len(fitting)} runs; give one whole: {several}")
    there = f"There are {len(names)}: `lora-lab runs` lists them" if names else "The store is empty"
    raise FileNotFoundError(f"no run is called {name!r}; {nearest(name, names)}{there}")


def recorded_runs(name: str) -> tuple[Run, ...]:
    """The runs of data/recorded/ with this name, one per seed: made before, and told as they were.

    They hold records and scores, no adapter and no answers.

    Raises:
        ValueError: if none is called so, with the nearest name.
    """
    folder = data_folder() / "recorded"
    found = sorted(path.parent for path in folder.glob(f"{name}-*/run.json"))
    found = [path for path in found if path.name.removeprefix(f"{name}-").isdigit()]
    if not found:
        names = {path.parent.name.rpartition("-")[0] for path in folder.glob("*/run.json")}
        raise ValueError(
            f"no run was recorded as {name!r}; {nearest(name, tuple(names))}"
            f"there are: {', '.join(sorted(names))}"
        )
    return tuple(read_run(path) for path in found)


def _read_json(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def _read_records(path: Path, status: str) -> tuple[StepRecord, ...]:
    if status != RUNNING:
        lines = (path / "records.jsonl").read_text().splitlines()
        return tuple(StepRecord(**json.loads(line)) for line in lines)
    found = _read_checkpoint_words(path)
    return found[0] if found else ()


def _read_checkpoint_words(path: Path) -> tuple[tuple[StepRecord, ...], dict] | None:
    """A checkpoint's records and what of it is no tensor; None if it is not there, or damaged."""
    try:
        with safe_open(path / CHECKPOINT, framework="np") as file:
            words = json.loads(file.metadata()["run"])
    except (FileNotFoundError, SafetensorError, json.JSONDecodeError):
        return None
    return tuple(StepRecord(**record) for record in words["records"]), words["words"]


def _tuples(recipe: dict) -> dict:
    """JSON has no tuples: a recipe's lists are turned back."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()
    }


def _budget(words: dict | None) -> Budget | None:
    if words is None:
        return None
    memory = words.pop("memory")
    return Budget(**words, memory=Memory(**memory) if memory else None)


def _scores(words: dict) -> Scores:
    answers = tuple(Answer(**answer) for answer in words.pop("answers"))
    return Scores(**words, answers=answers)

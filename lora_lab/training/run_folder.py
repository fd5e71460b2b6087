"""A run's folder while it is trained: it is locked, its files are written whole or not at all."""

import dataclasses
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock
from torch import Tensor

from lora_lab import __version__
from lora_lab.machine.resources import processor
from lora_lab.models.bases import Base
from lora_lab.models.built_in import BUILT_IN
from lora_lab.models.tensor_files import check_tensors, load_tensors, save_tensors
from lora_lab.places import NoRoom, make_folder_atomically, write_atomically, writing_in
from lora_lab.recipe import Recipe
from lora_lab.records import Budget, Scores, StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.run_files import (
    CHECKPOINT,
    LEARNED,
    RECORDS,
    RUN,
    RUNNING,
    SCORES_OF,
    DamagedRun,
    read_checkpoint_facts,
    read_facts,
)
from lora_lab.training.store import Run, folder_of, read_run

if TYPE_CHECKING:  # PEFT takes seconds to import
    from lora_lab.models.learned import Learned

WAYS = "store=…, --store or LORA_LAB_STORE"  # the ways to name a store


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two steps, from which it goes on exactly."""

    records: tuple[StepRecord, ...]
    tensors: dict[str, Tensor]  # trainable parameters, optimizer state, random state
    words: dict[str, object]  # the rest of the optimizer state, which is not in tensors


class RunFolder:
    """A run's files, as `run_files` describes them. A file is written whole or not at all."""

    def __init__(self, store: Path, base: Base, task: Task, recipe: Recipe) -> None:
        self.base, self.task, self.recipe = base, task, recipe
        self.path = folder_of(store, base, task, recipe)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A block in which only this process writes the run; a second process waits, then replays.

        A run in a read-only store is replayed without a lock. A run that was refused before it
        began leaves no folder.

        Raises:
            NoRoom: if the disk is full; the message says what is kept of the run.
            PermissionError: if the store can't be written and does not have the run.
        """
        lock = None
        try:
            lock = self._lock()
            yield
        except NoRoom as error:
            raise NoRoom(f"{error}: {WAYS}. {self._kept_text()}") from error
        finally:
            if lock is not None:
                if all(path.name == ".lock" for path in self.path.glob("*")):
                    shutil.rmtree(self.path, ignore_errors=True)
                lock.release()

    def _lock(self) -> FileLock | None:
        lock = FileLock(self.path / ".lock")
        try:
            with writing_in(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                lock.acquire()
        except PermissionError as error:
            if not (self.path / RUN).exists():
                raise PermissionError(f"{error}: {WAYS}") from error
            return None
        return lock

    def _kept_text(self) -> str:
        """A sentence on what is kept of a run on a full disk; without a step it is deleted."""
        try:
            run = read_run(self.path)
        except (FileNotFoundError, DamagedRun):
            return "Nothing of this run is kept"
        if run.status != RUNNING:
            return "The run is kept, without its scores"
        if not run.records:
            self.clear()
            return "Nothing of this run is kept"
        steps = len(run.records)
        return f"The run is kept up to step {steps}: the same call goes on from there"

    def ended(self) -> Run | None:
        """The run, if it has ended, else None. A damaged file is put aside, with a warning.

        A run without its scores is scored again. A run without its checkpoint is begun again.
        """
        while True:
            try:
                run = read_run(self.path, self.base)
                if run.status != RUNNING:
                    self._check_learned()
            except FileNotFoundError:
                return None
            except DamagedRun as error:
                self.put_aside(error)
            else:
                return None if run.status == RUNNING else run

    def _check_learned(self) -> None:
        """Refuse a folder of learned weights that is damaged, without loading them."""
        from lora_lab.models.adapter_config import MODEL_FILE, check_files, read_settings

        folder = self.path / LEARNED
        try:
            weights = check_files(folder)
            check_tensors(folder / weights)
            if weights != MODEL_FILE:
                read_settings(folder)
        except (FileNotFoundError, ValueError) as error:
            raise DamagedRun(self.path, LEARNED, f"can't be read ({error})") from error

    def put_aside(self, error: DamagedRun) -> None:
        """Rename the damaged file, or `run.json` if the file is missing; nothing is deleted.

        Without `run.json` the run goes on from its checkpoint, or is trained afresh.
        """
        damaged = self.path / error.name
        if not os.path.lexists(damaged):
            damaged = self.path / RUN
        aside = damaged.with_name(f"{damaged.name}.damaged")
        with writing_in(self.path):
            _remove(aside)
            damaged.rename(aside)
        warnings.warn(
            f"the run in {self.path} is damaged: its {error.name} {error.reason}; what can't be "
            f"read is made anew, and {aside.name} is kept",
            stacklevel=4,
        )

    def clear(self) -> None:
        """Delete the run, to train it afresh: `run.json` first, since a run exists by that file."""
        with writing_in(self.path):
            for path in sorted(self.path.iterdir(), key=lambda path: path.name != RUN):
                if path.name != ".lock":
                    _remove(path)

    def begin(self, budget: Budget | None, about: str = "") -> None:
        """Write the recipe of a run that begins, its expected cost and what it is trained on."""
        for name in SCORES_OF.values():  # left by a run whose other files were damaged
            (self.path / name).unlink(missing_ok=True)
        self._write_facts(RUNNING, "", budget=budget, about=about)

    def write_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint by a newer checkpoint."""
        content = {
            "records": [dataclasses.asdict(record) for record in checkpoint.records],
            "words": checkpoint.words,
        }
        save_tensors(checkpoint.tensors, self.path / CHECKPOINT, {"run": json.dumps(content)})

    def read_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint; None: no checkpoint."""
        facts = read_checkpoint_facts(self.path)
        if facts is None:
            return None
        records, words = facts
        return Checkpoint(records, load_tensors(self.path / CHECKPOINT), words)

    def finish(
        self, records: Sequence[StepRecord], learned: "Learned", status: str, message: str = ""
    ) -> None:
        """Write a run's records and what it learned, and delete its checkpoint."""
        self._write_learned(records, learned)
        self._write_facts(status, message)
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def keep(self, run: Run) -> None:
        """Write a run that was trained elsewhere, in place of what is here."""
        self.clear()
        self._write_learned(run.records, run.learned)
        facts = {name: getattr(run, name) for name in ("budget", "about", "date", "machine")}
        self._write_facts(run.status, run.message, **facts)
        if run.scores is not None:
            self.write_scores(run.scores)

    def _write_learned(self, records: Sequence[StepRecord], learned: "Learned") -> None:
        lines = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
        with write_atomically(self.path / RECORDS) as file:
            file.write_text(lines, encoding="utf-8")
        with make_folder_atomically(self.path / LEARNED) as folder:
            learned.save(folder)

    def write_scores(self, scores: Scores) -> None:
        """Write the scores beside the run, in the file of their split."""
        with write_atomically(self.path / SCORES_OF[scores.split]) as file:
            file.write_text(json.dumps(dataclasses.asdict(scores)), encoding="utf-8")

    def _write_facts(
        self,
        status: str,
        message: str,
        *,
        budget: Budget | None = None,
        about: str = "",
        date: str = "",
        machine: str = "",
    ) -> None:
        """Write `run.json`. A fact that is left out stays as it was, or is this machine's."""
        from lora_lab.models.adapters import about_training

        try:
            before, _ = read_facts(self.path)
        except (FileNotFoundError, DamagedRun):
            pass
        else:
            date, budget, about = (
                date or before.date,
                budget or before.budget,
                about or before.about,
            )
        facts = {
            "status": status,
            "message": message,
            "recipe": self.recipe.facts,
            "base_name": self.base.name,
            "base_path": "" if self.base.name in BUILT_IN else str(self.base.path),
            "task_name": self.task.name,
            "about": about or about_training(self.base, self.recipe),
            "date": date or datetime.now(UTC).isoformat(timespec="seconds"),
            "budget": dataclasses.asdict(budget) if budget else None,
            "machine": machine or processor(),
            "version": __version__,
            "torch": torch.__version__,
        }
        with write_atomically(self.path / RUN) as file:
            file.write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""What a task's name on a command line means. PEFT is not needed yet: bad input is told at once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.places import write_atomically
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import NAMES, load_task

if TYPE_CHECKING:
    from lora_lab.models.bases import Base

TASK_FILE = "task.json"  # in a run's folder: how its task was made


def base_name(task: str, given: str | None) -> str:
    """The base to take: the one given, else LORA_LAB_BASE, else the task's own, else pocket."""
    own = next((base for base, names in NAMES.items() if task in names), "pocket")
    return given or os.environ.get("LORA_LAB_BASE") or own


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task as a command line names it. It can be kept beside a run, and made again."""

    task: str  # a name or a file
    n: int | None = None
    seed: int = 0
    prompt: str | None = None  # None: a file's column of that name
    answer: str | None = None

    def but(self, **given: object) -> "Wanted":
        """The same with other values, where they are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def load(self, base: "Base | None") -> Task:
        """The task itself.

        Raises:
            ValueError: as `load_task` does, and for a column of what is no file.
        """
        columns = {"prompt": self.prompt, "answer": self.answer}
        columns = {name: value for name, value in columns.items() if value is not None}
        if columns and any(self.task in names for names in NAMES.values()):
            option, column = next(iter(columns.items()))
            raise ValueError(
                f"--{option} {column} names a file's column, and {self.task!r} is no file; "
                "leave it out"
            )
        return load_task(self.task, base, n=self.n, seed=self.seed, **columns)

    @contextmanager
    def kept_in(self, *folders: Path) -> Iterator[None]:
        """Write it into runs' folders after the block, whatever stopped it: each run is there then.

        What stopped the block is told, and not that this can't be written either.
        """
        try:
            yield
        except BaseException:
            with suppress(OSError):
                for folder in folders:
                    self.keep(folder)
            raise
        for folder in folders:
            self.keep(folder)

    def keep(self, folder: Path) -> None:
        """Write it into a run's folder, if there is a run in it."""
        if not (folder / "run.json").is_file():
            return  # the recipe was refused before anything began
        words = {name: getattr(self, name) for name in self.__slots__}
        if Path(self.task).is_file():
            words["task"] = str(Path(self.task).resolve())  # found again from anywhere
        with write_atomically(folder / TASK_FILE) as new:
            new.write_text(json.dumps(words), encoding="utf-8")

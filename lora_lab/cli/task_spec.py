"""A task as a command line names it. Nothing here loads PEFT: bad input is refused at once."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.places import write_atomically
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import NAMES, load_task

if TYPE_CHECKING:
    from lora_lab.models.bases import Base

TASK_FILE = "task.json"  # in a run's folder: the TaskSpec of its task


def base_name(task: str, base: str | None) -> str:
    """`base` if there is one, else LORA_LAB_BASE, else the task's own base, else pocket."""
    own = next((name for name, tasks in NAMES.items() if task in tasks), "pocket")
    return base or os.environ.get("LORA_LAB_BASE") or own


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """A task as a command line names it. A run keeps it, so that the task can be made again."""

    task: str  # a name or a file
    n: int | None = None
    seed: int = 0
    prompt: str | None = None  # a file's column; None: the column of that name
    answer: str | None = None
    test: str | None = None  # a file
    validation: str | None = None
    split_column: str | None = None
    group_by: str | None = None

    def but(self, **changes: object) -> "TaskSpec":
        """A copy with those of the changes that are not None."""
        return replace(
            self, **{name: value for name, value in changes.items() if value is not None}
        )

    def load(self, base: "Base | None") -> Task:
        """The task for a base.

        Raises:
            ValueError: as `load_task` does, and for an option of files where the task is none.
        """
        of_file = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name not in ("task", "n", "seed")
        }
        if of_file and any(self.task in names for names in NAMES.values()):
            option, value = next(iter(of_file.items()))
            raise ValueError(
                f"--{option.replace('_', '-')} {value} is about a file's rows, and {self.task!r} "
                "is no file; leave it out"
            )
        return load_task(self.task, base, n=self.n, seed=self.seed, **of_file)

    def load_with_base(
        self, base: str | None, device: str, dtype: str = "auto"
    ) -> tuple["Base", Task]:
        """The base of that name, or the task's own where it is None, and the task for it."""
        from lora_lab.models.bases import load_base

        loaded = load_base(base_name(self.task, base), device=device, dtype=dtype)
        return loaded, self.load(loaded)

    @contextmanager
    def kept_in(self, *folders: Path) -> Iterator[None]:
        """Write the spec into runs' folders after the block, also where an error stopped it.

        The block's own error goes on, even where the spec can't be written either.
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
        """Write the spec into a run's folder, if there is a run in it."""
        if not (folder / "run.json").is_file():
            return  # the recipe was refused before anything began
        values = asdict(self)
        for name in ("task", "test", "validation"):
            if values[name] and Path(values[name]).is_file():
                values[name] = str(Path(values[name]).resolve())  # found from any working directory
        with write_atomically(folder / TASK_FILE) as new:
            new.write_text(json.dumps(values), encoding="utf-8")

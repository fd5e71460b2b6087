"""A task as a command line names it, and its base. No torch: bad input is refused at once."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.cli.show import note
from lora_lab.models.built_in import find_base, list_bases, pocket_words
from lora_lab.places import NotPrepared, write_atomically
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import NAMES, check_base, load_task
from lora_lab.wording import percent

if TYPE_CHECKING:
    from lora_lab.models.bases import Base

TASK_FILE = "task.json"  # in a run's folder: the TaskSpec of its task
ROWS_FILE = "training_rows.json"  # in an export's folder: `TrainingRows`


# Share of the prompts' words: pocket knows 91 % or more in its own tasks, at most 62 % in others.
OF_ITS_WORLD = 0.8


def base_name(task: str, base: str | None) -> str | None:
    """`base` if it is given, else LORA_LAB_BASE, else the task's own base; None for a file."""
    own = next((name for name, tasks in NAMES.items() if task in tasks), None)
    return base or os.environ.get("LORA_LAB_BASE") or own


def base_of_file(data: Task) -> tuple[str, str]:
    """The base that fits a file's texts, and why: pocket for its own world, else smollm2.

    Raises:
        NotPrepared: if smollm2 would fit but is not here, with what to do.
    """
    share = known_to_pocket([example.prompt for example in data.train])
    why = f"pocket knows {percent(share)} of the words in its prompts"
    if share >= OF_ITS_WORLD:
        return "pocket", f"{why}, so they are of its world"
    if not any(base.name == "smollm2" and base.prepared for base in list_bases()):
        raise NotPrepared(
            f"{data.name} needs a base that knows its words: {why}, and smollm2 is not here yet; "
            "run `lora-lab prepare smollm2` once, or name a base: --base pocket, or a folder"
        )
    return "smollm2", f"{why}, which were invented"


def known_to_pocket(texts: Sequence[str]) -> float:
    """The share of the texts' words that are words of pocket's tokenizer; 0 without words."""
    words = [word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text)]
    known = pocket_words()
    return sum(word in known for word in words) / max(1, len(words))


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
        """A copy with the changes that are not None."""
        return replace(
            self, **{name: value for name, value in changes.items() if value is not None}
        )

    @property
    def is_built_in(self) -> bool:
        """Whether it is one of the course's own tasks, and not a file."""
        return any(self.task in names for names in NAMES.values())

    def load(self, base: "Base | None") -> Task:
        """The task for a base.

        Raises:
            ValueError: as in `load_task`, and for an option of files if the task is not a file.
        """
        of_file = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and name not in ("task", "n", "seed")
        }
        if of_file and self.is_built_in:
            option, value = next(iter(of_file.items()))
            raise ValueError(
                f"--{option.replace('_', '-')} {value} is about a file's rows, and {self.task!r} "
                "isn't a file; leave it out"
            )
        return load_task(self.task, base, n=self.n, seed=self.seed, **of_file)

    def load_with_base(
        self, base: str | None, device: str, dtype: str = "auto"
    ) -> tuple["Base", Task]:
        """The base with that name, or the task's own base if it is None, and the task for it.

        A wrong name is refused before torch is imported, which takes seconds. The base that was
        chosen for a file is named on stderr.
        """
        name = base_name(self.task, base)
        if name is not None:
            find_base(name)
            check_base(self.task, name)
        data = self.load(None)
        if name is None:
            name, why = base_of_file(data)
            note(f"base {name}: {why}. --base chooses another.")
        elif name == "pocket" and data.read is not None:
            share = known_to_pocket([example.prompt for example in data.train])
            if share < OF_ITS_WORLD:
                note(
                    f"pocket knows {percent(share)} of the words in these prompts; it was made for "
                    "its own invented world. --base smollm2 knows English."
                )
        from lora_lab.models.bases import load_base

        return load_base(name, device=device, dtype=dtype), data

    @contextmanager
    def kept_in(self, task: Task, *folders: Path) -> Iterator[None]:
        """Write a task's spec into runs' folders after the block, even if an error stopped it.

        The block's own error is raised, even if the spec can't be written either.
        """
        try:
            yield
        except BaseException:
            with suppress(OSError):
                for folder in folders:
                    self.keep(folder, task)
            raise
        for folder in folders:
            self.keep(folder, task)

    def keep(self, folder: Path, task: Task) -> None:
        """Write the spec, and its task's hash, into a run's folder, if there is a run in it."""
        if not (folder / "run.json").is_file():
            return  # there is no run: the recipe was refused
        values = asdict(self) | {"sha256": hash_of_rows(task)}
        for name in ("task", "test", "validation"):
            if values[name] and Path(values[name]).is_file():
                values[name] = str(Path(values[name]).resolve())  # found from any working directory
        with write_atomically(folder / TASK_FILE) as new:
            new.write_text(json.dumps(values), encoding="utf-8")


# --- exports ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows that a run or an export was trained on: how their split was made, and their hash.

    With them, an export can be scored on the held-out rows of the file that it learnt from.
    """

    spec: TaskSpec
    sha256: str  # of the training split's prompts and answers

    def write(self, folder: Path) -> None:
        """Write them into an export's folder, without any row or folder of this machine."""
        values = asdict(self.spec) | {"task": Path(self.spec.task).name, "sha256": self.sha256}
        del values["test"], values["validation"]  # separate files, which have to be given again
        with write_atomically(folder / ROWS_FILE) as new:
            new.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path) -> "TrainingRows | None":
        """The training rows in an export's or a run's file; None: no file that can be read."""
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return cls(sha256=values.pop("sha256"), spec=TaskSpec(**values))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None

    def are_of(self, task: Task) -> bool:
        """Whether they equal the task's training split, row by row."""
        return self.sha256 == hash_of_rows(task)


def hash_of_rows(task: Task) -> str:
    """The SHA-256 of the training split's prompts and answers."""
    rows = [(example.prompt, example.answer) for example in task.train]
    return hashlib.sha256(repr(rows).encode()).hexdigest()

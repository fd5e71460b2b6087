"""The lessons as they were shipped: their files, their cells, and a digest of what is asked."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lora_lab.checks.exercises import LESSONS
from lora_lab.places import notebooks_folder

STAMP = "lora_lab"  # the key in a notebook's metadata with a student copy's lesson and version


@dataclass(frozen=True, slots=True)
class Lesson:
    """A shipped lesson with exercises."""

    number: str  # "05"
    path: Path

    @property
    def name(self) -> str:
        """The file's name without its ending: `05_rank`."""
        return self.path.stem

    @property
    def exercises(self) -> tuple[str, ...]:
        """The names of its exercises, in the order of its checks."""
        return tuple(LESSONS[self.number])

    def notebook(self) -> dict:
        """The notebook as it was shipped."""
        return json.loads(self.path.read_text(encoding="utf-8"))


@cache
def lessons() -> dict[str, Lesson]:
    """The lessons with exercises, by their numbers."""
    return {
        path.name[:2]: Lesson(path.name[:2], path)
        for path in sorted(notebooks_folder().glob("[0-9][0-9]_*.ipynb"))
        if path.name[:2] in LESSONS
    }


def find_lesson(word: str) -> Lesson:
    """The lesson with a number or a name: `5`, `05`, `05_rank`.

    Raises:
        ValueError: if there is none, with a list of the lessons.
    """
    known = lessons()
    digits = re.match(r"\d*", word, re.ASCII)[0]
    found = known.get(digits.zfill(2)) if digits else None
    if found is None or word not in (digits, found.name, found.path.name):
        names = ", ".join(lesson.name for lesson in known.values())
        raise ValueError(f"{word!r} isn't a lesson with exercises; give a number or one of {names}")
    return found


def text_of(cell: dict) -> str:
    """The text of a cell, whether it is kept as one string or as lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else source


def tags_of(cell: dict) -> set[str]:
    """The tags of a cell."""
    return {*cell["metadata"].get("tags", ())}


def digest(notebook: dict) -> str:
    """Twelve hexadecimal digits that change with any word of the lesson, not with its outputs."""
    cells = [[cell["cell_type"], text_of(cell)] for cell in notebook["cells"]]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()[:12]

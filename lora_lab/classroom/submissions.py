"""Submissions: the learner, the lesson, and the code of the cells. Nothing is run here."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lora_lab import __version__
from lora_lab.checks.exercises import LESSONS
from lora_lab.classroom.course import STAMP, Lesson, digest, lessons, tags_of, text_of
from lora_lab.wording import counted, file_size

LARGEST = 500_000_000  # bytes of a file
MOST_CODE = 2_000_000  # letters of its code
COPY = re.compile(r"(?i)[-_ ]*(\(\d+\)|copy\d*|final|solution|submission)$")
NAMED = re.compile(r"\bcheck\.(\w+)\(|^def (\w+)\(", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Submission:
    """A file that was handed in. With a problem it can't be checked; notes are worth a look."""

    path: Path
    learner: str
    lesson: Lesson | None = None
    version: str = ""  # of the course, as the file says; "" if it does not say
    cells: tuple[str, ...] = ()  # the code of its code cells
    problem: str = ""
    notes: tuple[str, ...] = ()


def find(given: Sequence[Path]) -> list[Path]:
    """The files that were given, and the notebooks in folders that were given, sorted.

    Raises:
        FileNotFoundError: if a path is not there.
    """
    paths = []
    for path in given:
        if path.is_dir():
            found = [file for file in sorted(path.rglob("*.ipynb")) if _is_handed_in(file, path)]
            paths += found
        elif path.exists():
            paths.append(path)
        else:
            raise FileNotFoundError(f"{path} is not there; give notebooks, or folders of them")
    return sorted(dict.fromkeys(paths))


def _is_handed_in(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def read_all(paths: Iterable[Path], asked: Lesson | None = None) -> list[Submission]:
    """The submissions of files, sorted by learner and lesson; a learner's second file is noted.

    Args:
        paths: the files.
        asked: the lesson that all files should be; None: any lesson.
    """
    read = [_read(path, asked) for path in paths]
    same: defaultdict[tuple, list[Path]] = defaultdict(list)
    for submission in read:
        if submission.lesson is not None:
            same[submission.learner, submission.lesson.number].append(submission.path)
    noted = []
    for submission in read:
        learner, lesson = submission.learner, submission.lesson
        files = same[learner, lesson.number] if lesson is not None else []
        if len(files) > 1:
            others = ", ".join(path.name for path in files if path != submission.path)
            note = f"{learner} handed in this lesson as {others} too; the better file counts"
            submission = replace(submission, notes=(*submission.notes, note))
        noted.append(submission)
    return sorted(noted, key=_sort_key)


def _sort_key(submission: Submission) -> tuple[str, str, Path]:
    lesson = submission.lesson
    return submission.learner, lesson.name if lesson else "", submission.path


def _read(path: Path, asked: Lesson | None) -> Submission:
    """A file's submission. This never raises, whatever the file holds."""
    try:
        notebook = _notebook(path)
    except ValueError as error:
        return Submission(path, learner_of(path, None), problem=str(error))
    stamp = notebook["metadata"].get(STAMP)
    stamp = stamp if isinstance(stamp, dict) else {}
    code = tuple(text_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code")
    lesson = _lesson_of(stamp, code)
    learner = learner_of(path, lesson)
    submission = Submission(path, learner, lesson, _line(stamp.get("version", "")), code)
    if lesson is None:
        return replace(submission, problem="it holds no exercise of this course", cells=())
    if asked is not None and lesson != asked:
        return replace(submission, problem=f"it is {lesson.name}, and {asked.name} was asked for")
    if sum(map(len, code)) > MOST_CODE:
        return replace(submission, problem=f"it holds more than {MOST_CODE // 10**6} MB of code")
    return replace(submission, notes=tuple(_notes(notebook, stamp, lesson)))


def _notebook(path: Path) -> dict:
    """The notebook in a file, with the parts that are used here checked.

    Raises:
        ValueError: if it is not a notebook; the words quote nothing of its content.
    """
    try:
        if not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {file_size(LARGEST)}: clear its outputs")
        notebook = json.loads(path.read_bytes())
    except (OSError, RecursionError) as error:
        raise ValueError(f"it can't be read ({type(error).__name__})") from error
    except UnicodeDecodeError as error:
        raise ValueError("it isn't a notebook: it isn't text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it isn't a notebook: line {error.lineno} isn't JSON") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("it isn't a notebook: it holds no list of cells (version 4)")
    cells = [_checked(cell) for cell in notebook["cells"] if isinstance(cell, dict)]
    metadata = notebook.get("metadata")
    return {"cells": cells, "metadata": metadata if isinstance(metadata, dict) else {}}


def _checked(cell: dict) -> dict:
    """A cell with a type and a text, whatever it held before."""
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    return {
        "cell_type": cell.get("cell_type") if cell.get("cell_type") == "code" else "markdown",
        "source": source if isinstance(source, str) else "",
        "id": str(cell.get("id", "")),
    }


def _lesson_of(stamp: dict, code: Sequence[str]) -> Lesson | None:
    """The lesson of the stamp, or the lesson with the most of its exercises' names in the code."""
    by_name = {lesson.name: lesson for lesson in lessons().values()}
    named = stamp.get("lesson")
    if isinstance(named, str) and named in by_name:
        return by_name[named]
    names = {name for text in code for pair in NAMED.findall(text[:MOST_CODE]) for name in pair}
    counts = Counter({number: len(names & {*LESSONS[number]}) for number in lessons()})
    ((number, count),) = counts.most_common(1)
    return lessons()[number] if count else None


def _notes(notebook: dict, stamp: dict, lesson: Lesson) -> Iterator[str]:
    """What is odd about a notebook that can be checked all the same."""
    shipped = lesson.notebook()
    version = _line(stamp.get("version", ""))
    if version and version != __version__:
        yield f"made for lora_lab {version}, and checked with {__version__}"
    elif stamp and stamp.get("digest") != digest(shipped):
        yield "the lesson has changed since this copy was made"
    ids = [cell["id"] for cell in notebook["cells"]]
    wanted = [cell["id"] for cell in shipped["cells"] if "solution" not in tags_of(cell)]
    present = [cell for cell in wanted if cell in {*ids}]
    if present and [cell for cell in ids if cell in {*present}] != present:
        yield "cells were moved or doubled"
    if present and len(present) < len(wanted):
        yield f"{counted(len(wanted) - len(present), 'cell')} of the lesson were deleted"


def learner_of(path: Path, lesson: Lesson | None) -> str:
    """The learner of a file: its name without the lesson's, else the name of its folder.

    `05_rank-ada.ipynb`, `ada_05_rank (1).ipynb` and `ada/05_rank.ipynb` are all ada's.
    """
    stem = path.stem
    if lesson is not None:
        stem = re.sub(re.escape(lesson.name), "\0", stem, flags=re.IGNORECASE)
    while (cut := COPY.sub("", stem)) != stem:
        stem = cut
    stem = " ".join(re.sub(r"\0", " ", stem).strip(" -_.").split()).strip(" -_.")
    return _line(stem or path.resolve().parent.name or "unknown")


def _line(text: object) -> str:
    """A text from a submission in one short line of printable letters."""
    words = "".join(sign if sign.isprintable() else " " for sign in str(text))
    return " ".join(words.split())[:100]

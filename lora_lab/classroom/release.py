"""Student copies of the lessons: without solutions and outputs, with their hints.

Each copy's metadata name its lesson and version. nbgrader and otter-grader were considered for the
copies and for the checking. They would save only the removal of solutions, which is twenty lines
here. nbgrader trusts the submission's own kernel: a check cell without an error gets all its points
(`utils.determine_grade`), so a replaced check passes, and running submissions in isolation is left
to the instructor (its issue 483). otter-grader needs Docker, and its grader unpickles what the
container with the submission wrote (`grade/containers.py`). Both mark cells with tests; our checks
are functions of the package that need no cell at all. So the copies are plain notebooks, which any
other tool can hand out.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lora_lab import __version__
from lora_lab.classroom.course import STAMP, Lesson, digest, lessons, tags_of
from lora_lab.places import make_new_folder, notebooks_folder

README = """# {title}

{count} from the course lora_lab {version}.

1. Install the same version: `pip install lora-lab=={version}`, then `lora-lab prepare`.
2. Open a notebook: `jupyter lab` in this folder. Run it from top to bottom.
3. Each exercise has a cell that raises `NotImplementedError`. Write the function there, run its
   cell, then run the check below it. Hints are folded under the check.
4. `lab.progress()` in any cell shows which exercises are right so far.
5. Save the notebook, and hand it in under a name that ends with yours: `05_rank-ada.ipynb`.

Your function is checked by itself, with what it uses from other cells: imports, functions, values.
Keep its name. It may use Python, torch, transformers, PEFT and `lab`. It can't use the network,
files outside its own folder, `lora_lab.checks` or `lora_lab.lessons`. Outputs are not looked at.

| lesson | exercises |
| --- | --- |
{rows}
"""


def release(folder: Path, chosen: Sequence[Lesson] = ()) -> list[str]:
    """Write student copies of lessons into a new or empty folder, with a README for learners.

    Args:
        folder: where to write; it also gets the files that the lessons link to.
        chosen: the lessons; none given: all of them, with the rest of the course.

    Returns:
        The names of the copied lessons.

    Raises:
        FileExistsError: if the folder holds something already.
    """
    copied = [*chosen] or [*lessons().values()]
    with make_new_folder(folder) as new:
        for path in sorted(notebooks_folder().rglob("*")):
            name = path.relative_to(notebooks_folder())
            if path.is_file() and not any(part.startswith((".", "__")) for part in name.parts):
                _copy_other(path, new / name, whole_course=not chosen)
        for lesson in copied:
            _write(new / lesson.path.name, student_copy(lesson))
        (new / "README.md").write_text(_readme(copied), encoding="utf-8")
    return [lesson.name for lesson in copied]


def student_copy(lesson: Lesson) -> dict:
    """A lesson without solutions and outputs, stamped with its version, digest and exercises."""
    notebook = lesson.notebook()
    stamp = {
        "version": __version__,
        "lesson": lesson.name,
        "digest": digest(notebook),
        "exercises": list(lesson.exercises),
    }
    kept = [cell for cell in notebook["cells"] if "solution" not in tags_of(cell)]
    metadata = notebook["metadata"] | {STAMP: stamp}
    return notebook | {"cells": [_emptied(cell) for cell in kept], "metadata": metadata}


def _emptied(cell: dict) -> dict:
    if cell["cell_type"] != "code":
        return cell
    return cell | {"outputs": [], "execution_count": None}


def _copy_other(path: Path, target: Path, *, whole_course: bool) -> None:
    """Copy a file that is not a lesson with exercises; a partial course gets no other lessons."""
    is_lesson = path.suffix == ".ipynb" and path.parent == notebooks_folder()
    if is_lesson and (path.name[:2] in lessons() or not whole_course):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_lesson:  # the gallery: it has no exercises to check
        notebook = json.loads(path.read_text(encoding="utf-8"))
        _write(target, notebook | {"cells": [_emptied(cell) for cell in notebook["cells"]]})
    else:
        shutil.copyfile(path, target)


def _write(path: Path, notebook: dict) -> None:
    text = json.dumps(notebook, ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def _readme(copied: Sequence[Lesson]) -> str:
    rows = (
        f"| [{lesson.name}]({lesson.path.name}) | {', '.join(lesson.exercises)} |"
        for lesson in copied
    )
    count = "All lessons" if len(copied) == len(lessons()) else "Lessons"
    title = copied[0].name if len(copied) == 1 else "Lessons on LoRA"
    return README.format(title=title, count=count, version=__version__, rows="\n".join(rows))

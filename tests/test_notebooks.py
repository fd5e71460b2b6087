"""The shape of every notebook. Whether its outputs are current is nbval's business.

What else a rewritten lesson keeps to is counted in test_lessons.py, the gallery in test_gallery.py.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from refresh_notebooks import all_notebooks
from test_gallery import GALLERY
from test_lessons import REWRITTEN

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = all_notebooks()
OPENINGS = {  # how a notebook begins, by its kind
    "first form": ("**Question:**", "**You need:**", "**Time:**"),
    "lesson": ("**Short answer.**", "minutes"),
    "evidence": ("Evidence for", "](../"),
    "gallery": ("symptom", "in any order", "minutes"),
}
LINES, WORDS, COMPARED = 15, 120, 8  # of a code cell, of a Markdown cell, cells with compared text
PICTURE = 60_000  # bytes
IGNORED = "nbval-ignore-output"
ID = re.compile(r"""\bid=["']""")
PATHS = re.compile(r"(?<![\w.:/])/(?:home|root|Users|usr|opt|tmp|var|mnt|work|content)/|[A-Z]:\\")
NOT_STILL = re.compile(r"\b(Output\(|interact\(|interactive\(|clear_output|display_id)")


def source(cell: dict) -> str:
    return "".join(cell["source"])


def texts(cell: dict) -> Iterator[tuple[str, str]]:
    """What of a cell's outputs is words, each with its kind."""
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield output["name"], "".join(output["text"])
        for kind, data in output.get("data", {}).items():
            if kind.startswith("text/") or kind == "image/svg+xml":
                yield kind, "".join(data)


def kind_of(path: Path) -> str:
    if path.parent.name == "evidence":
        return "evidence"
    if path == GALLERY:
        return "gallery"
    return "lesson" if path.name in REWRITTEN else "first form"


def problems(notebook: dict, kind: str = "first form", folder: Path = FOLDER) -> list[str]:
    """What is wrong with the shape of a notebook in a folder, in words."""
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [
        *_problems_of_the_opening(cells[0], OPENINGS[kind]),
        *(_exercises_in_evidence(cells) if kind == "evidence" else ()),
        *_problems_of_size(cells),
        *_problems_of_running(notebook, code),
        *(problem for cell in code for problem in _problems_of_outputs(cell)),
        *_problems_of_words(cells, folder),
    ]


def _exercises_in_evidence(cells: list[dict]) -> Iterator[str]:
    for cell in cells:
        for tag in {"stub", "check", "hint", "solution"} & set(cell["metadata"].get("tags", ())):
            yield f"evidence has no exercises, and here is a {tag}: {source(cell)[:60]!r}"


def _problems_of_the_opening(first: dict, parts: tuple[str, ...]) -> Iterator[str]:
    words = source(first)
    if first["cell_type"] != "markdown" or not words.startswith("# "):
        yield "it does not open with its title"
    for part in parts:
        if part not in words:
            yield f"it does not open with {part}"


def _problems_of_size(cells: list[dict]) -> Iterator[str]:
    for cell in cells:
        lines, words = len(source(cell).splitlines()), len(source(cell).split())
        if cell["cell_type"] == "code" and lines > LINES:
            yield f"a code cell of {lines} lines: {source(cell)[:60]!r}"
        folded = {"hint", "solution"} & set(cell["metadata"].get("tags", ()))
        if cell["cell_type"] == "markdown" and words > WORDS and not folded:
            yield f"a Markdown cell of {words} words: {source(cell)[:60]!r}"


def _problems_of_running(notebook: dict, code: list[dict]) -> Iterator[str]:
    importing = [cell for cell in code if re.search(r"^(from|import) ", source(cell), re.MULTILINE)]
    if len(importing) > 1:
        yield f"{len(importing)} cells import"
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"not run once, in order, from a fresh kernel: {counts}"
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "its kernel is not python3"
    if "widgets" in notebook["metadata"]:
        yield "the widgets' state is stored: GitHub would call the notebook invalid"
    compared = [
        cell
        for cell in code
        if IGNORED not in cell["metadata"].get("tags", ()) and any(text for _, text in texts(cell))
    ]
    if len(compared) < COMPARED:
        yield f"only {len(compared)} cells have text that nbval compares"


def _problems_of_outputs(cell: dict) -> Iterator[str]:
    start = source(cell)[:60]
    for output in cell["outputs"]:
        if "text/html" in output.get("data", {}) and "text/plain" not in output["data"]:
            yield f"a table without plain text beside it: {start!r}"
        if output["output_type"] == "error":
            yield f"a stored error: {output['ename']} in {start!r}"
        picture = output.get("data", {}).get("image/png")
        if picture and not output["metadata"].get("image/png", {}).get("alt"):
            yield f"a picture without alternative text: {start!r}"
        if picture and len("".join(picture)) * 3 / 4 > PICTURE:
            yield f"a picture of more than {PICTURE // 1000} KB: {start!r}"
    for kind, text in texts(cell):
        if kind == "stderr":
            yield f"something on stderr: {text[:60]!r}"
        if kind == "image/svg+xml" or (kind == "text/html" and ID.search(text)):
            yield f"{kind} among the outputs, with ids that change: {start!r}"
        if re.search(r"\b0x[0-9a-f]{6,}", text):
            yield f"an object's address: {text[:60]!r}"


def _problems_of_words(cells: list[dict], folder: Path) -> Iterator[str]:
    for cell in cells:
        words = [source(cell)]
        if cell["cell_type"] == "code":
            words += [text for _, text in texts(cell)]
            if NOT_STILL.search(source(cell)):
                yield f"what nbval can't compare: {source(cell)[:60]!r}"
        for text in words:
            if path := PATHS.search(text):
                yield f"a path of one machine: {text[path.start() :][:60]!r}"
        for link in re.findall(r"\]\(([^)#]+\.ipynb)", source(cell)):
            if not (folder / link).is_file():
                yield f"a link to {link}, which is not there"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_notebooks_to_check():
    assert NOTEBOOKS


def name_of(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_a_notebook_has_its_shape(path):
    assert problems(read(path), kind_of(path), path.parent) == []


def test_the_evidence_of_each_rewritten_lesson_is_there():
    assert set(REWRITTEN) <= {path.name for path in NOTEBOOKS if kind_of(path) == "evidence"}


def exercises(notebook: dict) -> Iterator[tuple[str, str, str, str]]:
    """The notebook's imports; each exercise's stub, its check's call, its solution's code."""
    (imports,) = [
        source(cell) for cell in notebook["cells"] if "imports" in cell["metadata"].get("tags", ())
    ]
    tagged = {tag: [] for tag in ("stub", "check", "solution")}
    for cell in notebook["cells"]:
        for tag in tagged.keys() & set(cell["metadata"].get("tags", ())):
            tagged[tag].append(source(cell))
    for stub, check, solution in zip(*tagged.values(), strict=True):
        (code,) = re.findall(r"```python\n(.*?)```", solution, re.DOTALL)
        yield imports, stub, check, code


EXERCISES = [(name_of(path), *parts) for path in NOTEBOOKS for parts in exercises(read(path))]


@pytest.mark.parametrize(("stem", "imports", "stub", "check", "solution"), EXERCISES)
def test_an_exercise_refuses_its_stub_and_passes_its_solution(stem, imports, stub, check, solution):
    names = {}
    exec(imports, names)
    exec(stub, names)
    assert eval(check, names).message.startswith("nothing to check")
    exec(solution, names)
    verdict = eval(check, names)
    assert verdict, verdict.message


def _code(notebook: dict) -> dict:
    return next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")


def _add_output(**output: object):
    return lambda notebook: _code(notebook)["outputs"].append({"metadata": {}} | output)


def _add_words(words: str):
    return lambda notebook: notebook["cells"][-1]["source"].append(words)


def _stream(text: str, name: str = "stdout"):
    return _add_output(output_type="stream", name=name, text=[text])


def _data(**data: str):
    return _add_output(
        output_type="display_data", data={kind.replace("_", "/"): one for kind, one in data.items()}
    )


def _set_source(words: str):
    return lambda notebook: _code(notebook).update(source=[words])


BREACHES = {  # what is done to a good notebook: the one problem that must be found
    "does not open with its title": lambda nb: nb["cells"][0].update(
        source=["**Question:** **You need:** **Time:**"]
    ),
    r"open with \*\*Time": lambda nb: nb["cells"][0].update(
        source=["# A\n", "**Question:** **You need:**"]
    ),
    "code cell of 16 lines": _set_source("\n".join(["x = 1"] * 16)),
    "Markdown cell of": _add_words(" word" * 121),
    "2 cells import": _set_source("import re"),
    "not run once": lambda nb: _code(nb).update(execution_count=None),
    "kernel is not": lambda nb: nb["metadata"]["kernelspec"].update(name="mine"),
    "widgets' state": lambda nb: nb["metadata"].update(widgets={}),
    "a stored error: ValueError": _add_output(
        output_type="error", ename="ValueError", evalue="", traceback=[]
    ),
    "without alternative text": _data(image_png="iVBO"),
    "more than 60 KB": _add_output(
        output_type="display_data",
        data={"image/png": "A" * 80_004},
        metadata={"image/png": {"alt": "what is seen"}},
    ),
    "on stderr": _stream("a warning", "stderr"),
    "text/html among": _data(text_html='<table id="T_1f">', text_plain="1"),
    "image/svg\\+xml among": _add_output(
        output_type="display_data", data={"image/svg+xml": "<svg/>"}
    ),
    "without plain text": _data(text_html="<b>"),
    "an object's address": _stream("<object at 0x7f8812345678>"),
    "a path of one machine": _stream("it is in /home/me/file"),
    "path of one machine: 'C": _stream("C:\\Users"),
    "can't compare": _set_source("clear_output()"),
    "a link to 77_nowhere": _add_words(" [here](77_nowhere.ipynb)"),
}


@pytest.mark.parametrize(("found", "breach"), BREACHES.items(), ids=BREACHES)
def test_each_breach_of_the_shape_is_found(found, breach):
    notebook = copy.deepcopy(GOOD)
    breach(notebook)
    (problem,) = problems(notebook)
    assert re.search(found, problem)


def test_a_lesson_opens_with_its_short_answer_and_evidence_with_a_link_to_its_lesson():
    words = {
        "lesson": "# 2. A title\n> **Short answer.** Yes.\n\n30 minutes.",
        "evidence": "# Evidence for 2. A title\nFor the [lesson](../00_start_here.ipynb).",
        "gallery": "# 99. A title\nEach card has its symptom. Run it in any order: 3 minutes each.",
    }
    folders = {"lesson": FOLDER, "evidence": FOLDER / "evidence", "gallery": FOLDER}
    for kind, other in (("lesson", "evidence"), ("evidence", "lesson"), ("gallery", "evidence")):
        notebook = copy.deepcopy(GOOD)
        notebook["cells"][0]["source"] = [words[kind]]
        assert problems(notebook, kind, folders[kind]) == []
        assert len(problems(notebook, other, folders[kind])) == 2


def test_an_exercise_in_evidence_is_found():
    notebook = copy.deepcopy(GOOD)
    notebook["cells"][0]["source"] = ["# Evidence for 2. [x](../00_start_here.ipynb)"]
    _code(notebook)["metadata"]["tags"] = ["stub"]
    (problem,) = problems(notebook, "evidence", FOLDER / "evidence")
    assert "here is a stub" in problem


def test_text_that_is_not_compared_does_not_count():
    notebook = copy.deepcopy(GOOD)
    _code(notebook)["metadata"]["tags"] = [IGNORED]
    assert problems(notebook) == ["only 7 cells have text that nbval compares"]


def _good_cell(count: int) -> dict:
    said = {"output_type": "stream", "name": "stdout", "text": ["1\n"]}
    return {
        "cell_type": "code",
        "metadata": {},
        "source": ["import os" if count == 3 else "print(1)"],
        "execution_count": count,
        "outputs": [said],
    }


def _words(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": [text]}


GOOD = {
    "metadata": {"kernelspec": {"name": "python3"}},
    "cells": [
        _words("# 1. A title\n**Question:** why? **You need:** time. **Time:** 1 minute."),
        *(_good_cell(count) for count in range(1, 9)),
        _words("What to keep."),
    ],
}

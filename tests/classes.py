"""Submissions for tests: a student copy with a learner's functions, and cells of their own."""

import json
import re

from lora_lab.classroom.course import lessons, tags_of, text_of
from lora_lab.classroom.release import student_copy

SMALLEST_R = """import math


def smallest_r(facts, choices, bits_per_parameter, shapes):
    rank_1 = bits_per_parameter * sum(out + wide for out, wide in shapes.values())
    return max(1, math.ceil(facts * math.log2(choices) / rank_1))
"""


def solutions(number):
    """The code of each solution of a lesson, by the exercise's name."""
    cells = lessons()[number].notebook()["cells"]
    stubs = [text_of(cell) for cell in cells if "stub" in tags_of(cell)]
    answers = [text_of(cell) for cell in cells if "solution" in tags_of(cell)]
    names = [re.search(r"^def (\w+)", stub, re.MULTILINE)[1] for stub in stubs]
    codes = [re.search(r"```python\n(.*?)```", text, re.DOTALL)[1] for text in answers]
    return dict(zip(names, codes, strict=True))


def code_cell(text):
    return {"cell_type": "code", "id": "own", "metadata": {}, "source": text, "outputs": []}


def submission(number, functions, more=()):
    """A copy of a lesson in which stubs were replaced, with more cells at its end."""
    notebook = student_copy(lessons()[number])
    for cell in notebook["cells"]:
        name = re.search(r"^def (\w+)", text_of(cell), re.MULTILINE)
        if "stub" in tags_of(cell) and name[1] in functions:
            cell["source"] = functions[name[1]]
    notebook["cells"] += [code_cell(text) for text in more]
    return notebook


def hand_in(folder, name, notebook):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = notebook if isinstance(notebook, str) else json.dumps(notebook)
    path.write_text(text, encoding="utf-8")
    return path

"""The form of a rewritten lesson, counted: docs/writing_lessons.md says why.

Each test is a rule. Below, a small made lesson keeps them all, and each rule finds its breach.
"""

import copy
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
REWRITTEN = (  # it grows with each lesson
    "00_start_here.ipynb",
    "01_should_i_fine_tune.ipynb",
    "02_one_token_through_the_model.ipynb",
    "03_the_maths_of_lora.ipynb",
    "04_reading_a_run.ipynb",
    "05_rank.ipynb",
    "06_alpha.ipynb",
    "07_target_modules.ipynb",
    "08_adalora.ipynb",
    "09_qlora.ipynb",
    "10_batch_steps_rate.ipynb",
    "11_data_on_its_way_in.ipynb",
    "12_full_or_lora.ipynb",
    "13_ship_it.ipynb",
    "14_your_data.ipynb",
)
WIDGET = "application/vnd.jupyter.widget-view+json"
FENCED = re.compile(r"```.*?```", re.DOTALL)
FOLDED_WORDS = re.compile(r"<details>.*?</details>", re.DOTALL)
BOOLEAN = re.compile(r"\b(?:True|False)\s*$", re.MULTILINE)
CASES = re.compile(r'lab\.(questions|decisions)\("\d\d"\)')
WAIT = re.compile(r"\bwait(?:_for_results)?\(")
AS_A_SOURCE = re.compile(
    r"\b[Tt]he lesson(?:'s)? (?:says|gives|names|has|calls|recommends|claims|promises)|\(lesson\)"
)


@pytest.fixture(params=REWRITTEN)
def lesson(request):
    return json.loads((FOLDER / request.param).read_text(encoding="utf-8"))


def source(cell):
    return "".join(cell["source"])


def tags(cell):
    return set(cell["metadata"].get("tags", ()))


def folded(cell):
    return "assert" in tags(cell) or cell["metadata"].get("jupyter", {}).get("source_hidden", False)


def in_sight(lesson, kind):
    """The cells of a kind that a reader sees without unfolding anything."""
    return [
        cell
        for cell in lesson["cells"]
        if cell["cell_type"] == kind and not folded(cell) and not tags(cell) & {"hint", "solution"}
    ]


def code(lesson):
    """What stands in each code cell in sight, but for the imports."""
    return [source(cell) for cell in in_sight(lesson, "code") if "imports" not in tags(cell)]


def lines(words):
    return [line for line in words.splitlines() if line.strip()]


def prose(lesson):
    words = "\n\n".join(source(cell) for cell in in_sight(lesson, "markdown"))
    return FOLDED_WORDS.sub(" ", words)


def sentences(lesson):
    """The prose's sentences, without code, tables and headings."""
    plain = re.sub(r"^\s*[|#].*$", "\n", FENCED.sub(" ", prose(lesson)), flags=re.MULTILINE)
    plain = re.sub(r"^\s*(?:[>*-]|\d+\.)\s*", "\n", plain, flags=re.MULTILINE)
    parts = re.split(r"(?<=[.!?:])\s+|\n{2,}", plain)
    return [part.split() for part in parts if len(part.split()) > 3]


def shown(lesson):
    """The text of all outputs in sight."""
    texts = []
    for cell in in_sight(lesson, "code"):
        for output in cell["outputs"]:
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            texts.append("".join(text))
    return "\n".join(texts)


def section(lesson, heading):
    """The prose from a heading to the next one."""
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", prose(lesson), re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


# --- the rules ----------------------------------------------------------------------------------


def test_a_lesson_has_at_most_50_cells_beside_hints_solutions_and_folds(lesson):
    assert len(in_sight(lesson, "markdown")) + len(in_sight(lesson, "code")) <= 50


def test_a_lesson_has_at_most_1200_words_beside_hints_solutions_and_folds(lesson):
    assert len(prose(lesson).split()) <= 1200


def test_a_lesson_has_at_most_140_lines_of_code_beside_imports_and_folds(lesson):
    assert sum(len(lines(words)) for words in code(lesson)) <= 140


def test_a_lesson_has_no_code_cell_of_more_than_15_lines(lesson):
    assert [words for words in code(lesson) if len(words.splitlines()) > 15] == []


def test_half_of_a_lessons_code_cells_have_at_most_4_lines(lesson):
    short = [words for words in code(lesson) if len(lines(words)) <= 4]
    assert len(short) >= len(code(lesson)) / 2


def test_a_lesson_has_at_most_6_widgets(lesson):
    outputs = [output for cell in in_sight(lesson, "code") for output in cell["outputs"]]
    assert sum(WIDGET in output.get("data", {}) for output in outputs) <= 6


def test_a_lesson_with_cases_asks_before_it_predicts_and_lets_decide_before_the_work(lesson):
    cells = [source(cell) for cell in lesson["cells"]]
    asked = [match[1] for words in cells if (match := CASES.match(words))]
    number = re.search(r"^# (\d+)\.", cells[0], re.MULTILINE)[1].zfill(2)
    if number not in {path.stem for path in (FOLDER.parent / "data/cases").glob("*.toml")}:
        assert asked == []
        return
    assert asked == ["questions", "decisions"]
    places = {line: place for place, words in enumerate(cells) for line in words.splitlines()}
    assert places[f'lab.questions("{number}")'] < places["## Predict, then run"]
    assert places[f'lab.decisions("{number}")'] < places["## At work"]


def test_a_lesson_opens_with_a_short_answer_of_at_most_60_words(lesson):
    box = re.search(r"^>.*\*\*Short answer\.\*\*(.*(?:\n>.*)*)", prose(lesson), re.MULTILINE)
    assert box, "no line of the form `> **Short answer.** …`"
    assert len(box[1].replace("\n>", " ").split()) <= 60


def test_a_number_for_a_large_model_in_the_short_answer_is_published_or_measured_here(lesson):
    box = re.search(r"^>.*\*\*Short answer\.\*\*(.*(?:\n>.*)*)", prose(lesson), re.MULTILINE)
    assert re.search(r"\*(?:published|measured here)\*", box[1])


def test_a_lesson_shows_a_picture(lesson):
    outputs = [output for cell in in_sight(lesson, "code") for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def test_a_lesson_ends_with_at_work_and_its_table(lesson):
    rows = re.findall(r"^\|.*\|$", section(lesson, "At work"), re.MULTILINE)
    assert len(rows) >= 4, "`## At work` needs a table: a head, a rule, two rows or more"


def test_a_lessons_results_are_numbers_and_not_booleans(lesson):
    assert BOOLEAN.findall(shown(lesson)) == []


def test_a_lesson_does_not_name_the_lesson_as_a_source(lesson):
    assert AS_A_SOURCE.findall(prose(lesson) + shown(lesson)) == []


def test_a_lesson_waits_for_nothing_in_sight(lesson):
    assert [words for words in code(lesson) if WAIT.search(words)] == []


def test_at_most_5_percent_of_a_lessons_sentences_have_more_than_25_words(lesson):
    long = [" ".join(words) for words in sentences(lesson) if len(words) > 25]
    assert len(long) <= 0.05 * len(sentences(lesson)), long


def test_a_lessons_assertions_are_folded_and_each_says_in_one_line_what_it_checked(lesson):
    for cell in lesson["cells"]:
        if "assert" not in tags(cell):
            continue
        assert cell["metadata"]["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
        said = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        assert re.fullmatch(r"checked: .+\n", said), f"{source(cell)[:60]!r} says {said!r}"


def test_a_lesson_has_assertions_and_none_in_sight(lesson):
    assert any("assert" in tags(cell) for cell in lesson["cells"])
    assert [
        words for words in code(lesson) if re.search(r"^\s*assert\b", words, re.MULTILINE)
    ] == []


def test_each_of_a_lessons_widgets_has_words_for_readers_without_a_kernel(lesson):
    for cell in lesson["cells"]:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            words = "".join(data.get("text/plain", ""))
            if WIDGET in data:
                assert re.match(r"(?!\w+\()\S", words), f"{source(cell)[:60]!r} shows {words!r}"


# --- each rule finds its breach -----------------------------------------------------------------


def _markdown(words, *own_tags):
    return {"cell_type": "markdown", "metadata": {"tags": [*own_tags]}, "source": [words]}


def _code(words="x", *own_tags, outputs=(), **metadata):
    metadata = {"tags": [*own_tags]} | metadata
    return {"cell_type": "code", "metadata": metadata, "source": [words], "outputs": [*outputs]}


def _data(**data):
    return {"output_type": "execute_result", "data": data}


def _said(text):
    return {"output_type": "stream", "name": "stdout", "text": [text]}


FOLD = {"source_hidden": True, "outputs_hidden": True}


def made_lesson():
    return {
        "cells": [
            _markdown("# 2. A title\n> **Short answer.** Start with 16 (*published*)."),
            _code("import os", "imports"),
            _code("lab", outputs=[_data(**{WIDGET: {}, "text/plain": "Lab: pocket"})]),
            _code("picture", outputs=[_data(**{"image/png": "iVBO", "text/plain": "[picture]"})]),
            _code("assert 1", "assert", outputs=[_said("checked: one\n")], jupyter=FOLD),
            _markdown(f"<details>{'word ' * 2000}</details>", "solution"),
            _markdown("## At work\n| you see | do |\n| --- | --- |\n| a | b |\n| c | d |"),
        ]
    }


def add(*cells):
    return lambda lesson: lesson["cells"].extend(cells)


def change(place, **parts):
    return lambda lesson: lesson["cells"][place].update(parts)


LONG = "A sentence of many words " + "and more " * 12 + "ends here."
BREACHES = [  # a rule, and what breaks it
    (test_a_lesson_has_at_most_50_cells_beside_hints_solutions_and_folds, add(*[_code()] * 50)),
    (
        test_a_lesson_has_at_most_1200_words_beside_hints_solutions_and_folds,
        add(_markdown("word " * 1200)),
    ),
    (
        test_a_lesson_has_at_most_140_lines_of_code_beside_imports_and_folds,
        add(*[_code("x\n" * 14)] * 10),
    ),
    (test_a_lesson_has_no_code_cell_of_more_than_15_lines, add(_code("x\n" * 16))),
    (test_half_of_a_lessons_code_cells_have_at_most_4_lines, add(*[_code("x\n" * 5)] * 3)),
    (
        test_a_lesson_has_at_most_6_widgets,
        add(_code(outputs=[_data(**{WIDGET: {}, "text/plain": "Lab"})] * 6)),
    ),
    (
        test_a_lesson_with_cases_asks_before_it_predicts_and_lets_decide_before_the_work,
        change(0, source=["# 5. A title\n> **Short answer.** Start with 16 (*published*)."]),
    ),
    (
        test_a_lesson_with_cases_asks_before_it_predicts_and_lets_decide_before_the_work,
        add(_code('lab.decisions("02")')),
    ),
    (
        test_a_lesson_opens_with_a_short_answer_of_at_most_60_words,
        change(0, source=["# 2. A title\nStart with 16."]),
    ),
    (
        test_a_lesson_opens_with_a_short_answer_of_at_most_60_words,
        change(0, source=["> **Short answer.** " + "word " * 30 + "\n> " + "word " * 31]),
    ),
    (
        test_a_number_for_a_large_model_in_the_short_answer_is_published_or_measured_here,
        change(0, source=["> **Short answer.** Start with 16."]),
    ),
    (test_a_lesson_shows_a_picture, change(3, outputs=[])),
    (test_a_lesson_ends_with_at_work_and_its_table, change(-1, source=["## At work\nDo this."])),
    (test_a_lesson_ends_with_at_work_and_its_table, change(-1, source=["| a |\n" * 4])),
    (
        test_a_lessons_results_are_numbers_and_not_booleans,
        add(_code(outputs=[_said("it learns: True\n")])),
    ),
    (
        test_a_lessons_results_are_numbers_and_not_booleans,
        add(_code(outputs=[_data(**{"text/plain": "False"})])),
    ),
    (
        test_a_lesson_does_not_name_the_lesson_as_a_source,
        add(_markdown("The lesson recommends 16.")),
    ),
    (test_a_lesson_waits_for_nothing_in_sight, add(_code("live.wait()"))),
    (test_a_lesson_waits_for_nothing_in_sight, add(_code("live.wait_for_results()"))),
    (
        test_at_most_5_percent_of_a_lessons_sentences_have_more_than_25_words,
        add(_markdown(f"- {LONG}")),
    ),
    (
        test_a_lessons_assertions_are_folded_and_each_says_in_one_line_what_it_checked,
        change(4, metadata={"tags": ["assert"], "jupyter": {"source_hidden": True}}),
    ),
    (
        test_a_lessons_assertions_are_folded_and_each_says_in_one_line_what_it_checked,
        change(4, outputs=[_said("checked: one\nchecked: two\n")]),
    ),
    (
        test_a_lessons_assertions_are_folded_and_each_says_in_one_line_what_it_checked,
        change(4, outputs=[]),
    ),
    (test_a_lesson_has_assertions_and_none_in_sight, change(4, metadata={"tags": []})),
    (
        test_a_lesson_has_assertions_and_none_in_sight,
        change(4, metadata={"tags": [], "jupyter": FOLD}),
    ),
    (
        test_each_of_a_lessons_widgets_has_words_for_readers_without_a_kernel,
        change(2, outputs=[_data(**{WIDGET: {}})]),
    ),
    (
        test_each_of_a_lessons_widgets_has_words_for_readers_without_a_kernel,
        change(2, outputs=[_data(**{WIDGET: {}, "text/plain": "VBox(children=())"})]),
    ),
]
RULES = [rule for name, rule in sorted(globals().items()) if name.startswith("test_")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_small_made_lesson_keeps_every_rule(rule):
    rule(made_lesson())


@pytest.mark.parametrize(("rule", "breach"), BREACHES, ids=lambda part: part.__name__)
def test_a_rule_finds_its_breach(rule, breach):
    broken = copy.deepcopy(made_lesson())
    breach(broken)
    with pytest.raises(AssertionError):
        rule(broken)


def test_every_rule_has_a_breach():
    assert {rule for rule, _ in BREACHES} == set(RULES)

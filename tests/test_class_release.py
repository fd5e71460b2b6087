"""`lora-lab class release`: what learners get, and that it works."""

import json

import pytest
from typer.testing import CliRunner

import lora_lab
from classes import code_cell
from lora_lab.checks.exercises import LESSONS
from lora_lab.classroom.course import digest, find_lesson, lessons, tags_of, text_of
from lora_lab.classroom.release import release, student_copy
from lora_lab.cli.app import app


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class") / "copies"
    release(folder)
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_each_lesson_has_the_exercises_whose_checks_it_calls():
    for number, lesson in lessons().items():
        called = [text_of(cell) for cell in lesson.notebook()["cells"] if "check" in tags_of(cell)]
        assert sorted(called) == sorted(f"lab.check.{name}({name})" for name in LESSONS[number])
    assert list(lessons()) == list(LESSONS)


@pytest.mark.parametrize("number", LESSONS)
def test_a_copy_has_no_solution_and_no_output_and_keeps_stubs_checks_and_hints(number, released):
    lesson = lessons()[number]
    shipped, copy = lesson.notebook()["cells"], read(released / lesson.path.name)["cells"]
    assert [cell["id"] for cell in copy] == [
        cell["id"] for cell in shipped if "solution" not in tags_of(cell)
    ]
    assert "<summary>Solution" not in "".join(map(text_of, copy))
    assert sum("hint" in tags_of(cell) for cell in copy) == len(LESSONS[number])
    for cell in copy:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("number", LESSONS)
def test_a_copy_runs_the_very_cells_that_are_tested_in_the_lesson(number, released):
    lesson = lessons()[number]
    shipped, copy = (
        [text_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
        for notebook in (lesson.notebook(), read(released / lesson.path.name))
    )
    assert copy == shipped


def test_a_copy_says_which_lesson_and_version_it_is():
    lesson = find_lesson("5")
    assert student_copy(lesson)["metadata"]["lora_lab"] == {
        "version": lora_lab.__version__,
        "lesson": "05_rank",
        "digest": digest(lesson.notebook()),
        "exercises": ["rank_sweep", "smallest_r"],
    }


def test_the_digest_changes_with_a_word_and_not_with_outputs():
    notebook = {"cells": [code_cell("x = 1"), {"cell_type": "markdown", "source": ["a", "b"]}]}
    before = digest(notebook)
    notebook["cells"][0]["outputs"] = [{"text": "1"}]
    assert digest(notebook) == before
    notebook["cells"][0]["source"] = "x = 2"
    assert digest(notebook) != before


def test_the_whole_course_comes_with_what_lessons_link_to(released):
    names = {path.name for path in released.iterdir()}
    assert {"README.md", "recipe.md", "finetune.py", "evidence", "99_break_it.ipynb"} <= names
    assert (released / "evidence" / "05_rank.ipynb").is_file()


def test_the_readme_names_the_version_and_every_exercise(released):
    readme = (released / "README.md").read_text(encoding="utf-8")
    assert f"pip install lora-lab=={lora_lab.__version__}" in readme
    assert all(name in readme for exercises in LESSONS.values() for name in exercises)


def test_chosen_lessons_are_released_alone(tmp_path):
    result = CliRunner().invoke(
        app, ["class", "release", str(tmp_path / "week"), "--lesson", "5", "--lesson", "06_alpha"]
    )
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "week").glob("*.ipynb"))
    assert names == ["05_rank.ipynb", "06_alpha.ipynb"]


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        release(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("word", ["50", "5x", "99", "", "05_alpha"])
def test_an_unknown_lesson_is_refused_with_the_known_ones(word):
    with pytest.raises(ValueError, match="isn't a lesson with exercises; .*05_rank"):
        find_lesson(word)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_released_lesson_runs_from_top_to_bottom(released, tmp_path):
    import nbclient
    import nbformat

    notebook = nbformat.read(released / "05_rank.ipynb", as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=where).execute()
    said = [
        str(cell.outputs) for cell in notebook.cells if "check" in cell.metadata.get("tags", ())
    ]
    assert len(said) == 2
    assert all("Not yet: nothing to check" in words for words in said)

"""The pages in docs/: their commands are lora-lab's, their times the lessons', their names ours."""

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

import lab_pictures
import lora_lab
from lora_lab.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "deploy/README.md", *sorted((ROOT / "docs").glob("*.md")))
COMMANDS = typer.main.get_command(app).commands


def commands_of(text: str) -> list[list[str]]:
    """The words of each command: lines of blocks, and code within a sentence."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, flags=re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`(lora-lab [^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    wanted = [line.partition(" #")[0] for line in lines if line.startswith("lora-lab ")]
    return [shlex.split(command)[1:] for command in [*wanted, *spans]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_and_option_of_a_page_is_known(page):
    for name, *words in commands_of(page.read_text(encoding="utf-8")):
        if not name.islower():  # `lora-lab COMMAND --help`
            continue
        assert name in COMMANDS, f"lora-lab {name}"
        command = COMMANDS[name]
        if hasattr(command, "commands"):  # `lora-lab class check`
            assert words[0] in command.commands, f"lora-lab {name} {words[0]}"
            command = command.commands[words[0]]
        known = {
            option
            for parameter in command.params
            for option in parameter.opts + parameter.secondary_opts
        }
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, f"lora-lab {name}: {options - known}"


def test_the_pages_have_commands_and_a_wrong_one_would_be_seen():
    found = commands_of("```\nlora-lab train x --lerning-rate 1 # a\n```\nand `lora-lab runs`")
    assert found == [["train", "x", "--lerning-rate", "1"], ["runs"]]
    assert all(commands_of(page.read_text(encoding="utf-8")) for page in PAGES[:1])


def page_text(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def own_minutes(lesson: str) -> int:
    """The minutes that a lesson gives at its top."""
    notebook = json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))
    return int(
        re.search(r"(\d+) minutes, with the exercise", "".join(notebook["cells"][0]["source"]))[1]
    )


def paths_of_the_guide() -> dict[str, list[tuple[str, int]]]:
    """Each path's title, with its rows: a lesson's file (or words), and the minutes."""
    parts = re.split(
        r"^### (.+)$", page_text("guide.md").partition("## Three paths")[2], flags=re.M
    )
    row = re.compile(r"^\| (?:\[.*?\]\(\.\./notebooks/(\w+)\.ipynb\)|(.*?)) \| (\d+) \|", re.M)
    return {
        title: [(lesson or words, int(minutes)) for lesson, words, minutes in row.findall(text)]
        for title, text in zip(parts[1::2], parts[2::2], strict=True)
        if row.search(text)
    }


def test_the_guides_paths_take_the_time_that_the_lessons_give():
    paths = paths_of_the_guide()
    assert len(paths) == 3
    for rows in paths.values():
        lessons = {name: minutes for name, minutes in rows if name[0].isdigit()}
        assert lessons == {name: own_minutes(name) for name in lessons}
    lengths = [sum(minutes for _, minutes in rows) for rows in paths.values()]
    assert lengths[0] <= 90
    assert lengths[1] <= 240
    assert lengths[2] <= 2 * 240


def test_the_guides_longest_path_has_every_lesson_in_order():
    last = [name for name, _ in [*paths_of_the_guide().values()][-1] if name[0].isdigit()]
    assert last == [path.stem for path in sorted((ROOT / "notebooks").glob("[01]*.ipynb"))]


def test_the_guides_checkpoints_name_exercises_that_exist():
    named = re.findall(r"`(\w+)` passes", page_text("guide.md"))
    assert len(named) > 10
    assert set(named) <= set(dir(lora_lab.check))


def test_the_guides_pre_flight_cell_runs_and_says_ready(capsys):
    (cell,) = re.findall(r"```python\n(.*?)```", page_text("guide.md"), re.DOTALL)
    exec(cell, {})
    assert re.search(r"\d+% of 60 new facts learned: ready", capsys.readouterr().out)


def test_the_page_of_the_package_has_every_public_name():
    named = re.findall(r"^\.\. auto\w+:: lora_lab\.(\w+)$", page_text("api.md"), re.MULTILINE)
    assert sorted(named) == sorted(lora_lab.__all__)


def test_each_picture_of_a_lab_is_of_a_lab_that_its_notebook_has_now():
    for name, pictures in lab_pictures.known().items():
        notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
        labs = {
            notebook["cells"][place]["id"]: lab_pictures.name_of(output)
            for place, output in lab_pictures.pictureless(notebook)
        }
        assert labs == {id: picture["lab"] for id, picture in pictures.items()}, name
        for id, picture in pictures.items():
            assert picture["alt"]
            assert (lab_pictures.FOLDER / name / f"{id}.png").stat().st_size < 200_000

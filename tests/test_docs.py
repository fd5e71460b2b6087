"""The pages in docs/: each command in them is one that lora-lab has."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lora_lab.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
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
        known = {option for one in command.params for option in one.opts + one.secondary_opts}
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known | {"--help"}, f"lora-lab {name}: {options - known}"


def test_the_pages_have_commands_and_a_wrong_one_would_be_seen():
    found = commands_of("```\nlora-lab train x --lerning-rate 1 # a\n```\nand `lora-lab runs`")
    assert found == [["train", "x", "--lerning-rate", "1"], ["runs"]]
    assert all(commands_of(page.read_text(encoding="utf-8")) for page in PAGES[:1])

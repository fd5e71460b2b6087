"""The table of mutations stays true: each row still fits the code, and names a test."""

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from mutations import HEART, MUTATIONS, ROOT

NODE = [shutil.which("node"), "--input-type=module"] if shutil.which("node") else []
ROWS = 3  # at least so many for each file of the heart


def names_of_tests(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [node.name for node in functions if node.name.startswith("test_")]


@pytest.mark.parametrize("file", HEART)
def test_each_file_of_the_heart_has_mutations(file):
    assert sum(row[0] == file for row in MUTATIONS) >= ROWS


@pytest.mark.parametrize(("file", "before", "after", "test"), MUTATIONS)
def test_a_row_breaks_one_place_and_names_a_test(file, before, after, test):
    source = (ROOT / "lora_lab" / file).read_text(encoding="utf-8")
    assert source.count(before) == 1
    broken = source.replace(before, after)  # in meaning, not in grammar
    if file.endswith(".py"):
        ast.parse(broken)
    elif NODE:
        subprocess.run([*NODE, "--check", "-"], input=broken.encode(), check=True)
    test_file, name = test.split("::")
    assert any(name in known for known in names_of_tests(Path(__file__).parent / test_file))

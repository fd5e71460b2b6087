import json
import subprocess
import sys

import nbformat
import pytest

from refresh_notebooks import main, refresh

STALE = {"name": "someone's environment", "display_name": "x", "language": "python"}


@pytest.fixture
def notebook(tmp_path):
    """Two cells, one of which shows a widget, as an editor may have left them."""
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": STALE, "widgets": {"state": {}}})
    sources = [
        "import os\nos.environ['HF_HUB_OFFLINE'], os.path.exists(os.environ['LORA_LAB_STORE'])",
        "import ipywidgets\nipywidgets.IntSlider(3)",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook.cells[0].metadata["execution"] = {"iopub.execute_input": "2026-11-24T08:00:00Z"}
    path = tmp_path / "lesson.ipynb"
    nbformat.write(notebook, path)
    return path


def test_a_refreshed_notebook_has_counts_and_outputs_and_nothing_of_this_machine(notebook):
    refresh(notebook)
    fresh = nbformat.read(notebook, as_version=4)
    assert [cell.execution_count for cell in fresh.cells] == [1, 2]
    assert fresh.cells[0].outputs[0].data["text/plain"] == "('1', False)"
    assert fresh.cells[1].outputs[0].data["text/plain"] == "IntSlider(value=3)"
    assert [cell.metadata for cell in fresh.cells] == [{}, {}]
    assert set(fresh.metadata) == {"kernelspec", "language_info"}
    assert fresh.metadata.kernelspec.name == "python3"


def test_what_refresh_writes_passes_strict_nbval(notebook):
    refresh(notebook)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", notebook]
    result = subprocess.run(command, cwd=notebook.parent, capture_output=True, text=True)
    assert "2 passed" in result.stdout, result.stdout


def test_a_notebook_whose_cell_fails_stays_as_it_was(notebook, capsys):
    content = json.loads(notebook.read_text())
    content["cells"][1]["source"] = "1 / 0"
    notebook.write_text(json.dumps(content))
    before = notebook.read_bytes()
    assert main([str(notebook)]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert notebook.read_bytes() == before

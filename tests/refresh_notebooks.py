"""Run the notebooks afresh and keep their outputs: `make refresh`, or this file with paths.

It is in tests/, not beside the notebooks, for two reasons. It writes the outputs that
`pytest --nbval` compares, so both must run in the same surroundings (isolation.py). And a learner
gets a copy of notebooks/, which should hold only the lessons and their evidence.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from isolation import isolate

ROOT = Path(__file__).parents[1]
PYTHON3 = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def refresh(path: Path) -> None:
    """Execute the notebook at `path` in a fresh kernel and write it back with its outputs.

    A notebook whose cell fails stays as it was.

    Raises:
        CellExecutionError: if a cell fails, with the cell and its error.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory(prefix="lora-lab-refresh-") as place:
        environment = dict(os.environ)
        isolate(environment, Path(place))
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=600,  # seconds for a cell; the suite allows it 300
            record_timing=False,  # a time would change with every refresh
            store_widget_state=False,  # GitHub shows "Invalid Notebook" for most of it
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute(env=environment)
    tidy(notebook)
    nbformat.write(notebook, path)


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Drop parts that differ from machine to machine; the execution counts stay.

    nbval runs a cell without a count but does not compare it.
    """
    notebook.metadata.pop("widgets", None)
    notebook.metadata["kernelspec"] = dict(PYTHON3)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version it ran on
    for cell in notebook.cells:
        for name in ("execution", "collapsed", "scrolled", "ExecuteTime"):
            cell.metadata.pop(name, None)


def all_notebooks() -> list[Path]:
    """The lessons, then their evidence."""
    folder = ROOT / "notebooks"
    return [*sorted(folder.glob("*.ipynb")), *sorted((folder / "evidence").glob("*.ipynb"))]


def main(arguments: list[str]) -> int:
    """Refresh the named notebooks, or all; the exit code is 1 if any cell failed."""
    parser = argparse.ArgumentParser(description="Run notebooks afresh and keep their outputs.")
    parser.add_argument("paths", nargs="*", type=Path, help="default: all of notebooks/")
    paths = parser.parse_args(arguments).paths or all_notebooks()
    failed = False
    for path in paths:
        begun = time.perf_counter()
        try:
            refresh(path)
        except CellExecutionError as error:
            failed = True
            print(f"{path.name} stays as it was: a cell failed\n{error}", file=sys.stderr)
        else:
            print(f"{path.name}: {time.perf_counter() - begun:.0f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

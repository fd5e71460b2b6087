"""Read and carry out the plans of the make_*.py scripts: tables of a settings file."""

import argparse
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lora_lab.findings.recordings import keep_recording

HERE = Path(__file__).parent


def chosen_plans(
    file: str, about: str, arguments: Sequence[str] | None = None
) -> tuple[dict[str, dict], bool]:
    """The plans that the command line names, or all plans; and whether to measure them again.

    A name that no table has ends the program with a message.

    Args:
        file: the settings file's name, "rank.toml".
        about: the script's docstring, whose first line the help shows.
        arguments: None: the command line's.
    """
    tables = tomllib.loads((HERE / file).read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(tables)}; none: all")
    parser.add_argument("--fresh", action="store_true", help="make again what is here")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(tables):
        sys.exit(f"{file} names no {sorted(unknown)[0]!r}; it has {', '.join(tables)}")
    return {name: tables[name] for name in options.names or tables}, options.fresh


def record_missing(
    folder: str,
    plans: dict[str, dict],
    fresh: bool,
    device: str,
    rows_of: Callable[[str, dict], Iterable[dict]],
) -> None:
    """Measure each plan that has no <folder>/<name>.json yet (`fresh`: every plan) and keep it.

    Args:
        folder: its name in data/recorded/.
        plans: by name.
        fresh: measure again what is here.
        device: the machine.
        rows_of: takes a plan's name and the plan, measures it, and returns its rows.
    """
    for name, plan in plans.items():
        path = HERE / folder / f"{name}.json"
        if fresh or not path.exists():
            keep_recording(path, plan, rows_of(name, plan), device)

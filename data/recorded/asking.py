"""What the make_*.py share: a command line that names the tables of a settings file."""

import argparse
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def asked_for(
    settings: str, about: str, arguments: Sequence[str] | None = None
) -> tuple[dict[str, dict], bool]:
    """The tables that the command line names, or all; and whether to make again what is here.

    A name that no table has ends the program in words.

    Args:
        settings: the file's name, "rank.toml".
        about: the script's docstring; its first line is the help's.
        arguments: None: the command line's.
    """
    tables = tomllib.loads((HERE / settings).read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"of {', '.join(tables)}; none: all")
    parser.add_argument("--fresh", action="store_true", help="make again what is here")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(tables):
        sys.exit(f"{settings} names no {sorted(unknown)[0]!r}; it has {', '.join(tables)}")
    return {name: tables[name] for name in options.names or tables}, options.fresh

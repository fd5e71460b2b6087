"""How commands speak: results on stdout, as tables or as JSON alone; all else on stderr."""

import dataclasses
import json
import math
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lora_lab.records import Scores

WIDE = 200  # columns where nobody looks: a pipe or a file should not lose words


def console(*, stderr: bool = False) -> Console:
    """Where to print. Texts are shown as they are: nothing in them is read as markup."""
    stream = sys.stderr if stderr else sys.stdout
    given = "COLUMNS" in os.environ or stream.isatty()
    width = None if given else WIDE
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def say(*lines: str) -> None:
    """Print lines on stdout; one that is too long is broken by the terminal."""
    console().print(*map(plain, lines), sep="\n", soft_wrap=True)


def note(*lines: str) -> None:
    """Print lines on stderr: what is being done, and what went wrong."""
    console(stderr=True).print(*map(plain, lines), sep="\n", soft_wrap=True)


def busy(words: str) -> AbstractContextManager:
    """Something that moves on the terminal while one waits; nothing in a log."""
    there = console(stderr=True)
    return there.status(words) if there.is_terminal else nullcontext()


def plain(text: object) -> str:
    """A text without characters that would command the terminal; line breaks stay."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in str(text))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> None:
    """Print a table. Columns that `right` names are numbers; the last one is broken if need be."""
    names = right.split(", ")
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, name in enumerate(head):
        last = place == len(head) - 1
        side = "right" if name in names else "left"
        made.add_column(name, justify=side, no_wrap=not last, overflow="fold")
    for row in rows:
        made.add_row(*(plain("" if cell is None else cell) for cell in row))
    console().print(made)


def indented(text: str, lead: str) -> str:
    """A text under a lead of its own, its further lines below the first."""
    return textwrap.indent(text or "(nothing)", " " * len(lead)).replace(" " * len(lead), lead, 1)


def as_json(value: object) -> None:
    """Print a value as JSON, and nothing else."""
    sys.stdout.write(json.dumps(_jsonable(value), indent=2, ensure_ascii=False) + "\n")


def _jsonable(value: object) -> object:
    if dataclasses.is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return str(value) if isinstance(value, Path) else value


def mark(metric: str, value: float | None) -> str:
    """A score as people read it: shares in per cent, the others as numbers."""
    if value is None:
        return "-"
    return f"{value:.3g}" if metric in ("perplexity", "KL", "loss") else f"{100 * value:.0f} %"


def show_scores(after: "Scores", before: "Scores | None" = None) -> None:
    """Print the metrics, the task's own first, then the loss, then what was forgotten.

    With the base's scores there are two columns of numbers, before and after.
    """
    both = [after] if before is None else [before, after]
    rows = [(name, *(mark(name, one.metrics[name]) for one in both)) for name in after.metrics]
    rows.append(("loss, nats per answer token", *(f"{one.loss:.3f}" for one in both)))
    if after.old_knowledge is not None:
        rows.append(("old knowledge still right", *(mark("", one.old_knowledge) for one in both)))
    if after.strangers is not None:
        rows.append(('strangers still "not known"', *(mark("", one.strangers) for one in both)))
    many = f", {len(after.answers)} questions" if after.answers else ""
    head = ("score",) if before is None else ("before", "after")
    table((f"{after.split}{many}", *head), rows, right="score, before, after")


def day(date: str) -> str:
    """An ISO date in this machine's time zone: "24 Nov 14:02", or the day of another year."""
    if not date:
        return "-"
    when = datetime.fromisoformat(date).astimezone()
    this_year = when.year == datetime.now(when.tzinfo).year
    return when.strftime("%d %b %H:%M" if this_year else "%d %b %Y")

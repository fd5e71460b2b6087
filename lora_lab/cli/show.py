"""Output of the commands: results on stdout as tables or as JSON; everything else on stderr."""

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

from lora_lab.maths.measures import FORGETTING, LOWER_IS_BETTER
from lora_lab.wording import counted, percent

if TYPE_CHECKING:
    from lora_lab.records import Scores
    from lora_lab.tasks.examples import Task
    from lora_lab.training.intervals import Ends
    from lora_lab.training.store import Run

WIDE = 200  # characters of a line in a pipe or a file, so that no words are lost
GAP = 2  # spaces between the columns of a table
LEAST, LEAST_FIRST = 8, 20  # characters that a wrapped column needs, and the first column
MOST_ERRORS = 8  # classes or fields in a table of errors


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr that shows texts as they are, without markup."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if "COLUMNS" in os.environ or stream.isatty() else WIDE
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=width)


def say(*lines: str) -> None:
    """Print lines on stdout; the terminal breaks a line that is too long."""
    console().print(*map(plain, lines), sep="\n", soft_wrap=True)


def note(*lines: str) -> None:
    """Print lines on stderr: the present activity, and errors."""
    console(stderr=True).print(*map(plain, lines), sep="\n", soft_wrap=True)


def busy(words: str) -> AbstractContextManager:
    """A spinner with a few words on a terminal; nothing in a log."""
    terminal = console(stderr=True)
    return terminal.status(words) if terminal.is_terminal else nullcontext()


def slow_bars_in_logs() -> None:
    """Let progress bars write only every five seconds, if stderr is not a terminal."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "5")


def plain(text: object) -> str:
    """A text whose control characters, line breaks aside, are replaced."""
    return "".join(sign if sign.isprintable() or sign == "\n" else "\ufffd" for sign in str(text))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> None:
    """Print a table. `right` names the columns of numbers. If it is too wide, cells are wrapped.

    The last column is wrapped first, then the others if need be; the first, which names the row,
    only where they have no room beside it. A number is never wrapped: in a very narrow terminal
    the lines are longer than the terminal, which breaks them.
    """
    names = right.split(", ")
    rows = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    columns = zip(*(list(head), *rows), strict=True)
    widths = [max(map(len, column)) + GAP for column in columns]
    numbers = [name in names for name in head]
    least = [
        width if number else min(width, LEAST_FIRST if place == 0 else LEAST)
        for place, (width, number) in enumerate(zip(widths, numbers, strict=True))
    ]
    shown = console()
    shown.width = room = max(shown.width, sum(least))
    fits = sum(widths[:-1]) + least[-1] <= room
    named = widths[0] + sum(least[1:]) <= room
    printed = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for place, name in enumerate(head):
        side, last = "right" if numbers[place] else "left", place == len(head) - 1
        whole = numbers[place] or (named if place == 0 else fits and not last)
        printed.add_column(name, justify=side, no_wrap=whole, overflow="fold")
    for row in rows:
        printed.add_row(*row)
    shown.print(printed)


def indented(text: str, lead: str) -> str:
    """A text after a lead, with its further lines indented below the first."""
    return textwrap.indent(text or "(nothing)", " " * len(lead)).replace(" " * len(lead), lead, 1)


def as_json(value: object) -> None:
    """Print a value as JSON, and nothing else."""
    sys.stdout.write(json_text(value))


def json_text(value: object) -> str:
    """A value as JSON."""
    return json.dumps(_jsonable(value), indent=2, ensure_ascii=False) + "\n"


def _jsonable(value: object) -> object:
    """The value in types that JSON has: records become objects, NaN and infinity null."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return str(value) if isinstance(value, Path) else value


def mark(metric: str, value: float | None) -> str:
    """A score in words: a share in percent, another score as a number."""
    if value is None:
        return "-"
    return f"{value:.3g}" if metric in LOWER_IS_BETTER else percent(value)


def mark_within(metric: str, value: float | None, ends: "Ends | None") -> str:
    """A score with the ends of its interval: `58 % (45–70)`; without an interval, the score."""
    if value is None or ends is None:
        return mark(metric, value)
    low, high = (mark(metric, end).removesuffix(" %") for end in ends)
    return f"{mark(metric, value)} ({low}–{high})"


def show_scores(after: "Scores", task: "Task", before: "Scores | None" = None) -> None:
    """Print the metrics, the task's own first, then the loss, then the old knowledge.

    Shares have their intervals. With the base's scores there are two columns of numbers, before
    and after, and a sentence on the difference.
    """
    from lora_lab.training.intervals import change_of, groups_in, intervals_of, method_text

    columns = [after] if before is None else [before, after]
    ends = [intervals_of(scores, task) for scores in columns]
    both = list(zip(columns, ends, strict=True))
    rows = [
        (name, *(mark_within(name, own.metrics[name], found.get(name)) for own, found in both))
        for name in after.metrics
    ]
    rows.append(("loss, nats per answer token", *(f"{scores.loss:.3f}" for scores in columns)))
    for name, words in FORGETTING.items():
        if getattr(after, name) is not None:
            cells = (mark_within("", getattr(own, name), found.get(name)) for own, found in both)
            rows.append((words, *cells))
    questions = f", {len(after.answers)} questions" if after.answers else ""
    if groups := groups_in(after, task):
        questions += f" of {counted(groups, 'group')}"
    head = ("score",) if before is None else ("before", "after")
    table((f"{after.split}{questions}", *head), rows, right="score, before, after")
    if change := before and change_of(before, after, task):
        say(f"right answers: {change.words}")
    if words := method_text(after, task):
        say(f"In brackets: {words}." if groups_in(after, task) != 1 else f"There are {words}.")


def show_errors(scores: "Scores") -> None:
    """Print the errors by class or by field, most errors first; nothing if all is right."""
    from lora_lab.training.errors import ClassErrors, errors_of

    rows = [row for row in errors_of(scores) if row.errors]
    if not rows:
        return
    if isinstance(rows[0], ClassErrors):
        head = ("class", "right", "given in its place")
        cells = [(row.label, f"{row.right} of {row.asked}", row.instead_text) for row in rows]
    else:
        head = ("field", "right", "wrong", "missing", "not wanted")
        cells = [
            (row.field, f"{row.right} of {row.wanted}", row.wrong, row.missing, row.unwanted)
            for row in rows
        ]
    say("")
    table(head, cells[:MOST_ERRORS], right="right, wrong, missing, not wanted")
    if len(rows) > MOST_ERRORS:
        say(f"{len(rows) - MOST_ERRORS} more have errors; `--json` has them all")


def score_facts(scores: "Scores", task: "Task") -> dict:
    """The entries in `--json` beside scores: their intervals, and the errors by class or field."""
    from lora_lab.training.errors import errors_of
    from lora_lab.training.intervals import intervals_of, method_text

    return {
        "intervals": intervals_of(scores, task),
        "interval_method": method_text(scores, task),
        "errors": errors_of(scores),
    }


def day(date: str) -> str:
    """An ISO date in this machine's time zone: "24 Nov 14:02"; in another year, the date alone."""
    if not date:
        return "-"
    local = datetime.fromisoformat(date).astimezone()
    this_year = local.year == datetime.now(local.tzinfo).year
    return local.strftime("%d %b %H:%M" if this_year else "%d %b %Y")


def run_facts(run: "Run") -> dict:
    """The entries of a run in `--json`, without its scores and records."""
    return {
        "name": run.path.name,
        "path": run.path,
        "task": run.task_name,
        "base": run.base_name,
        "status": run.status,
        "message": run.message,
        "date": run.date,
        "about": run.about,
        "replayed": run.replayed,
        "steps": len(run.records),
        "recipe": dataclasses.asdict(run.recipe),
    }


def listed_run_facts(run: "Run") -> dict:
    """The entries of a run in a `--json` list: its scores without the answers."""
    scores = run.scores and dataclasses.asdict(run.scores)
    if scores:
        del scores["answers"]
    return run_facts(run) | {"scores": scores}

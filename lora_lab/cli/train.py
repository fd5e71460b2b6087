"""`train` and `runs`: fine-tunes trained, continued and listed."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lora_lab.cli import options, waiting
from lora_lab.cli.check import note_data
from lora_lab.cli.show import (
    as_json,
    busy,
    day,
    indented,
    listed_run_facts,
    mark,
    note,
    run_facts,
    say,
    score_facts,
    show_errors,
    show_scores,
    slow_bars_in_logs,
    table,
)

if TYPE_CHECKING:
    from lora_lab.records import Scores
    from lora_lab.tasks.examples import Task
    from lora_lab.training.run_files import DamagedRun
    from lora_lab.training.store import Run

DAMAGED = "damaged"  # the status of a run that can't be read
SETTINGS = ("base", "method", "r", "rate", "seed")  # printed only once if all runs share them
SHOWN = 3  # questions, with the answers before and after training


@options.grouped
def train(
    task: options.TaskName,
    recipe: dict,
    examples: options.TaskOptions,
    training: options.TrainingOptions,
) -> None:
    """Fine-tune a base on a task, and show what changed.

    The run is kept. The same command shows it again, or goes on where Ctrl-C stopped it.

    Every field of lab.Recipe is an option. An option that is left out has the value that was tried
    for the task, else the default in brackets. Write lists as q_proj,v_proj, or layers as 15-29.

    \b
    Examples:
      lora-lab train new-facts
      lora-lab train home-commands --steps 30 --r 4
      lora-lab train sentiment --target-modules q_proj,v_proj --seed 1
      lora-lab train my.csv --prompt question --answer label --base smollm2
      lora-lab train my.csv --test test.csv --group-by person
    """
    slow_bars_in_logs()
    try:
        from lora_lab.cli.task_spec import TaskSpec

        spec = examples.of(TaskSpec(task))
        with busy("Loading data and base …"):
            model, data = spec.load_with_base(training.base, training.device, training.dtype)
        settings = replace(data.recipe, **recipe)
        note_data(spec, data, model, settings.max_length)
        from lora_lab.cli.resolve import chosen_store, scores_before
        from lora_lab.models.adapters import check_trainable
        from lora_lab.training.fit import follow_fit
        from lora_lab.training.intervals import change_of
        from lora_lab.training.store import folder_of, resolve_store

        run_store = chosen_store(training.store)
        folder = folder_of(resolve_store(run_store), model, data, settings)
        check_trainable(model, settings)
        done = 0 if training.fresh else _steps_done(folder)
        if done is not None:
            waiting.say_before_fit(model, data, settings, done)
        with spec.kept_in(data, folder):
            news = follow_fit(model, data, settings, store=run_store, fresh=training.fresh)
            run = waiting.followed(news, settings)
        with busy("Asking the base the same …"):
            before = scores_before(run, data)
    except KeyboardInterrupt as stopped:
        words = str(stopped).partition(";")[0] or "stopped"
        arguments = [argument for argument in sys.argv[1:] if argument != "--fresh"]
        command = shlex.join(["lora-lab", *arguments])
        note(
            "", f"{words[0].upper()}{words[1:]}. What is done is kept; go on with:", f"  {command}"
        )
        raise typer.Exit(130) from stopped
    if training.json:
        more = {"scores": run.scores, "records": run.records, "before": before}
        more["change"] = change_of(before, run.scores, data)
        as_json(run_facts(run) | more | score_facts(run.scores, data))
    else:
        _show_run(run, before, data)


def _steps_done(folder: Path) -> int | None:
    """The steps of the run in a folder that are done; None: it has ended, and is replayed."""
    from lora_lab.training.run_files import RUNNING, DamagedRun
    from lora_lab.training.store import read_run

    try:
        run = read_run(folder)
    except (FileNotFoundError, DamagedRun):
        return 0
    return len(run.records) if run.status == RUNNING else None


def _show_run(run: "Run", before: "Scores", task: "Task") -> None:
    from lora_lab.cli.resolve import next_commands

    first, last = run.records[0], run.records[-1]
    seconds = sum(record.seconds for record in run.records)
    say(f"{run.task_name} on {run.about}")
    if run.replayed:
        say(f"Replayed: trained on {day(run.date)}. `--fresh` trains it again.")
    say(f"loss {first.loss:.3g} → {last.loss:.3g} in {last.step} steps, {seconds:.0f} s")
    say(*waiting.validation_lines(run), "")
    show_scores(run.scores, task, before)
    show_errors(run.scores)
    pairs = zip(before.answers, run.scores.answers, strict=True)
    for old, new in sorted(pairs, key=lambda pair: pair[1].right)[:SHOWN]:  # wrong ones first
        say("", indented(new.prompt, "  asked   "), indented(new.expected, "  wanted  "))
        say(indented(old.given, "  before  "), indented(new.given, "  after   "))
    say("", f"The run is kept: {run.path}")
    say(*next_commands(run))


def _damaged_facts(error: "DamagedRun") -> dict:
    """The entries in `--json` of a run that can't be read."""
    unknown = dict.fromkeys(("task", "base", "date", "about", "steps", "recipe", "scores"))
    known = {"name": error.path.name, "path": error.path, "status": DAMAGED, "message": str(error)}
    return known | {"replayed": True} | unknown


def runs(store: options.Store = None, json: options.Json = False) -> None:
    """List the runs that are kept, newest first.

    `evaluate`, `chat` and `export` take a run by the short name in the first column.

    \b
    Examples:
      lora-lab runs
      lora-lab runs --json
    """
    from lora_lab.cli.resolve import chosen_store, short_names
    from lora_lab.training.store import read_store, resolve_store

    store = chosen_store(store)
    readable, damaged = read_store(store)
    if json:
        as_json([*map(listed_run_facts, readable), *map(_damaged_facts, damaged)])
        return
    if not readable and not damaged:
        say(f"No run is kept in {resolve_store(store)} yet; `lora-lab train new-facts` makes one.")
        return
    names = short_names([*(run.path for run in readable), *(error.path for error in damaged)])
    rows = [(names[run.path], *_row(run)) for run in readable]
    rows += [(names[error.path], *["-"] * 10, DAMAGED) for error in damaged]
    head = ("run", "task", "base", "method", "r", "rate", "seed", "steps", "score", "old facts")
    head += ("date", "status")
    columns = dict(zip(head, zip(*rows, strict=True), strict=True))
    shared = {
        name: columns.pop(name)[0]
        for name in SETTINGS
        if len({*columns[name][: len(readable)]}) == 1
    }
    columns = {name: cells for name, cells in columns.items() if {*cells} != {"-"}}
    right = "r, rate, seed, steps, score, old facts"
    table([*columns], zip(*columns.values(), strict=True), right=right)
    if shared:
        note(f"in all of them: {', '.join(f'{name} {value}' for name, value in shared.items())}")
    if any(run.scores and run.scores.split == "validation" for run in readable):
        say("val: scored on validation, by a sweep; `lora-lab evaluate` scores the test")
    if damaged:
        note("", *map(str, damaged))


def _row(run: "Run") -> tuple[object, ...]:
    """A run's cells in the list, after its name."""
    from lora_lab.training.store import FINISHED, RUNNING

    recipe, scores, done = run.recipe, run.scores, len(run.records)
    whole = done == recipe.steps or run.status == FINISHED  # patience may have ended it earlier
    value = mark(scores.metric_name, scores.value) if scores else "-"
    if scores and scores.split != "test":
        value += " val"
    return (
        run.task_name,
        Path(run.base_name).name,
        recipe.method,
        recipe.r if recipe.method == "lora" else "-",
        f"{recipe.learning_rate:g}",
        recipe.seed,
        done if whole else f"{done}/{recipe.steps}",
        value,
        mark("", scores.old_knowledge) if scores else "-",
        day(run.date),
        "unfinished" if run.status == RUNNING else run.status,
    )

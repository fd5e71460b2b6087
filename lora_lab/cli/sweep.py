"""`sweep`: many fine-tunes of one task, compared setting by setting."""

import dataclasses
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options, ties, waiting
from lora_lab.cli.check import note_data
from lora_lab.cli.choice import choice_facts, show_choice, tested_runs, written
from lora_lab.cli.show import (
    as_json,
    busy,
    listed_run_facts,
    mark_within,
    note,
    say,
    slow_bars_in_logs,
    table,
)
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.recipe import Recipe, checked_value, nearest

if TYPE_CHECKING:
    from lora_lab.records import Scores
    from lora_lab.tasks.examples import Task
    from lora_lab.training.intervals import Ends
    from lora_lab.training.sweep import Sweep

FIELDS = {field.name: field for field in dataclasses.fields(Recipe) if field.name != "seed"}
LISTS = ("target_modules", "modules_to_save", "layers_to_transform")
MOST = 1000  # runs of a sweep: an hour on pocket, and all pairs of settings are compared
COMMA = re.compile(r",(?![^\[\]]*\])")  # a comma that is not inside brackets


@options.grouped
def sweep(
    task: options.TaskName,
    recipe: dict,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="CHOICE=VALUES",
            help="A choice of the recipe and the values to try, and choices tied to it (alpha=2r); "
            "several --vary try all pairs.",
        ),
    ],
    seeds: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="Seeds; each setting is trained with each. A verdict takes five.",
        ),
    ] = "0,1,2,3,4",
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="auto, sequential, processes, packed or ray.")
    ] = "auto",
    then_test: Annotated[
        bool,
        typer.Option("--then-test", help="Score the setting that validation chose on the test."),
    ] = False,
    *,
    examples: options.TaskOptions,
    training: options.TrainingOptions,
) -> None:
    """Fine-tune with several settings and seeds, and compare them.

    Finished runs are kept: the same command, or the same with more values, trains only what is new.
    The scores are the validation split's, so that the test is kept for the end: --then-test scores
    the one setting with the best mean on it. Notes below the table name other causes of a
    difference.

    Other choices of the recipe are options, as in `lora-lab train`. Write a list in brackets.

    \b
    Examples:
      lora-lab sweep new-facts --vary r=1,4,16 --vary learning_rate=1e-3,3e-3,1e-2
      lora-lab sweep style --vary "target_modules=[q_proj,v_proj],all-linear"
      lora-lab sweep my.csv --base smollm2 --vary lora_alpha=8,32 --steps 40
      lora-lab sweep my.csv --group-by person --vary r=4,16 --then-test
      lora-lab sweep new-facts --vary "r=4,16 alpha=2r"
    """
    slow_bars_in_logs()
    varied = [_settings(words) for words in vary]
    names = [name for settings in varied for name in settings[0]]
    seed_list = _seed_list(seeds)
    _check_once(names, recipe)
    _check_count([len(settings) for settings in varied], len(seed_list))
    from lora_lab.cli.task_spec import TaskSpec

    spec = examples.of(TaskSpec(task))
    with busy("Loading data and base …"):
        model, data = spec.load_with_base(training.base, training.device, training.dtype)
    common = dataclasses.replace(data.recipe, **recipe)
    recipes = [
        dataclasses.replace(common, **dict(itertools.chain(*map(dict.items, setting))))
        for setting in itertools.product(*varied)
    ]
    note_data(spec, data, model, common.max_length)
    from lora_lab.cli.resolve import chosen_store
    from lora_lab.training.store import folder_of, resolve_store
    from lora_lab.training.sweep import plan_sweep

    run_store = chosen_store(training.store)
    folders = [
        folder_of(resolve_store(run_store), model, data, dataclasses.replace(setting, seed=seed))
        for setting in recipes
        for seed in seed_list
    ]
    kept = {"store": run_store, "fresh": training.fresh, "evaluate": "validation"}
    try:
        planned = plan_sweep(model, data, recipes, seed_list, engine, **kept)
        waiting.say_before_sweep(planned)
        with spec.kept_in(data, *folders):
            done = planned.run(progress=True)
        tested = tested_runs(done, model, data, run_store) if then_test else None
    except KeyboardInterrupt as stopped:
        note("", "Stopped. Finished runs are kept; the same command trains the others.")
        raise typer.Exit(130) from stopped
    if training.json:
        runs = [*map(listed_run_facts, done.runs)]
        as_json(choice_facts(done, data, tested) | {"confounds": done.confounds(), "runs": runs})
        return
    _show_sweep(done, names, len(seed_list), data, tied=len(names) - len(varied))
    show_choice(done, names, data, tested)
    say("", "The runs are kept; `lora-lab runs` lists them.")


def _settings(words: str) -> list[dict[str, object]]:
    """The settings in `r=1,4` or `r=1,4 lora_alpha=2r`: the fields and values of each."""
    first, *others = ties.parts_of(words)
    name, values = _varied(first)
    tied = [ties.tie_of(other, name) for other in others]
    _check_once([tie.field for tie in tied], {})
    return [ties.tied_values(tied, name, value) for value in values]


def _varied(words: str) -> tuple[str, list[object]]:
    """The field's name and the values that `r=1,4` means."""
    name, equals, values = words.partition("=")
    name = ties.full_name(name)
    if name == "seed":
        raise ValueError(f"--vary {words} does not fit: seeds are given with --seeds 0,1,2")
    if name not in FIELDS:
        raise ValueError(
            f"--vary {words}: no choice of a recipe is called {name!r}; "
            f"{nearest(name, tuple(FIELDS))}write one as in --vary r=1,4,16"
        )
    texts = [text.strip().removeprefix("[").removesuffix("]") for text in COMMA.split(values)]
    if not equals or not all(texts):
        raise ValueError(f"--vary {words} lacks a value; write them as in --vary {name}=1,4,16")
    unpaired = [text for text in COMMA.split(values) if text.count("[") != text.count("]")]
    if unpaired and name in LISTS:
        raise ValueError(
            f"--vary {words} lacks a bracket at {unpaired[0]!r}; write a list as in "
            f'--vary "{name}=[q_proj,v_proj],all-linear"'
        )
    parsed = [checked_value(name, options.value_of(FIELDS[name], text)) for text in texts]
    twice = [value for place, value in enumerate(parsed) if value in parsed[:place]]
    if twice:
        raise ValueError(f"--vary {words} names {written(twice[0])} twice; write each value once")
    return name, parsed


def _seed_list(words: str) -> list[int]:
    """The seeds that `0,1,2` names."""
    try:
        seeds = [int(seed) for seed in words.split(",")]
    except ValueError:
        raise ValueError(
            f"--seeds {words} isn't a list of whole numbers; give --seeds 0,1,2"
        ) from None
    twice = [seed for seed, times in Counter(seeds).items() if times > 1]
    if twice:
        raise ValueError(f"--seeds {words} names {twice[0]} twice; give each seed once")
    return seeds


def _check_once(varied: Sequence[str], recipe: dict) -> None:
    """Refuse a field that is varied twice, or that is also given as an option."""
    for name in varied:
        if varied.count(name) > 1 or name in recipe:
            other = "--vary" if varied.count(name) > 1 else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{name} is given by --vary and by {other} too; write all its values in one --vary"
            )
    if "seed" in recipe:
        raise ValueError(f"--seed {recipe['seed']} does not fit a sweep; give --seeds 0,1,2")


def _check_count(values: Sequence[int], seeds: int) -> None:
    """Refuse too many runs for a table, before the settings are combined."""
    runs = math.prod(values) * seeds
    if runs > MOST:
        settings = " × ".join(map(str, values))
        raise ValueError(
            f"settings × seeds, {settings} × {seeds}, are {runs:,} runs, and a sweep takes up to "
            f"{MOST:,}; vary fewer choices at once, or give fewer values or seeds"
        )


def _show_sweep(
    done: "Sweep", names: Sequence[str], seeds: int, task: "Task", tied: int = 0
) -> None:
    """Print a row for each setting: the mean of its seeds, with its interval.

    `tied`: how many of the names are fields that are tied to another field.
    """
    metric = next((run.scores.metric_name for run in done.runs if run.scores), "score")
    split = next((run.scores.split for run in done.runs if run.scores), "validation")
    within = "95 % interval over seeds" if seeds > 1 else "95 % interval"
    say(f"{done.runs[0].task_name} on {done.runs[0].about}", f"{split}: mean ({within})")
    rows = []
    for first in range(0, len(done.runs), seeds):
        runs = done.runs[first : first + seeds]
        scores = [run.scores for run in runs if run.scores]
        losses = [score.loss for score in scores]
        rows.append(
            [
                *(written(getattr(runs[0].recipe, name)) for name in names),
                _mean_text(metric, [score.value for score in scores], _ends_of_one(scores, task)),
                _mean_text("", [score.old_knowledge for score in scores]),
                _mean_text("", [score.strangers for score in scores]),
                f"{sum(losses) / len(losses):.3f}" if losses else "-",
                ", ".join([str(len(scores)), *(run.status for run in runs if not run.scores)]),
            ]
        )
    head = (*names, metric, "old facts", "strangers", "loss", "runs")
    filled = [column for column in zip(head, *rows, strict=True) if {*column[1:]} != {"-"}]
    head, *rows = zip(*filled, strict=True)
    table(head, rows, right=", ".join(head[:-1]))
    for sentence in _verdicts(done, names[: len(names) - tied] if tied else names, seeds):
        say(sentence)
    for sentence in done.confounds():
        say(f"note: {sentence}")


def _verdicts(done: "Sweep", names: Sequence[str], seeds: int) -> list[str]:
    """For each value of the only field that varies, whether it is better than the first value."""
    if len(names) != 1 or seeds < 2:
        return []
    try:
        compared = done.compare(names[0])
    except ValueError as error:  # for example, the first value diverged
        return [f"no verdict: {error}"]
    reference = f"{names[0]}={written(compared.reference)}"
    return [
        f"{names[0]}={written(value)} beside {reference}: "
        + (comparison.verdict if comparison else "diverged with some seeds, nothing to compare")
        for value, comparison in compared.comparisons.items()
    ]


def _ends_of_one(scores: Sequence["Scores"], task: "Task") -> "Ends | None":
    """The interval of a single seed's score, by its questions; None for several seeds."""
    if len(scores) != 1:
        return None
    from lora_lab.training.intervals import pooled_interval

    return pooled_interval(scores, task)


def _mean_text(metric: str, values: Sequence[float | None], ends: "Ends | None" = None) -> str:
    """`58 % (50–65)`: the mean of the values that are there, with its interval over seeds."""
    from lora_lab.training.summary import interval_of_scores

    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    if len(numbers) > 1:
        ends = interval_of_scores(numbers, share=metric not in LOWER_IS_BETTER)
    return mark_within(metric, sum(numbers) / len(numbers), ends)

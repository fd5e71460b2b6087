"""`sweep`: many fine-tunes of one task, compared setting by setting."""

import dataclasses
import itertools
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli.options import (
    AnswerColumn,
    BaseName,
    Count,
    Device,
    Dtype,
    Fresh,
    Json,
    PromptColumn,
    Store,
    TaskSeed,
    recipe_options,
    value_of,
)
from lora_lab.cli.show import as_json, mark, note, say, table
from lora_lab.cli.train import facts, scores_of
from lora_lab.recipe import Recipe, nearest

if TYPE_CHECKING:
    from lora_lab.training.sweep import Sweep

FIELDS = {field.name: field for field in dataclasses.fields(Recipe) if field.name != "seed"}
LISTS = ("target_modules", "modules_to_save", "layers_to_transform")
MOST = 1000  # runs of a sweep: an hour of pocket's, and each setting is compared with each
COMMA = re.compile(r",(?![^\[\]]*\])")  # but not one within brackets


@recipe_options
def sweep(
    task: Annotated[
        str, typer.Argument(metavar="TASK", help="A name from `lora-lab tasks`, or a file.")
    ],
    recipe: dict,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="CHOICE=VALUES",
            help="A choice of the recipe and the values to try; several --vary try all pairs.",
        ),
    ],
    seeds: Annotated[
        str, typer.Option(metavar="LIST", help="Each setting is trained with each of them.")
    ] = "0,1,2",
    engine: Annotated[
        str, typer.Option(metavar="ENGINE", help="auto, sequential or processes.")
    ] = "auto",
    base: BaseName = None,
    n: Count = None,
    task_seed: TaskSeed = None,
    prompt: PromptColumn = None,
    answer: AnswerColumn = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    store: Store = None,
    fresh: Fresh = False,
    json: Json = False,
) -> None:
    """Fine-tune with several settings and seeds, and compare them.

    Finished runs are kept: the same command, or one with more values, trains only what is new. The
    scores are the test split's. What else than the setting may explain a difference is said below.

    Other choices of the recipe are options, as in `lora-lab train`. A list stands in brackets.

    \b
    Examples:
      lora-lab sweep new-facts --vary r=1,4,16 --vary learning_rate=1e-3,3e-3,1e-2
      lora-lab sweep style --vary "target_modules=[q_proj,v_proj],all-linear"
      lora-lab sweep my.csv --base smollm2 --vary lora_alpha=8,32 --steps 40
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "5")  # seconds: a log is not a terminal
    varied = [_varied(words) for words in vary]
    chosen = _seeds(seeds)
    _check_once([name for name, _ in varied], recipe)
    _check_count([len(values) for _, values in varied], len(chosen))
    from lora_lab.cli.task_spec import Wanted, base_name
    from lora_lab.models.bases import load_base

    wanted = Wanted(task).but(n=n, seed=task_seed, prompt=prompt, answer=answer)
    on = load_base(base_name(task, base), device=device, dtype=dtype)
    what = wanted.load(on)
    names = [name for name, _ in varied]
    settings = itertools.product(*(values for _, values in varied))
    common = dataclasses.replace(what.recipe, **recipe)
    recipes = [
        dataclasses.replace(common, **dict(zip(names, one, strict=True))) for one in settings
    ]
    from lora_lab.cli.resolve import chosen_store
    from lora_lab.training.store import folder_of, resolve_store
    from lora_lab.training.sweep import sweep as run_sweep

    where = chosen_store(store)
    made = (dataclasses.replace(one, seed=seed) for one in recipes for seed in chosen)
    folders = [folder_of(resolve_store(where), on, what, one) for one in made]
    try:
        with wanted.kept_in(*folders):
            done = run_sweep(
                on,
                what,
                recipes,
                seeds=chosen,
                engine=engine,
                store=where,
                fresh=fresh,
                progress=True,
            )
    except KeyboardInterrupt as stopped:
        note("", "Stopped. Finished runs are kept; the same command trains the others.")
        raise typer.Exit(130) from stopped
    if json:
        as_json(
            {
                "confounds": done.confounds(),
                "runs": [facts(run) | {"scores": scores_of(run)} for run in done.runs],
            }
        )
    else:
        _show(done, names, len(chosen))


def _varied(words: str) -> tuple[str, list[object]]:
    """What `r=1,4` means: a field's name and its values."""
    name, equals, values = words.partition("=")
    name = name.strip().replace("-", "_")
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
    read = [value_of(FIELDS[name], text) for text in texts]
    twice = [value for place, value in enumerate(read) if value in read[:place]]
    if twice:
        raise ValueError(f"--vary {words} names {_written(twice[0])} twice; write each value once")
    return name, read


def _seeds(words: str) -> list[int]:
    try:
        seeds = [int(seed) for seed in words.split(",")]
    except ValueError:
        raise ValueError(
            f"--seeds {words} is no list of whole numbers; give --seeds 0,1,2"
        ) from None
    twice = [seed for seed, times in Counter(seeds).items() if times > 1]
    if twice:
        raise ValueError(f"--seeds {words} names {twice[0]} twice; give each seed once")
    return seeds


def _check_once(varied: Sequence[str], recipe: dict) -> None:
    """A choice can be varied once, and then has no value of its own."""
    for name in varied:
        if varied.count(name) > 1 or name in recipe:
            other = "--vary" if varied.count(name) > 1 else f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{name} is given by --vary and by {other} too; write all its values in one --vary"
            )
    if "seed" in recipe:
        raise ValueError(f"--seed {recipe['seed']} does not fit a sweep; give --seeds 0,1,2")


def _check_count(values: Sequence[int], seeds: int) -> None:
    """Refuse more runs than a table can tell apart, before all pairs are made."""
    runs = math.prod(values) * seeds
    if runs > MOST:
        settings = " × ".join(map(str, values))
        raise ValueError(
            f"settings × seeds, {settings} × {seeds}, are {runs:,} runs, and a sweep takes up to "
            f"{MOST:,}; vary fewer choices at once, or give fewer values or seeds"
        )


def _show(done: "Sweep", names: Sequence[str], seeds: int) -> None:
    """A row a setting: the mean of its seeds, and from where to where they go."""
    metric = next((run.scores.metric_name for run in done.runs if run.scores), "score")
    say(f"{done.runs[0].task_name} on {done.runs[0].about}: mean (lowest to highest) of the seeds")
    rows = []
    for first in range(0, len(done.runs), seeds):
        runs = done.runs[first : first + seeds]
        scores = [run.scores for run in runs if run.scores]
        losses = [one.loss for one in scores]
        rows.append(
            [
                *(_written(getattr(runs[0].recipe, name)) for name in names),
                _spread(metric, [one.value for one in scores]),
                _spread("", [one.old_knowledge for one in scores]),
                _spread("", [one.strangers for one in scores]),
                f"{sum(losses) / len(losses):.3f}" if losses else "-",
                ", ".join([str(len(scores)), *(run.status for run in runs if not run.scores)]),
            ]
        )
    head = (*names, metric, "old facts", "strangers", "loss", "runs")
    known = [place for place in range(len(head)) if any(row[place] != "-" for row in rows)]
    head, rows = [head[place] for place in known], [[row[place] for place in known] for row in rows]
    table(head, rows, right=", ".join(head[:-1]))
    for sentence in done.confounds():
        say(f"note: {sentence}")
    say("", "The runs are kept; `lora-lab runs` lists them.")


def _written(value: object) -> str:
    """As one writes it after --vary."""
    if isinstance(value, tuple):
        return f"[{','.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def _spread(metric: str, values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    told = (sum(known) / len(known), min(known), max(known))
    mean, low, high = (mark(metric, value) for value in told)
    low, high = low.removesuffix(" %"), high.removesuffix(" %")
    return mean if len(known) == 1 else f"{mean} ({low}–{high})"

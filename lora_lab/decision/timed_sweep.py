"""A sweep planned inside a time budget, by measurement, and kept to it."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.training.store import DEFAULT, Default, Run
from lora_lab.training.sweep import Sweep, follow_sweep
from lora_lab.wording import counted, significant

WARM, MEASURED = 2, 4  # training steps: the first are slower
SCORED = 8  # validation rows by which the time of scoring all is measured
SPARE = 0.15  # of the time, kept free: steps and rows differ in length

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, repr=False)
class TimedSweep:
    """A sweep before it runs: the settings that there is time for, and those left out."""

    base: Base
    task: Task
    recipes: tuple[Recipe, ...]  # there is time for them, in the order in which they are tried
    left_out: tuple[Recipe, ...]
    seeds: tuple[int, ...]
    seconds: float  # given
    each: tuple[
        float, ...
    ]  # seconds that a run of each recipe is expected to take; then left_out's

    @property
    def expected(self) -> float:
        """Seconds that the planned runs are expected to take."""
        return len(self.seeds) * sum(self.each[: len(self.recipes)])

    def table(self) -> pd.DataFrame:
        """A row for each setting: what differs, the seconds that its seeds take, if it is tried."""
        every = (*self.recipes, *self.left_out)
        return pd.DataFrame(
            {
                **{name: [getattr(recipe, name) for recipe in every] for name in _varying(every)},
                "seconds": [significant(len(self.seeds) * seconds) for seconds in self.each],
                "tried": ["yes"] * len(self.recipes) + ["no time"] * len(self.left_out),
            }
        )

    def __repr__(self) -> str:
        runs = len(self.recipes) * len(self.seeds)
        words = (
            f"{counted(runs, 'run')} of {counted(len(self.recipes), 'setting')}, about "
            f"{significant(self.expected)} of {significant(self.seconds)} seconds; "
            f"{counted(len(self.left_out), 'setting')} left out"
        )
        if self.expected > self.seconds:
            words += "; the first takes more than the time, and is trained all the same"
        return words

    def run(
        self, *, store: str | Path | Default | None = DEFAULT, tell: Tell | None = None
    ) -> Sweep:
        """Train the settings one after the other, scored on validation, until the time is up.

        A setting whose seeds are not all trained by then is left out, so that the compared settings
        have equally many seeds. The first setting is trained to its end, since otherwise there
        would be nothing to choose from. So the time may be exceeded on a machine that has become
        slow.

        Args:
            store: as in `sweep`.
            tell: called with a line for each finished setting, and for the settings left out.
        """
        tell = tell or (lambda words: None)
        start, runs = time.monotonic(), []
        options = {"seeds": self.seeds, "store": store, "evaluate": "validation"}
        sequence = follow_sweep(self.base, self.task, self.recipes, engine="sequential", **options)
        with closing(sequence):
            for _, news in sequence:
                if isinstance(news, Run):
                    runs.append(news)
                    if len(runs) % len(self.seeds) == 0:
                        tell(self._line(runs[-len(self.seeds) :]))
                if time.monotonic() - start > self.seconds and len(runs) >= len(self.seeds):
                    break
        whole = runs[: len(runs) // len(self.seeds) * len(self.seeds)]
        cut = len(self.recipes) - len(whole) // len(self.seeds)
        if cut:
            tell(f"time is up: {counted(cut, 'setting')} of the plan left out")
        return Sweep(tuple(whole))

    def _line(self, runs: Sequence[Run]) -> str:
        names = _varying((*self.recipes, *self.left_out))
        setting = ", ".join(f"{name} {getattr(runs[0].recipe, name)}" for name in names)
        scores = [run.scores and f"{run.scores.value:.0%}" for run in runs]
        return f"{setting}: " + ", ".join(score or "diverged" for score in scores)


def sweep_within(
    base: Base,
    task: Task,
    recipes: Iterable[Recipe],
    *,
    seconds: float,
    seeds: Sequence[int] = (0,),
) -> TimedSweep:
    """The plan of a sweep that fits into a time: as many settings, in their order, as fit.

    At least the first setting is planned, even if it takes longer; the plan says so.

    A few steps of each different shape are trained, and a few validation rows are asked, to
    measure how long a run takes on this machine. A part of the time is kept free.

    Args:
        base: stays as it was.
        task: its validation will choose.
        recipes: the most promising first.
        seconds: for all runs, from the first step to the last score.
        seeds: of each setting.

    Raises:
        ValueError: if there is no setting or no seed.
    """
    recipes, seeds = tuple(recipes), tuple(seeds)
    if not recipes or not seeds:
        raise ValueError(
            f"{len(recipes)} settings × {len(seeds)} seeds make no run; give one of each at least"
        )
    scoring = _scoring_seconds(base, task)
    steps: dict[Recipe, float] = {}
    each = []
    for recipe in recipes:
        shape = replace(recipe, steps=WARM + MEASURED, warmup_steps=0, learning_rate=1e-4, seed=0)
        if shape not in steps:
            steps[shape] = step_seconds(base, task, shape)
        each.append(recipe.steps * steps[shape] + scoring)
    room, count = (1 - SPARE) * seconds, 0
    while count < len(recipes) and len(seeds) * sum(each[: count + 1]) <= room:
        count += 1
    count = max(1, count)
    return TimedSweep(
        base=base,
        task=task,
        recipes=recipes[:count],
        left_out=recipes[count:],
        seeds=seeds,
        seconds=seconds,
        each=tuple(each),
    )


def _varying(recipes: Sequence[Recipe]) -> list[str]:
    """The fields in which the settings differ, without the seed."""
    names = [field.name for field in fields(recipes[0]) if field.name != "seed"]
    return [name for name in names if len({getattr(recipe, name) for recipe in recipes}) > 1]


def step_seconds(base: Base, task: Task, recipe: Recipe) -> float:
    """Seconds of a training step, the first ones left out."""
    few = replace(recipe, steps=WARM + MEASURED, warmup_steps=0, eval_steps=None, patience=None)
    records = list(train(base, task, few))
    return sum(record.seconds for record in records[WARM:]) / MEASURED


def _scoring_seconds(base: Base, task: Task) -> float:
    """Seconds that scoring all validation rows takes, judged by a few of them."""
    few = replace(task, validation=task.validation[:SCORED], old_knowledge=(), strangers=())
    start = time.perf_counter()
    evaluate(base, few, split="validation")
    taken = time.perf_counter() - start
    asked = len(task.validation) + len(task.old_knowledge) + len(task.strangers)
    return taken * asked / len(few.validation)

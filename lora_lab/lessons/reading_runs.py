"""Runs of pocket to read: four curves, the spread by chance, and two recipes at two rates."""

import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import pandas as pd

from lora_lab.maths.comparison import Comparison
from lora_lab.maths.statistics import NORMAL_95, standard_error
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.finder import try_learning_rates
from lora_lab.training.loop import Diverged, train
from lora_lab.training.pairing import compare
from lora_lab.training.store import Run
from lora_lab.training.sweep import Sweep, sweep
from lora_lab.wording import percent

RECIPE = Recipe(r=32, lora_alpha=64, learning_rate=3e-3, steps=40, batch_size=16, max_length=96)
SEEDS = (0, 1, 2, 3, 4)
CURVES = {  # by number: (diagnosis, learning rate, examples; None: all)
    1: ("too high", 1e-1, None),
    2: ("fine", 3e-3, None),
    3: ("over-fitting", 3e-3, 24),
    4: ("too low", 3e-5, None),
}
RECIPES = {"A": replace(RECIPE, r=1, lora_alpha=2), "B": RECIPE}  # alpha is twice the rank


def reviews(base: Base) -> Task:
    """Reviews to be labelled positive, negative or mixed. Old facts are not asked, to save time."""
    return replace(load_task("sentiment", base), old_knowledge=[], strangers=[])


def find_rate(base: Base, task: Task) -> tuple[tuple[StepRecord, ...], float]:
    """The finder's records, and a tenth of the rate at which the smoothed loss is lowest."""
    records = try_learning_rates(base, task, RECIPE)
    losses = [record.loss for record in records]
    smooth = [statistics.fmean(losses[at - 1 : at + 2]) for at in range(1, len(losses) - 1)]
    return records, records[smooth.index(min(smooth)) + 1].learning_rate / 10


# --- curves -------------------------------------------------------------------------------------


def train_curves(base: Base, task: Task) -> dict[int, tuple[StepRecord, ...]]:
    """The records of the four runs of `CURVES`, each as far as it came."""
    curves = {}
    for name, (_, rate, examples) in CURVES.items():
        few = replace(task, train=task.train[:examples], validation=task.validation[:40])
        training = train(base, few, replace(RECIPE, learning_rate=rate, eval_steps=5))
        with suppress(Diverged):
            for _ in training:
                pass
        curves[name] = tuple(training.records)
    return curves


# --- chance -------------------------------------------------------------------------------------


def chance(
    base: Base, task: Task, runs: Sequence[Run]
) -> tuple[dict[str, list[float]], float, float]:
    """The scores of one recipe by chance, and the range that the formula expects of test sets.

    The first run is asked eight other test sets; the other runs differ from it by their seed.

    Args:
        base: the base of the runs.
        task: what they learned.
        runs: scored runs of a single recipe, each with a seed of its own.
    """
    others = (load_task("sentiment", base, seed=seed).test for seed in range(1, 9))
    asked = [evaluate(runs[0], replace(task, test=test)).value for test in others]
    share = statistics.fmean([runs[0].scores.value, *asked])
    margin = NORMAL_95 * standard_error(share, len(task.test))
    causes = {"other test sets": asked, "other seeds": [run.scores.value for run in runs]}
    return causes, share - margin, share + margin


# --- two recipes --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class TwoRecipes:
    """Recipes A and B, each trained at the same learning rates with the same seeds."""

    sweep: Sweep

    def runs(self, name: str, rate: float) -> tuple[Run, ...]:
        """The runs of "A" or "B" at a learning rate, one for each seed."""
        r = RECIPES[name].r
        found = (run for run in self.sweep.runs if run.recipe.r == r)
        return tuple(run for run in found if run.recipe.learning_rate == rate)

    def compare(self, rate: float) -> Comparison:
        """B compared with A at one learning rate, paired by seed."""
        return replace(compare(self.runs("A", rate), self.runs("B", rate)), a="A", b="B")

    def table(self, rate: float) -> pd.DataFrame:
        """Right answers of each seed at one learning rate, and the difference with its interval."""
        scores = {name: [run.scores.value for run in self.runs(name, rate)] for name in RECIPES}
        found = self.compare(rate)
        rows = {name: [*map(percent, shares)] for name, shares in scores.items()}
        pairs = zip(scores["A"], scores["B"], strict=True)
        rows["B − A, points"] = [_signed(100 * (b - a)) for a, b in pairs]
        table = pd.DataFrame(rows, index=[f"seed {seed}" for seed in self.seeds]).T
        means = [statistics.fmean(shares) for shares in scores.values()]
        table["mean"] = [*map(percent, means), _signed(100 * found.difference)]
        table["95 % interval"] = ["", "", found.interval.removesuffix(" points")]
        return table

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({run.recipe.seed for run in self.sweep.runs})

    @property
    def shares(self) -> dict[str, dict[float, list[float]]]:
        """The right answers of each seed, by recipe and learning rate."""
        rates = sorted({run.recipe.learning_rate for run in self.sweep.runs})
        return {
            name: {rate: [run.scores.value for run in self.runs(name, rate)] for rate in rates}
            for name in RECIPES
        }

    def best_rate(self, name: str) -> float:
        """The learning rate at which a recipe's mean validation loss is lowest."""

        def loss(rate: float) -> float:
            return statistics.fmean(
                run.records[-1].validation_loss for run in self.runs(name, rate)
            )

        return min(self.shares[name], key=loss)

    def compare_tuned(self) -> Comparison:
        """B compared with A, each at the learning rate that its validation loss chooses."""
        sides = [self.runs(name, self.best_rate(name)) for name in RECIPES]
        return replace(compare(*sides), a="A", b="B")


def _signed(points: float) -> str:
    """Points with their sign, in print: `+10`, `−20`."""
    return f"{points:+.0f}".replace("-", "−")


def two_recipes(
    base: Base, task: Task, rates: Sequence[float], seeds: Sequence[int] = SEEDS
) -> TwoRecipes:
    """Rank 1 with alpha 2 (A) and rank 32 with alpha 64 (B), at each learning rate and seed."""
    recipes = [
        replace(recipe, learning_rate=rate, eval_steps=recipe.steps)
        for recipe in RECIPES.values()
        for rate in rates
    ]
    return TwoRecipes(sweep(base, task, recipes, seeds=seeds))

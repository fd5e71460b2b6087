"""A surface: scores over two fields, the best of each column, and cells as good as the best."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from lora_lab.maths.comparison import SEEDS
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.maths.statistics import LEVEL, mean_p_value
from lora_lab.recipe import nearest
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.store import Run
from lora_lab.training.summary import MEASURES, interval_of_scores

VALIDATION = "validation_loss"  # of a run's last validation: the test must not choose
SCORES = (VALIDATION, *MEASURES)
Place = tuple[float, float]  # a cell: its values of the fields x and y


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting of a surface, with the scores of its seeds so far."""

    scores: Mapping[int, float] = field(default_factory=dict)  # by seed, of finished runs
    diverged: int = 0  # seeds
    done: float = 0.0  # the share of its steps that are trained, all seeds together

    @property
    def mean(self) -> float:
        """The mean over its seeds; NaN without a score, or where a seed diverged.

        A mean over the other seeds would flatter the setting.
        """
        return statistics.fmean(self.scores.values()) if self.is_known else math.nan

    @property
    def is_known(self) -> bool:
        """Whether it has a mean."""
        return bool(self.scores) and not self.diverged


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """The scores of a recipe over two of its fields. Shares lie between 0 and 1, losses in nats."""

    x: str  # the field of the columns
    y: str  # the field of the rows
    cells: Mapping[Place, Cell]  # each value of x with each value of y
    seeds: int  # of each cell, when all are trained
    measure: str  # the metric's name, "validation loss", "loss", "old_knowledge", "strangers"

    @property
    def xs(self) -> list[float]:
        """The values of x, least first."""
        return sorted({x for x, _ in self.cells})

    @property
    def ys(self) -> list[float]:
        """The values of y, least first."""
        return sorted({y for _, y in self.cells})

    @property
    def lower_is_better(self) -> bool:
        """Whether the best cell is the one with the least mean."""
        return self.measure in (*LOWER_IS_BETTER, "validation loss")

    @property
    def is_share(self) -> bool:
        """Whether the scores are shares, to be written in percent."""
        return not self.lower_is_better

    @property
    def is_whole(self) -> bool:
        """Whether every seed of every cell has its score, or has diverged."""
        return all(len(cell.scores) + cell.diverged == self.seeds for cell in self.cells.values())

    def interval(self, place: Place) -> tuple[float, float] | None:
        """The 95 % interval of a cell's true mean; None with fewer than two seeds."""
        cell = self.cells[place]
        if not cell.is_known or len(cell.scores) < 2:
            return None
        return interval_of_scores([*cell.scores.values()], share=self.is_share)

    @cached_property
    def best(self) -> Place | None:
        """The cell with the best mean; None while no cell has one."""
        return self._best_of(self.cells)

    @cached_property
    def ridge(self) -> dict[float, float]:
        """The best y of each x, by the mean. An x without any score is left out."""
        columns = {x: self._best_of((x, y) for y in self.ys) for x in self.xs}
        return {x: place[1] for x, place in columns.items() if place is not None}

    @cached_property
    def plateau(self) -> frozenset[Place]:
        """The best cell, and the cells that are not significantly worse than it.

        A cell is left out if the best cell is better by a one-sided paired t-test, seed by seed, at
        0.05 / (cells - 1). So the plateau holds the truly best cell in 95 % of surfaces, or more.
        It is empty while a cell has fewer than five seeds: the spread is too uncertain then.

        Source:
            Gupta, 1965, "On some multiple decision (selection and ranking) rules"; paired as in
            Nelson and others, 2001, "Simple procedures for selecting the best simulated system".
        """
        whole = [place for place, cell in self.cells.items() if not cell.diverged]
        if not whole or any(len(self.cells[place].scores) < SEEDS for place in whole):
            return frozenset()
        level = LEVEL / max(1, len(whole) - 1)
        return frozenset(place for place in whole if not self._is_below_best(place, level))

    def _best_of(self, places: Iterable[Place]) -> Place | None:
        known = [place for place in places if self.cells[place].is_known]
        return max(known, key=lambda place: self._gain(self.cells[place].mean), default=None)

    def _gain(self, score: float) -> float:
        return -score if self.lower_is_better else score

    def _is_below_best(self, place: Place, level: float) -> bool:
        best, other = self.cells[self.best].scores, self.cells[place].scores
        gains = [self._gain(best[seed] - other[seed]) for seed in best if seed in other]
        if len(gains) < SEEDS or statistics.fmean(gains) <= 0:
            return False
        return mean_p_value(gains) / 2 < level  # half of the two-sided p-value


def surface_of(
    runs: Iterable[Run],
    *,
    x: str,
    y: str,
    score: str,
    seeds: int,
    done: Mapping[Place, float],
) -> Surface:
    """The surface of finished runs, as far as they go.

    Args:
        runs: runs of recipes that differ only in x, y and the seed.
        x: a recipe's field.
        y: another.
        score: "validation_loss", "value" (the task's metric), "loss" (of the test split),
            "old_knowledge" or "strangers".
        seeds: of each cell, when all are trained.
        done: every cell, with the share of its steps that are trained.

    Raises:
        ValueError: for an unknown score.
    """
    if score not in SCORES:
        raise ValueError(
            f"score={score!r} isn't a score of a run; {nearest(score, SCORES)}"
            f"give {', '.join(map(repr, SCORES))}"
        )
    scores: dict[Place, dict[int, float]] = {place: {} for place in done}
    diverged = dict.fromkeys(done, 0)
    measure = score.replace("_", " ") if score == VALIDATION else score
    for run in runs:
        place = getattr(run.recipe, x), getattr(run.recipe, y)
        if run.status == DIVERGED:
            diverged[place] += 1
            continue
        if score == "value" and run.scores:
            measure = run.scores.metric_name
        number = _score_of(run, score)
        if number is not None and math.isfinite(number):
            scores[place][run.recipe.seed] = number
    cells = {place: Cell(scores[place], diverged[place], share) for place, share in done.items()}
    return Surface(x=x, y=y, cells=cells, seeds=seeds, measure=measure)


def _score_of(run: Run, score: str) -> float | None:
    """A run's score; None where it was not measured."""
    if score == VALIDATION:
        losses = [record.validation_loss for record in run.records]
        return next((loss for loss in reversed(losses) if loss is not None), None)
    return getattr(run.scores, score) if run.scores else None

"""Several ranks trained at once on one task: their losses grow in one chart."""

import dataclasses
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.store import Run
from lora_lab.training.sweep import Sweep
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import row
from lora_lab.widgets.sweep_following import SweepFollower, with_seeds
from lora_lab.widgets.working_box import TrainAllBox
from lora_lab.wording import percent, significant

SIZE = (560, 300)  # pixels on the screen
TITLE = "Which rank is wide enough?"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class RankResult:
    """The runs and scores of each rank. A notebook shows its table."""

    runs: dict[int, tuple[Run, ...]]  # by rank: a run for each seed
    start: float | None  # the base's score, before any training

    @property
    def scores(self) -> dict[int, list[float]]:
        """The test's score of each seed, by rank."""
        return {r: [run.scores.value for run in runs] for r, runs in self.runs.items()}

    @property
    def sweep(self) -> Sweep:
        """All runs, for `compare`, `summary` and `confounds`."""
        return Sweep(tuple(run for runs in self.runs.values() for run in runs))

    def table(self) -> pd.DataFrame:
        """A column per rank: the trained parameters, and the score; its range if seeds differ."""
        first = next(iter(self.runs.values()))[0]
        metric, seeds = first.scores.metric_name, len(self.scores[first.recipe.r])
        write = significant if metric in LOWER_IS_BETTER else percent
        rows = {
            "numbers trained": [f"{_trained(runs[0]):,}" for runs in self.runs.values()],
            metric: [write(sum(values) / seeds) for values in self.scores.values()],
        }
        if seeds > 1:
            rows[f"{seeds} seeds"] = [
                f"{write(min(values))} to {write(max(values))}" for values in self.scores.values()
            ]
        return pd.DataFrame.from_dict(rows, "index", columns=pd.Index([*self.runs], name="r"))

    @property
    def steepest(self) -> tuple[int, float]:
        """The rank at which the first seed's error falls by the greatest factor; and that factor.

        It is compared with the next lower rank here, and rank 0 is the base.
        """
        left = [self.start, *(values[0] for values in self.scores.values())]
        falls = {
            r: before / after for r, before, after in zip(self.runs, left, left[1:], strict=False)
        }
        r = max(falls, key=falls.get)
        return r, falls[r]

    def cliff(self) -> plots.Picture:
        """The error that remains at each rank, for a metric of which less is better."""
        return plots.picture(plots.draw_cliff, self.scores, self.start)

    def early(self, steps: int) -> plots.Picture:
        """The losses of all ranks in the first steps."""
        losses = _losses(self.runs, lambda run: run.records[:steps])
        title = "Do the first steps depend on the rank?"
        return plots.picture(plots.draw_together, losses, title, steps, size=SIZE)

    def __repr__(self) -> str:
        return f"{self.table()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()


class RankLab(TrainAllBox):
    """A button that trains an adapter of each rank, all in a single batch, and a chart of losses.

    Nothing is kept from earlier sessions, so each click trains anew. `train()` does it by code and
    returns the `RankResult`; after a click, `result` has it.

    Args:
        base: stays as it was.
        task: what to learn; its recipe gives all other values.
        ranks: the ranks, the least first; each gets an adapter.
        lora_alpha: a number for all ranks, or a function of the rank; None: the recipe's own.
        seeds: how many runs a rank gets, with the seeds from 0 on, one round after the other.
        score: whether runs are tested at their end; if not, the result has only curves.
        changes: recipe fields that replace those of the task's own recipe.

    Raises:
        ValueError: for fewer than two ranks, a rank given twice, or values that no recipe takes.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        ranks: Sequence[int],
        *,
        lora_alpha: float | Callable[[int], float] | None = None,
        seeds: int = 1,
        score: bool = True,
        **changes: object,
    ) -> None:
        super().__init__()
        if len({*ranks}) < max(2, len(ranks)):
            raise ValueError(f"ranks={ranks!r} can't be compared; give two or more, each once")
        self.base, self.task = base, task
        recipe = dataclasses.replace(task.recipe, **changes)
        alpha = recipe.lora_alpha if lora_alpha is None else lora_alpha
        self._settings = [
            dataclasses.replace(recipe, r=r, lora_alpha=alpha(r) if callable(alpha) else alpha)
            for r in ranks
        ]
        self._seeds, self._score = range(seeds), score
        self._start: float | None = None  # the base's score
        self._follower = self._new_follower()
        self.loss_picture.layout.width = f"{SIZE[0]}px"
        self.children = [
            widgets.HTML(markup.title(TITLE)),
            row(self.train_button, self.stop_button, self.progress, self.state),
            self.panel.warnings,
            self.loss_picture,
        ]
        self._say("ready: press Train all")
        self._show()

    def train(self) -> RankResult:
        """Train as a click on the button does, wait for the end, and return the result.

        Raises:
            RuntimeError: if it was stopped before the end.
        """
        self.start()
        return self.result

    @property
    def result(self) -> RankResult:
        """The result of the last training; it is waited for.

        Raises:
            RuntimeError: if there is none, with what to do.
        """
        self.wait()
        if not self._is_finished:
            raise RuntimeError("not all ranks are trained; press Train all and let it end")
        runs = {r: tuple(self._follower.finished(own)) for r, own in self._recipes.items()}
        return RankResult(runs, self._start)

    @property
    def _is_finished(self) -> bool:
        recipes = with_seeds(self._settings, self._seeds)
        return len(self._follower.finished(recipes)) == len(recipes)

    @property
    def _recipes(self) -> dict[int, list[Recipe]]:
        return {setting.r: with_seeds([setting], self._seeds) for setting in self._settings}

    @property
    def picture(self) -> plots.Picture:
        """The losses as they stand, for readers without a kernel."""
        losses = _losses(self._recipes, self._follower.records_of)
        steps = self._settings[0].steps
        return plots.picture(plots.draw_together, losses, TITLE, steps, True, size=SIZE)

    def __repr__(self) -> str:
        ranks = ", ".join(str(setting.r) for setting in self._settings)
        return f"RankLab: {self.base.name} · {self.task.name} · r {ranks}"

    def _new_follower(self) -> SweepFollower:
        options = {"store": None, "evaluate": self._score}
        return SweepFollower(self.base, self.task, engine="packed", **options)

    def _train(self) -> None:
        self.panel.reset_bar()
        self._say("asking the base first …")
        self._follower = self._new_follower()
        self.panel.check_sweep(self.base, self.task, self._settings)
        if self._score and self._start is None:
            self._start = evaluate(self.base, self.task).value
        self.panel.follow_sweep(self._follower, self._settings, self._seeds, self._show)
        self.progress.bar_style = "success"
        self._say(self.panel.outcome)

    def _show(self) -> None:
        self.loss_picture.show(self.picture)


def _losses(runs: dict, records_of: object) -> dict[int, list[list[float]]]:
    """The losses of each seed, step by step, by rank."""
    return {
        r: [[record.loss for record in records_of(run)] for run in own] for r, own in runs.items()
    }


def _trained(run: Run) -> int:
    """How many numbers a run trained."""
    return sum(tensor.numel() for tensor in run.learned.tensors.values())

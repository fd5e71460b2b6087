"""Several ways of the same examples into a batch, trained in turn: losses and right answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.lessons.way_in import Outcome, Steps, Way, shares
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task
from lora_lab.widgets import markup
from lora_lab.widgets.background import Pace
from lora_lab.widgets.boxes import PictureView, columns, labelled, row
from lora_lab.widgets.following import DRAWING, FRAMES
from lora_lab.widgets.working_box import TrainAllBox
from lora_lab.wording import percent, significant

CURVES, BARS = (520, 250), (400, 250)  # pixels on the screen
LOSS = "Does the loss tell?"


@dataclass(frozen=True, eq=False, repr=False)
class WaysResult:
    """The outcomes of each way. A notebook shows its table."""

    ways: Mapping[str, Way]
    outcomes: Mapping[str, tuple[Outcome, ...]]  # by way, for each seed

    @property
    def right(self) -> dict[str, float]:
        """The mean share of right answers, by way."""
        return {name: fmean(values) for name, values in shares(self.outcomes).items()}

    def answers(self, count: int = 3) -> pd.DataFrame:
        """The first of the test's answers that some way got wrong, a column for each way."""
        first = {name: some[0].scores.answers for name, some in self.outcomes.items()}
        asked = [*zip(*first.values(), strict=True)]
        shown = [row for row in asked if not all(answer.right for answer in row)][:count]
        rows = [
            [f"{answer.given} ✓" if answer.right else answer.given for answer in row]
            for row in shown
        ]
        return pd.DataFrame(rows, index=[row[0].expected for row in shown], columns=[*first])

    def table(self) -> pd.DataFrame:
        """A row for each way: the tokens that it trained on, its last loss, its right answers."""
        rows = {}
        for name, some in self.outcomes.items():
            recipe = self.ways[name].recipe
            rows[name] = {
                "examples": f"{len(self.ways[name].rows)}",
                "steps × examples": f"{recipe.steps} × {recipe.batch_size}",
                "places a step": f"{fmean(outcome.places for outcome in some):.0f}",
                "last loss": significant(fmean(outcome.losses[-1] for outcome in some)),
                "right": percent(fmean(outcome.right for outcome in some)),
                "answers too long": percent(fmean(outcome.runs_on for outcome in some)),
                "old facts kept": percent(fmean(outcome.scores.old_knowledge for outcome in some)),
            }
        return pd.DataFrame(rows).T

    def __repr__(self) -> str:
        return f"{self.table()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()


class WaysLab(TrainAllBox):
    """A button that trains each way in turn, at a length to be chosen, and shows what it learned.

    Nothing is kept from earlier sessions, so each click trains anew. `train(36)` does it by code
    and returns the `WaysResult`; after a click, `result` has it.

    Args:
        base: stays as it was.
        task: what to learn.
        ways: the ways at a length, by name: `way_in.too_long` or `way_in.packings`.
        title: the question.
        label: the name of the length, such as "max_length".
        lengths: the lengths to choose from, in tokens.
        length: the length to begin with.
        seeds: how many runs each way gets.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        ways: Callable[[Base, Task, int], Mapping[str, Way]],
        *,
        title: str,
        label: str,
        lengths: Sequence[int],
        length: int,
        seeds: int = 1,
    ) -> None:
        super().__init__()
        self.base, self.task, self.ways_at, self.title = base, task, ways, title
        self.seeds, self._trained_at = seeds, None
        slider = widgets.SelectionSlider(options=[*lengths], value=length)
        self.length = labelled(slider, label, "17em")
        self.bars = PictureView(BARS[0])
        self.loss_picture.layout.width = f"{CURVES[0]}px"
        self.children = [
            widgets.HTML(markup.title(title)),
            row(self.length, self.train_button, self.stop_button, self.progress, self.state),
            columns(self.loss_picture, self.bars),
        ]
        self._forget()
        self._say("ready: press Train all")
        self._show()

    def train(self, length: int | None = None) -> WaysResult:
        """Train as a click on the button does, wait for the end, and return the result.

        Args:
            length: is set first; None: the slider's value.

        Raises:
            RuntimeError: if it was stopped before the end.
        """
        if length is not None:
            self.length.value = length
        self.start()
        return self.result

    @property
    def result(self) -> WaysResult:
        """The result of the last training; it is waited for.

        Raises:
            RuntimeError: if there is none, with what to do.
        """
        self.wait()
        if self._trained_at is None:
            raise RuntimeError("not all ways are trained; press Train all and let it end")
        return WaysResult(self._ways, {name: tuple(some) for name, some in self._outcomes.items()})

    @property
    def _is_finished(self) -> bool:
        return self._trained_at == self.length.value

    @property
    def picture(self) -> plots.Picture:
        """The right answers as they stand, for readers without a kernel."""
        title = f"What is right at {self.length.description} {self._length}?"
        return plots.picture(plots.draw_right, shares(self._outcomes), title, size=BARS)

    @property
    def curves(self) -> plots.Picture:
        """The losses as they stand."""
        steps = max(way.recipe.steps for way in self._ways.values())
        return plots.picture(plots.draw_together, self._losses, LOSS, steps, True, size=CURVES)

    def __repr__(self) -> str:
        lengths = ", ".join(map(str, self.length.options))
        kinds = f"{self.base.name} · {self.task.name}"
        return f"WaysLab: {kinds} · {', '.join(self._ways)} · {self.length.description} {lengths}"

    def _forget(self) -> None:
        self._length, self._trained_at = self.length.value, None
        self._ways = self.ways_at(self.base, self.task, self._length)
        self._losses: dict[str, list[list[float]]] = {name: [] for name in self._ways}
        self._outcomes: dict[str, list[Outcome]] = {name: [] for name in self._ways}

    def _train(self) -> None:
        self._forget()
        self.panel.reset_bar()
        steps = sum(way.recipe.steps for way in self._ways.values())
        self.progress.max = self.seeds * steps
        drawing = Pace(FRAMES, DRAWING)
        try:
            for seed in range(self.seeds):
                for name, way in self._ways.items():
                    if not self._follow(name, way, seed, drawing):
                        self._say("stopped; Train all begins anew")
                        return
        finally:
            self._show()
        self._trained_at = self._length
        self.progress.bar_style = "success"
        self._say(f"finished: {len(self._ways) * self.seeds} trainings")

    def _follow(self, name: str, way: Way, seed: int, drawing: Pace) -> bool:
        """Train a way with a seed and score it; False if it was stopped."""
        steps = Steps(self.base, way, seed)
        self._losses[name].append(steps.losses)
        for loss in steps:
            self.progress.value += 1
            if self._work.stopped:
                return False
            if drawing.due:
                with drawing.turn():
                    self._say(f"{name}: step {len(steps.losses)} · loss {loss:.2f}")
                    self._show()
        self._say(f"{name}: asking it …")
        self._outcomes[name].append(steps.outcome(self.task))
        return True

    def _show(self) -> None:
        self.loss_picture.show(self.curves)
        self.bars.show(self.picture)

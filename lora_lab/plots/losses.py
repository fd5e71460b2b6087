"""The loss of a run, step by step; also as a film while it trains."""

import io
import math
import statistics
from collections.abc import Sequence
from itertools import chain

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lora_lab.plots.canvas import (
    DRAWING,
    EARLIER,
    LEGEND,
    RUN,
    SIZE,
    axes_for,
    axis_end,
    corner,
    tidy,
)
from lora_lab.records import StepRecord
from lora_lab.wording import counted

QUESTION = "Does the loss fall?"


def draw_loss(
    ax: Axes,
    records: Sequence[StepRecord],
    earlier: Sequence[Sequence[StepRecord]] = (),
    steps: int | None = None,
    band: Sequence[Sequence[StepRecord]] = (),
    named: Sequence[str] = (),
    title: str = QUESTION,
) -> Axes:
    """The training and the validation loss by step, over the curves of earlier runs.

    Args:
        ax: where to draw.
        records: the records of the run at hand.
        earlier: other runs' records, oldest first: grey, fading with age.
        steps: the number of steps that the run will have; None: the number of records.
        band: the records of runs that differ only in their seed: a thin line each, a band from
            the least to the greatest training loss, a whisker for the validation loss.
        named: the names at the ends of the earlier runs' curves, in their order.
        title: the question; or, once the run is over, the finding.
    """
    ends = _loss_ends([records, *earlier, *band], steps)
    _draw_loss_frame(ax, ends, earlier, band, named, title)
    for line in _loss_lines(records):
        ax.add_line(line)
    ax.set_label(_loss_in_words(records, earlier, band, named))
    return ax


draw_loss.margins = 62, 20, 46, 26  # pixels on the screen: left, right, bottom, top


def loss_finding(records: Sequence[StepRecord]) -> str:
    """The course of a finished run's loss in words: `the loss falls`, `the loss hardly moves` …

    The mean over the last fifth of the steps is compared with the mean of the first two steps. A
    difference of a tenth counts as a movement. The validation loss rises if it ends a tenth above
    its lowest value.
    """
    losses = [record.loss for record in records]
    last = statistics.fmean(losses[-max(1, len(losses) // 5) :])
    first = statistics.fmean(losses[:2])
    checked = [record.validation_loss for record in records if record.validation_loss is not None]
    if not math.isfinite(last):
        return "the loss breaks"
    if last > 1.1 * first:
        return "the loss rises"
    if last > 0.9 * first:
        return "the loss hardly moves"
    again = ", and rises again in validation"
    return f"the loss falls{again * bool(checked and checked[-1] > 1.1 * min(checked))}"


def _loss_ends(runs: Sequence[Sequence[StepRecord]], steps: int | None) -> tuple[float, float]:
    """The ends of the axes: steps, nats per token."""
    last = max([steps or 0, *(record.step for run in runs for record in run), 1])
    losses = [
        loss
        for run in runs
        for record in run
        for loss in (record.loss, record.validation_loss)
        if loss is not None and math.isfinite(loss)
    ]
    return last, axis_end(max(losses, default=1.0))


def _draw_loss_frame(
    ax: Axes,
    ends: tuple[float, float],
    earlier: Sequence[Sequence[StepRecord]],
    band: Sequence[Sequence[StepRecord]],
    named: Sequence[str],
    title: str = QUESTION,
) -> None:
    """Draw the parts that stand still: axes, legend, earlier runs, and other seeds."""
    tidy(ax, title, "steps", "loss, nats per token")
    ax.set(xlim=(0, ends[0]), ylim=(0, ends[1]))
    for age, run in enumerate(reversed(earlier)):  # the newest is the darkest
        ax.plot(*_by_step(run), color=EARLIER, alpha=0.75 * 0.65**age, linewidth=1)
    _name_ends(ax, earlier, named, ends[1])
    names = [*_loss_lines(())]
    seeds = counted(max(1, len(band)), "seed")
    if band:
        names.append(_draw_band(ax, band, f"{seeds}, least to greatest"))
    if earlier:
        names.append(Line2D([], [], color=EARLIER, linewidth=1, label="earlier runs"))
    ax.legend(handles=names, loc="upper right", **LEGEND)
    corner(ax, seeds)  # off the curves


def _name_ends(
    ax: Axes, runs: Sequence[Sequence[StepRecord]], names: Sequence[str], highest: float
) -> None:
    """Write a name above the last half of each curve, higher where two names would overlap."""
    ends = [
        (max(record.loss for record in run[len(run) // 2 :]), run[-1].step, name)
        for run, name in zip(runs, names, strict=False)
        if name
    ]
    free = 0.0
    for loss, step, name in sorted(end for end in ends if math.isfinite(end[0])):
        place = step, max(loss, free)
        look = {"ha": "right", "fontsize": 9, "color": EARLIER, "textcoords": "offset points"}
        words = ax.annotate(name, place, (0, 3), **look)
        words.set_path_effects([withStroke(linewidth=3, foreground="white")])
        free = place[1] + 0.08 * highest


def _draw_band(ax: Axes, band: Sequence[Sequence[StepRecord]], label: str) -> PolyCollection:
    """The band between seeds, for the legend; it shows how far the seed alone moves a loss."""
    for run in band:
        ax.plot(*_by_step(run), color=RUN, alpha=0.35, linewidth=0.7)
    training, validation = (
        {step: [losses[step] for losses in by_run if step in losses] for step in {*chain(*by_run)}}
        for by_run in zip(*map(_losses, band), strict=True)
    )
    for step, losses in sorted(validation.items()):
        ax.plot([step, step], [min(losses), max(losses)], color=RUN, alpha=0.5, linewidth=3)
    steps = sorted(training)
    ends = ([end(training[step]) for step in steps] for end in (min, max))
    return ax.fill_between(steps, *ends, color=RUN, alpha=0.18, linewidth=0, label=label)


def _losses(run: Sequence[StepRecord]) -> tuple[dict[int, float], dict[int, float]]:
    """The training losses by step, and the validation losses where they were measured."""
    training = {record.step: record.loss for record in run}
    return training, {
        record.step: record.validation_loss for record in run if record.validation_loss is not None
    }


def _loss_lines(records: Sequence[StepRecord]) -> tuple[Line2D, Line2D]:
    """The lines of the run at hand: its training loss, and its validation loss where measured."""
    validated = [record for record in records if record.validation_loss is not None]
    places = [record.step for record in validated], [record.validation_loss for record in validated]
    dashed = {"linestyle": "--", "marker": "o", "markersize": 4}
    alone = {"marker": "o", "markersize": 3} if len(records) == 1 else {}  # a line needs two points
    line = {"color": RUN, "linewidth": 1.6, "clip_on": False}
    return (
        Line2D(*_by_step(records), label="training", **line, **alone),
        Line2D(*places, label="validation", **line, **dashed),
    )


def _by_step(records: Sequence[StepRecord]) -> tuple[list[int], list[float]]:
    return [record.step for record in records], [record.loss for record in records]


def _loss_in_words(
    records: Sequence[StepRecord],
    earlier: Sequence[Sequence[StepRecord]],
    band: Sequence[Sequence[StepRecord]],
    named: Sequence[str],
) -> str:
    if not records:
        words = "An empty chart: no step has been trained yet"
    else:
        first, last = records[0], records[-1]
        words = (
            f"The training loss goes from {first.loss:.2f} to {last.loss:.2f} nats per token "
            f"in {counted(last.step, 'step')}"
        )
        validated = [
            record.validation_loss for record in records if record.validation_loss is not None
        ]
        if validated:
            words += f"; the validation loss ends at {validated[-1]:.2f}"
    if band:
        training, validation = zip(*map(_losses, band), strict=True)
        words += f". {counted(len(band), 'seed')} end between {_span(training)}"
        if any(validation):
            words += f", in validation between {_span(validation)}"
    if earlier:
        words += f". In grey: {counted(len(earlier), 'earlier run')}"
        endings = [
            f"{name} ended at {run[-1].loss:.2f}"
            for name, run in zip(named, earlier, strict=False)
            if name
        ]
        words += f": {', '.join(endings)}" if endings else ""
    return f"{words}."


def _span(by_step: Sequence[dict[int, float]]) -> str:
    """`0.41 and 0.55`: the least and the greatest of the last losses."""
    last = [losses[max(losses)] for losses in by_step if losses]
    return f"{min(last):.2f} and {max(last):.2f}"


class LossFilm:
    """The picture of `draw_loss`, many times a second while a run goes on.

    The parts that stand still are painted once and kept. Each frame adds only the curves, which
    takes 5 ms in place of 70. When an axis has to grow, all is painted anew.
    """

    def __init__(
        self,
        earlier: Sequence[Sequence[StepRecord]] = (),
        steps: int | None = None,
        band: Sequence[Sequence[StepRecord]] = (),
        named: Sequence[str] = (),
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.earlier, self.steps, self.band = tuple(earlier), steps, tuple(band)
        self.named, self.size = tuple(named), size
        self._ends: tuple[float, float] | None = None

    def frame(self, records: Sequence[StepRecord]) -> bytes:
        """The picture at this moment as PNG bytes, at the screen's own number of pixels."""
        with DRAWING:
            ends = _loss_ends([records, *self.earlier, *self.band], self.steps)
            if ends != self._ends:
                self._paint(ends)
            self._canvas.restore_region(self._still)
            for line in _loss_lines(records):
                self._ax.add_line(line)
                self._ax.draw_artist(line)
                line.remove()
            buffer = io.BytesIO()
            imsave(buffer, self._canvas.buffer_rgba(), format="png")
            return buffer.getvalue()

    def _paint(self, ends: tuple[float, float]) -> None:
        if self._ends is None:
            self._ax = axes_for(draw_loss, self.size)
            self._canvas = FigureCanvasAgg(self._ax.figure)
            _draw_loss_frame(self._ax, ends, self.earlier, self.band, self.named)
        self._ax.set(xlim=(0, ends[0]), ylim=(0, ends[1]))
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self._ax.figure.bbox)
        self._ends = ends

"""Settings compared seed by seed, and curves of runs side by side."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.maths.comparison import Comparison, comparison_of
from lora_lab.maths.measures import ANSWERS
from lora_lab.maths.statistics import separate_interval
from lora_lab.plots.canvas import BASE, EARLIER, INK, RUN, axis_end, corner, tidy
from lora_lab.records import StepRecord
from lora_lab.wording import counted

Pairs = tuple[Sequence[float], Sequence[float]]  # shares of two settings, a number for each seed


def pairs_size(comparisons: int) -> tuple[int, int]:
    """The size of `draw_pairs` in pixels on the screen."""
    return 620, 40 + 185 * comparisons


def draw_pairs(ax: Axes, comparisons: Mapping[str, Pairs]) -> Axes:
    """Each comparison of two settings, A and B: a line for each seed, and B - A with its interval.

    Beside the interval of the pairs stands that of two separate groups, in grey.

    Args:
        ax: where to draw.
        comparisons: the shares of right answers of A and of B in the same order of seeds, by name.
    """
    ax.set_title("Is B better than A?", loc="left", fontsize=10.5, color=INK)
    ax.axis("off")
    corner(ax, counted(min(len(a) for a, _ in comparisons.values()), "seed"))
    said, height = [], 1 / len(comparisons)
    found = {
        name: comparison_of([y - x for x, y in zip(a, b, strict=True)], measure=ANSWERS[0])
        for name, (a, b) in comparisons.items()
    }
    apart = {name: separate_interval(*sides) for name, sides in comparisons.items()}
    ends = [end for low, high in apart.values() for end in (low, high)]
    ends += [end for comparison in found.values() for end in (comparison.low, comparison.high)]
    reach = 115 * max(map(abs, ends))
    for place, (name, (a, b)) in enumerate(comparisons.items()):
        bottom = 1 - (place + 1) * height
        lines = ax.inset_axes([0.02, bottom + 0.2 * height, 0.3, 0.62 * height])
        _draw_lines(lines, name, a, b)
        interval = ax.inset_axes([0.45, bottom + 0.2 * height, 0.53, 0.62 * height])
        _draw_intervals(interval, found[name], apart[name], reach)
        paired, (low, high) = found[name], apart[name]
        said.append(
            f"{name}: B less A is {100 * paired.difference:+.1f} points, paired "
            f"{100 * paired.low:.1f} to {100 * paired.high:.1f}, unpaired {100 * low:.1f} to "
            f"{100 * high:.1f}: {paired.result}"
        )
    ax.set_label(f"{'; '.join(said)}.")
    return ax


draw_pairs.colours = 48


def _draw_lines(ax: Axes, name: str, a: Sequence[float], b: Sequence[float]) -> None:
    """A line from A to B for each seed: blue if B has more, else grey."""
    tidy(ax, name, "", "right, %")
    for x, y in zip(a, b, strict=True):
        colour = RUN if y > x else EARLIER
        ax.plot([0, 1], [100 * x, 100 * y], "o-", color=colour, markersize=4, linewidth=1.2)
    ax.set_xticks([0, 1], ["A", "B"])
    ax.set(xlim=(-0.25, 1.25))
    ax.grid(visible=False, axis="x")


def _draw_intervals(ax: Axes, found: Comparison, apart: tuple[float, float], reach: float) -> None:
    """The difference with its interval, paired and unpaired."""
    tidy(ax, "", "B − A, points", "")
    ax.axvline(0, color=BASE, linestyle=":", linewidth=1.6)
    rows = (("paired", (found.low, found.high), RUN), ("unpaired", apart, EARLIER))
    for place, (_, (low, high), colour) in enumerate(rows):
        ax.plot([100 * low, 100 * high], [place] * 2, color=colour, linewidth=2.5)
        ax.plot(100 * found.difference, place, "o", color=colour, markersize=6)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    ax.set(ylim=(1.6, -0.9), xlim=(-reach, reach))
    ax.grid(visible=False, axis="y")
    ax.text(
        0.99,
        0.98,
        found.result,
        transform=ax.transAxes,
        ha="right",
        va="top",
        fontsize=9,
        color=INK,
    )


def draw_curves(ax: Axes, runs: Mapping[str, Sequence[StepRecord]]) -> Axes:
    """The training loss of each run in a panel of its own; its validation loss is dashed.

    Args:
        ax: where to draw.
        runs: the records of each run, by the panel's name.
    """
    ax.set_title("What does each curve show?", loc="left", fontsize=10.5, color=INK)
    ax.axis("off")
    corner(ax, "training loss; validation loss dashed")
    said = []
    for place, (name, records) in enumerate(runs.items()):
        panel = ax.inset_axes([(place + 0.16) / len(runs), 0.16, 0.8 / len(runs), 0.68])
        said.append(f"{name}: {_draw_curve(panel, name, records, place == 0)}")
    ax.set_label(f"{'; '.join(said)}, in nats per token.")
    return ax


def _draw_curve(ax: Axes, name: str, records: Sequence[StepRecord], first: bool) -> str:
    tidy(ax, name, "steps", "loss, nats per token" if first else "")
    steps, losses = zip(*((record.step, record.loss) for record in records), strict=True)
    ax.plot(steps, losses, color=RUN, linewidth=1.4)
    checked = [
        (record.step, record.validation_loss)
        for record in records
        if record.validation_loss is not None
    ]
    words = f"training loss from {losses[0]:.2f} to {losses[-1]:.2f}"
    if checked:
        ax.plot(*zip(*checked, strict=True), color=RUN, linewidth=1.4, linestyle="--")
        least = min(loss for _, loss in checked)
        words += f", validation loss {least:.2f} at its lowest and {checked[-1][1]:.2f} at the end"
    finite = [loss for loss in (*losses, *(loss for _, loss in checked)) if math.isfinite(loss)]
    ax.set(ylim=(0, axis_end(max(finite))))
    return words

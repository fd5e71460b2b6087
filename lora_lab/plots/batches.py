"""The effect of the batch: where its gradient points, what it learns, and how low losses went."""

import math
import statistics
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, INK, LEGEND, RUN, corner, tidy
from lora_lab.training.summary import interval_of_scores
from lora_lab.wording import counted, percent, percent_range

MARKERS = "os^Dv"  # of kinds of tasks


def draw_fan(ax: Axes, batch_size: int, angles: Sequence[float], examples: int) -> Axes:
    """An arrow for each batch, at its angle to the gradient of all examples.

    An angle has no side: arrows go up and down in turn. All have the same length.

    Args:
        ax: where to draw.
        batch_size: the number of examples in each batch.
        angles: an angle for each batch, in degrees.
        examples: the number of all examples.
    """
    mean, size = statistics.fmean(angles), counted(batch_size, "example")
    tidy(ax, f"A batch of {size} points {mean:.0f}° off", "", "")
    ax.grid(visible=False)
    for place, angle in enumerate(angles):
        _arrow(ax, math.radians(angle) * (-1) ** place, color=RUN, linewidth=0.9, alpha=0.55)
    _arrow(ax, 0, color=INK, linewidth=2.6)
    look = {"fontsize": 9, "va": "center"}
    ax.text(1.02, 0, f"the gradient of all {examples} examples", color=INK, **look)
    ax.text(1.02, -0.9, f"the gradients of {len(angles)} batches", color=RUN, **look)
    for degrees in (30, 60, 90):
        x, y = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        ax.plot([0.95 * x, x], [0.95 * y, y], color=EARLIER, linewidth=1)
        ax.text(1.1 * x, 1.1 * y, f"{degrees}°", ha="center", color=INK, **look)
    ax.set(xlim=(-0.4, 2.3), ylim=(-1.0, 1.2), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_label(
        f"{len(angles)} batches of {size}: their gradients point {mean:.0f}° away from the "
        f"gradient of all {examples} examples in the mean, {min(angles):.0f} to "
        f"{max(angles):.0f}°."
    )
    return ax


draw_fan.colours = 64  # of its PNG


def _arrow(ax: Axes, angle: float, **look: object) -> None:
    end = (0.9 * math.cos(angle), 0.9 * math.sin(angle))
    ax.annotate(
        "", end, (0, 0), arrowprops={"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0} | look
    )


def draw_by_batch(ax: Axes, series: Mapping[str, Mapping[int, Sequence[float]]]) -> Axes:
    """Right answers by batch size, a line for each thing that is held equal.

    Args:
        ax: where to draw.
        series: each seed's share, 0 to 1, by what is held equal and by batch size.
    """
    tidy(ax, "The best batch depends on what is held equal", "batch", "new facts right, %")
    shades, summaries = mpl.colormaps["viridis"], []
    seeds = {len(shares) for by_size in series.values() for shares in by_size.values()}
    for place, (name, by_size) in enumerate(series.items()):
        colour, sizes = shades(0.15 + 0.5 * place), sorted(by_size)
        at = [math.log2(size) for size in sizes]
        means = [100 * statistics.fmean(by_size[size]) for size in sizes]
        ends = [interval_of_scores(by_size[size], share=True) for size in sizes]
        ax.plot(at, means, "-o" if place == 0 else "--s", color=colour, markersize=6, label=name)
        for x, (low, high) in zip(at, ends, strict=True):
            ax.plot([x, x], [100 * low, 100 * high], color=colour, linewidth=2, alpha=0.6)
        points = zip(sizes, means, ends, strict=True)
        words = (f"{size}: {mean:.0f} % ({percent_range(*end)})" for size, mean, end in points)
        summaries.append(f"{name}, by batch {', '.join(words)}")
    ticks = sorted({size for by_size in series.values() for size in by_size})
    ax.set_xticks([math.log2(size) for size in ticks], [f"{size}" for size in ticks])
    ax.set(ylim=(0, 104))
    ax.legend(loc="lower center", **LEGEND)
    corner(ax, " or ".join(counted(number, "seed") for number in sorted(seeds)))
    ax.set_label(f"New facts right, means with 95 % intervals. {'; '.join(summaries)}.")
    return ax


def draw_last_losses(
    ax: Axes, runs: Mapping[str, Sequence[tuple[float, float]]], limit: float
) -> Axes:
    """A point for each run: the loss of its last training step, and its right answers on a test.

    Args:
        ax: where to draw.
        runs: pairs of a loss in nats and a share, 0 to 1, by task.
        limit: a loss, drawn as a line.
    """
    title = f"Runs that end below {limit:g} answer more, not less"
    tidy(ax, title, "loss of the last training step, nats per label", "right on the test, %")
    shades, summaries = mpl.colormaps["viridis"], []
    for place, (task, points) in enumerate(runs.items()):
        colour = shades(0.9 * place / max(1, len(runs) - 1))
        losses, shares = zip(*points, strict=True)
        look = {"color": colour, "markersize": 4.5, "alpha": 0.7, "label": task}
        ax.plot(losses, [100 * share for share in shares], MARKERS[place % 5], **look)
        for side, kept in (("below", True), ("above", False)):
            some = [share for loss, share in points if (loss < limit) == kept]
            if some:
                mean = percent(statistics.fmean(some))
                summaries.append(f"{task}, {side} {limit:g}: {mean} in {counted(len(some), 'run')}")
    ax.axvline(limit, color=INK, linestyle=":", linewidth=1.2)
    ax.annotate(f"{limit:g}", (limit, 2), (4, 0), textcoords="offset points", fontsize=9, color=INK)
    ax.set(xscale="log", ylim=(0, 104))
    ax.legend(loc="lower left", **LEGEND)
    corner(ax, counted(sum(map(len, runs.values())), "run"))
    ax.set_label(f"Right answers by the last training loss. {'; '.join(summaries)}.")
    return ax


draw_last_losses.colours = 64

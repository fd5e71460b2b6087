"""The results of fine-tunes, rank by rank."""

import math
import statistics
from collections.abc import Mapping, Sequence
from textwrap import fill

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from lora_lab.plots.canvas import BASE, INK, LEGEND, RUN, axis_end, corner, tidy
from lora_lab.wording import counted

Seeds = Sequence[float]  # one number for each seed


def draw_cliff(ax: Axes, left: Mapping[int, Seeds], start: float) -> Axes:
    """The distance of each rank's student from its teacher, on a logarithmic axis.

    Args:
        ax: where to draw.
        left: KL(teacher || student) after training by rank, in nats per token, for each seed.
        start: KL(teacher || base), before any training.
    """
    tidy(ax, "At which rank does the loss fall off?", "rank r", "KL to the teacher, nats per token")
    means = _band(ax, left, RUN, "o", "student")
    ax.axhline(start, color=BASE, linestyle=":", linewidth=1.2)
    ax.annotate("base", (1, start), (0, 4), textcoords="offset points", fontsize=9, color=INK)
    ax.set_yscale("log")
    ax.set_xticks([*left], [str(r) for r in left])
    ax.set_ylim(top=2 * start)
    summary = ", ".join(f"{mean:.2g} at rank {r}" for r, mean in means.items())
    ax.set_label(
        f"KL to the teacher, base {start:.2g} nats per token; after training {summary}. "
        f"{_seeds_in_words(left)}."
    )
    return ax


def draw_together(
    ax: Axes,
    losses: Mapping[int | str, Sequence[Seeds]],
    title: str,
    steps: int,
    logarithmic: bool = False,
) -> Axes:
    """The losses of several ranks in one chart, also while they grow.

    Args:
        ax: where to draw.
        losses: the loss of every step so far by rank, for each seed, in nats per token. A name may
            stand in place of a rank.
        title: the question that the curves answer.
        steps: where the axis ends.
        logarithmic: whether the axis of the loss is logarithmic.
    """
    tidy(ax, title, "steps", "loss, nats per token")
    ends, drawn = [], [loss for curves in losses.values() for curve in curves for loss in curve]
    for count, (r, curves) in enumerate(losses.items()):
        colour = colormaps["viridis"](0.88 - 0.88 * count / max(1, len(losses) - 1))
        begun = [curve for curve in curves if curve]
        mean = [statistics.mean(step) for step in zip(*begun, strict=False)]
        for curve in begun if len(begun) > 1 else ():
            ax.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=0.6, alpha=0.6)
        ax.plot(
            range(1, len(mean) + 1),
            mean,
            color=colour,
            linewidth=1.7,
            label=fill(_named(r, "r"), 22),
        )
        ends += [f"{_named(r, 'rank')} {mean[-1]:.2g}"] if mean else []
    ax.set(xlim=(0, steps))
    if logarithmic:
        low, high = (min(drawn), max(drawn)) if drawn else (0.1, 1)
        ax.set(yscale="log", ylim=(10 ** math.floor(math.log10(low)), axis_end(high)))
        ax.yaxis.set_minor_formatter(NullFormatter())  # numbers at the powers of ten alone
    else:
        ax.set(ylim=(0, axis_end(max(drawn, default=1.0))))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), **LEGEND)
    corner(ax, counted(max(map(len, losses.values())), "seed"))
    said = f"the mean loss at the last step drawn, {', '.join(ends)}" if ends else "no step yet"
    ax.set_label(f"{title} Losses by step and rank: {said}.")
    return ax


def _named(r: int | str, rank: str) -> str:
    return r if isinstance(r, str) else f"{rank} {r}"


draw_together.colours = 64  # the curves of many steps make a large file


def _band(
    ax: Axes, numbers: Mapping[int, Seeds], colour: str, marker: str, name: str
) -> dict[int, float]:
    """The means by place, drawn as a line over a band from the least to the greatest seed."""
    where = sorted(numbers)
    means = {place: statistics.mean(numbers[place]) for place in where}
    lows, highs = [min(numbers[place]) for place in where], [max(numbers[place]) for place in where]
    ax.fill_between(where, lows, highs, color=colour, alpha=0.25, linewidth=0)
    ax.plot(where, [*means.values()], color=colour, marker=marker, markersize=5, label=name)
    corner(ax, counted(len(numbers[where[0]]), "seed"))
    return means


def _seeds_in_words(numbers: Mapping[int, Seeds]) -> str:
    """`1 seed`, or `The means of 3 seeds`."""
    count = len(next(iter(numbers.values())))
    return "1 seed" if count == 1 else f"The means of {count} seeds"

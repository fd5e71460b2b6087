"""Chance: the spread of scores, and differences beside it."""

from collections.abc import Mapping, Sequence
from itertools import chain

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lora_lab.maths.comparison import Comparison
from lora_lab.plots.canvas import BASE, EARLIER, INK, LEGEND, PALE, RUN, tidy
from lora_lab.wording import percent_range


def draw_noise(ax: Axes, shares: Mapping[str, Sequence[float]], low: float, high: float) -> Axes:
    """Scores that differ by chance alone: a row of dots for each cause, over the expected range.

    Args:
        ax: where to draw.
        shares: the shares of right answers, by the cause of their spread.
        low: the lower end of the range that holds 95 % of test sets, by the formula: a share.
        high: the upper end of this range.
    """
    tidy(ax, "How far does a score stray by chance?", "right answers, %", "")
    band = ax.axvspan(100 * low, 100 * high, color=PALE, label="95 % of test sets, by the formula")
    for place, values in enumerate(shares.values()):
        ax.plot([100 * share for share in values], [place] * len(values), "o", color=RUN, alpha=0.6)
    ax.set_yticks(range(len(shares)), [f"{name}: {len(values)}" for name, values in shares.items()])
    points = [100 * share for share in (low, high, *chain.from_iterable(shares.values()))]
    ax.set(ylim=(len(shares) - 0.4, -0.6), xlim=(min(points) - 2, max(points) + 2))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(visible=False, axis="y")
    look = {**LEGEND}
    ax.figure.legend(handles=[band], loc="outside lower left", **look)
    summaries = [
        f"{name}: {len(values)} from {percent_range(min(values), max(values))}"
        for name, values in shares.items()
    ]
    ax.set_label(
        f"Right answers. {'; '.join(summaries)}; the formula expects {percent_range(low, high)}."
    )
    return ax


def draw_differences(ax: Axes, comparisons: Mapping[str, Comparison]) -> Axes:
    """Each difference with its 95 % interval: blue with paired questions, grey without pairs.

    Args:
        ax: where to draw.
        comparisons: comparisons of models, paired by question, by name.
    """
    tidy(ax, "Is the difference more than chance?", "difference, points", "")
    ax.axvline(0, color=BASE, linestyle=":", linewidth=1.6)
    summaries = []
    for place, (name, comparison) in enumerate(comparisons.items()):
        middle = 100 * comparison.difference
        low, high = 100 * comparison.low, 100 * comparison.high
        half = 100 * comparison.answers.unpaired_margin
        for ends, shift, colour in (
            ([low, high], -0.13, RUN),
            ([middle - half, middle + half], 0.17, EARLIER),
        ):
            ax.plot(ends, [place + shift] * 2, color=colour, linewidth=2.5)
            ax.plot(middle, place + shift, "o", color=colour, markersize=6)
        summaries.append(
            f"{name} {middle:+.0f} points, {low:.0f} to {high:.0f} paired, "
            f"p {comparison.p_value:.2g}: {comparison.result}"
        )
        at = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 9, "color": INK}
        ax.text(1.02, place, comparison.result, **at)  # right of the axes
    ax.set_yticks(range(len(comparisons)), [*comparisons])
    ax.set(ylim=(len(comparisons) - 0.4, -0.6))
    ax.grid(visible=False, axis="y")
    keys = [
        Line2D([], [], color=RUN, marker="o", label="paired, 95 %"),
        Line2D([], [], color=EARLIER, marker="o", label="unpaired, 95 %"),
    ]
    look = {**LEGEND, "ncols": 2}
    ax.figure.legend(handles=keys, loc="outside lower left", **look)
    ax.set_label(f"{'; '.join(summaries)}.")
    return ax

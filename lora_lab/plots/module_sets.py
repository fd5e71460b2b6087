"""The facts that sets of modules have learnt, side by side."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.plots.canvas import LEGEND, NEW, OLD, tidy
from lora_lab.wording import percent


def draw_sets(
    ax: Axes,
    new: Mapping[str, Sequence[float]],
    trained: Mapping[str, int],
    old: Mapping[str, Sequence[float]],
    compared: str,
) -> Axes:
    """The new facts learnt and the old facts kept: a row for each set of modules.

    Args:
        ax: where to draw.
        new: the share of new facts that are right by set, for each seed.
        trained: the number of trained parameters, by set.
        old: the share of old facts that are still right by set, for each seed.
        compared: the basis of the comparison: "equal r".
    """
    tidy(ax, f"Which modules learn new facts, at {compared}?", "right, %", "")
    ax.grid(visible=False, axis="y")
    summaries = []
    for place, (name, values) in enumerate(new.items()):
        mean = 100 * statistics.mean(values)
        ax.barh(place, mean, height=0.62, color=NEW, alpha=0.35, linewidth=0)
        for shift, colour, marker, shares in ((0, NEW, "o", values), (0.2, OLD, "d", old[name])):
            points = {"color": colour, "marker": marker, "linestyle": "", "markersize": 5}
            label = {NEW: "new facts, a dot a seed", OLD: "old facts kept"}[colour]
            where = [place + shift] * len(shares)
            (line,) = ax.plot([100 * share for share in shares], where, clip_on=False, **points)
            line.set_label("" if place else label)
        summaries.append(f"{name} {percent(mean / 100)} ({trained[name]:,} parameters)")
    names = [f"{name}\n{trained[name]:,}" for name in new]
    ax.set_yticks(range(len(new)), names, fontsize=9, linespacing=1.1)
    ax.set(xlim=(0, 100), ylim=(len(new) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    look = {**LEGEND, "ncols": 2}
    ax.figure.legend(*ax.get_legend_handles_labels(), loc="outside lower left", **look)
    seeds = len(next(iter(new.values())))
    ax.set_label(
        f"New facts right at {compared}, as a mean of {seeds} seeds: {'; '.join(summaries)}."
    )
    return ax

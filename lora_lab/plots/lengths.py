"""The lengths of a task's examples, and the cost of longer examples."""

from collections.abc import Mapping, Sequence
from statistics import median

from matplotlib import colormaps
from matplotlib.axes import Axes

from lora_lab.plots.canvas import INK, LEGEND, PAPER, RUN, tidy

MARKERS = "os^v"  # so that lines differ without their colour


def draw_lengths(ax: Axes, lengths: Mapping[str, Sequence[int]], limit: int) -> Axes:
    """The lengths of several tasks' examples: a box and whiskers from 5 to 95 %, dots beyond.

    Args:
        ax: where to draw.
        lengths: the tokens of each example, by the task's name.
        limit: the least length that is advised, in tokens: a line.
    """
    tidy(ax, "How long are the examples?", "tokens, prompt and answer", "")
    names = [*lengths][::-1]  # the first task on top
    ax.boxplot(
        [lengths[name] for name in names],
        orientation="horizontal",
        whis=(5, 95),
        widths=0.55,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": RUN},
        medianprops={"color": INK, "linewidth": 1.6},
        boxprops={"color": RUN},
        whiskerprops={"color": RUN},
        capprops={"color": RUN},
    )
    ax.axvline(limit, color=PAPER, linestyle="--", linewidth=1.4)
    look = {"textcoords": "offset points", "ha": "right", "fontsize": 9, "color": INK}
    ax.annotate(f"advised: {limit} or more", (limit, len(names)), (-6, -3), **look)
    ax.set_yticks(range(1, len(names) + 1), names)
    ax.set_xscale("log", base=2)
    longest = max(max(counts) for counts in lengths.values())
    ticks = [2**power for power in range(3, 14) if 2**power <= 2 * max(limit, longest)]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    summaries = (
        f"{name} {median(lengths[name]):.0f}, at most {max(lengths[name])}" for name in lengths
    )
    ax.set_label(
        f"The median length, in tokens: {'; '.join(summaries)}. Advised are {limit} or more."
    )
    return ax


def draw_cost_of_length(ax: Axes, costs: Mapping[str, Mapping[int, float]]) -> Axes:
    """The cost of a step by the examples' length, each line relative to its shortest length.

    Args:
        ax: where to draw.
        costs: the cost in any unit, by the line's name (up to four) and the length in tokens.
    """
    tidy(ax, "What does length cost?", "tokens of each example", "times the shortest's")
    summaries, shades = [], colormaps["viridis"]
    for place, (name, by_length) in enumerate(costs.items()):
        colour = shades(0.1 + 0.7 * place / max(len(costs) - 1, 1))
        first = by_length[min(by_length)]
        times = [cost / first for cost in by_length.values()]
        ax.plot([*by_length], times, f"-{MARKERS[place]}", color=colour, markersize=5, label=name)
        summaries.append(
            f"{name} × {times[-1]:.3g} from {min(by_length)} to {max(by_length)} tokens"
        )
    shortest = min(min(by_length) for by_length in costs.values())
    longest = max(max(by_length) for by_length in costs.values())
    in_step = [shortest, longest], [1, longest / shortest]
    ax.plot(*in_step, color=INK, linestyle=":", linewidth=1, label="in step")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    places = sorted({length for by_length in costs.values() for length in by_length})
    ax.set_xticks(places, [f"{length:,}" for length in places])
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.minorticks_off()
    ax.legend(loc="upper left", **LEGEND)
    ax.set_label(f"Beside the shortest: {'; '.join(summaries)}.")
    return ax

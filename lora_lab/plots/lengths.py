"""The lengths of a task's examples, the cost of longer ones, and the results of ways to batch."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from textwrap import fill

from matplotlib import colormaps
from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, FULL, INK, LEGEND, NEW, PAPER, RUN, corner, tidy
from lora_lab.wording import counted, percent

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


def draw_right(ax: Axes, right: Mapping[str, Sequence[float]], title: str) -> Axes:
    """The share of right answers of each way, a bar; a dot for each seed.

    Args:
        ax: where to draw.
        right: shares by way, for each seed; an empty list: the way is not trained yet.
        title: the question, or what was found.
    """
    count = counted(max((len(shares) for shares in right.values()), default=0), "seed")
    tidy(ax, title, f"right, % ({count})", "")
    ax.grid(visible=False, axis="y")
    said = []
    for place, (name, shares) in enumerate(right.items()):
        if not shares:
            continue
        mean = fmean(shares)
        ax.barh(place, 100 * mean, height=0.6, color=NEW, alpha=0.35, linewidth=0)
        points = [100 * share for share in shares]
        look = {"color": NEW, "marker": "o", "linestyle": "", "markersize": 5, "clip_on": False}
        ax.plot(points, [place] * len(points), **look)
        ax.annotate(percent(mean), (104, place), va="center", fontsize=9, color=INK)
        said.append(f"{name} {percent(mean)}")
    ax.set_yticks(range(len(right)), [fill(name, 16) for name in right], fontsize=9)
    ax.set(xlim=(0, 116), xticks=range(0, 101, 25), ylim=(len(right) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    ax.set_label(f"{title} Right answers: {', '.join(said) or 'none trained yet'}.")
    return ax


draw_right.colours = 64


def draw_by_limit(
    ax: Axes, right: Mapping[str, Mapping[int, Sequence[float]]], whole: float, title: str
) -> Axes:
    """The share of right answers by `max_length`, a line for each way; a dot for each seed.

    Args:
        ax: where to draw.
        right: by way and max_length, for each seed.
        whole: the share with nothing cut, a dotted line.
        title: the question, or what was found.
    """
    tidy(ax, title, "max_length, tokens", "right, %")
    ax.axhline(100 * whole, color=INK, linestyle=":", linewidth=1.2, label="whole")
    colours, said = (FULL, RUN, EARLIER), [f"whole {percent(whole)}"]
    for count, (name, by_limit) in enumerate(right.items()):
        means = {limit: fmean(shares) for limit, shares in sorted(by_limit.items())}
        look = {"color": colours[count], "marker": MARKERS[count], "markersize": 5}
        ax.plot([*means], [100 * mean for mean in means.values()], label=fill(name, 18), **look)
        for limit, shares in by_limit.items():
            dots = [100 * share for share in shares]
            look = {"color": colours[count], "marker": ".", "linestyle": "", "markersize": 3}
            ax.plot([limit] * len(dots), dots, **look)
        found = ", ".join(f"{percent(mean)} at {limit}" for limit, mean in means.items())
        said.append(f"{name} {found}")
    limits = sorted({limit for by_limit in right.values() for limit in by_limit})
    ax.set_xticks(limits)
    ax.set(ylim=(0, 102))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), **LEGEND)
    corner(ax, counted(max(len(seeds) for way in right.values() for seeds in way.values()), "seed"))
    ax.set_label(f"{title} Right answers: {'; '.join(said)}.")
    return ax


draw_by_limit.colours = 64

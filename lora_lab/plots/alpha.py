"""The effect of alpha: a map with the rate, twin runs, first steps, facts learnt against lost."""

import math
import statistics
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from lora_lab.findings.defaults import ToolDefaults
from lora_lab.plots.canvas import (
    BASE,
    EARLIER,
    INK,
    LEGEND,
    PALE,
    PAPER,
    RUN,
    axis_end,
    corner,
    tidy,
)
from lora_lab.records import StepRecord
from lora_lab.wording import counted, fine_percent

STYLES = ("-o", "--s", ":^")  # of the plane's paths, up to three
SIDES = (
    (7, 4, "left"),
    (2, 11, "center"),
    (8, -13, "left"),
)  # the labels' offset in points, and their alignment
NEAR = 3  # percent: settings so near to each other share a label
Shares = tuple[float, float]  # of old facts kept and new facts learnt, 0 to 1


def draw_alpha_map(
    ax: Axes,
    name: str,
    losses: Mapping[tuple[float, float], float],
    line: Mapping[float, float],
    level: float,
) -> Axes:
    """Losses by alpha and learning rate, and the line along which the loss is the same.

    Args:
        ax: where to draw.
        name: the optimizer's name, for the title.
        losses: nats per token by (alpha, learning rate); nan where the run diverged.
        line: the learning rate on the line, by alpha.
        level: the loss on the line.
    """
    alphas, rates = (sorted({*values}) for values in zip(*losses, strict=True))
    tidy(ax, f"{name}: what does the same?", "alpha", "learning rate")
    ax.grid(visible=False)
    shades = mpl.colormaps["Blues"]
    most = max(loss for loss in losses.values() if not math.isnan(loss))
    for (alpha, rate), loss in losses.items():
        at, dark = (alphas.index(alpha), rates.index(rate)), 0.75 * (1 - min(loss / most, 1))
        diverged = math.isnan(loss)
        colour = PALE if diverged else shades(dark)
        ax.barh(at[1], 0.96, left=at[0] - 0.48, height=0.94, color=colour)
        words, ink = ("–" if diverged else f"{loss:.1f}"), ("white" if dark > 0.5 else INK)
        look = {"ha": "center", "va": "center", "fontsize": 9.5, "color": ink, "zorder": 3}
        ax.text(*at, words, **look).set_path_effects([withStroke(linewidth=7, foreground=colour)])
    steps = math.log(rates[-1] / rates[0]) / (len(rates) - 1)
    places = [math.log(rate / rates[0]) / steps for rate in line.values()]
    across = [alphas.index(alpha) for alpha in line]
    ax.plot(across, places, color=INK, linewidth=1.8)
    between = [
        statistics.mean(coordinates[:2]) for coordinates in (across, places)
    ]  # columns: off the numbers
    look = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": INK}
    words = ax.annotate(f"{level:g} nats", between, (6, 5), **look)
    words.set_path_effects([withStroke(linewidth=4, foreground="white")])
    ax.set(xlim=(-0.55, len(alphas) - 0.45), ylim=(-0.55, len(rates) - 0.45))
    ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas])
    ax.set_yticks(range(len(rates)), [f"{rate:.2g}" for rate in rates])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    corner(ax, "loss, nats per token; 1 seed")
    summary = ", ".join(f"{rate:.2g} at alpha {alpha:g}" for alpha, rate in line.items())
    ax.set_label(f"{name}: the loss is {level:g} nats at learning rate {summary}.")
    return ax


def draw_twins(ax: Axes, name: str, curves: Mapping[str, Sequence[StepRecord]]) -> Axes:
    """The losses of runs that may be the same run. The first line is broad, to show the others.

    Args:
        ax: where to draw.
        name: the optimizer's name, for the title.
        curves: the runs by the name of their change.
    """
    tidy(ax, f"{name}: which of them are twins?", "steps", "loss, nats per token")
    looks = (
        {"color": RUN, "linewidth": 6, "alpha": 0.35},
        {"color": BASE, "linewidth": 1.5, "linestyle": "--"},
        {"color": EARLIER, "linewidth": 1.8},
        {"color": EARLIER, "linewidth": 1.5, "linestyle": ":"},
    )
    first, summaries = next(iter(curves.values())), []
    for look, (what, records) in zip(looks, curves.items(), strict=False):
        losses = [record.loss for record in records]
        ax.plot([record.step for record in records], losses, label=what, **look)
        apart = max(
            abs(record.loss - other.loss) for record, other in zip(records, first, strict=False)
        )
        summaries.append(f"{what} ends at {losses[-1]:.2f}, at most {apart:.2g} from the first")
    highest = max(record.loss for records in curves.values() for record in records)
    ax.set_ylim(0, axis_end(highest))
    ax.legend(**LEGEND)
    corner(ax, "1 seed")
    ax.set_label(f"{name}. {'; '.join(summaries)}, in nats.")
    return ax


draw_twins.colours = 64  # of its PNG


def draw_plane(ax: Axes, paths: Mapping[str, Mapping[str, Sequence[Shares]]]) -> Axes:
    """Old facts kept against new facts learnt, a point for each setting.

    Args:
        ax: where to draw.
        paths: up to three series of settings, by name; by setting, a pair of shares for each seed.
    """
    tidy(ax, "New facts learnt against old facts kept", "old facts kept, %", "new facts right, %")
    shades, summaries, most = mpl.colormaps["viridis"], [], 0
    for place, (name, settings) in enumerate(paths.items()):
        colour = shades(0.15 + 0.6 * place / max(len(paths) - 1, 1))
        means = [
            tuple(100 * statistics.mean(shares) for shares in zip(*seeds, strict=True))
            for seeds in settings.values()
        ]
        line, (*offset, side) = STYLES[place], SIDES[place]
        ax.plot(*zip(*means, strict=True), line, color=colour, markersize=7, label=name)
        labels: dict[Shares, list[str]] = {}
        for (setting, seeds), (old, new) in zip(settings.items(), means, strict=True):
            dots = [[100 * share for share in shares] for shares in zip(*seeds, strict=True)]
            ax.plot(*dots, "o", color=colour, markersize=3.5, alpha=0.45)
            near = (at for at in labels if math.dist(at, (old, new)) < NEAR)
            labels.setdefault(next(near, (old, new)), []).append(setting)
            summaries.append(f"{name}, {setting}: old {old:.0f} %, new {new:.0f} %")
            most = max(most, len(seeds))
        look = {"textcoords": "offset points", "ha": side, "fontsize": 9, "color": colour}
        for at, names in labels.items():
            words = ax.annotate(", ".join(names), at, offset, **look)
            words.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ax.set(xlim=(-12, 122), ylim=(-12, 116), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    if len(paths) > 1:
        ax.legend(**LEGEND, loc="lower left")
    corner(ax, counted(most, "seed"))
    ax.set_label(f"Means of {counted(most, 'seed')}. {'; '.join(summaries)}.")
    return ax


draw_plane.colours = 64  # of its PNG


def draw_first_steps(ax: Axes, sizes: Mapping[str, Mapping[int, float]]) -> Axes:
    """The size of the first step's change by rank, for each optimizer and factor.

    Args:
        ax: where to draw.
        sizes: shares of ‖Wx‖ by rank, for each name such as "SGD, α / √r": the optimizer in it
            decides the colour, and the factor the line.
    """
    tidy(ax, "How large is the first step, by rank?", "rank r", "change of the output, % of Wx")
    summaries, optimizers = [], [*dict.fromkeys(name.partition(",")[0] for name in sizes)]
    for name, by_rank in sizes.items():
        optimizer, _, factor = name.partition(", ")
        colour = (RUN, EARLIER)[optimizers.index(optimizer)]
        line = "--s" if "√" in factor else "-o"
        shares = [100 * share for share in by_rank.values()]
        ax.plot([*by_rank], shares, line, color=colour, markersize=4, label=name)
        ends = (fine_percent(share) for share in (by_rank[min(by_rank)], by_rank[max(by_rank)]))
        summaries.append(f"{name}: from {' to '.join(ends)}")
    ranks = [*next(iter(sizes.values()))]
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.minorticks_off()
    ax.set_xticks(ranks, [f"{r}" for r in ranks])
    powers = [10.0**power for power in range(-2, 2)]
    ax.set_yticks(powers, [f"{power:g}" for power in powers])
    ax.legend(**LEGEND, loc="lower left")
    corner(ax, "alpha 16; 1 seed")
    ax.set_label(f"From r {min(ranks)} to r {max(ranks)}, {'; '.join(summaries)}.")
    return ax


draw_first_steps.colours = 64  # of its PNG


def draw_scalings(ax: Axes, settings: Sequence[ToolDefaults]) -> Axes:
    """The factors in front of BA in public files: a mark for each file, equal factors stacked."""
    tidy(ax, "By what do others multiply?", "factor in front of BA", "files")
    stacks: dict[float, int] = {}
    for setting in settings:
        stacks[setting.scaling] = stacks.get(setting.scaling, 0) + 1
        ax.plot(setting.scaling, stacks[setting.scaling], "D", color=PAPER, markersize=8)
    for setting, side in ((settings[0], "left"), (settings[-1], "right")):
        at = (setting.scaling, stacks[setting.scaling])
        words = f"{setting.name}:\nr {setting.r}, alpha {setting.lora_alpha:g}"
        look = {"textcoords": "offset points", "ha": side, "fontsize": 9, "color": INK}
        ax.annotate(words, at, (-4 if side == "left" else 4, 28), **look)
    ax.set_xscale("log", base=2)
    ticks = [2.0**power for power in range(-4, 6)]
    ax.set_xticks(ticks, ["1/16", "1/8", "1/4", "1/2", *(f"{tick:g}" for tick in ticks[4:])])
    ax.set(ylim=(0, max(stacks.values()) + 1), yticks=range(0, max(stacks.values()) + 1, 2))
    summary = ", ".join(f"{factor:g} in {count}" for factor, count in stacks.items())
    ax.set_label(f"The factor in {len(settings)} settings from public files: {summary}.")
    return ax

"""Weights rounded to a few levels."""

from collections import Counter
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.plots.canvas import (
    EARLIER,
    FULL,
    INK,
    LEGEND,
    NEW,
    PAPER,
    RUN,
    corner,
    tidy,
)
from lora_lab.wording import fine_percent, percent

BINS = 80  # of the histogram, from -1 to 1
FALL = 0.45  # how far down the falling weights reach, as a share of the histogram's height
COLOURS = {"nf4": RUN, "e2m1": NEW, "int4": PAPER, "fp4": FULL}  # of the 4-bit types
MARKERS = dict(zip(COLOURS, "os^v", strict=True))


def draw_block(
    ax: Axes, weights: Sequence[float], codes: Sequence[int], levels: Sequence[float]
) -> Axes:
    """A block's weights as they fall to their levels.

    Args:
        ax: where to draw.
        weights: a few of them, which share an absmax.
        codes: the number of each weight's level.
        levels: the value of each code, -1 to 1, rising.
    """
    absmax = max(map(abs, weights))
    title = f"{len(weights)} weights use {len(set(codes))} of {len(levels)} levels"
    tidy(ax, title, f"weight / absmax (absmax = {absmax:.3f})", "")
    ax.grid(visible=False)
    for weight, code in zip(weights, codes, strict=True):
        ax.plot([weight / absmax, levels[code]], [1, 0], color=EARLIER, linewidth=1)
    ax.plot([weight / absmax for weight in weights], [1] * len(weights), "o", color=INK)
    ax.plot(levels, [0] * len(levels), "|", color=RUN, markersize=14)
    for code, level in enumerate(levels):
        down = 0.2 + 0.14 * (code % 2)  # neighbours stand on two lines
        ax.text(level, -down, str(code), ha="center", va="center", fontsize=9, color=RUN)
    ax.set(xlim=(-1.06, 1.06), ylim=(-0.5, 1.2))
    ax.set_yticks([1, 0, -0.27], ["weights", "levels", "codes"])
    ax.tick_params(axis="y", length=0)
    pairs = zip(weights, codes, strict=True)
    off = (sum((weight - levels[code] * absmax) ** 2 for weight, code in pairs)) ** 0.5
    error = fine_percent(off / sum(weight**2 for weight in weights) ** 0.5)
    corner(ax, f"relative error {error}")
    ax.set_label(
        f"{len(weights)} weights, divided by their largest size, {absmax:.3f}, fall to the nearest "
        f"of {len(levels)} levels, which lie closer together around 0. They reach "
        f"{len(set(codes))} of the levels. Relative error {error}."
    )
    return ax


def draw_rounding(
    ax: Axes,
    scaled: Sequence[float],
    codes: Sequence[int],
    levels: Sequence[float],
    blocksize: int,
    error: float,
    bits: float,
) -> Axes:
    """The distribution of scaled weights, the levels, and a block of weights that fall to them.

    Args:
        ax: where to draw.
        scaled: each weight as a share of its block's absmax, -1 to 1.
        codes: the number of each weight's level.
        levels: the value of each code.
        blocksize: the number of weights that share an absmax; the first block is seen falling.
        error: the relative error, 0 is exact.
        bits: the bits of a weight.
    """
    tidy(ax, "Where do the levels lie?", "weight / its block's absmax", "share of the weights, %")
    share = 100 / len(scaled)
    counts = Counter(levels[code] for code in codes)  # a level may have two codes: FP4's 0
    each = {level: share * counts[level] for level in sorted(set(levels))}
    heights, *_ = ax.hist(
        scaled, BINS, range=(-1, 1), weights=[share] * len(scaled), color=EARLIER, alpha=0.45
    )
    ax.vlines([*each], 0, [*each.values()], color=RUN, linewidth=1.6 if len(each) < 30 else 0.6)
    top = max(*heights, *each.values())
    block = min(blocksize, 64)
    for value, code in zip(scaled[:block], codes[:block], strict=True):
        way = [value, value, levels[code]], [-0.04 * top, -0.14 * top, -FALL * top]
        ax.plot(*way, color=INK, alpha=0.45, linewidth=0.7)
    ax.plot([*each], [-FALL * top] * len(each), "|", color=RUN, markersize=7)
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set(xlim=(-1.03, 1.03), ylim=(-(FALL + 0.06) * top, 1.08 * top))
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= top])
    ax.set_title(f"error {fine_percent(error)}, {bits:.3g} bits", loc="right", fontsize=9.5)
    most, least = max(each.values()), min(each.values())
    ax.set_label(
        f"Grey: the weights as shares of their block's greatest; blue: the {len(each)} levels and "
        f"how many weights each holds, {least:.1f} to {most:.1f} %; below, {block} weights of a "
        f"block fall to theirs. Relative error {fine_percent(error)}, {bits:.4g} bits a parameter."
    )
    return ax


def draw_arrival(
    ax: Axes, shares: Mapping[str, Mapping[float, float]], trained: Mapping[str, float]
) -> Axes:
    """How much of a change arrives in 4-bit weights, by its size.

    Args:
        ax: where to draw.
        shares: the share that arrives, by where it is merged and by ‖ΔW‖ / ‖W‖.
        trained: ‖ΔW‖ / ‖W‖ of real trainings: dotted lines.
    """
    words = "size of the change, % of W", "what arrives of it, %"
    tidy(ax, "A small change is rounded away on the levels", *words)
    for (name, by_size), colour in zip(shares.items(), (FULL, RUN), strict=True):
        sizes = [100 * size for size in by_size]
        arrived = [100 * share for share in by_size.values()]
        ax.plot(sizes, arrived, "o-", color=colour, markersize=5, label=name)
    for name, size in trained.items():
        ax.axvline(100 * size, color=EARLIER, linestyle=":", linewidth=1.4)
        ax.text(100 * size + 0.3, 3, name, fontsize=9, color=INK)
    ax.set(xlim=(0, None), ylim=(0, 110))
    ax.legend(**LEGEND, loc="lower right")
    summaries = (
        f"{name} "
        + ", ".join(f"{percent(share)} of {percent(size)}" for size, share in by_size.items())
        for name, by_size in shares.items()
    )
    lines = ", ".join(f"{name} {percent(size)}" for name, size in trained.items())
    ax.set_label(
        f"The share that arrives of a change, by its size as a share of W: {'; '.join(summaries)}. "
        f"Trained here: {lines}."
    )
    return ax


def draw_block_sizes(
    ax: Axes, errors: Mapping[str, Mapping[int, float]], bits: Mapping[int, float]
) -> Axes:
    """The error of each type by block size.

    Args:
        ax: where to draw.
        errors: the relative error, by type and block size.
        bits: the bits of a weight, by block size.
    """
    tidy(ax, "What do smaller blocks buy?", "block size (bits a parameter)", "relative error, %")
    for name, by_size in errors.items():
        line = {"color": COLOURS[name], "marker": MARKERS[name], "markersize": 5}
        ax.plot([*by_size], [100 * error for error in by_size.values()], label=name, **line)
    ax.set_xscale("log", base=2)
    ax.set_xticks([*bits], [f"{size}\n({width:.3g})" for size, width in bits.items()])
    ax.minorticks_off()
    ax.set_ylim(bottom=0)
    ax.legend(**LEGEND, ncols=2)
    summaries = (
        f"{name} {fine_percent(by_size[min(by_size)])} to {fine_percent(by_size[max(by_size)])}"
        for name, by_size in errors.items()
    )
    ax.set_label(
        f"Relative error from blocks of {min(bits)} to blocks of {max(bits)}: "
        f"{', '.join(summaries)}."
    )
    return ax

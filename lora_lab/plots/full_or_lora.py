"""Full fine-tuning beside LoRA: paths from new facts to old ones, directions of a matrix."""

import statistics
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lora_lab.plots.canvas import EARLIER, FULL, INK, LEGEND, RUN, corner, tidy
from lora_lab.wording import counted

BLUES = ListedColormap(
    [(1 - 0.95 * t, 1 - 0.6 * t, 1 - 0.32 * t) for t in map(lambda i: i / 11, range(12))]
)
LOOKS = {  # of a way: its colour, line and marker
    "full": (FULL, "-", "o"),
    "full + replay": (FULL, ":", "o"),
    "LoRA r 4": (RUN, "-", "s"),
    "LoRA r 4 + replay": (RUN, ":", "s"),
    "LoRA r 64": (RUN, "--", "^"),
    "attention r 10": (EARLIER, "-", "D"),
}


def draw_frontier(
    ax: Axes,
    title: str,
    paths: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    at: float | None = None,
) -> Axes:
    """New facts against old facts: a path for each way, a point for each learning rate.

    Args:
        ax: where to draw.
        title: the question, or the finding.
        paths: by way and rate: (new facts right, old facts kept) of each seed.
        at: the share of new facts at which ways are compared: a line.
    """
    tidy(ax, title, "old facts kept, %", "new facts right, %")
    summaries, most = [], 0
    for way, by_rate in paths.items():
        colour, line, marker = LOOKS[way]
        means = [
            [100 * statistics.fmean(shares) for shares in zip(*seeds, strict=True)]
            for seeds in by_rate.values()
        ]
        new, old = zip(*means, strict=True)
        ax.plot(old, new, line, marker=marker, color=colour, markersize=5, label=way)
        for seeds in by_rate.values():
            dots = [[100 * share for share in shares] for shares in zip(*seeds, strict=True)]
            ax.plot(dots[1], dots[0], marker, color=colour, markersize=2.5, alpha=0.35)
            most = max(most, len(seeds))
        points = (
            f"rate {rate}: new {right:.0f} %, old {kept:.0f} %"
            for rate, right, kept in zip(by_rate, new, old, strict=True)
        )
        summaries.append(f"{way}, {', '.join(points)}")
    if at is not None:
        ax.axhline(100 * at, color=INK, linewidth=0.9, linestyle=(0, (1, 2)))
    ax.set(xlim=(0, 103), ylim=(0, 104), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
    if paths:
        ax.legend(loc="lower left", bbox_to_anchor=(0.27, 0), **LEGEND)
    corner(ax, counted(most, "seed") if paths else "not measured yet")
    ax.set_label(f"Means of {counted(most, 'seed')}, by learning rate. {'; '.join(summaries)}.")
    return ax


draw_frontier.colours = 64  # of its PNG


def draw_directions(
    ax: Axes, title: str, likeness: Sequence[Sequence[float]], intruders: Collection[int]
) -> Axes:
    """How much each of the strongest directions of W + ΔW resembles each of W's.

    Args:
        ax: where to draw.
        title: the question, or the finding.
        likeness: |cosines|, a row for each direction of W + ΔW, a column for each of W's.
        intruders: the rows that resemble none.
    """
    tidy(ax, title, "directions of W, strongest first; darker: more alike", "of W + ΔW")
    ax.grid(visible=False)
    rows, columns = len(likeness), len(likeness[0])
    look = {"cmap": BLUES, "vmin": 0, "vmax": 1, "aspect": "auto", "interpolation": "nearest"}
    ax.imshow(likeness, extent=(0.5, columns + 0.5, rows + 0.5, 0.5), **look)
    ax.set(yticks=range(1, rows + 1), xticks=[1, *range(10, columns + 1, 10)])
    for row, label in enumerate(ax.get_yticklabels()):
        if row in intruders:
            label.set(color=FULL, fontweight="bold")
            ax.annotate(
                "new",
                (columns + 0.5, row + 1),
                (4, -3),
                textcoords="offset points",
                color=FULL,
                fontsize=9,
                annotation_clip=False,
            )
    ax.tick_params(length=0)
    closest = ", ".join(f"{row + 1}: {max(cosines):.2f}" for row, cosines in enumerate(likeness))
    new = ", ".join(str(row + 1) for row in sorted(intruders)) or "none"
    ax.set_label(f"Largest |cosine| of each direction of W + ΔW. {closest}. Resemble none: {new}.")
    return ax


draw_directions.margins = 46, 44, 42, 28  # pixels: left, right, bottom, top
draw_directions.colours = 64  # of its PNG

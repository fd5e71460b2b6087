"""The scores of each setting of a body of evidence: new knowledge, old facts, strangers."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, INK, LEGEND, NEW, OLD, corner, tidy
from lora_lab.training.summary import interval_of_scores
from lora_lab.wording import counted, percent, percent_range

Scores = Mapping[str, Sequence[float]]  # by setting: a score for each seed

KINDS = {  # what is measured: its name in the chart, colour, marker
    "value": ("", NEW, "s"),
    "old_knowledge": ("old facts kept", OLD, "o"),
    "strangers": ("strangers still unknown", EARLIER, "D"),
}


BARS = "bar: 95 % interval of the mean; tick: a seed"


def draw_evidence(ax: Axes, title: str, metric: str, scores: Mapping[str, Scores]) -> Axes:
    """A row for each setting: means with 95 % intervals, and a faint tick for each seed.

    Args:
        ax: where to draw.
        title: the question, or a short form of it.
        metric: the name of the test's metric.
        scores: by "value", "old_knowledge" and "strangers": shares, by setting and seed.
    """
    settings = [*scores["value"]]
    tidy(ax, title, BARS, "")
    step = 0.62 / len(scores)
    summaries = []
    for number, (kind, by_setting) in enumerate(scores.items()):
        name, colour, marker = KINDS[kind]
        name = name or metric
        label = name  # only for the first setting with scores: the legend needs a single line
        for place, setting in enumerate(settings):
            seeds = by_setting[setting]
            if not seeds:
                continue
            y = place + (number - (len(scores) - 1) / 2) * step
            mean = statistics.fmean(seeds)
            ax.plot([100 * seed for seed in seeds], [y] * len(seeds), "|", color=colour, alpha=0.4)
            span = ""
            if len(seeds) > 1:
                low, high = interval_of_scores(seeds, share=True)
                ax.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2.5)
                span = f" ({percent_range(low, high)})"
            ax.plot(
                [100 * mean],
                [y],
                marker,
                color=colour,
                markersize=6,
                label=label,
                clip_on=False,
            )
            label = None
            summaries.append(f"{setting}, {name}: {percent(mean)}{span}")
    count = {len(seeds) for seeds in scores["value"].values() if seeds}
    corner(ax, " or ".join(counted(number, "seed") for number in sorted(count)))
    ax.set(xlim=(-2, 102), ylim=(len(settings) - 0.4, -0.6))
    ax.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    ax.set_yticks(range(len(settings)), settings, fontsize=9.5, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    if len(scores) > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.24), ncols=len(scores), **LEGEND)
    ax.set_label(f"{title} Means with 95 % intervals. {'; '.join(summaries)}.")
    return ax


draw_evidence.colours = 64  # of its PNG


def evidence_size(settings: int, kinds: int) -> tuple[int, int]:
    """The size of the picture in pixels: the more rows, the taller."""
    return 560, 126 + max(26, 15 * kinds) * settings

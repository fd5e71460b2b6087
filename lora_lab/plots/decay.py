"""The effect of weight decay on old knowledge."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from lora_lab.plots.canvas import FULL, LEGEND, RUN, corner, tidy
from lora_lab.wording import counted

LOOKS = {"LoRA": (RUN, "-o"), "full": (FULL, "--s")}  # the lines, and their looks


def draw_decay(ax: Axes, old: Mapping[str, Mapping[float, Sequence[float]]]) -> Axes:
    """Old facts kept, by weight decay: does it pull back to the base, or away from it?

    Args:
        ax: where to draw.
        old: the share of old facts, 0 to 1, by name ("LoRA", "full") and decay, for each seed.
    """
    tidy(ax, "Does decay keep old facts?", "weight decay", "old facts kept, %")
    decays = sorted(
        {decay for by_decay in old.values() for decay in by_decay}
    )  # evenly spaced: 0 has no log
    summaries, most = [], 0
    for name, by_decay in old.items():
        colour, line = LOOKS[name]
        tried = sorted(by_decay)
        places = [decays.index(decay) for decay in tried]
        means = [100 * mean(by_decay[decay]) for decay in tried]
        ax.plot(places, means, line, color=colour, linewidth=1.8, markersize=5.5, label=name)
        for place, decay in zip(places, tried, strict=True):
            seeds = [100 * share for share in by_decay[decay]]
            ax.plot([place] * len(seeds), seeds, "_", color=colour, markersize=10)
            most = max(most, len(seeds))
        marks = (f"{share:.0f} % at {decay:g}" for share, decay in zip(means, tried, strict=True))
        summaries.append(f"{name} {', '.join(marks)}")
    ax.set_xticks(range(len(decays)), [f"{decay:g}" for decay in decays])
    ax.set_ylim(0, 104)
    ax.legend(loc="upper left", **LEGEND)
    corner(ax, counted(most, "seed"))
    ax.set_label(f"Old facts kept, means of {counted(most, 'seed')}: {'; '.join(summaries)}.")
    return ax

"""Ways to ask a model: the number of examples that training takes, and how many were right."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from lora_lab.plots.canvas import BASE, LEGEND, NEW, OLD, PALE, RUN, corner, tidy
from lora_lab.wording import counted, percent, percent_range

MARKS, COLOURS = "os^", (RUN, OLD, NEW)


def draw_examples(ax: Axes, curves: Mapping[str, Mapping[int, Sequence[float]]]) -> Axes:
    """A task's score (0 to 1) by its number of training examples: the mean, and the seeds' range.

    `curves`: a score for each seed, by the task and the number of examples.
    """
    tidy(ax, "How many examples?", "training examples", "score on the test, %")
    summaries, ends = [], []
    looks = zip(MARKS, COLOURS, curves.items(), strict=False)
    for mark, colour, (name, scores) in looks:
        numbers = sorted(scores)
        means = [100 * mean(scores[n]) for n in numbers]
        low, high = ([100 * end(scores[n]) for n in numbers] for end in (min, max))
        ax.fill_between(numbers, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.plot(numbers, means, color=colour, marker=mark, markersize=5, linewidth=1.2, label=name)
        summaries.append(
            f"{name}: " + ", ".join(f"{n} {m:.0f} %" for n, m in zip(numbers, means, strict=True))
        )
        ends = numbers
    ax.set_xscale("log")
    ax.set_xticks(ends, [f"{n:,}" for n in ends])
    ax.minorticks_off()
    ax.set(ylim=(0, 103), yticks=range(0, 101, 25))
    ax.legend(loc="lower right", **LEGEND)
    seeds = {len(shares) for scores in curves.values() for shares in scores.values()}
    count = counted(min(seeds), "seed")
    corner(ax, count)
    ax.set_label(f"Mean of {count} by number of training examples. {'; '.join(summaries)}.")
    ax.grid(color=PALE, linewidth=0.8)
    return ax


def draw_ways(ax: Axes, shares: Mapping[str, tuple[float, float, float]]) -> Axes:
    """The share of right answers of each way, with its 95 % interval; the best is in colour.

    `shares`: the share, 0 to 1, and the ends of its interval, by the name of the way. The first way
    stands on top.
    """
    best = max(shares, key=lambda name: shares[name][0])
    tidy(ax, f"{best.partition(',')[0]} is ahead", "right answers to validation questions, %", "")
    for place, (name, numbers) in enumerate(shares.items()):
        share, low, high = (100 * number for number in numbers)
        colour = NEW if name == best else BASE
        ax.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        ax.plot([share], [place], marker="o", color=colour, markersize=7)
        beside = {"textcoords": "offset points", "va": "center", "fontsize": 9}
        ax.annotate(percent(numbers[0]), (max(high, share), place), (6, 0), **beside)
    ax.set_yticks(range(len(shares)), shares)
    ax.set(xlim=(-2, 116), ylim=(len(shares) - 0.4, -0.6), xticks=range(0, 101, 25))
    words = (
        f"{name}: {percent(share)} ({percent_range(*ends)})"
        for name, (share, *ends) in shares.items()
    )
    ax.set_label(f"Right answers on validation. {'; '.join(words)}.")
    return ax


draw_ways.colours = 32


def ways_size(count: int) -> tuple[int, int]:
    """The size of the picture of `count` ways, in pixels."""
    return 640, 90 + 28 * count

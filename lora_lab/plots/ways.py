"""The number of examples that training takes."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from lora_lab.plots.canvas import LEGEND, NEW, OLD, PALE, RUN, corner, tidy
from lora_lab.wording import counted

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

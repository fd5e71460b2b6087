"""Ways to get an answer side by side, and how many examples training takes."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from lora_lab.lessons.approaches import Tried
from lora_lab.maths.statistics import wilson
from lora_lab.plots.canvas import EARLIER, INK, PALE, RUN, of_seeds, percent, tidy


def draw_ways(
    ax: Axes, ways: Mapping[str, Sequence[Tried]], title: str = "Which way is right most often?"
) -> Axes:
    """Each way's share of right answers with its 95 % interval; a grey tick for each seed."""
    seeds = {len(one) for one in ways.values()}
    tidy(ax, title, "right answers, %", "")
    told = []
    for place, (name, tried) in enumerate(ways.items()):
        right, asked = (sum(map(count, tried)) for count in (_right, _asked))
        low, high = wilson(right, asked)
        ax.plot([100 * low, 100 * high], [place, place], color=RUN, linewidth=2.5)
        ax.plot([100 * right / asked], [place], "o", color=RUN, markersize=7, clip_on=False)
        shares = [100 * one.share for one in tried] if len(tried) > 1 else []
        ax.plot(shares, [place] * len(shares), "|", color=EARLIER, markersize=11, clip_on=False)
        tokens = mean(one.prompt_tokens for one in tried)
        ax.text(105, place, f"{tokens:.0f}", va="center", fontsize=9, color=INK)
        told.append(f"{name} {percent(right / asked)} ({percent(low)} to {percent(high)})")
    ax.text(105, -0.75, "tokens in", va="center", fontsize=9, color=INK)
    ax.set(xlim=(-2, 122), ylim=(len(ways) - 0.5, -1.1), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(ways)), [*ways], fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_bounds(0, 100)
    ax.spines["left"].set_visible(False)
    ax.xaxis.label.set_x(52 / 124)
    ax.grid(visible=False, axis="y")
    corner = f"{asked} questions, {of_seeds(len(tried))}" * (len(seeds) == 1)
    ax.text(0, -0.75, corner, va="center", fontsize=9, color=EARLIER)
    ax.set_label(f"{title} Right answers with 95 % intervals: {'; '.join(told)}.")
    return ax


def _right(tried: Tried) -> int:
    return sum(tried.right)


def _asked(tried: Tried) -> int:
    return len(tried.right)


MARKS = "os^D"


def draw_examples(ax: Axes, curves: Mapping[str, Mapping[int, Sequence[float]]]) -> Axes:
    """A task's score (0 to 1) by its number of training examples: the mean, and the seeds' range.

    `curves`: task -> number of examples -> one score a seed.
    """
    tidy(ax, "How many examples?", "training examples", "score on the test, %")
    told, ends = [], []
    for mark, (name, scores) in zip(MARKS, curves.items(), strict=False):
        numbers = sorted(scores)
        means = [100 * mean(scores[n]) for n in numbers]
        low, high = ([100 * end(scores[n]) for n in numbers] for end in (min, max))
        ax.fill_between(numbers, low, high, color=RUN, alpha=0.15, linewidth=0)
        ax.plot(numbers, means, color=RUN, marker=mark, markersize=5, linewidth=1.2, label=name)
        told.append(
            f"{name}: " + ", ".join(f"{n} {m:.0f} %" for n, m in zip(numbers, means, strict=True))
        )
        ends = numbers
    ax.set_xscale("log")
    ax.set_xticks(ends, [f"{n:,}" for n in ends])
    ax.minorticks_off()
    ax.set(ylim=(0, 103), yticks=range(0, 101, 25))
    ax.legend(loc="lower right", fontsize=9, frameon=False, labelcolor=INK)
    seeds = {len(one) for scores in curves.values() for one in scores.values()}
    count = of_seeds(min(seeds))
    ax.set_title(count, loc="right", fontsize=9, color=INK)
    ax.set_label(f"Mean of {count} by number of training examples. {'; '.join(told)}.")
    ax.grid(color=PALE, linewidth=0.8)
    return ax

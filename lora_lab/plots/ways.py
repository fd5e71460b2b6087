"""Ways to get an answer side by side, and the number of examples that training takes."""

from collections.abc import Mapping, Sequence
from statistics import mean

from matplotlib.axes import Axes

from lora_lab.lessons.approaches import Tried
from lora_lab.maths.statistics import wilson
from lora_lab.plots.canvas import EARLIER, INK, LEGEND, PALE, RUN, corner, tidy
from lora_lab.wording import counted, percent


def draw_ways(
    ax: Axes, ways: Mapping[str, Sequence[Tried]], title: str = "Which way is right most often?"
) -> Axes:
    """Each way's share of right answers with its 95 % interval; a grey tick for each seed."""
    seeds = {len(tried) for tried in ways.values()}
    tidy(ax, title, "right answers, %", "")
    summaries = []
    for place, (name, tried) in enumerate(ways.items()):
        right = sum(sum(seed.right) for seed in tried)
        questions = sum(len(seed.right) for seed in tried)
        low, high = wilson(right, questions)
        ax.plot([100 * low, 100 * high], [place, place], color=RUN, linewidth=2.5)
        ax.plot([100 * right / questions], [place], "o", color=RUN, markersize=7, clip_on=False)
        shares = [100 * seed.share for seed in tried] if len(tried) > 1 else []
        ax.plot(shares, [place] * len(shares), "|", color=EARLIER, markersize=11, clip_on=False)
        tokens = mean(seed.prompt_tokens for seed in tried)
        ax.text(105, place, f"{tokens:.0f}", va="center", fontsize=9, color=INK)
        summaries.append(f"{name} {percent(right / questions)} ({percent(low)} to {percent(high)})")
    ax.text(105, -0.75, "tokens in", va="center", fontsize=9, color=INK)
    ax.set(xlim=(-2, 122), ylim=(len(ways) - 0.5, -1.1), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(ways)), [*ways], fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_bounds(0, 100)
    ax.spines["left"].set_visible(False)
    ax.xaxis.label.set_x(52 / 124)
    ax.grid(visible=False, axis="y")
    corner = f"{questions} questions, {counted(len(tried), 'seed')}" * (len(seeds) == 1)
    ax.text(0, -0.75, corner, va="center", fontsize=9, color=EARLIER)
    ax.set_label(f"{title} Right answers with 95 % intervals: {'; '.join(summaries)}.")
    return ax


MARKS = "os^D"


def draw_examples(ax: Axes, curves: Mapping[str, Mapping[int, Sequence[float]]]) -> Axes:
    """A task's score (0 to 1) by its number of training examples: the mean, and the seeds' range.

    `curves`: a score for each seed, by the task and the number of examples.
    """
    tidy(ax, "How many examples?", "training examples", "score on the test, %")
    summaries, ends = [], []
    for mark, (name, scores) in zip(MARKS, curves.items(), strict=False):
        numbers = sorted(scores)
        means = [100 * mean(scores[n]) for n in numbers]
        low, high = ([100 * end(scores[n]) for n in numbers] for end in (min, max))
        ax.fill_between(numbers, low, high, color=RUN, alpha=0.15, linewidth=0)
        ax.plot(numbers, means, color=RUN, marker=mark, markersize=5, linewidth=1.2, label=name)
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

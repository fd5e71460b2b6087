"""Triplets that compete for a shrinking budget: the schedule, a triplet's importance, results."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, INK, LEGEND, RUN, corner, tidy
from lora_lab.wording import counted


def draw_budget(ax: Axes, budgets: Sequence[int], tinit: int, tfinal: int) -> Axes:
    """The number of triplets that may be left after each step.

    Args:
        ax: where to draw.
        budgets: the budget after step 1, 2, ...
        tinit: steps before the budget shrinks.
        tfinal: steps after the budget has met its target.
    """
    steps, first, last = len(budgets), budgets[0], budgets[-1]
    tidy(ax, "How many triplets may be left?", "steps", "triplets of all matrices")
    ax.plot(range(1, steps + 1), budgets, color=RUN, linewidth=1.8, drawstyle="steps-post")
    for step, words in ((tinit, "tinit"), (steps - tfinal, "total − tfinal")):
        ax.axvline(step, color=EARLIER, linestyle="--", linewidth=1)
        ax.annotate(f" {words} = {step}", (step, 1.13 * first), fontsize=9, color=INK, va="center")
    ax.annotate(f"{last}", (steps, last), (3, 0), textcoords="offset points", color=RUN)
    ax.set(xlim=(0, 1.07 * steps), ylim=(0, 1.22 * first))
    ax.set_label(
        f"The budget is {first} triplets up to step {tinit}, falls along a cubic curve, and is "
        f"{last} from step {steps - tfinal} to step {steps}."
    )
    return ax


def draw_importance(
    ax: Axes,
    sensitivity: Sequence[float],
    uncertainty: Sequence[float],
    importance: Sequence[float],
    threshold: Sequence[float],
) -> Axes:
    """The importance of a triplet beside the threshold, step by step, on a logarithmic axis.

    Args:
        ax: where to draw.
        sensitivity: the smoothed sensitivity of its λ after step 1, 2, ...
        uncertainty: the smoothed uncertainty of its λ.
        importance: the importance by which AdaLoRA ranks triplets.
        threshold: a triplet is kept above this importance; nan where nothing is masked.
    """
    tidy(ax, "Is this triplet kept?", "steps", "size, logarithmic")
    steps = range(1, len(importance) + 1)
    ax.plot(steps, sensitivity, color=RUN, linewidth=1.2, label="λ's sensitivity")
    ax.plot(steps, uncertainty, color=RUN, linestyle="--", linewidth=1.2, label="λ's uncertainty")
    ax.plot(steps, importance, color=INK, linewidth=1.8, label="importance")
    ax.plot(steps, threshold, color=EARLIER, linestyle=":", linewidth=1.8, label="threshold")
    ax.set_yscale("log")
    ax.legend(loc="lower right", **LEGEND, ncols=2)
    low, high = ax.get_ylim()
    ax.set_ylim(low**1.25 * high**-0.25, high)  # room for the legend
    masked = [own <= least for own, least in zip(importance, threshold, strict=True)]
    end = "masked" if masked[-1] else "kept"
    ax.set_label(
        f"A triplet over {len(importance)} steps: below the threshold in {sum(masked)} of them, "
        f"and {end} at the last."
    )
    return ax


def draw_rivals(ax: Axes, values: Mapping[str, Sequence[float]], question: str, unit: str) -> Axes:
    """The results of settings: a bar to the mean, a dot for each seed, AdaLoRA in blue.

    Args:
        ax: where to draw.
        values: a number for each seed, by the setting's name.
        question: the title.
        unit: the unit of the numbers, for the axis.
    """
    tidy(ax, question, unit, "")
    ax.grid(visible=False, axis="y")
    summaries = []
    for place, (name, seeds) in enumerate(values.items()):
        colour = RUN if name.startswith("AdaLoRA") else EARLIER
        mean = statistics.mean(seeds)
        ax.barh(place, mean, height=0.6, color=colour, alpha=0.35, linewidth=0)
        ax.plot(seeds, [place] * len(seeds), "o", color=colour, markersize=5, clip_on=False)
        summaries.append(f"{name} {mean:.3g} ({min(seeds):.3g} to {max(seeds):.3g})")
    ax.set_yticks(range(len(values)), [*values], fontsize=9.5)
    ax.set(xlim=(0, None), ylim=(len(values) - 0.5, -0.5))
    ax.tick_params(axis="y", length=0)
    count = counted(len(next(iter(values.values()))), "seed")
    corner(ax, count)
    ax.set_label(f"{question} In {unit}, {count}: {'; '.join(summaries)}.")
    return ax

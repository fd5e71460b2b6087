"""The guesses of a class at one question."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from statistics import median

from matplotlib.axes import Axes

from lora_lab.lessons.predictions import Question, Value
from lora_lab.plots.canvas import EARLIER, INK, LEGEND, RUN, tidy
from lora_lab.wording import counted

BINS = 12  # of numbers


def draw_guesses(
    ax: Axes, question: Question, guesses: Sequence[Value], measured: Sequence[Value] = ()
) -> Axes:
    """A bar for each option, or a histogram of numbers; in blue, what was measured.

    Args:
        ax: where to draw.
        question: the question that was asked.
        guesses: the class's guesses.
        measured: the measurement of each seed; empty before the reveal.
    """
    draw = _draw_options if question.options else _draw_numbers
    words = draw(ax, question, guesses, measured)
    title = "\n".join(textwrap.wrap(question.text, 56))
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    if measured:
        ax.legend(**LEGEND)
        words += f" Measured: {', '.join(map(question.amount, measured))}."
    ax.set_label(f"{question.text} {counted(len(guesses), 'answer')}: {words}")
    return ax


def _draw_options(
    ax: Axes, question: Question, guesses: Sequence[Value], measured: Sequence[Value]
) -> str:
    counts = Counter(guesses)
    tidy(ax, "", "", "learners")
    names = [question.amount(option) for option in question.options]
    heights = [counts[option] for option in question.options]
    ax.bar(range(len(names)), heights, width=0.62, color=EARLIER)
    places = [place for place, option in enumerate(question.options) if option in measured]
    for place in places:
        label = "measured" if place == places[0] else None  # only once in the legend
        ax.axvspan(place - 0.42, place + 0.42, color=RUN, alpha=0.18, zorder=0, label=label)
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, max(heights) + 1))
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.grid(visible=False, axis="x")
    return ", ".join(f"{name} {height}" for name, height in zip(names, heights, strict=True)) + "."


def _draw_numbers(
    ax: Axes, question: Question, guesses: Sequence[Value], measured: Sequence[Value]
) -> str:
    tidy(ax, "", question.unit, "learners")
    least, most = min([*guesses, *measured]), max([*guesses, *measured])
    if question.within is None:  # a factor counts: equal steps on a log axis
        low, high = least / 1.5, most * 1.5
        edges = [low * (high / low) ** (place / BINS) for place in range(BINS + 1)]
        ax.set_xscale("log")
    else:
        room = 0.08 * (most - least) or 1
        low, high = least - room, most + room
        edges = [low + (high - low) * place / BINS for place in range(BINS + 1)]
    heights, _, _ = ax.hist(guesses, bins=edges, color=EARLIER, edgecolor="white")
    for place, value in enumerate(measured):
        ax.axvline(value, color=RUN, linewidth=2, label=None if place else "measured")
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    ax.set_ylim(0, max(heights) + 1)
    ax.yaxis.get_major_locator().set_params(integer=True)
    ends = map(question.amount, (min(guesses), max(guesses), median(guesses)))
    return "from {} to {}, the median {}.".format(*ends)

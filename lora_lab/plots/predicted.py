"""Predictions beside measurements."""

import textwrap

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator

from lora_lab.lessons.predictions import Prediction
from lora_lab.plots.canvas import EARLIER, INK, LEGEND, PALE, RUN, tidy
from lora_lab.wording import counted


def draw_prediction(ax: Axes, prediction: Prediction) -> Axes:
    """The guess, its probability, and the measurement of each seed; the legend is the figure's."""
    question, seeds = prediction.question, len(prediction.measured)
    draw = _draw_choice if question.options else _draw_number
    names = draw(ax, prediction, counted(seeds, "seed"))
    title = "\n".join(textwrap.wrap(question.text, 56))
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    look = {**LEGEND, "ncols": 3, "columnspacing": 1.4}
    ax.figure.legend(handles=names, loc="outside lower left", **look)
    said = str(prediction)
    ax.set_label(f"{question.text} {said[0].upper()}{said[1:]}.")
    return ax


def _draw_choice(ax: Axes, prediction: Prediction, seeds: str) -> list[Artist]:
    """The legend's handles. Bars: each option's probability; blue: its share of the seeds."""
    question = prediction.question
    tidy(ax, "", "", "share, %")
    for place, option in enumerate(question.options):
        mine, probability = option == prediction.guess, 100 * prediction.probability(option)
        ax.bar(place, probability, width=0.62, color=EARLIER if mine else PALE)
        share = 100 * prediction.measured.count(option) / len(prediction.measured)
        if share:
            ax.plot([place, place], [0, share], color=RUN, linewidth=2)
            ax.plot([place], [share], "o", color=RUN, markersize=8, clip_on=False)
    names = [question.amount(option) for option in question.options]
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set(xlim=(-0.6, len(question.options) - 0.4), ylim=(0, 105), yticks=range(0, 101, 25))
    ax.grid(visible=False, axis="x")
    measured = Line2D([], [], color=RUN, marker="o", markersize=8, label=f"measured, {seeds}")
    mine = Patch(color=EARLIER, label="your guess")
    return [mine, Patch(color=PALE, label="the rest of your 100 %"), measured]


def _draw_number(ax: Axes, prediction: Prediction, seeds: str) -> list[Artist]:
    """The legend's handles. Band: right guesses; blue dots: the seeds, from least to greatest."""
    question, measured = prediction.question, prediction.measured
    tidy(ax, "", question.unit, "")
    low, high = question.near(prediction.guess)
    least, most = min(low, *measured), max(high, *measured)
    if question.within is None:
        ends = least / 1.5, most * 1.5
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1,) if most > 30 * least else (1, 2, 5)))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ends = least - 0.08 * (most - least), most + 0.08 * (most - least)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
    band = ax.axvspan(low, high, color=PALE, label="near enough")
    line = ax.axvline(prediction.guess, color=EARLIER, linewidth=2.5, label="your guess")
    ax.plot([min(measured), max(measured)], [0.5, 0.5], color=RUN, linewidth=1.5)
    look = {"marker": "o", "linestyle": "", "markersize": 8, "color": RUN, "alpha": 0.6}
    (dots,) = ax.plot(measured, [0.5] * len(measured), label=f"measured, {seeds}", **look)
    ax.set(xlim=ends, ylim=(0, 1), yticks=[])
    ax.spines["left"].set_visible(False)
    return [line, band, dots]

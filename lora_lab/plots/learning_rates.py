"""The effect of the learning rate: the finder's curve, rates × steps, settings by rate."""

import math
import statistics
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, INK, LEGEND, PALE, RUN, axis_end, corner, tidy
from lora_lab.records import StepRecord
from lora_lab.wording import counted


def draw_rate_finder(ax: Axes, records: Sequence[StepRecord], chosen: float) -> Axes:
    """The loss of a run whose learning rate grows at each step, and the rate that was chosen."""
    rates, losses = (
        [record.learning_rate for record in records],
        [record.loss for record in records],
    )
    tidy(ax, "At which learning rate does the loss fall?", "learning rate", "loss, nats per token")
    ax.plot(rates, losses, color=RUN, linewidth=1.6, label="loss, step by step")
    ax.axvline(chosen, color=EARLIER, linestyle="--", linewidth=1.4, label=f"chosen: {chosen:.1g}")
    ax.set(xscale="log", ylim=(0, axis_end(max(losses))))
    ax.legend(loc="upper left", **LEGEND)
    corner(ax, "1 seed")
    ax.set_label(
        f"The loss goes from {losses[0]:.2f} at {rates[0]:.1g} down to {min(losses):.2f} at "
        f"{rates[losses.index(min(losses))]:.1g}, and ends at {losses[-1]:.2f} at {rates[-1]:.1g}; "
        f"{chosen:.1g} is chosen."
    )
    return ax


def draw_rate_map(ax: Axes, losses: Mapping[tuple[float, int], float]) -> Axes:
    """Losses by learning rate and steps: a row for each number of steps, its lowest loss in blue.

    Args:
        ax: where to draw.
        losses: nats per token by (learning rate, steps); nan where the run diverged.
    """
    rates, steps = ([*dict.fromkeys(values)] for values in zip(*losses, strict=True))
    tidy(ax, "Which learning rate, for how many steps?", "learning rate", "steps")
    ax.grid(visible=False)
    summaries = []
    for row, count in enumerate(steps):
        best = min(rates, key=lambda rate: _or_high(losses[rate, count]))
        for column, rate in enumerate(rates):
            loss, is_best = losses[rate, count], rate == best
            colour = RUN if is_best else PALE
            ax.barh(row, 0.94, left=column - 0.47, height=0.88, color=colour)
            words = "diverged" if _or_high(loss) == math.inf else f"{loss:.2f}"
            ink = "white" if is_best else INK
            ax.text(column, row, words, ha="center", va="center", fontsize=10, color=ink)
        summaries.append(f"{count} steps: {losses[best, count]:.2f} at {best:g}")
    ax.set(xlim=(-0.55, len(rates) - 0.45), ylim=(len(steps) - 0.45, -0.55))
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set_yticks(range(len(steps)), [f"{count}" for count in steps])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    corner(ax, "nats per token; 1 seed")
    ax.set_label(f"The lowest loss, in nats per token. {'; '.join(summaries)}.")
    return ax


def _or_high(loss: float) -> float:
    """The loss, or infinity if it is nan."""
    return math.inf if math.isnan(loss) else loss


def draw_by_rate(ax: Axes, shares: Mapping[str, Mapping[float, Sequence[float]]]) -> Axes:
    """Settings compared at each learning rate: a line for the mean, a dot for each seed.

    Args:
        ax: where to draw.
        shares: each seed's share of right answers, by setting and learning rate.
    """
    tidy(ax, "Which one is ahead?", "learning rate", "right answers, %")
    rates = sorted({rate for by_rate in shares.values() for rate in by_rate})
    shades = mpl.colormaps["viridis"]
    summaries, most = [], 0
    for place, (name, by_rate) in enumerate(shares.items()):
        colour = shades(0.75 - 0.6 * place / max(len(shares) - 1, 1))  # light to dark
        tried = [rate for rate in rates if rate in by_rate]
        aside = 0.05 * (place - (len(shares) - 1) / 2)  # so that no dot hides another setting's
        places = [rates.index(rate) + aside for rate in tried]
        means = [100 * statistics.mean(by_rate[rate]) for rate in tried]
        ax.plot(places, means, color=colour, linewidth=1.8, label=name)
        for at, rate in zip(places, tried, strict=True):
            seeds = [100 * share for share in by_rate[rate]]
            ax.plot([at] * len(seeds), seeds, "o", color=colour, markersize=6, alpha=0.7)
            most = max(most, len(seeds))
        ax.annotate(
            name,
            (places[-1], means[-1]),
            (18, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
            color=colour,
        )
        each = ", ".join(
            f"{mean:.0f} % at {rate:g}" for mean, rate in zip(means, tried, strict=True)
        )
        summaries.append(f"{name} {each}")
    ax.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates])
    ax.set(xlim=(-0.3, len(rates) - 0.4), ylim=(0, 104))
    corner(ax, counted(most, "seed"))
    ax.set_label(f"Right answers, as a mean of {most} seeds: {'; '.join(summaries)}.")
    return ax

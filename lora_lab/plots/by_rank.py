"""The results of fine-tunes, rank by rank."""

import statistics
from collections.abc import Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes

from lora_lab.plots.canvas import BASE, INK, LEGEND, NEW, OLD, PAPER, RUN, axis_end, corner, tidy
from lora_lab.wording import counted

Seeds = Sequence[float]  # one number for each seed
_MARKERS = "os^v"  # so that lines differ without their colour


def draw_cliff(ax: Axes, left: Mapping[int, Seeds], start: float) -> Axes:
    """The distance of each rank's student from its teacher, on a logarithmic axis.

    Args:
        ax: where to draw.
        left: KL(teacher || student) after training by rank, in nats per token, for each seed.
        start: KL(teacher || base), before any training.
    """
    tidy(ax, "At which rank does the loss fall off?", "rank r", "KL to the teacher, nats per token")
    means = _band(ax, left, RUN, "o", "student")
    ax.axhline(start, color=BASE, linestyle=":", linewidth=1.2)
    ax.annotate("base", (1, start), (0, 4), textcoords="offset points", fontsize=9, color=INK)
    ax.set_yscale("log")
    ax.set_xticks([*left], [str(r) for r in left])
    ax.set_ylim(top=2 * start)
    summary = ", ".join(f"{mean:.2g} at rank {r}" for r, mean in means.items())
    ax.set_label(
        f"KL to the teacher, base {start:.2g} nats per token; after training {summary}. "
        f"{_seeds_in_words(left)}."
    )
    return ax


def draw_new_and_old(ax: Axes, new: Mapping[int, Seeds], old: Mapping[int, Seeds]) -> Axes:
    """New facts learnt and old facts kept, rank by rank: does a higher rank forget more?

    Args:
        ax: where to draw.
        new: the share of new facts that are right by rank, for each seed.
        old: the same of the old facts.
    """
    tidy(ax, "Does a higher rank forget more?", "rank r", "facts right, %")
    summaries = []
    for name, shares, colour, marker in (
        ("new facts", new, NEW, "s"),
        ("old facts", old, OLD, "o"),
    ):
        means = _band(ax, _in_percent(shares), colour, marker, name)
        marks = ", ".join(f"{mean:.0f} % at {r}" for r, mean in means.items())
        summaries.append(f"{name} {marks}")
    _doubling(ax, [*new])
    ax.set_ylim(0, 104)
    ax.legend(loc="lower center", **LEGEND)
    ax.set_label(f"Facts right by rank: {'; '.join(summaries)}. {_seeds_in_words(new)}.")
    return ax


def draw_held(
    ax: Axes,
    bits: Mapping[str, Mapping[int, Seeds]],
    parameters: Mapping[int, int],
    offered: Mapping[str, float],
    published: float,
) -> Axes:
    """The bits that an adapter holds, beside the bits offered and a published capacity.

    Args:
        ax: where to draw.
        bits: the bits of the right facts, by the line's name and the rank, for each seed.
        parameters: the adapter's number of parameters, by rank.
        offered: the bits of all facts, by the line's name.
        published: the bits that a parameter holds, as published.
    """
    tidy(ax, "How many bits does a rank hold?", "parameters of the adapter", "bits held")
    summaries = []
    for count, (name, by_rank) in enumerate(bits.items()):
        colour = colormaps["viridis"](0.15 + 0.6 * count / max(1, len(bits) - 1))
        placed = {parameters[r]: seeds for r, seeds in by_rank.items()}
        means = _band(ax, placed, colour, _MARKERS[count], name)
        ax.axhline(offered[name], color=colour, linestyle=":", linewidth=1)
        marks = ", ".join(
            f"{mean:,.0f} at rank {r}" for r, mean in zip(by_rank, means.values(), strict=True)
        )
        summaries.append(f"{name}: {marks}, of {offered[name]:,.0f} offered")
    sizes = [parameters[r] for r in sorted(parameters)]
    capacity = [published * size for size in sizes]
    ax.plot(
        sizes,
        capacity,
        color=PAPER,
        marker="D",
        label=f"{published:g} bits a parameter (published)",
    )
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sizes, [f"{size:,}\n(r {r})" for r, size in sorted(parameters.items())])
    ax.minorticks_off()
    ax.legend(loc="upper left", **LEGEND, ncols=2)
    ax.set_ylim(top=15 * capacity[-1])
    ax.set_label(
        f"Bits held. {'; '.join(summaries)}. {_seeds_in_words(next(iter(bits.values())))}."
    )
    return ax


def draw_together(ax: Axes, losses: Mapping[int, Sequence[Seeds]], convention: str) -> Axes:
    """The first steps of several ranks: do their curves coincide?

    Args:
        ax: where to draw.
        losses: the loss of every step by rank, for each seed, in nats per token.
        convention: how alpha moves with r, for the title.
    """
    tidy(ax, f"Do the curves coincide? {convention}", "steps", "loss, nats per token")
    summaries, most = [], 0.0
    for count, (r, curves) in enumerate(losses.items()):
        colour = colormaps["viridis"](0.85 - 0.85 * count / max(1, len(losses) - 1))
        mean = [statistics.mean(step) for step in zip(*curves, strict=True)]
        steps = range(1, len(mean) + 1)
        for curve in curves:
            ax.plot(steps, curve, color=colour, linewidth=0.6, alpha=0.6)
        ax.plot(steps, mean, color=colour, linewidth=1.8, label=f"r {r}")
        summaries.append(f"rank {r} {mean[-1]:.2f}")
        most = max(most, *(max(curve) for curve in curves))
    ax.set(xlim=(1, len(mean)), ylim=(0, axis_end(most)))
    ax.legend(loc="upper right", **LEGEND, ncols=len(losses))
    corner(ax, counted(len(curves), "seed"))
    ax.set_label(f"{convention}: the mean loss after {len(mean)} steps, {', '.join(summaries)}.")
    return ax


def _band(
    ax: Axes, numbers: Mapping[int, Seeds], colour: str, marker: str, name: str
) -> dict[int, float]:
    """The means by place, drawn as a line over a band from the least to the greatest seed."""
    where = sorted(numbers)
    means = {place: statistics.mean(numbers[place]) for place in where}
    lows, highs = [min(numbers[place]) for place in where], [max(numbers[place]) for place in where]
    ax.fill_between(where, lows, highs, color=colour, alpha=0.25, linewidth=0)
    ax.plot(where, [*means.values()], color=colour, marker=marker, markersize=5, label=name)
    corner(ax, counted(len(numbers[where[0]]), "seed"))
    return means


def _doubling(ax: Axes, ranks: Sequence[int]) -> None:
    """A logarithmic axis with a tick at each rank."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(ranks, [str(r) for r in ranks])
    ax.set_xlim(0.85 * min(ranks), 1.18 * max(ranks))


def _in_percent(shares: Mapping[int, Seeds]) -> dict[int, list[float]]:
    return {r: [100 * share for share in seeds] for r, seeds in shares.items()}


def _seeds_in_words(numbers: Mapping[int, Seeds]) -> str:
    """`1 seed`, or `The means of 3 seeds`."""
    count = len(next(iter(numbers.values())))
    return "1 seed" if count == 1 else f"The means of {count} seeds"

"""The memory of a training step, part by part."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lora_lab.cost.gpus import EDGE, FITS, Card, verdict_on
from lora_lab.cost.memory import ERROR
from lora_lab.plots.canvas import BASE, EARLIER, INK, LEGEND, tidy
from lora_lab.records import Memory
from lora_lab.wording import memory_unit, significant

PARTS = {  # of a step's memory, in the order in which they are stacked
    "weights": "#9A9A9A",
    "adapters": "#0072B2",
    "gradients": "#882255",
    "optimizer": "#F0E442",
    "activations": "#56B4E9",
    "logits": "#332288",
}


def draw_memory(
    ax: Axes,
    named: Mapping[str, Memory],
    card: Card | None = None,
    measured: Mapping[str, int] | None = None,
    error: float = ERROR,
    title: str = "How much memory does a training step take?",
) -> Axes:
    """The memory of a training step: a stacked bar for each method.

    Each part is drawn at its own maximum. The end beyond the peak is pale: the parts are never all
    at their maximum together, since activations are freed as gradients are made.

    Args:
        ax: where to draw.
        named: the memory by the bar's name.
        card: a card, whose usable memory is a dashed line.
        measured: the measured bytes at the peak, for some of the bars: a tick.
        error: the error of the estimates, as a share of the peak: a whisker.
        title: a question, or a finding where it is known.
    """
    measured = measured or {}
    tidy(ax, title, "", "")
    ax.grid(visible=False, axis="y")
    stacked = [sum(getattr(memory, part) for part in PARTS) for memory in named.values()]
    ends = [memory.total * (1 + error) for memory in named.values()]
    longest = max([1, *stacked, *ends, *measured.values(), *([card.usable] if card else [])])
    unit, size = memory_unit(longest)
    for place, (name, memory) in enumerate(named.items()):
        start = 0.0
        for part, colour in PARTS.items():
            end = start + getattr(memory, part)
            for left, right, alpha in (
                (start, min(end, memory.total), 1.0),
                (max(start, memory.total), end, 0.3),
            ):
                if right > left:
                    where = {"left": left / size, "color": colour, "alpha": alpha}
                    ax.barh(place, (right - left) / size, height=0.46, **where)
            start = end
        peak = memory.total / size
        whisker = {"color": INK, "capsize": 3, "linewidth": 1.2, "marker": "o", "markersize": 3}
        ax.errorbar(peak, place + 0.36, xerr=error * peak, **whisker)
        words = {"va": "center", "fontsize": 9.5, "color": INK, "zorder": 3}
        words["bbox"] = {"color": "white", "pad": 1}  # over the card's line
        beyond = max(start, memory.total) + longest / 50
        ax.text(beyond / size, place, f"{_amount_text(peak)} {unit}", **words)
        if name in measured:
            tick = [measured[name] / size] * 2, [place - 0.32, place + 0.32]
            ax.plot(*tick, color=BASE, linewidth=2.2)
    if card:
        ax.axvline(card.usable / size, color=INK, linestyle="--", linewidth=1.2)
        side = "right" if card.usable > longest / 3 else "left"  # of the line, where there is room
        where = {"ha": side, "va": "bottom", "fontsize": 9, "color": INK}
        ax.text(card.usable / size, -0.52, f" {card.name} ", **where)
    ax.set(xlim=(0, 1.2 * longest / size), ylim=(len(named) - 0.4, -0.75), xlabel=f"memory, {unit}")
    ax.set_yticks(range(len(named)), list(named), fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    patches = [Patch(color=colour, label=part) for part, colour in PARTS.items()]
    patches.append(Patch(color=EARLIER, alpha=0.3, label="not at the peak"))
    if measured:
        patches.append(Line2D([], [], color=BASE, linewidth=2.2, label="measured"))
    narrow = ax.figure.get_figwidth() < 4.5
    below = {"loc": "outside lower center", "ncols": 3 if narrow else 4}
    ax.figure.legend(handles=patches, **below, **LEGEND, handlelength=1)
    ax.set_label(_memory_in_words(named, card, measured, error))
    return ax


def _amount_text(number: float) -> str:
    """A number rounded to three digits, since estimates are no finer: `8.65`, `131`, `1,420`."""
    return significant(float(f"{number:.3g}"))


def _memory_in_words(
    named: Mapping[str, Memory], card: Card | None, measured: Mapping[str, int], error: float
) -> str:
    summaries = []
    for name, memory in named.items():
        unit, size = memory_unit(memory.total)
        most = max(PARTS, key=lambda part: getattr(memory, part))  # noqa: B023 - used at once
        words = f"{name} {_amount_text(memory.total / size)} {unit} (most of it {most}"
        if name in measured:
            words += f"; measured {_amount_text(measured[name] / size)}"
        summaries.append(f"{words})")
    words = f"A step's memory at its peak, give or take {error:.0%}: {', '.join(summaries)}."
    if card:
        verdicts = {name: verdict_on(card.usable, memory) for name, memory in named.items()}
        fit, edge = ([name for name in named if verdicts[name] == word] for word in (FITS, EDGE))
        words += f" On {card.name}: {', '.join(fit) if fit else 'none'} fit{'s' * (len(fit) == 1)}"
        words += f"; {', '.join(edge)} at the edge." if edge else "."
    return words

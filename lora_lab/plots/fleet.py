"""Many customers: the memory of adapters on one base, and what two adapters in one still know."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Patch

from lora_lab.cost.gpus import Card
from lora_lab.lessons.shipping import Fleet
from lora_lab.plots.canvas import INK, LEGEND, NEW, RUN, tidy
from lora_lab.wording import counted, percent, significant

BASE_GREY = "#9A9A9A"  # weights, as in `plots.draw_memory`
EDGES = 150  # with more models in a bar, their edges are not drawn


def draw_fleet(ax: Axes, fleet: Fleet, card: Card | None = None) -> Axes:
    """The weights of all customers, drawn to scale: one base with adapters, and merged models.

    Args:
        ax: where to draw.
        fleet: the sizes.
        card: a card, whose usable memory is a dashed line.
    """
    unit, size = ("GB", 1e9) if fleet.merged >= 1e9 else ("MB", 1e6)
    apart, merged = (
        significant(float(f"{memory / size:.3g}")) for memory in (fleet.apart, fleet.merged)
    )
    customers = counted(fleet.customers, "customer")
    tidy(ax, f"{customers} on {fleet.name}: {apart} or {merged} {unit}", f"weights, {unit}", "")
    ax.grid(visible=False, axis="y")
    bar = {"height": 0.5, "linewidth": 0}
    ax.barh(0, fleet.base / size, color=BASE_GREY, **bar)
    ax.barh(0, (fleet.apart - fleet.base) / size, left=fleet.base / size, color=RUN, **bar)
    edge = {"edgecolor": "white", "linewidth": 0.7 if fleet.customers <= EDGES else 0}
    starts = [place * fleet.base / size for place in range(fleet.customers)]
    widths = [fleet.base / size] * fleet.customers
    ax.barh([1] * len(starts), widths, left=starts, height=0.5, color=BASE_GREY, **edge)
    longest = max(fleet.merged, fleet.apart, card.usable if card else 0) / size
    for place, words in ((0, apart), (1, merged)):
        end = (fleet.apart, fleet.merged)[place] / size + longest / 80
        box = {"color": "white", "pad": 1}
        text = f"{words} {unit}"
        ax.text(end, place, text, va="center", fontsize=9.5, color=INK, bbox=box, zorder=3)
    if card:
        ax.axvline(card.usable / size, color=INK, linestyle="--", linewidth=1.2)
        side = "right" if card.usable / size > longest / 2 else "left"
        where = {"ha": side, "va": "center", "fontsize": 9, "color": INK}
        ax.text(card.usable / size, 0.5, f" {card.name} ", **where)
    ax.set(xlim=(0, 1.18 * longest), ylim=(1.55, -0.55))
    ax.set_yticks((0, 1), ("one base,\nan adapter each", "a merged\nmodel each"), fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    patches = [Patch(color=BASE_GREY, label="a base"), Patch(color=RUN, label="all adapters")]
    ax.figure.legend(handles=patches, loc="outside lower center", ncols=2, **LEGEND)
    ax.set_label(_in_words(fleet, card, f"{apart} {unit}", f"{merged} {unit}"))
    return ax


draw_fleet.colours = 64  # of its PNG


def _in_words(fleet: Fleet, card: Card | None, apart: str, merged: str) -> str:
    share = percent(fleet.adapter / fleet.base)
    if fleet.adapter < 0.01 * fleet.base:
        share = f"{100 * fleet.adapter / fleet.base:.2f} %"
    words = (
        f"The weights of {counted(fleet.customers, 'customer')} on {fleet.name}, 16 bits each: "
        f"{apart} with one base and an adapter each, {merged} merged. An adapter is {share} of "
        "the base."
    )
    if card:
        fit = [
            name
            for name, memory in (("adapters", fleet.apart), ("merged", fleet.merged))
            if memory <= card.usable
        ]
        words += f" On one {card.name} fit: {' and '.join(fit) or 'neither'}."
    return words


def draw_combined(ax: Axes, shares: Mapping[str, Mapping[str, float]], title: str) -> Axes:
    """The right answers of adapters to two tasks: a row for each adapter or combination.

    Args:
        ax: where to draw.
        shares: right answers, 0 to 1, by task and by the row's name.
        title: what the chart shows, or its question.
    """
    tidy(ax, title, "right answers", "")
    ways = [*next(iter(shares.values()))]
    for number, (task, by_way) in enumerate(shares.items()):
        colour, offset = ((RUN, -0.19), (NEW, 0.19))[number]
        for place, way in enumerate(ways):
            label = None if place else task
            where = {"height": 0.34, "color": colour, "label": label}
            ax.barh(place + offset, 100 * by_way[way], **where)
            text = {"va": "center", "fontsize": 8.5, "color": INK}
            ax.text(100 * by_way[way] + 1, place + offset, percent(by_way[way]), **text)
    ax.set(xlim=(0, 112), ylim=(len(ways) - 0.45, -0.55))
    ax.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    ax.set_yticks(range(len(ways)), ways, fontsize=9.5, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.figure.legend(loc="outside lower center", ncols=2, **LEGEND)
    rows = "; ".join(
        f"{way}: " + ", ".join(f"{task} {percent(by_way[way])}" for task, by_way in shares.items())
        for way in ways
    )
    ax.set_label(f"{title} Right answers: {rows}.")
    return ax


draw_combined.colours = 64  # of its PNG

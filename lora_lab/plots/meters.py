"""Meters for the knowledge that was learnt and lost."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.plots.canvas import BASE, EARLIER, INK, NEW, OLD, PALE, corner, tidy
from lora_lab.records import Scores
from lora_lab.wording import counted, percent


def meter_rows(base: Scores, adapted: Scores) -> list[tuple[str, str, float, float]]:
    """The meters: (name, colour, the base's share, the adapted model's share)."""
    rows = []
    if base.metric_name not in LOWER_IS_BETTER:
        rows.append((f"new: {base.metric_name}", NEW, base.value, adapted.value))
    if base.old_knowledge is not None and adapted.old_knowledge is not None:
        rows.append(("old facts kept", OLD, base.old_knowledge, adapted.old_knowledge))
    if base.strangers is not None and adapted.strangers is not None:
        rows.append(("strangers “not known”", EARLIER, base.strangers, adapted.strangers))
    return rows


def draw_meters(ax: Axes, base: Scores, adapted: Scores, seeds: Sequence[Scores] = ()) -> Axes:
    """New knowledge, old knowledge and strangers after a fine-tune; the base's value as a tick.

    Args:
        ax: where to draw.
        base: the base's scores.
        adapted: the scores of the run at hand.
        seeds: the scores of runs that differ only in their seed, the run at hand among them: a
            whisker from the least to the greatest.
    """
    rows = meter_rows(base, adapted)
    by_seed = [[after for *_, after in meter_rows(base, scores)] for scores in seeds]
    spreads = [(min(shares), max(shares)) for shares in zip(*by_seed, strict=True)]
    tidy(ax, "What was learnt, and what was lost?", "right answers, %", "")
    ax.grid(visible=False)
    for place, (_, colour, before, after) in enumerate(rows):
        ax.barh(place, 100, color=PALE, height=0.52)
        ax.barh(place, 100 * after, color=colour, height=0.52)
        tick = [100 * before] * 2, [place - 0.36, place + 0.36]
        ax.plot(*tick, color=BASE, linewidth=2, clip_on=False)
        around = ""
        if spreads:
            ends = [100 * end for end in spreads[place]]
            ax.plot(ends, [place] * 2, color=INK, linewidth=1.6, marker="|", clip_on=False)
            around = f"{_range_text(spreads[place]).removesuffix(' %')}, "
        words = f"{percent(after)}  ({around}base {percent(before)})"
        ax.text(103, place, words, va="center", fontsize=9.5, color=INK)
    whole = 230 if seeds else 165  # the words beside the meters have room, too
    ax.set(xlim=(0, whole), ylim=(len(rows) - 0.45, -0.55), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 100)
    ax.xaxis.label.set_x(50 / whole)  # under the meters, not under the words beside them
    corner(ax, counted(max(1, len(seeds)), "seed"))
    summaries = [f"{name} {percent(before)} to {percent(after)}" for name, _, before, after in rows]
    if seeds:
        summaries = [
            f"{words} ({_range_text(ends)})" for words, ends in zip(summaries, spreads, strict=True)
        ]
        summaries[-1] += f", least to greatest of {counted(len(seeds), 'seed')}"
    ax.set_label(f"From the base to the adapted model: {'; '.join(summaries)}.")
    return ax


def _range_text(ends: tuple[float, float]) -> str:
    """`84–91 %`."""
    low, high = map(percent, ends)
    return low if low == high else f"{low.removesuffix(' %')}–{high}"

"""Pictures. The one door to matplotlib; every draw function is (ax, numbers) -> ax.

A draw function gives its axes a title, the question that the chart answers, and a label, which
states the finding with its numbers: the picture's alternative text.
"""

import base64
import io
import logging
import math
import statistics
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lora_lab.budget import layer_of
from lora_lab.cards import Card
from lora_lab.memory import ERROR
from lora_lab.predictions import Prediction
from lora_lab.records import Memory, Scores, StepRecord

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns while it first lists its fonts

from matplotlib.artist import Artist  # noqa: E402 - after its logger is quiet
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imsave  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.patches import Patch  # noqa: E402
from matplotlib.ticker import LogLocator, NullLocator  # noqa: E402

# Okabe and Ito's colours, told apart by colour-blind eyes. Each means the same in every chart.
RUN = "#0072B2"  # the run at hand; its validation is dashed
EARLIER = "#7F7F7F"  # earlier runs, fading with age
BASE = "#000000"  # the base model: a dotted line, or a tick
FULL = "#D55E00"  # full fine-tuning
NEW = "#009E73"  # new knowledge
OLD = "#CC79A7"  # old knowledge
PAPER = "#E69F00"  # a paper's number
INK, PALE = "#333333", "#E6E6E6"  # words and axes; grids and empty meters
PARTS = {  # of a step's memory, in the order in which they are stacked
    "weights": "#9A9A9A",
    "adapters": "#0072B2",
    "gradients": "#882255",
    "optimizer": "#F0E442",
    "activations": "#56B4E9",
    "logits": "#332288",
}

GREYS = ListedColormap([str(level / 11) for level in range(12)])  # few levels: small files

SIZE = (500, 270)  # pixels on the screen: width, height
_DPI = 100  # a point is 1.4 pixels: 9 points are read easily
_CRISP = 1.6  # a finished picture's own pixels, per pixel on the screen
_LOSS_MARGINS = 62, 20, 46, 26  # pixels on the screen around its axes: left, right, bottom, top
_NOT_SHARES = {"perplexity", "KL"}  # metrics that do not lie between 0 and 1

_DRAWING = threading.RLock()  # matplotlib is not thread-safe; a live run draws from a thread


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture: as the value of a notebook's cell it is shown, with alternative text."""

    png: bytes
    title: str
    alt: str  # what is to be seen, with its numbers
    size: tuple[int, int]  # pixels on the screen

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        """The alternative text goes into the metadata: its digits may differ between machines."""
        data = {
            "image/png": base64.b64encode(self.png).decode(),
            "text/plain": f"[picture: {self.title}]",
        }
        width, height = self.size
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def picture(draw: Callable[..., Axes], *numbers: object, size: tuple[int, int] = SIZE) -> Picture:
    """What a draw function draws. There is no pyplot here, so no figure stays open."""
    with _DRAWING:
        ax = draw(_axes(draw, size), *numbers)
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png", dpi=_DPI * _CRISP)
        return Picture(buffer.getvalue(), ax.get_title(loc="left"), ax.get_label(), size)


def png(draw: Callable[..., Axes], *numbers: object, size: tuple[int, int] = SIZE) -> bytes:
    """A draw function's picture as PNG bytes."""
    return picture(draw, *numbers, size=size).png


def _axes(draw: Callable[..., Axes], size: tuple[int, int]) -> Axes:
    """Room for one chart. That of the loss stands still, whatever numbers its axis bears."""
    width, height = size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    if draw is draw_loss:
        left, right, bottom, top = _LOSS_MARGINS
        sides = {"left": left / width, "right": 1 - right / width}
        figure.subplots_adjust(**sides, bottom=bottom / height, top=1 - top / height)
    else:
        figure.set_layout_engine("constrained")
    return figure.subplots()


def _tidy(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """The look that every chart shares."""
    ax.set_title(title, loc="left", fontsize=10.5, color=INK)
    ax.set_xlabel(xlabel, fontsize=9.5, color=INK)
    ax.set_ylabel(ylabel, fontsize=9.5, color=INK)
    ax.tick_params(labelsize=9, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.grid(color=PALE, linewidth=0.8)
    ax.set_axisbelow(True)


# --- the loss of a run ----------------------------------------------------------------------


def axis_end(value: float) -> float:
    """The axis's end for a greatest value: 1, 1.5, 2, 3, 4, 6 or 8 times a power of ten.

    So an axis grows in steps while a run goes on, and stands still in between.
    """
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    ends = (factor * power for factor in (1, 1.5, 2, 3, 4, 6, 8, 10))
    return next(end for end in ends if value <= end * (1 + 1e-9))


def draw_loss(
    ax: Axes,
    records: Sequence[StepRecord],
    earlier: Sequence[Sequence[StepRecord]] = (),
    steps: int | None = None,
) -> Axes:
    """The training and the validation loss by step, over the curves of earlier runs.

    Args:
        ax: where to draw.
        records: of the run at hand.
        earlier: other runs' records, oldest first: grey, fading with age.
        steps: how many the run will have; None: as many as there are records.
    """
    _draw_loss_frame(ax, _loss_ends(records, earlier, steps), earlier)
    for line in _loss_lines(records):
        ax.add_line(line)
    ax.set_label(_loss_in_words(records, earlier))
    return ax


def _loss_ends(
    records: Sequence[StepRecord],
    earlier: Sequence[Sequence[StepRecord]],
    steps: int | None,
) -> tuple[float, float]:
    """Where the axes end: steps, nats per token."""
    runs = [records, *earlier]
    last = max([steps or 0, *(record.step for run in runs for record in run), 1])
    losses = [
        loss
        for run in runs
        for record in run
        for loss in (record.loss, record.validation_loss)
        if loss is not None and math.isfinite(loss)
    ]
    return last, axis_end(max(losses, default=1.0))


def _draw_loss_frame(
    ax: Axes, ends: tuple[float, float], earlier: Sequence[Sequence[StepRecord]]
) -> None:
    """All of the chart that stands still: axes, legend, and the earlier runs."""
    _tidy(ax, "Does the loss fall?", "steps", "loss, nats per token")
    ax.set(xlim=(0, ends[0]), ylim=(0, ends[1]))
    for age, run in enumerate(reversed(earlier)):  # the newest is the darkest
        ax.plot(*_by_step(run), color=EARLIER, alpha=0.75 * 0.65**age, linewidth=1)
    names = [*_loss_lines(())]
    if earlier:
        names.append(Line2D([], [], color=EARLIER, linewidth=1, label="earlier runs"))
    ax.legend(handles=names, loc="upper right", fontsize=9, frameon=False, labelcolor=INK)
    ax.set_title("1 seed", loc="right", fontsize=9, color=INK)  # off the curves


def _loss_lines(records: Sequence[StepRecord]) -> tuple[Line2D, Line2D]:
    """The run at hand: its training loss, and its validation loss where it was measured."""
    validated = [record for record in records if record.validation_loss is not None]
    places = [record.step for record in validated], [one.validation_loss for one in validated]
    dashed = {"linestyle": "--", "marker": "o", "markersize": 4}
    alone = {"marker": "o", "markersize": 3} if len(records) == 1 else {}  # else nothing to see
    line = {"color": RUN, "linewidth": 1.6, "clip_on": False}
    return (
        Line2D(*_by_step(records), label="training", **line, **alone),
        Line2D(*places, label="validation", **line, **dashed),
    )


def _by_step(records: Sequence[StepRecord]) -> tuple[list[int], list[float]]:
    return [record.step for record in records], [record.loss for record in records]


def _loss_in_words(records: Sequence[StepRecord], earlier: Sequence[Sequence[StepRecord]]) -> str:
    if not records:
        words = "An empty chart: no step has been trained yet"
    else:
        first, last = records[0], records[-1]
        words = (
            f"The training loss goes from {first.loss:.2f} to {last.loss:.2f} nats per token "
            f"in {last.step} step{'s' * (last.step > 1)}"
        )
        validated = [one.validation_loss for one in records if one.validation_loss is not None]
        if validated:
            words += f"; the validation loss ends at {validated[-1]:.2f}"
    if earlier:
        words += f". In grey: {len(earlier)} earlier run{'s' * (len(earlier) > 1)}"
    return f"{words}."


class LossFilm:
    """The picture of `draw_loss`, many times a second while a run goes on.

    What stands still is painted once and kept; each frame adds only the curves (5 ms in place of
    70). When an axis has to grow, it is painted anew.
    """

    def __init__(
        self,
        earlier: Sequence[Sequence[StepRecord]] = (),
        steps: int | None = None,
        size: tuple[int, int] = SIZE,
    ) -> None:
        self.earlier, self.steps, self.size = tuple(earlier), steps, size
        self._ends: tuple[float, float] | None = None

    def frame(self, records: Sequence[StepRecord]) -> bytes:
        """The picture at this moment as PNG bytes, at the screen's own number of pixels."""
        with _DRAWING:
            ends = _loss_ends(records, self.earlier, self.steps)
            if ends != self._ends:
                self._paint(ends)
            self._canvas.restore_region(self._still)
            for line in _loss_lines(records):
                self._ax.add_line(line)
                self._ax.draw_artist(line)
                line.remove()
            buffer = io.BytesIO()
            imsave(buffer, self._canvas.buffer_rgba(), format="png")
            return buffer.getvalue()

    def _paint(self, ends: tuple[float, float]) -> None:
        if self._ends is None:
            self._ax = _axes(draw_loss, self.size)
            self._canvas = FigureCanvasAgg(self._ax.figure)
            _draw_loss_frame(self._ax, ends, self.earlier)
        self._ax.set(xlim=(0, ends[0]), ylim=(0, ends[1]))
        self._canvas.draw()
        self._still = self._canvas.copy_from_bbox(self._ax.figure.bbox)
        self._ends = ends


# --- what was learnt, and what was lost -----------------------------------------------------


def meters(base: Scores, adapted: Scores) -> list[tuple[str, str, float, float]]:
    """What the meters show: (name, colour, the base's share, the adapted model's share)."""
    rows = []
    if base.metric_name not in _NOT_SHARES:
        rows.append((f"new: {base.metric_name}", NEW, base.value, adapted.value))
    if base.old_knowledge is not None and adapted.old_knowledge is not None:
        rows.append(("old facts still right", OLD, base.old_knowledge, adapted.old_knowledge))
    if base.strangers is not None and adapted.strangers is not None:
        rows.append(("strangers “not known”", EARLIER, base.strangers, adapted.strangers))
    return rows


def draw_meters(ax: Axes, base: Scores, adapted: Scores) -> Axes:
    """New knowledge, old knowledge and strangers after a fine-tune; the base's value as a tick."""
    rows = meters(base, adapted)
    _tidy(ax, "What was learnt, and what was lost?", "right answers, %", "")
    ax.grid(visible=False)
    for place, (_, colour, before, after) in enumerate(rows):
        ax.barh(place, 100, color=PALE, height=0.52)
        ax.barh(place, 100 * after, color=colour, height=0.52)
        tick = [100 * before] * 2, [place - 0.36, place + 0.36]
        ax.plot(*tick, color=BASE, linewidth=2, clip_on=False)
        words = f"{_percent(after)}  (base {_percent(before)})"
        ax.text(103, place, words, va="center", fontsize=9.5, color=INK)
    ax.set(xlim=(0, 165), ylim=(len(rows) - 0.45, -0.55), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.spines["bottom"].set_bounds(0, 100)
    ax.xaxis.label.set_x(50 / 165)  # under the meters, not under the words beside them
    told = [f"{name} {_percent(before)} to {_percent(after)}" for name, _, before, after in rows]
    ax.set_label(f"From the base to the adapted model: {'; '.join(told)}.")
    return ax


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# --- how thin a change may be ---------------------------------------------------------------


def draw_energy_kept(
    ax: Axes, changes: Sequence[Sequence[float]], random: Sequence[float], ranks: Sequence[int]
) -> Axes:
    """How much of the changes in weight matrices their best approximation of each rank keeps.

    Args:
        ax: where to draw.
        changes: one row a matrix: the shares that ranks 1, 2, ... keep, from `energy_kept`.
        random: such a row for a matrix of random numbers, a change without any structure.
        ranks: where the mean over the matrices is marked.
    """
    _tidy(ax, "How much of ΔW does a rank keep?", "rank k", "energy kept, %")
    by_rank = [[100 * share for share in shares] for shares in zip(*changes, strict=True)]
    every = range(1, len(by_rank) + 1)
    means = [statistics.mean(shares) for shares in by_rank]
    lows, highs = [min(shares) for shares in by_rank], [max(shares) for shares in by_rank]
    band = {"color": FULL, "alpha": 0.25, "linewidth": 0}
    ax.fill_between(every, lows, highs, label=f"{len(changes)} matrices, least to most", **band)
    ax.plot(every, means, color=FULL, linewidth=1.6, label="their mean")
    shares = [100 * share for share in random]
    ax.plot(every, shares, color=BASE, linestyle=":", linewidth=1.6, label="random numbers")
    for k in ranks:
        ax.plot([k], [means[k - 1]], "o", color=FULL)
        where = {"xy": (k, means[k - 1]), "xytext": (6, -13), "textcoords": "offset points"}
        ax.annotate(f"{means[k - 1]:.0f}", **where, fontsize=9.5, color=INK)
    ax.legend(loc="upper left", fontsize=9, frameon=False, labelcolor=INK)
    _rank_axis(ax, len(by_rank))
    told = ", ".join(f"rank {k} {means[k - 1]:.0f} %" for k in ranks)
    ax.set_label(
        f"Share of the energy that is kept of full fine-tuning's change, as a mean of "
        f"{len(changes)} matrices: {told}; rank {ranks[-1]} of random numbers "
        f"{_percent(random[ranks[-1] - 1])}."
    )
    return ax


def _rank_axis(ax: Axes, last: int) -> None:
    """Ranks double from one tick to the next."""
    ticks = [2**power for power in range(last.bit_length())]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set(xlim=(0.85, 1.15 * last), ylim=(0, 104))


def draw_thin(
    ax: Axes,
    cut: Mapping[int, Sequence[float]],
    trained: Mapping[int, Sequence[float]],
    whole: Sequence[float],
) -> Axes:
    """A task's score when full fine-tuning's change is cut to a rank, and LoRA's, trained there.

    Args:
        ax: where to draw.
        cut: by rank, the share of right answers of each seed.
        trained: the same of LoRA, trained at that rank.
        whole: the full fine-tune's own shares, one a seed.
    """
    _tidy(ax, "Does the task need all of ΔW?", "rank k", "new facts right, %")
    told = []
    for name, colour, size, shares in (
        ("cut to rank k", FULL, 8, cut),
        ("trained at rank k", RUN, 5, trained),  # on top, and smaller: where both are equal
    ):
        ranks = sorted(shares)
        means, lows, highs = (
            [100 * of(shares[k]) for k in ranks] for of in (statistics.mean, min, max)
        )
        ax.fill_between(ranks, lows, highs, color=colour, alpha=0.25, linewidth=0)
        ax.plot(ranks, means, color=colour, marker="o", markersize=size, label=name)
        marks = ", ".join(f"{mean:.0f} % at {k}" for k, mean in zip(ranks, means, strict=True))
        told.append(f"{name} {marks}")
    full = 100 * statistics.mean(whole)
    ax.axhline(full, color=FULL, linestyle="--", linewidth=1.2, label="full fine-tuning, uncut")
    title = f"{len(whole)} seeds; band: least to most"
    look = {"fontsize": 9, "title_fontsize": 9, "frameon": False, "labelcolor": INK}
    ax.legend(title=title, loc="center right", **look)
    _rank_axis(ax, max([*cut, *trained]))
    ax.set_label(
        f"New facts right, as a mean of {len(whole)} seeds: {'; '.join(told)}; "
        f"full fine-tuning {full:.0f} %."
    )
    return ax


# --- where the memory goes ------------------------------------------------------------------


def draw_memory(
    ax: Axes,
    named: Mapping[str, Memory],
    card: Card | None = None,
    measured: Mapping[str, int] | None = None,
    error: float = ERROR,
) -> Axes:
    """One stacked bar a method: what a training step holds, part by part.

    Each part has its own greatest length. What stands beyond the peak is pale: it is never there
    together with the rest, since activations go as gradients come.

    Args:
        ax: where to draw.
        named: what each bar is called, and its memory.
        card: its usable memory is a dashed line.
        measured: the bytes that some of them really held at their peak: a tick.
        error: of the estimates, as a share of the peak: a whisker.
    """
    measured = measured or {}
    _tidy(ax, "How much memory does a training step take?", "", "")
    ax.grid(visible=False, axis="y")
    stacked = [sum(getattr(one, part) for part in PARTS) for one in named.values()]
    ends = [one.total * (1 + error) for one in named.values()]
    longest = max([1, *stacked, *ends, *measured.values(), *([card.usable] if card else [])])
    unit, size = _unit(longest)
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
        ax.text(beyond / size, place, f"{peak:.3g} {unit}", **words)
        if name in measured:
            tick = [measured[name] / size] * 2, [place - 0.32, place + 0.32]
            ax.plot(*tick, color=BASE, linewidth=2.2)
    if card:
        ax.axvline(card.usable / size, color=INK, linestyle="--", linewidth=1.2)
        where = {"ha": "right", "va": "bottom", "fontsize": 9, "color": INK}
        ax.text(card.usable / size, -0.52, f"{card.name} ", **where)
    ax.set(xlim=(0, 1.2 * longest / size), ylim=(len(named) - 0.4, -0.75), xlabel=f"memory, {unit}")
    ax.set_yticks(range(len(named)), list(named), fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    patches = [Patch(color=colour, label=part) for part, colour in PARTS.items()]
    patches.append(Patch(color=EARLIER, alpha=0.3, label="not at the peak"))
    if measured:
        patches.append(Line2D([], [], color=BASE, linewidth=2.2, label="measured"))
    below = {"loc": "outside lower center", "ncols": 4}
    ax.figure.legend(
        handles=patches, **below, fontsize=9, frameon=False, labelcolor=INK, handlelength=1
    )
    ax.set_label(_memory_in_words(named, card, measured, error))
    return ax


def _unit(longest: float) -> tuple[str, int]:
    return ("GiB", 2**30) if longest >= 2**30 else ("MiB", 2**20)


def _memory_in_words(
    named: Mapping[str, Memory], card: Card | None, measured: Mapping[str, int], error: float
) -> str:
    told = []
    for name, memory in named.items():
        unit, size = _unit(memory.total)
        most = max(PARTS, key=lambda part: getattr(memory, part))  # noqa: B023 - used at once
        words = f"{name} {memory.total / size:.3g} {unit} (most of it {most}"
        if name in measured:
            words += f"; measured {measured[name] / size:.3g}"
        told.append(f"{words})")
    words = f"A step's memory at its peak, give or take {error:.0%}: {', '.join(told)}."
    if card:
        fit = [name for name, one in named.items() if one.total <= card.usable]
        words += f" On {card.name}: {', '.join(fit) if fit else 'none'} fit{'s' * (len(fit) == 1)}."
    return words


# --- one token, and what is there to change -------------------------------------------------


def draw_next_token(ax: Axes, shares: Mapping[str, float]) -> Axes:
    """The likeliest next tokens as bars.

    Args:
        ax: where to draw.
        shares: each token's probability, 0 to 1, the likeliest first.
    """
    _tidy(ax, "Which token comes next?", "probability, %", "")
    ax.grid(visible=False, axis="y")
    names = [f"“{token}”" for token in shares]  # a leading space is a part of the token
    ax.barh(range(len(shares)), [100 * share for share in shares.values()], color=RUN, height=0.6)
    for place, share in enumerate(shares.values()):
        words = {"va": "center", "fontsize": 9.5, "color": INK}
        ax.text(100 * share + 1.5, place, _small_percent(share), **words)
    ax.set(xlim=(0, 115), ylim=(len(shares) - 0.45, -0.55), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(shares)), names, fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    told = [
        f"{name} {_small_percent(share)}"
        for name, share in zip(names, shares.values(), strict=True)
    ]
    ax.set_label(f"The likeliest next tokens: {', '.join(told)}.")
    return ax


def _small_percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


def draw_changes(ax: Axes, changes: Mapping[str, float]) -> Axes:
    """How far each matrix has moved: one row a kind, one column a layer, darker the further.

    Args:
        ax: where to draw.
        changes: by a module's name, as "model.layers.0.self_attn.q_proj": ‖ΔW‖ / ‖W‖, 0 or more.
    """
    kinds = [*dict.fromkeys(name.rpartition(".")[2] for name in changes)]
    layers = sorted({layer_of(name) for name in changes})
    most = max([*changes.values(), 1e-9])
    _tidy(ax, "Which matrices have changed?", "layer", "")
    ax.grid(visible=False)
    for name, change in changes.items():
        place = layers.index(layer_of(name)), kinds.index(name.rpartition(".")[2])
        strength = 0.15 + 0.85 * change / most
        shade = {"color": RUN, "alpha": strength} if change else {"color": PALE, "alpha": 0.5}
        ax.barh(place[1], 0.94, left=place[0] - 0.47, height=0.88, **shade)
        ink = "white" if change > 0.55 * most else INK
        words = _small_percent(change) if change else "–"
        ax.text(*place, words, ha="center", va="center", fontsize=9.5, color=ink)
    ax.set(xlim=(-0.55, len(layers) - 0.45), ylim=(len(kinds) - 0.45, -0.55))
    ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set_yticks(range(len(kinds)), kinds, fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    moved = {name: change for name, change in changes.items() if change}
    words = f"{len(moved)} of {len(changes)} matrices have changed"
    if moved:
        of = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in moved))
        least = _small_percent(min(moved.values()))
        words += f" ({of}), by {least} to {_small_percent(most)} of their size"
    ax.set_label(f"{words}.")
    return ax


def draw_terms(
    ax: Axes, rebuilt: Mapping[int, Sequence[Sequence[float]]], energy: Sequence[float]
) -> Axes:
    """A matrix as a grey picture, rebuilt from its strongest k terms, for several k.

    Args:
        ax: where to draw.
        rebuilt: by k: the matrix, (height, width), 0 black to 1 white.
        energy: the share that each k keeps, k = 1 first, as `maths.spectra.energy_kept` gives it.
    """
    _tidy(ax, "How many terms does this picture take?", "", "")
    ax.grid(visible=False)
    told, left = [], 0.0
    for k, matrix in rebuilt.items():
        height, width = len(matrix), len(matrix[0])
        where = left, left + width, height, 0
        ax.imshow(matrix, cmap=GREYS, vmin=0, vmax=1, extent=where, interpolation="nearest")
        numbers, kept = k * (height + width), _small_percent(energy[k - 1])
        share = _small_percent(numbers / (height * width))
        words = f"k = {k}\n{share} of the numbers\n{kept} of the energy"
        style = {"ha": "center", "va": "top", "fontsize": 9, "color": INK, "linespacing": 1.4}
        ax.text(left + width / 2, height * 1.03, words, **style)
        told.append(f"k = {k}: {numbers:,} numbers ({share} of the matrix), {kept} of the energy")
        left += width * 1.06
    ax.set(xlim=(0, left - width * 0.06), ylim=(height, 0), xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_label(f"A picture rebuilt from its strongest terms. {'; '.join(told)}.")
    return ax


# --- what was predicted, and what was measured ----------------------------------------------


def draw_prediction(ax: Axes, prediction: Prediction) -> Axes:
    """The guess, how sure it was, and what each seed measured. The legend is the figure's own."""
    question, seeds = prediction.question, len(prediction.measured)
    draw = _draw_choice if question.options else _draw_number
    names = draw(ax, prediction, f"{seeds} seed{'s' * (seeds > 1)}")
    title = "\n".join(textwrap.wrap(question.text, 62))
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, parse_math=False)
    look = {"fontsize": 9, "frameon": False, "labelcolor": INK, "ncols": 3, "columnspacing": 1.4}
    ax.figure.legend(handles=names, loc="outside lower left", **look)
    said = str(prediction)
    ax.set_label(f"{question.text} {said[0].upper()}{said[1:]}.")
    return ax


def _draw_choice(ax: Axes, prediction: Prediction, seeds: str) -> list[Artist]:
    """Bars: the probability that each option was given. Blue: the share of the seeds it got."""
    question = prediction.question
    _tidy(ax, "", "", "share, %")
    for place, option in enumerate(question.options):
        mine, given = option == prediction.guess, 100 * prediction.given(option)
        ax.bar(place, given, width=0.62, color=EARLIER if mine else PALE)
        share = 100 * prediction.measured.count(option) / len(prediction.measured)
        if share:
            ax.plot([place, place], [0, share], color=RUN, linewidth=2)
            ax.plot([place], [share], "o", color=RUN, markersize=8, clip_on=False)
    names = [question.amount(one) for one in question.options]
    ax.set_xticks(range(len(names)), names, parse_math=False)
    ax.set(xlim=(-0.6, len(question.options) - 0.4), ylim=(0, 105), yticks=range(0, 101, 25))
    ax.grid(visible=False, axis="x")
    measured = Line2D([], [], color=RUN, marker="o", markersize=8, label=f"measured, {seeds}")
    mine = Patch(color=EARLIER, label="your guess")
    return [mine, Patch(color=PALE, label="the rest of your 100 %"), measured]


def _draw_number(ax: Axes, prediction: Prediction, seeds: str) -> list[Artist]:
    """A band: what counts as right. Blue dots: the seeds, on a line from least to greatest."""
    question, measured = prediction.question, prediction.measured
    _tidy(ax, "", question.unit, "")
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

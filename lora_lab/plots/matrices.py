"""Weight matrices and their changes: their size, and the rank that they need."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from lora_lab.models.architecture import last_name, layer_of
from lora_lab.plots.canvas import BASE, FULL, INK, LEGEND, NEW, PALE, RUN, corner, tidy
from lora_lab.wording import counted, fine_percent, percent

GREYS = ListedColormap([str(level / 11) for level in range(12)])  # few levels: small files


def draw_terms(
    ax: Axes, rebuilt: Mapping[int, Sequence[Sequence[float]]], energy: Sequence[float]
) -> Axes:
    """A matrix as a grey picture, rebuilt from its strongest k terms, for several k.

    Args:
        ax: where to draw.
        rebuilt: the matrix by k, (height, width), from 0 (black) to 1 (white).
        energy: the share that each k keeps, k = 1 first, as `maths.spectra.energy_kept` gives it.
    """
    tidy(ax, "How many terms does this picture take?", "", "")
    ax.grid(visible=False)
    summaries, left = [], 0.0
    for k, matrix in rebuilt.items():
        height, width = len(matrix), len(matrix[0])
        where = left, left + width, height, 0
        ax.imshow(matrix, cmap=GREYS, vmin=0, vmax=1, extent=where, interpolation="nearest")
        numbers, kept = k * (height + width), fine_percent(energy[k - 1])
        share = fine_percent(numbers / (height * width))
        words = f"k = {k}\n{share} of the numbers\n{kept} of the energy"
        style = {"ha": "center", "va": "top", "fontsize": 9, "color": INK, "linespacing": 1.4}
        ax.text(left + width / 2, height * 1.03, words, **style)
        summaries.append(
            f"k = {k}: {numbers:,} numbers ({share} of the matrix), {kept} of the energy"
        )
        left += width * 1.06
    ax.set(xlim=(0, left - width * 0.06), ylim=(height, 0), xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_label(f"A picture rebuilt from its strongest terms. {'; '.join(summaries)}.")
    return ax


def draw_energy_kept(
    ax: Axes, changes: Sequence[Sequence[float]], random: Sequence[float], ranks: Sequence[int]
) -> Axes:
    """The energy that the best approximation of each rank keeps of changes in weight matrices.

    Args:
        ax: where to draw.
        changes: a row for each matrix: the shares that ranks 1, 2, ... keep, from `energy_kept`.
        random: the same for a matrix of random numbers, a change without any structure.
        ranks: the ranks at which the mean over the matrices is marked.
    """
    tidy(ax, "How much of ΔW does a rank keep?", "rank k", "energy kept, %")
    by_rank = [[100 * share for share in shares] for shares in zip(*changes, strict=True)]
    every_rank = range(1, len(by_rank) + 1)
    means = [statistics.mean(shares) for shares in by_rank]
    lows, highs = [min(shares) for shares in by_rank], [max(shares) for shares in by_rank]
    band = {"color": FULL, "alpha": 0.25, "linewidth": 0}
    ax.fill_between(
        every_rank, lows, highs, label=f"{len(changes)} matrices, least to most", **band
    )
    ax.plot(every_rank, means, color=FULL, linewidth=1.6, label="their mean")
    shares = [100 * share for share in random]
    ax.plot(every_rank, shares, color=BASE, linestyle=":", linewidth=1.6, label="random numbers")
    for k in ranks:
        ax.plot([k], [means[k - 1]], "o", color=FULL)
        where = {"xy": (k, means[k - 1]), "xytext": (6, -13), "textcoords": "offset points"}
        ax.annotate(f"{means[k - 1]:.0f}", **where, fontsize=9.5, color=INK)
    ax.legend(loc="upper left", **LEGEND)
    _rank_axis(ax, len(by_rank))
    summary = ", ".join(f"rank {k} {means[k - 1]:.0f} %" for k in ranks)
    ax.set_label(
        f"Share of the energy that is kept of full fine-tuning's change, as a mean of "
        f"{len(changes)} matrices: {summary}; rank {ranks[-1]} of random numbers "
        f"{percent(random[ranks[-1] - 1])}."
    )
    return ax


def draw_thin(
    ax: Axes,
    cut: Mapping[int, Sequence[float]],
    trained: Mapping[int, Sequence[float]],
    whole: Sequence[float],
) -> Axes:
    """The score of a full fine-tune cut to each rank, beside the score of LoRA of this rank.

    Args:
        ax: where to draw.
        cut: the share of right answers by rank, for each seed.
        trained: the same for LoRA that was trained with this rank.
        whole: the share of the uncut full fine-tune, for each seed.
    """
    tidy(ax, "Does the task need all of ΔW?", "rank k", "new facts right, %")
    summaries = []
    for name, colour, size, shares in (
        ("cut to rank k", FULL, 8, cut),
        ("trained at rank k", RUN, 5, trained),  # on top, and smaller: where both are equal
    ):
        ranks = sorted(shares)
        means, lows, highs = (
            [100 * summary(shares[k]) for k in ranks] for summary in (statistics.mean, min, max)
        )
        ax.fill_between(ranks, lows, highs, color=colour, alpha=0.25, linewidth=0)
        ax.plot(ranks, means, color=colour, marker="o", markersize=size, label=name)
        marks = ", ".join(f"{mean:.0f} % at {k}" for k, mean in zip(ranks, means, strict=True))
        summaries.append(f"{name} {marks}")
    full = 100 * statistics.mean(whole)
    ax.axhline(full, color=FULL, linestyle="--", linewidth=1.2, label="full fine-tuning, uncut")
    title = f"{len(whole)} seeds; band: least to most"
    look = {"fontsize": 9, "title_fontsize": 9, "frameon": False, "labelcolor": INK}
    ax.legend(title=title, loc="center right", **look)
    _rank_axis(ax, max([*cut, *trained]))
    ax.set_label(
        f"New facts right, as a mean of {len(whole)} seeds: {'; '.join(summaries)}; "
        f"full fine-tuning {full:.0f} %."
    )
    return ax


def _rank_axis(ax: Axes, last: int) -> None:
    """Set an axis on which ranks double from one tick to the next."""
    ticks = [2**power for power in range(last.bit_length())]
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set(xlim=(0.85, 1.15 * last), ylim=(0, 104))


def draw_changes(ax: Axes, changes: Mapping[str, float]) -> Axes:
    """The relative change of each matrix, darker where larger: a row per kind, a column per layer.

    Args:
        ax: where to draw.
        changes: ‖ΔW‖ / ‖W‖ by a module's name, as "model.layers.0.self_attn.q_proj".
    """
    tidy(ax, "Which matrices have changed?", "layer", "")
    labels = {name: fine_percent(change) if change else "–" for name, change in changes.items()}
    _draw_places(ax, changes, labels)
    moved = {name: change for name, change in changes.items() if change}
    words = f"{len(moved)} of {len(changes)} matrices have changed"
    if moved:
        kinds = ", ".join(dict.fromkeys(last_name(name) for name in moved))
        least, most = fine_percent(min(moved.values())), fine_percent(max(moved.values()))
        words += f" ({kinds}), by {least} to {most} of their size"
    ax.set_label(f"{words}.")
    return ax


def draw_stable_ranks(ax: Axes, ranks: Mapping[str, float], r: int) -> Axes:
    """The stable rank of each change in a single run: a row for each kind, a column for each layer.

    The stable rank is the number of equally strong directions to which the change amounts.

    Args:
        ax: where to draw.
        ranks: the change's stable rank by the module's name, 1 to r.
        r: the rank of the adapter.
    """
    tidy(ax, f"How much of r = {r} is in use? Stable rank", "layer", "")
    corner(ax, counted(1, "seed"))
    _draw_places(ax, ranks, {name: f"{rank:.1f}" for name, rank in ranks.items()})
    least, most = min(ranks, key=ranks.get), max(ranks, key=ranks.get)
    ax.set_label(
        f"Stable ranks of {len(ranks)} changes that were trained with rank {r}: from "
        f"{ranks[least]:.1f} ({least}) to {ranks[most]:.1f} ({most})."
    )
    return ax


def draw_ranks(
    ax: Axes, ranks: Mapping[str, int], planted: Mapping[str, int] | None = None
) -> Axes:
    """The rank that each matrix has now, darker where higher: a row per kind, a column per layer.

    Args:
        ax: where to draw.
        ranks: the rank by the module's name, 0 or more.
        planted: the hidden rank of some modules: they are framed, and the hidden rank stands
            behind a stroke; None if no hidden rank is known.
    """
    total, hidden = sum(ranks.values()), planted or {}
    tidy(ax, f"Who has how much rank? {total} triplets", "layer", "")
    labels = {
        name: f"{r} / {hidden[name]}" if name in hidden else f"{r}" for name, r in ranks.items()
    }
    _draw_places(ax, ranks, labels, framed=hidden)
    kinds: Counter[str] = Counter()
    for name, r in ranks.items():
        kinds[last_name(name)] += r
    words = f"{total} triplets in {len(ranks)} matrices: "
    words += ", ".join(f"{kind} {r}" for kind, r in kinds.items())
    if hidden:
        there = sum(ranks[name] for name in hidden)
        words += f"; {there} of them where {sum(hidden.values())} are planted"
    ax.set_label(f"{words}.")
    return ax


def _draw_places(
    ax: Axes,
    numbers: Mapping[str, float],
    labels: Mapping[str, str],
    framed: Collection[str] = (),
) -> None:
    """Draw a number for each matrix, darker where higher: a row per kind, a column per layer."""
    kinds = [*dict.fromkeys(last_name(name) for name in numbers)]
    layers = sorted({layer_of(name) for name in numbers})
    most = max([*numbers.values(), 1e-9])
    ax.grid(visible=False)
    for name, number in numbers.items():
        place = layers.index(layer_of(name)), kinds.index(last_name(name))
        strength = 0.15 + 0.85 * number / most
        shade = {"color": RUN, "alpha": strength} if number else {"color": PALE, "alpha": 0.5}
        ax.barh(place[1], 0.94, left=place[0] - 0.47, height=0.88, **shade)
        if name in framed:
            frame = {"color": "none", "edgecolor": NEW, "linewidth": 2.2}
            ax.barh(place[1], 0.92, left=place[0] - 0.46, height=0.84, **frame)
        ink = "white" if number > 0.55 * most else INK
        ax.text(*place, labels[name], ha="center", va="center", fontsize=9.5, color=ink)
    ax.set(xlim=(-0.55, len(layers) - 0.45), ylim=(len(kinds) - 0.45, -0.55))
    ax.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    ax.set_yticks(range(len(kinds)), kinds, fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)

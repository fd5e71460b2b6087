"""A LoRA's parts to scale: W beside B and A, their product, and its singular values."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.patches import Rectangle

from lora_lab.plots.canvas import EARLIER, INK, RUN, tidy
from lora_lab.wording import fine_percent, significant

LEVELS = 16  # shades: few make small files
FROZEN = LinearSegmentedColormap.from_list("frozen", ["white", "#2B2B2B"], LEVELS)
TRAINED = LinearSegmentedColormap.from_list("trained", ["white", RUN], LEVELS)
TYPICAL = 0.995  # of the numbers are not above the darkest shade
Matrix = Sequence[Sequence[float]]


def draw_lora_parts(
    ax: Axes,
    title: str,
    shape: tuple[int, int],
    weight: Matrix,
    lora_A: Matrix,
    lora_B: Matrix,
    change: Matrix,
    values: Sequence[float],
) -> Axes:
    """W, B, A and ΔW as heat maps to scale; beside them the singular values of ΔW.

    Darker is larger, whatever the sign; shades go by the root of a number's size. W and ΔW share
    their shades, and so do A and B.

    Args:
        ax: where to draw.
        title: the module's name, and when this was.
        shape: out and in, of which the matrices below may hold every n-th row and column.
        weight: W, (out, in).
        lora_A: (r, in).
        lora_B: (out, r).
        change: ΔW, (out, in): the scaling factor times BA.
        values: the singular values of ΔW, the largest first; all 0 before training.
    """
    tidy(ax, title, "", "")
    ax.grid(visible=False)
    (height, width), r = shape, len(lora_A)
    unit = max(height, width)
    gap, large, small = 0.14 * unit, _typical(weight), _typical(lora_A)
    left = 0.0
    for name, matrix, rows, columns, largest, shades, sign in (
        ("W", weight, height, width, large, FROZEN, "+"),
        ("B", lora_B, height, r, small, TRAINED, "·"),
        ("A", lora_A, r, width, small, TRAINED, "→"),
        ("ΔW", change, height, width, large, TRAINED, ""),
    ):
        sizes = [[abs(number) for number in row] for row in matrix]
        look = {"cmap": shades, "norm": PowerNorm(0.5, vmin=0, vmax=largest, clip=True)}
        ax.imshow(sizes, extent=(left, left + columns, rows, 0), interpolation="nearest", **look)
        frame = {"fill": False, "edgecolor": EARLIER, "linewidth": 0.8}
        ax.add_artist(Rectangle((left, 0), columns, rows, **frame))
        words = f"{name}\n{rows} × {columns}"
        ax.text(left, -0.03 * unit, words, fontsize=9, color=INK, va="bottom", linespacing=1.3)
        room = max(columns, 0.16 * unit)  # for the words above a thin one
        middle = left + room + gap / 2, min(height, 0.5 * unit) / 2
        ax.text(*middle, sign, fontsize=13, color=INK, ha="center", va="center")
        left += room + gap
    _draw_values(ax, values, left, unit, height)
    ax.set(xlim=(-1, left + 0.7 * unit), ylim=(1.06 * height, -0.2 * unit), xticks=[], yticks=[])
    ax.set_aspect("equal")
    ax.spines[["left", "bottom"]].set_visible(False)
    share = fine_percent(_norm(change) / _norm(weight))
    ax.set_label(
        f"{title}. W holds {height * width:,} numbers, A and B {r * (height + width):,}. "
        f"ΔW's size is {share} of W's, and its largest singular value {significant(max(values))}."
    )
    return ax


def _draw_values(
    ax: Axes, values: Sequence[float], left: float, unit: float, height: float
) -> None:
    """A bar for each singular value, the largest as high as the matrices."""
    words = f"ΔW's {len(values)} singular values\n"
    most = max(values)
    words += f"the largest {significant(most)}" if most else "all 0, since B is 0"
    ax.text(left, -0.03 * unit, words, fontsize=9, color=INK, va="bottom", linespacing=1.3)
    step = 0.66 * unit / len(values)
    for place, value in enumerate(values):
        size = height * value / most if most else 0
        ax.add_artist(Rectangle((left + place * step, height), 0.8 * step, -size, color=RUN))
    ax.plot([left, left + 0.66 * unit], [height, height], color=EARLIER, linewidth=0.8)


def _typical(matrix: Matrix) -> float:
    """The size that nearly no number exceeds: it has the darkest shade."""
    sizes = sorted(abs(number) for row in matrix for number in row)
    return sizes[min(len(sizes) - 1, int(TYPICAL * len(sizes)))] or 1.0


def _norm(matrix: Matrix) -> float:
    return math.sqrt(sum(number * number for row in matrix for number in row))

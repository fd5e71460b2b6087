"""A LoRA's parts to scale: W beside B and A, their product, and its singular values."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.patches import Rectangle

from lora_lab.plots.canvas import EARLIER, INK, RUN, tidy
from lora_lab.wording import counted, fine_percent, significant

LEVELS = 8  # shades: few make small files
FROZEN = LinearSegmentedColormap.from_list("frozen", ["white", "#2B2B2B"], LEVELS)
TRAINED = LinearSegmentedColormap.from_list("trained", ["white", RUN], LEVELS)
TYPICAL = 0.995  # the share of the numbers that are not above the darkest shade
# Pixels on the screen: for the words above a matrix, their width, and between two matrices
HEAD, ROOM, WIDE_ROOM, GAP, BARS = 40, 64, 120, 34, 150
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
        shape: (out, in); the matrices below may hold only every n-th row and column.
        weight: W, (out, in).
        lora_A: (r, in).
        lora_B: (out, r).
        change: ΔW, (out, in): the scaling factor times BA.
        values: the singular values of ΔW, the largest first; all 0 before training.
    """
    tidy(ax, title, "", "")
    ax.grid(visible=False)
    (height, width), r, unit = shape, len(lora_A), _pixels(shape)
    large, small, left = _typical(weight), _typical(lora_A), 0.0
    look = {"fontsize": 9, "color": INK, "va": "bottom", "linespacing": 1.3}
    for name, room, matrix, rows, columns, largest, shades, sign in (
        ("W", ROOM, weight, height, width, large, FROZEN, "+"),
        ("B", ROOM, lora_B, height, r, small, TRAINED, "·"),
        ("A", ROOM, lora_A, r, width, small, TRAINED, ""),
        ("ΔW = scaling · BA", WIDE_ROOM, change, height, width, large, TRAINED, ""),
    ):
        sizes = [[abs(number) for number in row] for row in matrix]
        norm = PowerNorm(0.5, vmin=0, vmax=largest, clip=True)
        where = left, left + columns, rows, 0
        ax.imshow(sizes, cmap=shades, norm=norm, extent=where, interpolation="nearest")
        frame = {"fill": False, "edgecolor": EARLIER, "linewidth": 0.8}
        ax.add_artist(Rectangle((left, 0), columns, rows, **frame))
        ax.text(left, -4 / unit, f"{name}\n{rows} × {columns}", **look)
        wide = max(columns, room / unit)
        middle = left + wide + GAP / unit / 2, min(height, 90 / unit) / 2
        ax.text(*middle, sign, fontsize=13, color=INK, ha="center", va="center")
        left += wide + GAP / unit
    most, step = max(values), BARS / unit / len(values)
    words = f"the largest {significant(most)}" if most else "all 0, since B is 0"
    count = counted(len(values), "singular value")
    ax.text(left, -4 / unit, f"ΔW's {count}\n{words}", **look)
    for place, value in enumerate(values):
        size = height * value / most if most else 0
        ax.add_artist(Rectangle((left + place * step, height), 0.8 * step, -size, color=RUN))
    ax.plot([left, left + BARS / unit], [height, height], color=EARLIER, linewidth=0.8)
    ax.set(xlim=(-1, left + BARS / unit), ylim=(height + 4 / unit, -HEAD / unit))
    ax.set(xticks=[], yticks=[], aspect="equal", anchor="W")
    ax.spines[["left", "bottom"]].set_visible(False)
    drawn = sum(len(row) for row in weight)  # maybe only every n-th number of W
    size_of_W = _norm(weight) * math.sqrt(height * width / drawn)
    share = fine_percent(_norm([values]) / size_of_W)
    ax.set_label(
        f"{title}. W holds {height * width:,} numbers, A and B {r * (height + width):,}. "
        f"ΔW's size is {share} of W's, and its largest singular value {significant(max(values))}."
    )
    return ax


def _typical(matrix: Matrix) -> float:
    """The size that nearly no number of a matrix exceeds: it has the darkest shade."""
    sizes = sorted(abs(number) for row in matrix for number in row)
    return sizes[min(len(sizes) - 1, int(TYPICAL * len(sizes)))] or 1.0


def _norm(matrix: Matrix) -> float:
    return math.sqrt(sum(number * number for row in matrix for number in row))


def lora_parts_size(shape: tuple[int, int]) -> tuple[int, int]:
    """The pixels on the screen that the parts of a matrix of this shape take."""
    (height, width), unit = shape, _pixels(shape)
    rooms = 2 * max(unit * width, ROOM) + max(unit * width, WIDE_ROOM) + ROOM
    return round(rooms + 4 * GAP + BARS) + 30, round(unit * height) + HEAD + 44


def _pixels(shape: tuple[int, int]) -> float:
    """The pixels on the screen for each number of a matrix: all matrices have the same scale."""
    height, width = shape
    return min(190 / height, 170 / width)

"""A field of questions: a dot for each, filled where the answer is right."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Circle

from lora_lab.plots.canvas import EARLIER, INK, NEW, OLD, tidy

Field = tuple[str, str, str, str]  # name, kind, marks of the base, marks now
COLOURS = {"new": NEW, "old": OLD, "stranger": EARLIER}  # by kind
RADII = {"+": 0.36, "-": 0.0, "?": 0.13}  # right, wrong, says "not known"
ROOM = 9  # the least dots side by side that a field has room for, as its heading needs
PIXELS = 25  # from dot to dot on the screen; also whole in the file, which makes it small
MARGINS = (10, 10, 6, 26)  # pixels: left, right, bottom, top


def draw_field(ax: Axes, fields: Sequence[Field], step: int, steps: int) -> Axes:
    """The questions of each kind at a step of a training, as dots.

    Args:
        ax: where to draw.
        fields: name, kind ("new", "old" or "stranger"), and a mark for each question, of the base
            and now: "+" right, "-" wrong, "?" says "not known" where that is wrong.
        step: how many steps are done.
        steps: of the whole training.
    """
    tidy(ax, f"What does it know at step {step} of {steps}?", "", "")
    ax.grid(visible=False)
    columns, rows, left = *_grid(fields), 0.0
    summaries = []
    for name, kind, before, now in fields:
        for place, mark in enumerate(now):
            x, y = left + place % columns + 0.5, place // columns + 0.5
            ax.add_artist(Circle((x, y), 0.36, fill=False, edgecolor=COLOURS[kind], linewidth=1.1))
            if RADII[mark]:
                ax.add_artist(Circle((x, y), RADII[mark], color=COLOURS[kind], linewidth=0))
        right = "“not known”" if kind == "stranger" else "right"
        counts = f"{now.count('+')} of {len(now)} {right} (was {before.count('+')})"
        ax.text(left, -1.15, name, fontsize=10, fontweight="bold", color=INK)
        ax.text(left, -0.3, counts, fontsize=9.5, color=INK)
        summaries.append(f"{name}: {counts}")
        left += max(columns + 1, ROOM)
    key = "filled: right · empty: wrong · small: says “not known”"
    ax.text(0, rows + 0.9, key, fontsize=9, color=INK)
    ax.set(xlim=(0, left), ylim=(rows + 1, -2), xticks=[], yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_label(f"A dot for each question at step {step} of {steps}. {'; '.join(summaries)}.")
    return ax


draw_field.margins = MARGINS


def field_size(fields: Sequence[Field]) -> tuple[int, int]:
    """The pixels on the screen that the dots take."""
    columns, rows = _grid(fields)
    dots = len(fields) * max(columns + 1, ROOM)
    left, right, bottom, top = MARGINS
    return round(PIXELS * dots) + left + right, PIXELS * (rows + 3) + bottom + top


def _grid(fields: Sequence[Field]) -> tuple[int, int]:
    """The columns and the rows of each field, twice as wide as high."""
    most = max(len(now) for *_, now in fields)
    columns = max(1, round(math.sqrt(2 * most)))
    return columns, math.ceil(most / columns)

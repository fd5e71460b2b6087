"""The look of every picture: colours, sizes, axes. Only this room imports matplotlib.

A draw function is (ax, numbers) -> ax. It gives its axes a title, the question that the chart
answers, and a label, which states the finding with its numbers: the picture's alternative text.
"""

import base64
import io
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns while it first lists its fonts

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, which colour-blind people can distinguish. Each has one meaning.
RUN = "#0072B2"  # the run at hand; its validation is dashed
EARLIER = "#7F7F7F"  # earlier runs, fading with age
BASE = "#000000"  # the base model: a dotted line, or a tick
FULL = "#D55E00"  # full fine-tuning
NEW = "#009E73"  # new knowledge
OLD = "#CC79A7"  # old knowledge
PAPER = "#E69F00"  # a paper's number
INK, PALE = "#333333", "#E6E6E6"  # words and axes; grids and empty meters
LEGEND = {"fontsize": 9, "frameon": False, "labelcolor": INK}

SIZE = (500, 270)  # pixels on the screen: width, height
_DPI = 100  # a point is 1.4 pixels: 9 points are read easily
_CRISP = 1.6  # a finished picture's own pixels, per pixel on the screen

DRAWING = threading.RLock()  # matplotlib is not thread-safe; a live run draws from a thread


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished picture with alternative text. A notebook shows it as a cell's value."""

    png: bytes
    title: str
    alt: str  # the picture in words, with its numbers
    size: tuple[int, int]  # pixels on the screen

    def _repr_mimebundle_(self, **_: object) -> tuple[dict[str, str], dict[str, dict]]:
        """The PNG; its text is in the metadata, since its digits may differ between machines."""
        data = {
            "image/png": base64.b64encode(self.png).decode(),
            "text/plain": f"[picture: {self.title}]",
        }
        width, height = self.size
        return data, {"image/png": {"alt": self.alt, "width": width, "height": height}}


def picture(draw: Callable[..., Axes], *numbers: object, size: tuple[int, int] = SIZE) -> Picture:
    """The picture of a draw function. It uses no pyplot, so no figure stays open.

    If the draw function has an attribute `colours`, the PNG has a palette of that many colours,
    which takes a third of the bytes.
    """
    with DRAWING:
        ax = draw(axes_for(draw, size), *numbers)
        buffer = io.BytesIO()
        ax.figure.savefig(buffer, format="png", dpi=_DPI * _CRISP)
        png = buffer.getvalue()
        if hasattr(draw, "colours"):
            png = _in_colours(png, draw.colours)
        return Picture(png, ax.get_title(loc="left"), ax.get_label(), size)


def _in_colours(png: bytes, count: int) -> bytes:
    """The PNG with a palette of `count` colours."""
    buffer = io.BytesIO()
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    whole.quantize(count, dither=Image.Dither.NONE).save(buffer, "png")
    return buffer.getvalue()


def png(draw: Callable[..., Axes], *numbers: object, size: tuple[int, int] = SIZE) -> bytes:
    """A draw function's picture as PNG bytes."""
    return picture(draw, *numbers, size=size).png


def axes_for(draw: Callable[..., Axes], size: tuple[int, int]) -> Axes:
    """Empty axes for a chart. A draw function with `margins` keeps its axes in the same place."""
    width, height = size
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    margins = getattr(draw, "margins", None)
    if margins:
        left, right, bottom, top = margins
        sides = {"left": left / width, "right": 1 - right / width}
        figure.subplots_adjust(**sides, bottom=bottom / height, top=1 - top / height)
    else:
        figure.set_layout_engine("constrained")
    return figure.subplots()


def tidy(ax: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Give a chart its title, axis labels, and the look that all charts share."""
    ax.set_title(title, loc="left", fontsize=10.5, color=INK)
    ax.set_xlabel(xlabel, fontsize=9.5, color=INK)
    ax.set_ylabel(ylabel, fontsize=9.5, color=INK)
    ax.tick_params(labelsize=9, colors=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.grid(color=PALE, linewidth=0.8)
    ax.set_axisbelow(True)


def corner(ax: Axes, words: str) -> None:
    """Write words to the right of the title: the number of seeds, the unit."""
    ax.set_title(words, loc="right", fontsize=9, color=INK)


def axis_end(value: float) -> float:
    """The end of an axis for its greatest value: 1, 1.5, 2, 3, 4, 6 or 8 times a power of ten.

    An axis then grows in steps while a run goes on, and stands still in between.
    """
    if not (math.isfinite(value) and value > 0):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    ends = (factor * power for factor in (1, 1.5, 2, 3, 4, 6, 8, 10))
    return next(end for end in ends if value <= end * (1 + 1e-9))

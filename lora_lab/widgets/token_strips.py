"""A batch as strips of tokens: padded, cut or packed, with a slider for `max_length`."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.way_in import strips
from lora_lab.tasks.examples import Encoded
from lora_lab.widgets.explorer import DescribedExplorer

WAYS = {  # a button's words: the way, and its title
    "padded": "Padded to the longest",
    "cut": "Cut at {}",
    "packed": "Packed into rows of {}",
}


class TokenStrips(DescribedExplorer):
    """A row of cells for each row of a batch. `way` and `max_length` are the controls.

    Args:
        rows: the examples of the batch.
        max_length: where the slider begins, in tokens.

    Raises:
        ValueError: for no examples.
    """

    def __init__(self, rows: Sequence[Encoded], max_length: int) -> None:
        if not rows:
            raise ValueError("there is no example to draw; give one or more")
        self.rows = rows
        self.way = widgets.ToggleButtons(options=[*WAYS])
        self.way.style.button_width = "auto"
        longest = max(len(row.input_ids) for row in rows)
        self.max_length = widgets.IntSlider(max_length, 4, 2 * longest, description="max_length")
        width, _ = plots.strips_size(len(rows))
        controls = [self.way, self.max_length]
        super().__init__("What goes into the model?", controls, width=width)

    def draw(self) -> plots.Picture:
        """The batch for the controls' values."""
        return self.still(self.way.value, self.max_length.value)

    def still(self, way: str, max_length: int) -> plots.Picture:
        """The batch by a way at a `max_length`, for readers without a kernel."""
        made, title = strips(self.rows, way, max_length), WAYS[way].format(max_length)
        return plots.picture(plots.draw_strips, title, made, size=plots.strips_size(len(self.rows)))

    def __repr__(self) -> str:
        return f"TokenStrips: {self.picture.alt}"

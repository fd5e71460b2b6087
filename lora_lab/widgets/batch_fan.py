"""Where batches point: a slider for the batch size over a fan of real gradients."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.batches import Gradients
from lora_lab.widgets.explorer import Explorer

SIZE = (500, 250)  # pixels


class BatchFan(Explorer):
    """An arrow for each of 40 batches: how far its gradient points away from that of all examples.

    `size` is the slider.

    Args:
        gradients: the gradient of each example.
        batch_sizes: the slider's values.
        start: the slider's first value, one of them.
    """

    def __init__(self, gradients: Gradients, batch_sizes: Sequence[int], start: int = 16) -> None:
        self.gradients = gradients
        self.size = widgets.SelectionSlider(
            options=[*batch_sizes], value=start, description="batch_size"
        )
        super().__init__("Where does a batch point?", [self.size], width=SIZE[0])

    def draw(self) -> plots.Picture:
        """The fan of the slider's batch size."""
        size = self.size.value
        numbers = size, self.gradients.angles(size), len(self.gradients.labels)
        return plots.picture(plots.draw_fan, *numbers, size=SIZE)

    def __repr__(self) -> str:
        sizes = ", ".join(str(size) for size in self.size.options)
        return f"BatchFan: {len(self.gradients.labels)} examples · batch_size {sizes}"

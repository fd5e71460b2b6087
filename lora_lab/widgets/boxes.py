"""Parts that every widget is built of: a box in the lab's look, pictures, rows, buttons, labels."""

from collections.abc import Sequence

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionWidget

from lora_lab.plots import Picture

_WRAP = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}


class PictureView(widgets.Image, DescriptionWidget):
    """An image with a tooltip, which is its alternative text too.

    A plain Image fails in the browser at a tooltip, since that looks for a description.
    """

    def __init__(self, width: int) -> None:
        super().__init__(format="png", layout={"width": f"{width}px", "max_width": "100%"})
        self.add_class("lora-lab-picture")

    def show(self, picture: Picture) -> None:
        """Put in a finished picture with its alternative text."""
        self.value, self.tooltip = picture.png, picture.alt


class LabBox(widgets.VBox):
    """A box in the lab's look, with its `repr` where no widget can be shown."""

    def __init__(self, children: Sequence[widgets.Widget]) -> None:
        super().__init__(children)
        self.add_class("lora-lab")

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """Fixed words where no widget can be shown, without the ids that change at each run."""
        return super()._repr_mimebundle_(**options) | {"text/plain": repr(self)}


class Folded(widgets.VBox):
    """Content that a click on its name shows; unlike an Accordion, the keyboard reaches it."""

    def __init__(self, name: str, content: widgets.Widget) -> None:
        self.switch = widgets.ToggleButton(description=name, layout={"width": "max-content"})
        self.content = content
        self.switch.observe(lambda _: self._show(), names="value")
        super().__init__([self.switch, content])
        self.add_class("lora-lab-folded")
        self._show()

    def _show(self) -> None:
        open_ = self.switch.value
        self.switch.icon = "caret-down" if open_ else "caret-right"
        self.content.layout.display = None if open_ else "none"


def action(description: str, **options: object) -> widgets.Button:
    """A button as wide as its words."""
    room = {"width": "max-content", "min_width": "6.5em"}
    return widgets.Button(description=description, layout=room, **options)


def labelled(control: widgets.Widget, label: str, width: str) -> widgets.Widget:
    """The control with its label right before it: a screen reader takes the label as its name."""
    control.description, control.layout.width = label, width
    control.style.description_width = "initial"
    return control


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Parts side by side, or under each other on a narrow page."""
    return widgets.HBox(parts, layout=_WRAP)


def columns(*parts: widgets.Widget) -> widgets.HBox:
    """Tall parts side by side, aligned at the top."""
    box = row(*parts)
    box.layout.align_items, box.layout.grid_gap = "flex-start", "12px"
    return box

"""A picture with controls that redraw it: the base class of most explorers in lessons."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab.plots import SIZE, Picture
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox, PictureView


class Explorer(LabBox):
    """Controls above a picture; each change of a control draws it anew. Nothing is trained.

    `picture` is the picture that is shown. A subclass defines `draw`.

    Args:
        title: the heading.
        controls: the widgets whose value changes the picture.
        above: the rows over the picture; None: the controls, under each other.
        below: the rows under it.
        width: the picture's width in pixels.
    """

    picture: Picture

    def __init__(
        self,
        title: str,
        controls: Sequence[widgets.Widget],
        above: Sequence[widgets.Widget] | None = None,
        below: Sequence[widgets.Widget] = (),
        width: int = SIZE[0],
    ) -> None:
        self.view = PictureView(width)
        rows = controls if above is None else above
        super().__init__([widgets.HTML(markup.title(title)), *rows, self.view, *below])
        for control in controls:
            control.observe(lambda _: self._show(), names="value")
        self._show()

    def draw(self) -> Picture:
        """The picture for the controls' values."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **options: object) -> tuple[dict[str, object], dict[str, object]]:
        """The widget; and its picture for readers without a kernel."""
        still, alt = self.picture._repr_mimebundle_()
        words = {"text/plain": repr(self)}
        return super()._repr_mimebundle_(**options) | still | words, alt

    def _show(self) -> None:
        self.picture = self.draw()
        self.view.show(self.picture)


class DescribedExplorer(Explorer):
    """An explorer whose picture's alternative text stands below it too, in `said`."""

    def __init__(
        self,
        title: str,
        controls: Sequence[widgets.Widget],
        above: Sequence[widgets.Widget] | None = None,
        width: int = SIZE[0],
    ) -> None:
        self.said = widgets.HTML()
        super().__init__(title, controls, above, below=[self.said], width=width)

    def _show(self) -> None:
        super()._show()
        self.said.value = markup.faint(self.picture.alt)

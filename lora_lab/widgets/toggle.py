"""The same numbers seen in several ways: a row of buttons, and one finished picture for each."""

from collections.abc import Mapping

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.plots import Picture
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, PictureView


class Toggle(LabBox):
    """Buttons that change the picture below them. Nothing is trained. `choice` holds the buttons.

    Args:
        title: the heading.
        pictures: by a button's words: what it shows, the first at the start; all of one size.

    Raises:
        ValueError: for fewer than two pictures.
    """

    def __init__(self, title: str, pictures: Mapping[str, Picture]) -> None:
        if len(pictures) < 2:
            raise ValueError(f"{len(pictures)} pictures leave no choice; give two or more")
        self.title, self.pictures = title, dict(pictures)
        self.choice = widgets.ToggleButtons(options=[*pictures])
        self.choice.style.button_width = "auto"
        self.view, self.said = PictureView(plots.SIZE[0]), widgets.HTML()
        super().__init__([widgets.HTML(words.title(title)), self.choice, self.view, self.said])
        self.choice.observe(lambda _: self._show(), names="value")
        self._show()

    @property
    def picture(self) -> Picture:
        """The one that is shown."""
        return self.pictures[self.choice.value]

    def _show(self) -> None:
        self.view.show(self.picture)
        self.said.value = words.faint(self.picture.alt)

    def __repr__(self) -> str:
        return f"Toggle: {self.title} {' · '.join(self.pictures)}"

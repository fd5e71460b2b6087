"""The same numbers seen in several ways: a row of buttons, and one finished picture for each."""

from collections.abc import Mapping

import ipywidgets as widgets

from lora_lab.plots import Picture
from lora_lab.widgets.explorer import DescribedExplorer


class Toggle(DescribedExplorer):
    """Buttons that change the picture below them. `choice` holds the buttons.

    Args:
        title: the heading.
        pictures: the pictures by the buttons' words, all of the same size. The first is shown
            first.

    Raises:
        ValueError: for fewer than two pictures.
    """

    def __init__(self, title: str, pictures: Mapping[str, Picture]) -> None:
        if len(pictures) < 2:
            raise ValueError(f"{len(pictures)} pictures leave no choice; give two or more")
        self.title, self.pictures = title, dict(pictures)
        self.choice = widgets.ToggleButtons(options=[*pictures])
        self.choice.style.button_width = "auto"
        width, _ = next(iter(self.pictures.values())).size
        super().__init__(title, [self.choice], width=width)

    def draw(self) -> Picture:
        """The finished picture of the pressed button."""
        return self.pictures[self.choice.value]

    def __repr__(self) -> str:
        return f"Toggle: {self.title} {' · '.join(self.pictures)}"

"""The parts of the live laboratory and where they stand; what they do is in live_lab.py."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab.recipe import Recipe
from lora_lab.widgets import words
from lora_lab.widgets.recipe_controls import FOLDED, RecipeControls

_WRAP = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}


class LabFace(widgets.VBox):
    """Task, Train, Stop and strength in sight, loss and answers side by side, the rest folded."""

    def __init__(self, title: str, tasks: Sequence[str], in_sight: Sequence[str]) -> None:
        self.task_choice = widgets.Dropdown(options=list(tasks), description="task")
        self.task_choice.style.description_width = "2.6em"
        self.task_choice.layout.width = "16em"
        self.train_button = _button("Train", button_style="primary")
        self.stop_button = _button("Stop", disabled=True)
        self.about, self.state, self.marks, self.cost, self.code_view = (
            widgets.HTML() for _ in range(5)
        )
        self.progress = widgets.IntProgress(layout={"width": "9em"})
        self.loss_picture, self.meters_picture = _image(), _image()
        self.answers = widgets.HTML(layout={"flex": "1 1 360px", "min_width": "300px"})
        self.strength = widgets.FloatSlider(
            value=1.0, min=0, max=1.5, step=0.25, description="strength", readout_format=".2f"
        )
        self.strength.style.description_width = "4.6em"
        self.own_prompt = widgets.Text(placeholder="a prompt of your own", layout={"width": "30em"})
        self.ask_button = _button("Ask")
        self.controls = RecipeControls(Recipe(), [*dict.fromkeys([*in_sight, *FOLDED])])
        super().__init__(self._rows(title, in_sight))
        self.add_class("lora-lab")

    def _rows(self, title: str, in_sight: Sequence[str]) -> list[widgets.Widget]:
        seen = [self.controls.row(field) for field in in_sight]
        folded = [self.controls.row(field) for field in FOLDED if field not in in_sight]
        more = {
            "More choices": widgets.VBox(folded),
            "Ask a prompt of your own": _row(self.own_prompt, self.ask_button),
            "Show the code": self.code_view,
        }
        side_by_side = _row(self.loss_picture, self.answers)
        side_by_side.layout.align_items, side_by_side.layout.grid_gap = "flex-start", "12px"
        return [
            widgets.HTML(words.title(title)),
            _row(self.task_choice, self.train_button, self.stop_button, *seen),
            self.about,
            _row(self.progress, self.state),
            side_by_side,
            _row(self.strength, self.marks),
            self.meters_picture,
            self.cost,
            widgets.Accordion([*more.values()], titles=tuple(more), selected_index=None),
        ]


def _button(description: str, **options: object) -> widgets.Button:
    return widgets.Button(description=description, layout={"width": "6.5em"}, **options)


def _image() -> widgets.Image:
    image = widgets.Image(format="png", layout={"max_width": "100%"})
    image.add_class("lora-lab-picture")
    return image


def _row(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout=_WRAP)


def show_picture(image: widgets.Image, png: bytes, alt: str, width: int) -> None:
    """Put a picture with its alternative text into an image, `width` pixels wide on the screen."""
    image.value, image.tooltip, image.layout.width = png, alt, f"{width}px"

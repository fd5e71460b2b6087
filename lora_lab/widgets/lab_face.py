"""The parts of the live laboratory and where they stand; what they do is in live_lab.py."""

import html
from collections.abc import Sequence

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionWidget

from lora_lab.plots import SIZE, Picture
from lora_lab.recipe import Recipe
from lora_lab.widgets import words
from lora_lab.widgets.background import Background
from lora_lab.widgets.recipe_controls import FOLDED, RecipeControls


class PictureView(widgets.Image, DescriptionWidget):
    """An image with a tooltip, which is its alternative text too.

    The browser's part of a plain Image fails at a tooltip, since it looks for a description.
    """

    def __init__(self, width: int) -> None:
        super().__init__(format="png", layout={"width": f"{width}px", "max_width": "100%"})
        self.add_class("lora-lab-picture")

    def show(self, picture: Picture) -> None:
        """Put in a finished picture with its alternative text."""
        self.value, self.tooltip = picture.png, picture.alt


class LabBox(widgets.VBox):
    """A box of the laboratory: in its look, and with its `repr` where no widget can be shown."""

    def __init__(self, children: Sequence[widgets.Widget]) -> None:
        super().__init__(children)
        self.add_class("lora-lab")

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """Fixed words where no widget can be shown, without the ids that change at each run."""
        return super()._repr_mimebundle_(**options) | {"text/plain": repr(self)}


class WorkingBox(LabBox):
    """A box with work in the background and a line, `state`, that tells of it.

    What it shows is given as its `children`, once they are made.
    """

    stop_button: widgets.Button | None = None  # None: it can't be stopped
    _work: Background | None = None  # until it is made

    def __init__(self) -> None:
        self._work = Background(self._show_error, self._at_rest)
        self.state = widgets.HTML()
        super().__init__([])
        self.state.add_class("lora-lab-state")

    def wait(self, timeout: float | None = None) -> None:
        """Return when all is done. An interrupt ends it within a step.

        Raises:
            TimeoutError: if that takes longer than `timeout` seconds.
            Exception: whatever went wrong while it worked.
        """
        # A cell that waits keeps the kernel's main thread. JupyterLab sends clicks to a second one,
        # but ipykernel 7.4 turns them back to where a widget was last changed: here, the cell.
        if self.stop_button is not None:
            getattr(self.stop_button.comm, "__dict__", {}).pop("_reply_subshell_id", None)
        self._work.wait(timeout)

    def _say(self, line: str) -> None:
        self.state.value = html.escape(line)

    def _show_error(self, error: Exception) -> None:
        self.state.value = words.failure(error)

    def _at_rest(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Take it off the page, and end what runs."""
        if self._work is not None:
            self._work.close()
        super().close()


class TrainingBox(WorkingBox):
    """A box that trains at a click: a button for it, Stop, and a bar that is red after an error."""

    def __init__(self, begin: str) -> None:
        super().__init__()
        self.train_button = action(begin, button_style="primary")
        self.stop_button = action("Stop", disabled=True)
        self.progress = widgets.IntProgress(layout={"width": "9em"})

    def _show_error(self, error: Exception) -> None:
        super()._show_error(error)
        self.progress.bar_style = "danger"

    def _at_rest(self) -> None:
        self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self.train_button.disabled, self.stop_button.disabled = busy, not busy


_WRAP = {"flex_flow": "row wrap", "align_items": "center", "width": "100%"}


class LabFace(TrainingBox):
    """Task, Train, Stop and strength in sight, then loss and answers; the rest is folded."""

    def __init__(self, title: str, tasks: Sequence[str], in_sight: Sequence[str]) -> None:
        super().__init__("Train")
        self.task_choice = widgets.Dropdown(options=list(tasks), description="task")
        self.task_choice.style.description_width = "2.6em"
        self.task_choice.layout.width = "16em"
        self.noise_button = action(
            "Noise band", disabled=True, tooltip="The same with other seeds: how far do they go?"
        )
        self.about, self.marks, self.cost, self.ask_said, self.code_view = (
            widgets.HTML() for _ in range(5)
        )
        self.progress.layout.margin = "2px 10px 2px 2px"
        self.loss_picture, self.meters_picture = PictureView(SIZE[0]), PictureView(SIZE[0])
        self.answers = widgets.HTML(layout={"flex": "1 1 360px", "min_width": "300px"})
        self.strength = widgets.FloatSlider(
            value=1.0, min=0, max=1.5, step=0.25, description="strength", readout_format=".2f"
        )
        self.strength.style.description_width = "4.6em"
        self.own_prompt = labelled(widgets.Text(), "a prompt of your own", "38em")
        self.ask_button = action("Ask")
        self.controls = RecipeControls(Recipe(), [*dict.fromkeys([*in_sight, *FOLDED])])
        self.children = self._rows(title, in_sight)
        self.loss_picture.add_class("lora-lab-loss")
        self.answers.add_class("lora-lab-said")

    def _rows(self, title: str, in_sight: Sequence[str]) -> list[widgets.Widget]:
        seen = [self.controls.narrow_row(field) for field in in_sight]
        folded = [self.controls.row(field) for field in FOLDED if field not in in_sight]
        more = {
            "More choices": widgets.VBox(folded),
            "Ask a prompt of your own": row(self.own_prompt, self.ask_button, self.ask_said),
            "Show the code": self.code_view,
        }
        side_by_side = row(self.loss_picture, self.answers)
        side_by_side.layout.align_items, side_by_side.layout.grid_gap = "flex-start", "12px"
        return [
            widgets.HTML(words.title(title)),
            row(self.task_choice, self.train_button, self.stop_button, *seen),
            self.about,
            row(self.progress, self.state),
            row(self.strength, self.noise_button, self.marks),  # above the answers, which grow
            side_by_side,
            self.meters_picture,
            self.cost,
            *(Folded(name, content) for name, content in more.items()),
        ]


class Folded(widgets.VBox):
    """What is shown at a click on its name. An Accordion's titles can't be reached by keyboard."""

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
    """A button."""
    room = {"width": "max-content", "min_width": "6.5em"}
    return widgets.Button(description=description, layout=room, **options)


def labelled(control: widgets.Widget, words: str, width: str) -> widgets.Widget:
    """The control with its label right before it; without one it has no name to be read out."""
    control.description, control.layout.width = words, width
    control.style.description_width = "initial"
    return control


def row(*parts: widgets.Widget) -> widgets.HBox:
    """Side by side, and under each other where it is narrow."""
    return widgets.HBox(parts, layout=_WRAP)

"""The face of the live lab: its controls, texts and pictures, and their layout."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab.plots import SIZE
from lora_lab.recipe import Recipe
from lora_lab.widgets import markup, run_summary
from lora_lab.widgets.boxes import Folded, PictureView, action, columns, labelled, row
from lora_lab.widgets.following import TrainingPanel
from lora_lab.widgets.lab_results import LabResults
from lora_lab.widgets.recipe_controls import FOLDED, RecipeControls


class LabFace:
    """Task, Train, Stop and strength in sight, then loss and answers; everything else is folded.

    `rows` holds all parts from top to bottom: the heading, `choosing` (task, buttons) and
    `showing` (progress and results).

    Args:
        title: the heading.
        tasks: the names to choose from.
        in_sight: recipe fields whose controls stand beside the task, not folded.
        panel: the button, the bar and the loss of the training.
        state: the line that says how far it is.
        elsewhere: recipe fields whose controls are shown elsewhere: none of them stands here.
    """

    def __init__(
        self,
        title: str,
        tasks: Sequence[str],
        in_sight: Sequence[str],
        panel: TrainingPanel,
        state: widgets.HTML,
        elsewhere: Sequence[str] = (),
    ) -> None:
        self.panel, self.state = panel, state
        panel.progress.layout.margin = "2px 10px 2px 2px"
        self.task_choice = widgets.Dropdown(options=list(tasks), description="task")
        self.task_choice.style.description_width = "2.6em"
        self.task_choice.layout.width = "16em"
        self.noise_button = action(
            "Noise band", disabled=True, tooltip="The same with other seeds: how far do they go?"
        )
        self.about, self.marks, self.cost = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.ask_said, self.code_view = widgets.HTML(), widgets.HTML()
        self.meters_picture = PictureView(SIZE[0])
        room = {"flex": "1 1 440px", "min_width": "300px"}  # beside the loss, where it is wide
        self.film_place = widgets.VBox(layout=room)
        self.answers = widgets.HTML(layout={"flex": "1 1 360px", "min_width": "300px"})
        self.answers.add_class("lora-lab-said")
        self.strength = widgets.FloatSlider(
            value=1.0, min=0, max=1.5, step=0.25, description="strength", readout_format=".2f"
        )
        self.strength.style.description_width = "4.6em"
        self.own_prompt = labelled(widgets.Text(), "a prompt of your own", "38em")
        self.ask_button = action("Ask")
        fields = dict.fromkeys([*in_sight, *FOLDED, *elsewhere])
        self.controls = RecipeControls(Recipe(), [*fields])
        beside = [self.controls.narrow_row(field) for field in in_sight]
        folded = [field for field in FOLDED if field not in (*in_sight, *elsewhere)]
        buttons = panel.train_button, panel.stop_button
        self.choosing = [row(self.task_choice, *buttons, *beside), self.about]
        self.showing = self._showing([self.controls.row(field) for field in folded])
        self.rows = [widgets.HTML(markup.title(title)), *self.choosing, *self.showing]

    def _showing(self, folded: Sequence[widgets.Widget]) -> list[widgets.Widget]:
        panel = self.panel
        more = {"More choices": widgets.VBox(folded)} if folded else {}
        more |= {
            "Ask a prompt of your own": row(self.own_prompt, self.ask_button, self.ask_said),
            "Show the code": self.code_view,
        }
        return [
            row(panel.progress, self.state),
            row(self.strength, self.noise_button, self.marks),  # above the answers, which grow
            columns(panel.loss_picture, self.film_place, self.answers),
            self.meters_picture,
            self.cost,
            *(Folded(name, content) for name, content in more.items()),
        ]

    def set_busy(self, busy: bool, results: LabResults) -> None:
        """Disable the controls that can't be used during a training, or without results."""
        self.panel.set_busy(busy)
        self.task_choice.disabled = busy
        self.noise_button.disabled = busy or not results.is_finished
        self.strength.disabled = busy or results.before_after.adapted is None

    def set_asking(self) -> None:
        """Let Stop be pressed while answers are made, and keep the task."""
        self.panel.stop_button.disabled, self.task_choice.disabled = False, True

    def clear(self) -> None:
        """Empty the parts that the last training filled."""
        self.panel.reset_bar()
        self.marks.value = self.cost.value = self.ask_said.value = ""
        self.meters_picture.layout.display = "none"

    def say_beside_ask(self, line: str) -> None:
        """Show a remark beside the learner's own prompt."""
        self.ask_said.value = markup.faint(line)

    def show_film(self, results: LabResults) -> None:
        """Show the film of the task at hand, if there is one."""
        self.film_place.children = [results.forgetting] if results.forgetting else []
        self.film_place.layout.display = None if results.forgetting else "none"

    def show_loss(self, results: LabResults) -> None:
        """Show the loss chart as it stands."""
        self.panel.loss_picture.show(results.picture)

    def show_answers(self, results: LabResults) -> None:
        """Show the prompts with their answers."""
        self.answers.value = results.before_after.table

    def show_marks(self, results: LabResults) -> None:
        """Show how many answers are right, and the meters if there is old knowledge."""
        base = results.base_scores
        self.marks.value = run_summary.right_answers(base, results.scores_by_seed)
        if base is not None and base.old_knowledge is not None:
            self.meters_picture.show(results.meters)
            self.meters_picture.layout.display = ""

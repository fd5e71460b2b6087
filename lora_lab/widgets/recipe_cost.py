"""The cost of a recipe before anything is trained: parameters, scaling, memory and seconds."""

import html
import math

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.budget import trainable_parameters
from lora_lab.cost.estimates import (
    budget_of,
    estimate,
    expected_seconds,
    find_shape,
    flops_per_second,
)
from lora_lab.cost.limits import free_memory
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Budget, Memory
from lora_lab.tasks.examples import Task
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import PictureView
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import RecipeControls
from lora_lab.wording import duration, fine_percent, in_short, memory_size, significant

SIZE = (420, 240)  # pixels: beside the choices on a laptop
OTHERS = {  # further bars: the fields in which each differs from the choices
    "on 4 bits": {"quantize": "nf4"},
    "full": {"method": "full", "quantize": None},
}


class RecipeCost(widgets.VBox):
    """The numbers and the memory bars of a recipe; `show` computes them, and takes a while.

    `budget`, `memory` (by the bar's name) and `seconds` (the least and the most that all steps
    take; None: not known) hold what is shown. A recipe that can't work gets an error in words.
    """

    def __init__(self) -> None:
        self.words = widgets.HTML()
        self.bars = PictureView(SIZE[0])
        self._forget()
        super().__init__([self.words, self.bars], layout={"flex": "1 1 420px"})
        self.bars.layout.display = "none"

    def show(self, base: Base, task: Task, controls: RecipeControls, recipe: Recipe) -> None:
        """Compute the cost of a recipe on a base and task, and show it.

        Args:
            base: the base that would be fine-tuned.
            task: what it would learn.
            controls: give the recipes of the other bars.
            recipe: the chosen recipe.

        Raises:
            ValueError: for a recipe that does not fit the base; then nothing is known.
            MemoryError: if a step does not fit into the free memory. Everything else is shown.
        """
        self._forget()
        trainable_parameters(find_shape(base), recipe)  # refuses what does not fit the model
        budget = budget_of(base, task, recipe)
        if budget is None:
            estimate(base, recipe, task)  # says in words what does not fit the task
            return
        self.budget = budget
        if budget.flops_per_step:
            rate = flops_per_second(find_shape(base), recipe, base.device)
            least, most = expected_seconds(budget.flops_per_step, rate)
            self.seconds = recipe.steps * least, recipe.steps * most
        self._draw_bars(base, task, controls, recipe)
        lines = _parameters_text(budget), _scaling_text(recipe), self._seconds_text(recipe)
        self.words.value = "<br>".join(filter(None, [*lines, _memory_text(budget, base)]))
        check_room(base, task, recipe)

    def show_error(self, error: Exception) -> None:
        """Show why the choices can't work. If only memory is lacking, everything else stays."""
        if not isinstance(error, MemoryError):
            self._forget()
            self.words.value, self.bars.layout.display = "", "none"
        self.words.value = "<br>".join(filter(None, [self.words.value, markup.error_text(error)]))

    def _forget(self) -> None:
        self.budget: Budget | None = None
        self.memory: dict[str, Memory] = {}
        self.seconds: tuple[float, float] | None = None

    def _draw_bars(self, base: Base, task: Task, controls: RecipeControls, recipe: Recipe) -> None:
        bars = {"as chosen": self.budget}
        for name, changes in OTHERS.items():
            if any(getattr(recipe, field) != value for field, value in changes.items()):
                bars[name] = _budget_with(base, task, controls, changes)
        self.memory = {name: found.memory for name, found in bars.items() if found and found.memory}
        self.bars.layout.display = None if self.memory else "none"
        if self.memory:
            self.bars.show(plots.picture(plots.draw_memory, self.memory, size=SIZE))

    def _seconds_text(self, recipe: Recipe) -> str:
        if self.seconds is None:
            return ""
        times = dict.fromkeys(duration(max(seconds, 1)) for seconds in self.seconds)
        return f"{recipe.steps:,} steps: about <b>{' to '.join(times)}</b> on an idle machine"


def _budget_with(
    base: Base, task: Task, controls: RecipeControls, changes: dict[str, object]
) -> Budget | None:
    """The budget of the choices with some changed; None: these do not fit together."""
    try:
        return budget_of(base, task, controls.recipe_with(**changes))
    except (TypeError, ValueError):
        return None


def _parameters_text(budget: Budget) -> str:
    trained, total = budget.trainable_parameters, budget.total_parameters
    return (
        f"trains <b>{in_short(trained)}</b> of {in_short(total)} parameters "
        f"({fine_percent(trained / total)})"
    )


def _scaling_text(recipe: Recipe) -> str:
    """`scaling: α/r = 16/8 = 2`."""
    alpha, value = f"{recipe.lora_alpha:g}", significant(recipe.scaling)
    if recipe.method == "full":
        return "no adapter, so no scaling"
    if recipe.method == "adalora":
        return f"scaling: α/init_r = {alpha}/{recipe.init_r} = <b>{value}</b>"
    if recipe.use_rslora and math.sqrt(recipe.r) != 1:
        return f"scaling: α/√r = {alpha}/√{recipe.r} = <b>{value}</b>"
    return f"scaling: α/r = {alpha}/{recipe.r} = <b>{value}</b>"


def _memory_text(budget: Budget, base: Base) -> str:
    """`memory about 25 MiB, 12 GiB are free`; empty for a model that is not known."""
    if budget.memory is None:
        return ""
    free = free_memory(base.device)
    left = "" if free is None else f", {memory_size(free)} are free"
    return html.escape(f"memory about {memory_size(budget.memory.total)}{left}")

"""AdaLoRA's budget over the steps: move its five numbers, and see the curve and the arithmetic."""

import html

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.maths.adalora import budget_schedule
from lora_lab.plots import Picture
from lora_lab.recipe import Recipe
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import row
from lora_lab.widgets.explorer import Explorer

FIELDS = ("init_r", "target_r", "tinit", "tfinal", "deltaT")
RANGES = {"init_r": (1, 16), "target_r": (1, 16), "deltaT": (1, 20)}  # of the sliders
SIZE = (500, 240)  # pixels on the screen


class BudgetCurve(Explorer):
    """Sliders for init_r, target_r, tinit, tfinal and deltaT over the curve that they make.

    `controls` holds the sliders by name, `budgets` the budget after each step, `said` the
    arithmetic. If the five numbers don't fit together, `said` says why, and the curve stays.

    Args:
        recipe: a recipe of AdaLoRA, where the sliders begin.
        matrices: how many matrices compete.
    """

    def __init__(self, recipe: Recipe, matrices: int) -> None:
        self.recipe, self.matrices = recipe, matrices
        tinit, tfinal = recipe.schedule
        starts = {"init_r": recipe.init_r, "target_r": recipe.target_r}
        starts |= {"tinit": tinit, "tfinal": tfinal, "deltaT": recipe.deltaT}
        self.controls = {
            name: widgets.IntSlider(
                value, *RANGES.get(name, (0, recipe.steps)),
                description=name, layout={"width": "240px"},
            )
            for name, value in starts.items()
        }  # fmt: skip
        self.said = widgets.HTML()
        sliders = [
            row(*(self.controls[name] for name in pair)) for pair in (FIELDS[:2], FIELDS[2:])
        ]
        for control in self.controls.values():
            control.style.description_width = "4.5em"
        title, controls = "How does the budget shrink?", [*self.controls.values()]
        super().__init__(title, controls, sliders, below=[self.said], width=SIZE[0])

    def _show(self) -> None:
        try:
            super()._show()
        except ValueError as error:
            self.said.value = markup.error_text(error)

    def draw(self) -> Picture:
        """The budget over the steps, with its arithmetic in `said`.

        Raises:
            ValueError: if the five numbers don't fit together.
        """
        values = {name: control.value for name, control in self.controls.items()}
        recipe = Recipe(method="adalora", steps=self.recipe.steps, **values)
        tinit, tfinal = recipe.schedule
        first, last = self.matrices * recipe.init_r, self.matrices * recipe.target_r
        phases = {"tinit": tinit, "tfinal": tfinal, "total_step": recipe.steps}
        steps = range(1, recipe.steps + 1)
        allocated = (_last_allocation(step, recipe) for step in steps)
        self.budgets = [budget_schedule(step, first, last, **phases) for step in allocated]
        self.said.value = html.escape(self._arithmetic(recipe, first, last))
        return plots.picture(plots.draw_budget, self.budgets, tinit, tfinal, size=SIZE)

    def _arithmetic(self, recipe: Recipe, first: int, last: int) -> str:
        """The schedule in words, with the arithmetic of a step in the middle."""
        tinit, tfinal = recipe.schedule
        end = recipe.steps - tfinal
        step = (tinit + end) // 2 // recipe.deltaT * recipe.deltaT
        left = (end - step) / (end - tinit)
        middle = f"Step {step}: {left:.2f} of the way is left, so {last} + {first - last} × "
        middle += f"{left:.2f}³ = {self.budgets[step - 1]}. " if step else ""
        return (
            f"{self.matrices} matrices × {recipe.init_r} = {first} triplets up to step {tinit}. "
            f"{middle if step > tinit else ''}"
            f"From step {end} on {self.matrices} × {recipe.target_r} = {last}."
        )

    def __repr__(self) -> str:
        return f"BudgetCurve: {self.matrices} matrices, {self.recipe.steps} steps"


def _last_allocation(step: int, recipe: Recipe) -> int:
    """The step of the last allocation up to a step; before the first one, step 0."""
    tinit, tfinal = recipe.schedule
    end = recipe.steps - tfinal
    due = step // recipe.deltaT * recipe.deltaT
    return step if step >= end else due if due > tinit else 0

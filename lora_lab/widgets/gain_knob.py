"""Alpha as a knob: the same layer, trained at several alphas, after one step and after many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import ipywidgets as widgets
import pandas as pd
from torch import Tensor

from lora_lab import plots
from lora_lab.maths.spectra import singular_values
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.loop import train
from lora_lab.widgets.explorer import DescribedExplorer
from lora_lab.widgets.lora_picture import linear_layer, still
from lora_lab.wording import fine_percent, significant


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A layer's adapter after some steps at an alpha."""

    lora_A: Tensor  # (r, in)
    lora_B: Tensor  # (out, r)
    scaling: float

    @property
    def typical(self) -> float:
        """The size of B's entries: the root of their mean square."""
        return self.lora_B.square().mean().sqrt().item()

    def share(self, weight: Tensor) -> float:
        """‖ΔW‖ / ‖W‖."""
        values = singular_values(self.lora_A, self.lora_B, self.scaling)
        return (values.norm() / weight.norm()).item()


class GainKnob(DescribedExplorer):
    """W, B, A and ΔW of a layer, with alpha as a slider; each alpha is really trained.

    `alpha` and `moment` are the controls; `table()` has the numbers.

    Args:
        base: stays as it was.
        task: what is learned.
        module: the layer's name.
        recipe: everything but alpha.
        alphas: the slider's values.

    Raises:
        ValueError: if the base has no linear layer of this name.
    """

    def __init__(
        self, base: Base, task: Task, module: str, recipe: Recipe, alphas: Sequence[float]
    ) -> None:
        self.module, self.recipe = module, recipe
        self._weight = linear_layer(base, module).weight.detach().float().cpu()
        self._trained = {
            (alpha, steps): _train(base, task, module, replace(recipe, lora_alpha=alpha), steps)
            for alpha in alphas
            for steps in (1, recipe.steps)
        }
        self.alpha = widgets.SelectionSlider(options=[*alphas], description="lora_alpha")
        self.alpha.value = min(alphas, key=lambda alpha: abs(alpha - recipe.lora_alpha))
        moments = {"after 1 step": 1, f"after {recipe.steps} steps": recipe.steps}
        self.moment = widgets.ToggleButtons(options=moments, value=recipe.steps)
        self.moment.style.button_width = "auto"
        width, _ = plots.lora_parts_size(tuple(self._weight.shape))
        super().__init__("What does alpha turn up?", [self.alpha, self.moment], width=width)

    def draw(self) -> plots.Picture:
        """The layer's parts at the slider's alpha."""
        alpha, steps = self.alpha.value, self.moment.value
        done = self._trained[alpha, steps]
        title = f"{self.module}, r = {self.recipe.r}, alpha {alpha:g}, step {steps}"
        return still(title, self._weight, done.lora_A, done.lora_B, done.scaling)

    def table(self) -> pd.DataFrame:
        """For each alpha: the size of B's entries and of ΔW, after one step and at the end."""
        rows = {}
        for (alpha, steps), done in self._trained.items():
            words = "1 step" if steps == 1 else f"{steps} steps"
            rows.setdefault(f"{alpha:g}", {}).update(
                {
                    f"B's entries, {words}": significant(done.typical),
                    f"ΔW / W, {words}": fine_percent(done.share(self._weight)),
                }
            )
        return pd.DataFrame(rows).T.rename_axis("alpha")

    def __repr__(self) -> str:
        return f"GainKnob: {self.picture.alt}"


def _train(base: Base, task: Task, module: str, recipe: Recipe, steps: int) -> Trained:
    training = train(base, task, replace(recipe, steps=steps))
    for _ in training:
        pass
    layer = training.model.get_submodule(f"base_model.model.{module}")
    factors = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return Trained(*(part.detach().float().cpu().clone() for part in factors), recipe.scaling)

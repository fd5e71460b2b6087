"""The film of ranks: who has how much rank after each step, in one heat-map with a slider."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.pruning import ceiling
from lora_lab.models.architecture import adapted_matrices
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.plots import Picture
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.training.loop import Training
from lora_lab.widgets.background import Pace
from lora_lab.widgets.explorer import Explorer
from lora_lab.widgets.following import DRAWING, FRAMES

SIZE = (420, 270)  # pixels on the screen


class RankMap(Explorer):
    """The rank that each matrix has after a step, by kind and layer; `step` chooses the step.

    The records of a finished run fill it. `live.watch(film)` lets it follow each training of a live
    lab. Before the first allocation, each matrix has rank `init_r`.

    Args:
        base: the base whose matrices compete.
        recipe: a recipe of AdaLoRA.
        records: the records of a run with this recipe.
        planted: the rank that is hidden in a module, by its name: such cells are framed.
    """

    def __init__(
        self,
        base: Base,
        recipe: Recipe,
        records: Sequence[StepRecord] = (),
        planted: Mapping[str, int] | None = None,
    ) -> None:
        self._modules = modules_of(base.model, base.name)
        self._planted, self._pace = planted or {}, Pace(FRAMES, DRAWING)
        self._begin(recipe)
        self._frames |= {
            record.step: record.ranks for record in records if record.ranks is not None
        }
        self.step = widgets.IntSlider(
            len(records), 0, recipe.steps, description="step", layout={"width": "90%"}
        )
        self.step.style.description_width = "2.5em"
        self.said = widgets.HTML()
        self.said.add_class("lora-lab-state")
        title, above = "Who has how much rank?", [self.step, self.said]
        super().__init__(title, [self.step], above, width=SIZE[0])

    def look(self, training: Training) -> None:
        """Take the ranks after the step that was trained. Call it before the first step, too.

        Raises:
            ValueError: for a training without AdaLoRA.
        """
        if training.step == 0:
            self._begin(training.recipe)
            self.step.value = 0
            self.step.max = training.recipe.steps
        elif (ranks := training.records[-1].ranks) is not None:
            self._frames[training.step] = ranks
        if self._pace.due or training.step == training.recipe.steps:
            with self._pace.turn():
                self.step.value = training.step

    def draw(self) -> Picture:
        """The ranks after the chosen step, which `said` counts."""
        ranks = self._ranks_after(self.step.value)
        gone, left = sum(rank == 0 for rank in ranks.values()), sum(ranks.values())
        words = [
            f"after step {self.step.value} of {self._recipe.steps}: {left} triplets left",
            f"{gone} of {len(ranks)} matrices have none",
        ]
        if self._planted:
            there = sum(ranks[name] for name in self._planted)
            most = ceiling(self._planted, self._recipe.init_r, left)
            words.append(f"{there} where ranks are planted, of {most} at most")
        self.said.value = html.escape(" · ".join(words))
        return plots.picture(plots.draw_ranks, ranks, self._planted, size=SIZE)

    def __repr__(self) -> str:
        return f"RankMap: {len(self._frames[0])} matrices, {self._recipe.steps} steps"

    def _begin(self, recipe: Recipe) -> None:
        """Drop all ranks but those before the first step."""
        if recipe.method != "adalora":
            raise ValueError(
                f"this film shows AdaLoRA's ranks, and method={recipe.method!r} shares out none; "
                'give method="adalora"'
            )
        self._recipe = recipe
        start = {matrix.name: recipe.init_r for matrix in adapted_matrices(self._modules, recipe)}
        self._frames = {0: start}  # by the step after which they hold

    def _ranks_after(self, step: int) -> Mapping[str, int]:
        """The ranks of the last allocation up to a step."""
        return self._frames[max(frame for frame in self._frames if frame <= step)]

"""One triplet followed over the steps: sensitivity, uncertainty, importance, and the threshold."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import torch
from torch import Tensor

from lora_lab import plots
from lora_lab.plots import Picture
from lora_lab.widgets.boxes import labelled, row
from lora_lab.widgets.explorer import Explorer

SIZE = (500, 280)  # pixels on the screen


class ImportanceInspector(Explorer):
    """Choose a matrix and one of its triplets; the picture shows what that triplet earned.

    Args:
        watched: after each step, what `training.adalora.importances` gave: by matrix, (3, r).
        budgets: how many triplets may be left after each of these steps.
    """

    def __init__(self, watched: Sequence[Mapping[str, Tensor]], budgets: Sequence[int]) -> None:
        self._steps = [scores for scores in watched if scores]  # nothing is measured at the end
        self.thresholds = [
            _threshold(scores, budget)
            for scores, budget in zip(self._steps, budgets[: len(self._steps)], strict=True)
        ]
        first = self._steps[0]
        self.matrix = labelled(widgets.Dropdown(options=[*first]), "matrix", "340px")
        r = next(iter(first.values())).shape[1]
        self.triplet = widgets.IntSlider(0, 0, r - 1, description="triplet")
        controls = self.matrix, self.triplet
        super().__init__("What does one triplet earn?", controls, [row(*controls)], width=SIZE[0])

    def draw(self) -> Picture:
        """The three scores of the chosen triplet, step by step, with the threshold."""
        matrix, triplet = self.matrix.value, self.triplet.value
        scores = torch.stack([step[matrix][:, triplet] for step in self._steps])  # (steps, 3)
        return plots.picture(plots.draw_importance, *scores.T.tolist(), self.thresholds, size=SIZE)

    def __repr__(self) -> str:
        triplets = sum(scores.shape[1] for scores in self._steps[0].values())
        return f"ImportanceInspector: {triplets} triplets over {len(self._steps)} steps"


def _threshold(scores: Mapping[str, Tensor], budget: int) -> float:
    """What a triplet must exceed to be among the `budget` kept; not a number where all are."""
    every = torch.cat([of_matrix[2] for of_matrix in scores.values()])
    if budget >= len(every):
        return float("nan")
    return torch.kthvalue(every, len(every) - budget).values.item()

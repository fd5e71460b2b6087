"""One triplet followed over the steps: sensitivity, uncertainty, importance, and the threshold."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets
import torch
from torch import Tensor

from lora_lab import plots
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, PictureView, labelled, row

SIZE = (500, 280)  # pixels on the screen


class ImportanceInspector(LabBox):
    """Choose a matrix and one of its triplets; `picture` shows what that triplet earned.

    Args:
        watched: after each step, what `ranks.importances` told: by matrix, (3, r).
        budgets: how many triplets may be left after each of these steps.
    """

    def __init__(self, watched: Sequence[Mapping[str, Tensor]], budgets: Sequence[int]) -> None:
        self._watched = [one for one in watched if one]  # nothing is measured at the end
        self.thresholds = [
            _threshold(one, budget)
            for one, budget in zip(self._watched, budgets[: len(self._watched)], strict=True)
        ]
        names = [*self._watched[0]]
        self.matrix = labelled(widgets.Dropdown(options=names), "matrix", "340px")
        r = self._watched[0][names[0]].shape[1]
        self.triplet = widgets.IntSlider(0, 0, r - 1, description="triplet")
        self.view = PictureView(SIZE[0])
        title = widgets.HTML(words.title("What does one triplet earn?"))
        super().__init__([title, row(self.matrix, self.triplet), self.view])
        for control in (self.matrix, self.triplet):
            control.observe(lambda _: self._show(), names="value")
        self._show()

    def _show(self) -> None:
        rows = torch.stack([one[self.matrix.value][:, self.triplet.value] for one in self._watched])
        self.picture = plots.picture(
            plots.draw_importance, *rows.T.tolist(), self.thresholds, size=SIZE
        )
        self.view.show(self.picture)

    def __repr__(self) -> str:
        first = self._watched[0]
        triplets = sum(one.shape[1] for one in first.values())
        return f"ImportanceInspector: {triplets} triplets over {len(self._watched)} steps"


def _threshold(scores: Mapping[str, Tensor], budget: int) -> float:
    """What a triplet must exceed to be among the `budget` kept; not a number where all are."""
    every = torch.cat([one[2] for one in scores.values()])
    if budget >= len(every):
        return float("nan")
    return torch.kthvalue(every, len(every) - budget).values.item()

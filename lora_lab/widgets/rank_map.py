"""A run's ranks as they were pruned: one heat-map, and a slider over the allocations."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.records import StepRecord
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, PictureView

SIZE = (420, 270)  # pixels on the screen


class RankMap(LabBox):
    """Layer by kind, the rank that each matrix had after an allocation; `step` chooses which.

    `picture` is what is shown.

    Args:
        records: of a run with AdaLoRA.
        planted: by module's name, what is hidden there: such cells are framed.

    Raises:
        ValueError: if nothing was allocated.
    """

    def __init__(
        self, records: Sequence[StepRecord], planted: Mapping[str, int] | None = None
    ) -> None:
        self._ranks = {one.step: one.ranks for one in records if one.ranks is not None}
        if not self._ranks:
            raise ValueError(
                f"no ranks were allocated in {len(records)} steps; give the records of a run with "
                'method="adalora" that went on past step tinit'
            )
        self._steps, self._planted = len(records), planted
        steps = [*self._ranks]
        self.step = widgets.SelectionSlider(
            options=steps, value=steps[-1], description="step", layout={"width": "90%"}
        )
        self.step.style.description_width = "2.5em"
        self.view, self.said = PictureView(SIZE[0]), widgets.HTML()
        title = widgets.HTML(words.title("Who has how much rank?"))
        super().__init__([title, self.step, self.said, self.view])
        self.said.add_class("lora-lab-state")
        self.step.observe(lambda _: self._show(), names="value")
        self._show()

    def _show(self) -> None:
        step = self.step.value
        ranks = self._ranks[step]
        self.picture = plots.picture(plots.draw_ranks, ranks, self._planted, size=SIZE)
        self.view.show(self.picture)
        gone = sum(rank == 0 for rank in ranks.values())
        said = f"after step {step} of {self._steps}: {sum(ranks.values())} triplets left · "
        self.said.value = html.escape(f"{said}{gone} of {len(ranks)} matrices have none")

    def __repr__(self) -> str:
        return f"RankMap: {words.counted(len(self._ranks), 'allocation')} of {self._steps} steps"

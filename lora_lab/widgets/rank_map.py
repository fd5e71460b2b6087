"""A run's ranks as they were pruned: one heat-map, and a slider over the allocations."""

import html
from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.plots import Picture
from lora_lab.records import StepRecord
from lora_lab.widgets.explorer import Explorer
from lora_lab.wording import counted

SIZE = (420, 270)  # pixels on the screen


class RankMap(Explorer):
    """Layer by kind, the rank that each matrix had after an allocation; `step` chooses which.

    Args:
        records: of a run with AdaLoRA.
        planted: by module's name, what is hidden there: such cells are framed.

    Raises:
        ValueError: if nothing was allocated.
    """

    def __init__(
        self, records: Sequence[StepRecord], planted: Mapping[str, int] | None = None
    ) -> None:
        self._ranks = {record.step: record.ranks for record in records if record.ranks is not None}
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
        self.said = widgets.HTML()
        self.said.add_class("lora-lab-state")
        title, above = "Who has how much rank?", [self.step, self.said]
        super().__init__(title, [self.step], above, width=SIZE[0])

    def draw(self) -> Picture:
        """The ranks after the chosen step, which `said` counts."""
        step = self.step.value
        ranks = self._ranks[step]
        gone = sum(rank == 0 for rank in ranks.values())
        left = f"after step {step} of {self._steps}: {sum(ranks.values())} triplets left"
        self.said.value = html.escape(f"{left} · {gone} of {len(ranks)} matrices have none")
        return plots.picture(plots.draw_ranks, ranks, self._planted, size=SIZE)

    def __repr__(self) -> str:
        return f"RankMap: {counted(len(self._ranks), 'allocation')} of {self._steps} steps"

"""Sets of modules side by side, at equal r or at equal parameters: a toggle over one picture."""

from collections.abc import Mapping

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, PictureView

SIZE = (560, 330)  # pixels on the screen


class ModuleSets(LabBox):
    """What each set learnt, by the comparison that is chosen; `picture` is what is shown.

    Args:
        table: a row a run, with `setting`, `trained`, `value` and `old_knowledge`.
        comparisons: by what is held equal: by a set's name, its setting in the table.
    """

    def __init__(self, table: pd.DataFrame, comparisons: Mapping[str, Mapping[str, str]]) -> None:
        self._table, self._comparisons = table, comparisons
        self.compared = widgets.ToggleButtons(options=list(comparisons))
        self.compared.style.button_width = "12em"
        self.view = PictureView(SIZE[0])
        super().__init__(
            [widgets.HTML(words.title("Which modules learn?")), self.compared, self.view]
        )
        self.compared.observe(lambda _: self._show(), names="value")
        self._show()

    def _show(self) -> None:
        settings = self._comparisons[self.compared.value]
        rows = {
            name: self._table[self._table.setting == setting] for name, setting in settings.items()
        }
        self.picture = plots.picture(
            plots.draw_sets,
            {name: own.value.tolist() for name, own in rows.items()},
            {name: int(own.trained.iloc[0]) for name, own in rows.items()},
            {name: own.old_knowledge.tolist() for name, own in rows.items()},
            self.compared.value,
            size=SIZE,
        )
        self.view.show(self.picture)

    def __repr__(self) -> str:
        return f"ModuleSets: {', '.join(self._comparisons)}"

"""Sets of modules side by side, at equal r or at equal parameters: a toggle over one picture."""

from collections.abc import Mapping

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.plots import Picture
from lora_lab.widgets.explorer import Explorer

SIZE = (560, 330)  # pixels on the screen


class ModuleSets(Explorer):
    """What each set learnt, by the comparison that is chosen in `compared`.

    Args:
        table: a row a run, with `setting`, `trained`, `value` and `old_knowledge`.
        comparisons: by what is held equal: by a set's name, its setting in the table.
    """

    def __init__(self, table: pd.DataFrame, comparisons: Mapping[str, Mapping[str, str]]) -> None:
        self._table, self._comparisons = table, comparisons
        self.compared = widgets.ToggleButtons(options=list(comparisons))
        self.compared.style.button_width = "12em"
        super().__init__("Which modules learn?", [self.compared], width=SIZE[0])

    def draw(self) -> Picture:
        """New and old knowledge of each set, with its parameters."""
        settings = self._comparisons[self.compared.value]
        runs = {
            name: self._table[self._table.setting == setting] for name, setting in settings.items()
        }
        return plots.picture(
            plots.draw_sets,
            {name: rows.value.tolist() for name, rows in runs.items()},
            {name: int(rows.trained.iloc[0]) for name, rows in runs.items()},
            {name: rows.old_knowledge.tolist() for name, rows in runs.items()},
            self.compared.value,
            size=SIZE,
        )

    def __repr__(self) -> str:
        return f"ModuleSets: {', '.join(self._comparisons)}"

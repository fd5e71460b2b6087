"""Two settings compared seed by seed: a slider for how many seeds are looked at."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.plots import Picture
from lora_lab.training.store import Run
from lora_lab.widgets.explorer import Explorer


class PairsExplorer(Explorer):
    """Whether B is better than A, by the first seeds. `seeds` is the slider.

    Args:
        comparisons: the scored runs of A and of B with the same seeds, by a name.
    """

    def __init__(self, comparisons: Mapping[str, tuple[Sequence[Run], Sequence[Run]]]) -> None:
        self._shares = {
            name: tuple(
                [run.scores.value for run in sorted(runs, key=lambda run: run.recipe.seed)]
                for runs in sides
            )
            for name, sides in comparisons.items()
        }
        most = min(len(shares) for sides in self._shares.values() for shares in sides)
        self.seeds = widgets.IntSlider(most, 2, most, description="seeds", layout={"width": "90%"})
        self.seeds.style.description_width = "3em"
        width, _ = plots.pairs_size(len(comparisons))
        super().__init__("A difference, seed by seed", [self.seeds], width=width)

    def draw(self) -> Picture:
        """The lines of the chosen seeds, and the comparison by them."""
        shown = {
            name: tuple(shares[: self.seeds.value] for shares in sides)
            for name, sides in self._shares.items()
        }
        return plots.picture(plots.draw_pairs, shown, size=plots.pairs_size(len(shown)))

    def __repr__(self) -> str:
        return f"PairsExplorer: {'; '.join(self._shares)}"

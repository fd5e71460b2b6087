"""Many customers on one base: the memory of separate adapters, and of merged models."""

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.cost.gpus import cards
from lora_lab.lessons.shipping import Fleet, fleet
from lora_lab.plots import Picture
from lora_lab.recipe import nearest
from lora_lab.widgets.boxes import labelled, row
from lora_lab.widgets.explorer import DescribedExplorer
from lora_lab.wording import file_size

MODELS = ("pocket", "smollm2", "llama-3.2-3b", "llama-7b", "llama-3.1-8b", "llama-2-70b")
CUSTOMERS = (1, 2, 3, 5, 10, 20, 40, 100, 200, 1000)
RANKS = (1, 4, 8, 16, 32, 64, 128, 256)
CARD = "H100"
SIZE = (560, 230)


class FleetView(DescribedExplorer):
    """The weights of many customers, to scale: a model, a rank and a number to choose.

    `fleet` holds what is drawn. Nothing is loaded: sizes come from the model's matrices.

    Args:
        model: one of `MODELS`.
        r: one of `RANKS`.
        customers: one of `CUSTOMERS`.

    Raises:
        ValueError: for another value, with those that fit.
    """

    def __init__(self, model: str = "llama-3.1-8b", r: int = 16, customers: int = 40) -> None:
        if model not in MODELS:
            raise ValueError(
                f"no model is called {model!r} here; {nearest(model, MODELS)}"
                f"give {', '.join(MODELS)}"
            )
        for name, value, known in (("r", r, RANKS), ("customers", customers, CUSTOMERS)):
            if value not in known:
                raise ValueError(
                    f"{name}={value!r} does not fit; give {', '.join(map(str, known))}"
                )
        self.model = labelled(widgets.Dropdown(options=MODELS, value=model), "model", "14em")
        self.r = _slider("rank", RANKS, r)
        self.customers = _slider("customers", CUSTOMERS, customers)
        self._card = next(card for card in cards() if card.name == CARD)
        choices = self.model, self.r, self.customers
        title = "Adapters on one base, or merged models?"
        super().__init__(title, choices, [row(*choices)], width=SIZE[0])

    @property
    def fleet(self) -> Fleet:
        """The sizes for the controls' values."""
        return fleet(self.model.value, self.r.value, self.customers.value)

    def draw(self) -> Picture:
        """A bar for each of the two ways, with the line of a card."""
        return plots.picture(plots.draw_fleet, self.fleet, self._card, size=SIZE)

    def table(self, models: tuple[str, ...] = MODELS) -> pd.DataFrame:
        """The sizes for each model, at the chosen rank and number of customers."""
        rows = {}
        for name in models:
            memory = fleet(name, self.r.value, self.customers.value)
            sizes = memory.base, memory.adapter, memory.apart, memory.merged
            rows[name] = [file_size(size) for size in sizes]
        many = self.customers.value
        columns = ["base", "adapter", f"base + {many} adapters", f"{many} merged models"]
        return pd.DataFrame(rows, index=columns).T

    def __repr__(self) -> str:
        return f"FleetView: {', '.join(MODELS)}"


def _slider(name: str, options: tuple[int, ...], value: int) -> widgets.SelectionSlider:
    return labelled(widgets.SelectionSlider(options=options, value=value), name, "17em")

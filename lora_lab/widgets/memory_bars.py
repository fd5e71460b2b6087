"""Where the memory of a training step goes: full fine-tuning, LoRA and QLoRA side by side."""

import dataclasses

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.cost.estimates import estimate
from lora_lab.cost.gpus import cards
from lora_lab.plots import Picture
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Memory
from lora_lab.widgets.boxes import labelled, row
from lora_lab.widgets.explorer import DescribedExplorer
from lora_lab.widgets.recipe_controls import RecipeControls

MODELS = (  # the models that `estimate` knows by name, and whose memory it gives
    "pocket",
    "bert-base",
    "gpt2",
    "roberta-base",
    "smollm2",
    "qwen2.5-0.5b",
    "deberta-v3-base",
    "opt-1.3b",
    "pythia-1.4b",
    "qwen2.5-1.5b",
    "smollm2-1.7b",
    "gemma-2b",
    "phi-2",
    "llama-3.2-3b",
    "phi-3-mini",
    "llama-7b",
    "falcon-7b",
    "mistral-7b",
    "qwen2.5-7b",
    "llama-3.1-8b",
    "llama-13b",
    "llama-65b",
    "llama-2-70b",
)
METHODS = {
    "full": {"method": "full"},
    "LoRA": {},
    "QLoRA": {"quantize": "nf4"},
}
NO_CARD = "no card"
FIELDS = ("r", "batch_size", "max_length", "gradient_checkpointing")


class MemoryBars(DescribedExplorer):
    """A bar for each method, drawn anew at each choice. Nothing is loaded.

    `memory` holds what the bars show. Full fine-tuning is in the usual mixed precision: 16 bytes a
    parameter beside activations (`lora_lab.cost.static_memory.usual_static_memory`). LoRA and QLoRA
    are as in transformers' Trainer with PEFT on a GPU.

    Args:
        model: one of `MODELS`.
        card: the name of a graphics card, as in `lora_lab.cost.gpus`; None: no line is drawn.
        changes: recipe fields, for all bars.

    Raises:
        ValueError: for an unknown model or card, with the nearest that is known.
    """

    def __init__(self, model: str = "llama-7b", card: str | None = None, **changes: object) -> None:
        self._cards = {card.name: card for card in cards()}
        for name, known, what in ((model, MODELS, "model"), (card, self._cards, "card")):
            if name is not None and name not in known:
                raise ValueError(
                    f"no {what} is called {name!r} here; {nearest(name, tuple(known))}"
                    f"give {', '.join(known)}"
                )
        self.controls = RecipeControls(Recipe(**changes), FIELDS)
        self.model = _name_choice("model", MODELS, model)
        self.card = _name_choice("card", (NO_CARD, *self._cards), card or NO_CARD)
        choices = self.model, self.card
        fields = map(self.controls.narrow_row, FIELDS)
        super().__init__("Where does the memory go?", choices, [row(*choices, *fields)])
        self.controls.changed = self._show

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each bar, by the controls' values."""
        recipe = self.controls.recipe
        return {name: dataclasses.replace(recipe, **changes) for name, changes in METHODS.items()}

    def draw(self) -> Picture:
        """A bar for each method, with the line of the card."""
        budgets = {
            name: estimate(self.model.value, recipe) for name, recipe in self.recipes.items()
        }
        self.memory: dict[str, Memory] = {
            name: budget.usual_memory if name == "full" else budget.trainer_memory
            for name, budget in budgets.items()
        }
        card = self._cards.get(self.card.value)
        return plots.picture(plots.draw_memory, self.memory, card)

    def table(self) -> pd.DataFrame:
        """The numbers of the bars, in GiB: a row for each part, and the peak."""
        columns = {
            name: [_gib(getattr(memory, part)) for part in (*plots.PARTS, "total")]
            for name, memory in self.memory.items()
        }
        return pd.DataFrame(columns, index=[*plots.PARTS, "together, at the peak"])

    def __repr__(self) -> str:
        return f"MemoryBars: {self.model.value} · {', '.join(METHODS)}"


def _gib(size: int) -> str:
    """A size in GiB, with two decimals if it is small."""
    gib = size / 2**30
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2f}" if gib else "–"


def _name_choice(description: str, options: tuple[str, ...], value: str) -> widgets.Dropdown:
    return labelled(widgets.Dropdown(options=options, value=value), description, "16em")

"""Where the memory of a training step goes: full fine-tuning, LoRA and QLoRA side by side."""

import dataclasses

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.estimates import estimate
from lora_lab.cost.gpus import cards
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Memory
from lora_lab.widgets import words
from lora_lab.widgets.lab_face import LabBox, PictureView, labelled, row
from lora_lab.widgets.recipe_controls import RecipeControls

MODELS = (  # of those that `estimate` knows by name, the ones whose memory it tells
    "pocket",
    "smollm2",
    "gemma-2b",
    "llama-3.2-3b",
    "llama-7b",
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


class MemoryBars(LabBox):
    """A bar a method, drawn anew at each choice. Nothing is trained or loaded.

    `memory` holds what the bars show, and `picture` how. Full fine-tuning is the usual, in mixed
    precision: 16 bytes a parameter beside activations (`lora_lab.cost.static_memory.held_usually`).

    Args:
        model: one of `MODELS`.
        card: the name of a graphics card, as in `lora_lab.cost.gpus`; None: no line is drawn.
        changes: recipe fields, for all bars.

    Raises:
        ValueError: for an unknown model or card, with the nearest that is known.
    """

    def __init__(self, model: str = "llama-7b", card: str | None = None, **changes: object) -> None:
        self._cards = {one.name: one for one in cards()}
        for given, known, what in ((model, MODELS, "model"), (card, self._cards, "card")):
            if given is not None and given not in known:
                raise ValueError(
                    f"no {what} is called {given!r} here; {nearest(given, tuple(known))}"
                    f"give {', '.join(known)}"
                )
        self.controls = RecipeControls(Recipe(**changes), FIELDS)
        self.controls.changed = self._show
        self.model = _choice("model", MODELS, model)
        self.card = _choice("card", (NO_CARD, *self._cards), card or NO_CARD)
        self.view, self.said = PictureView(plots.SIZE[0]), widgets.HTML()
        rows = [self.model, self.card, *map(self.controls.narrow_row, FIELDS)]
        super().__init__(
            [
                widgets.HTML(words.title("Where does the memory go?")),
                row(*rows),
                self.view,
                self.said,
            ]
        )
        for control in (self.model, self.card):
            control.observe(lambda _: self._show(), names="value")
        self._show()

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Of each bar, as the controls have it."""
        chosen = self.controls.recipe
        return {name: dataclasses.replace(chosen, **changes) for name, changes in METHODS.items()}

    def _show(self) -> None:
        budgets = {
            name: estimate(self.model.value, recipe) for name, recipe in self.recipes.items()
        }
        self.memory: dict[str, Memory] = {
            name: budget.usual_memory if name == "full" else budget.memory
            for name, budget in budgets.items()
        }
        card = self._cards.get(self.card.value)
        self.picture = plots.picture(plots.draw_memory, self.memory, card)
        self.view.show(self.picture)
        self.said.value = words.faint(self.picture.alt)

    def __repr__(self) -> str:
        return f"MemoryBars: {self.model.value} · {', '.join(METHODS)}"


def _choice(description: str, options: tuple[str, ...], value: str) -> widgets.Dropdown:
    return labelled(widgets.Dropdown(options=options, value=value), description, "16em")

"""LoRA layers that a learner wrote, put into a model and trained beside PEFT's."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pandas as pd
import torch
from torch import nn

from lora_lab.lessons.labels import RECIPE, Trained, collate_answers, train_model
from lora_lab.maths.lora import LoRALinear
from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
MakeLayer = Callable[[nn.Linear], nn.Module]  # a LoRA layer around a linear layer


def add_lora(model: nn.Module, names: Collection[str], make_layer: MakeLayer) -> None:
    """Freeze a model, and put a LoRA layer around each of its layers that has one of these names.

    Args:
        model: changed in place.
        names: the last parts of the layers' names, such as "q_proj".
        make_layer: called with each of these layers; returns the layer that takes its place.
    """
    model.requires_grad_(False)
    for name, module in [*model.named_modules()]:  # a list: the model changes meanwhile
        parent, _, last = name.rpartition(".")
        if last in names:
            setattr(model.get_submodule(parent), last, make_layer(module))


@dataclass(frozen=True, eq=False, repr=False)
class ByHand:
    """Two trainings from the same start: with layers written by hand, and with PEFT's."""

    own: Trained
    peft: Trained
    layers: int  # how many were put in

    @property
    def difference(self) -> float:
        """The largest difference of the two losses at any step, as a share of PEFT's."""
        pairs = zip(self.own.losses, self.peft.losses, strict=True)
        return max(abs(own - peft) / peft for own, peft in pairs)

    def table(self) -> pd.DataFrame:
        """The losses of both at four steps, in nats, and the right answers at the end."""
        both, last = (self.own, self.peft), len(self.own.losses)
        rows = {
            f"loss, step {step}": [f"{trained.losses[step - 1]:.4f}" for trained in both]
            for step in (1, round(last / 6), round(last / 2), last)
        }
        rows["right answers"] = [f"{trained.right} of {len(trained.wanted)}" for trained in both]
        return pd.DataFrame(rows, index=["by hand", "PEFT"]).T

    def __repr__(self) -> str:
        return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()


def train_by_hand(
    base: Base,
    task: Task,
    layer: Callable[[nn.Linear, int, float], nn.Module] = LoRALinear,
    add: Callable[[nn.Module, Collection[str], MakeLayer], object] = add_lora,
    steps: int = 60,
) -> ByHand:
    """Train a copy of a base with such layers around its seven kinds of matrices, and PEFT's.

    Each layer gets the A that PEFT drew for the same matrix, so both start alike.

    Args:
        base: stays as it was.
        task: what both learn.
        layer: called with a linear layer, r and lora_alpha; gives a module with `lora_A` (r, in)
            and `lora_B` (out, r).
        add: puts the layers into the model, as `add_lora` does.
        steps: of each training.

    Raises:
        ValueError: if a matrix that PEFT adapts has no such layer.
    """
    peft, model = adapt(base, RECIPE), copy.deepcopy(base.model)
    add(model, NAMES, lambda linear: layer(linear, RECIPE.r, RECIPE.lora_alpha))
    adapted = [
        (name, module)
        for name, module in peft.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    ]
    for name, module in adapted:
        own = model.get_submodule(name)
        if not (hasattr(own, "lora_A") and hasattr(own, "lora_B")):
            raise ValueError(
                f"{name} is a {type(own).__name__} without lora_A and lora_B; put a layer with "
                f"both around each of {', '.join(NAMES)}"
            )
        with torch.no_grad():
            own.lora_A.copy_(module.lora_A["default"].weight)
    trained = (train_model(either, base, task, collate_answers, steps) for either in (model, peft))
    return ByHand(*trained, len(adapted))

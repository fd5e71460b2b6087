"""The change of each matrix of the base by a fine-tune: ΔW, and its norm as a share of W's."""

import torch
from torch import Tensor, nn

from lora_lab.models.architecture import layer_of
from lora_lab.models.bases import Base
from lora_lab.models.quantization import weight_of
from lora_lab.models.read_architecture import modules_of


def weight_changes(base: Base, model: nn.Module) -> dict[str, Tensor]:
    """ΔW of each linear layer inside the base's numbered layers, in the model's order.

    A matrix without an adapter has zeros.

    Args:
        base: the model that was fine-tuned.
        model: a run's, a training's or an `Adapted`'s: with an adapter, or trained in full.
    """
    adapted = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        matrix.name: _change(
            weight_of(base.model.get_submodule(matrix.name)), adapted.get_submodule(matrix.name)
        )
        for matrix in modules_of(base.model, base.name).matrices
        if matrix.kind == "linear" and layer_of(matrix.name) is not None
    }


def relative_changes(base: Base, model: nn.Module) -> dict[str, float]:
    """‖ΔW‖ / ‖W‖ of each of these layers. The norm is the root of the sum of squares.

    Args:
        base: the model that was fine-tuned.
        model: as in `weight_changes`.
    """
    return {
        name: (change.norm() / weight_of(base.model.get_submodule(name)).float().norm()).item()
        for name, change in weight_changes(base, model).items()
    }


@torch.no_grad()
def _change(weight: Tensor, layer: nn.Module) -> Tensor:
    if hasattr(layer, "get_delta_weight"):  # PEFT's layer
        return layer.get_delta_weight(layer.active_adapters[0]).float()
    return (weight_of(layer) - weight).float()

"""The relative change of each matrix of the base by a fine-tune: the norm of ΔW over that of W."""

from torch import Tensor, nn

from lora_lab.models.architecture import layer_of
from lora_lab.models.bases import Base
from lora_lab.models.quantization import weight_of
from lora_lab.models.read_architecture import modules_of


def relative_changes(base: Base, model: nn.Module) -> dict[str, float]:
    """‖ΔW‖ / ‖W‖ of each linear layer inside the base's numbered layers, in the model's order.

    The norm is the root of the sum of squares. A matrix without an adapter has 0.

    Args:
        base: the model that was fine-tuned.
        model: a run's or a training's `model`: with an adapter, or trained in full.
    """
    adapted = model.get_base_model() if hasattr(model, "get_base_model") else model
    return {
        matrix.name: _relative_change(
            weight_of(base.model.get_submodule(matrix.name)), adapted.get_submodule(matrix.name)
        )
        for matrix in modules_of(base.model, base.name).matrices
        if matrix.kind == "linear" and layer_of(matrix.name) is not None
    }


def _relative_change(weight: Tensor, layer: nn.Module) -> float:
    if hasattr(layer, "get_delta_weight"):  # PEFT's layer
        change = layer.get_delta_weight(layer.active_adapters[0])
    else:
        change = weight_of(layer) - weight
    return (change.detach().float().norm() / weight.detach().float().norm()).item()

"""LoRA and DoRA from scratch, in PEFT's words (arXiv:2106.09685, arXiv:2402.09353)."""

import copy
import math
import numbers

import torch
from torch import Tensor, nn


class LoRALinear(nn.Module):
    """A frozen linear layer plus a trainable change of low rank: y = base(x) + scaling * x Aᵀ Bᵀ.

    The paper writes it for one input as a column: h = W₀ x + ΔW x = W₀ x + (α / r) B A x (LoRA,
    arXiv:2106.09685, equation 3). Here each row of x is an input, so A and B are transposed.

    `base_layer` is kept by reference and frozen, as in PEFT. It may be quantised (bitsandbytes'
    Linear4bit), since only its sizes and its outputs are needed. A and B are float32, also on a
    16-bit or quantised base, as `get_peft_model` makes them; on a float64 base they are float64.
    A is drawn from torch's global generator, as `nn.Linear` draws its weight. There is no dropout.

    Args:
        base_layer: `nn.Linear` or a subclass: x -> x Wᵀ + bias, with W (out, in).
        r: the largest rank that the change can have; 1 or more. It may exceed the layer's width.
        lora_alpha: α, the numerator of the scaling.
        use_rslora: divide α by √r instead of r (arXiv:2312.03732).

    Raises:
        TypeError: if `base_layer` isn't a linear layer, or r isn't a whole number.
        ValueError: if r is below 1, or lora_alpha is not a finite number above 0.
    """

    def __init__(
        self, base_layer: nn.Linear, r: int, lora_alpha: float, use_rslora: bool = False
    ) -> None:
        super().__init__()
        _check_arguments(base_layer, r, lora_alpha)
        weight = base_layer.weight
        kind = {
            "dtype": torch.promote_types(weight.dtype, torch.float32),  # 4-bit codes are uint8
            "device": weight.device,
        }
        self.base_layer = base_layer.requires_grad_(False)
        self.r, self.lora_alpha, self.use_rslora = r, lora_alpha, use_rslora
        self.scaling = lora_alpha / (math.sqrt(r) if use_rslora else r)
        self.lora_A = nn.Parameter(torch.empty(r, base_layer.in_features, **kind))
        self.lora_B = nn.Parameter(torch.zeros(base_layer.out_features, r, **kind))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # B = 0: training starts at the base

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the base's output."""
        result = self.base_layer(x)  # (..., out)
        low = x.to(self.lora_A.dtype) @ self.lora_A.T  # (..., in) @ (in, r) -> (..., r)
        change = low @ self.lora_B.T  # (..., r) @ (r, out) -> (..., out)
        return (result + self.scaling * change).to(result.dtype)

    def delta_weight(self) -> Tensor:
        """The change to the base weight, (out, in)."""
        return self.scaling * self.lora_B @ self.lora_A  # (out, r) @ (r, in) -> (out, in)

    def merge(self) -> nn.Linear:
        """A new plain layer with the same outputs: its weight is W₀ + ΔW.

        This layer and its base stay as they were. The sum is rounded to the dtype of the base
        weight, so in 16 bits small changes are lost.

        Raises:
            ValueError: if the base weight is quantised, where the rounding would be far coarser.
        """
        if _is_quantised(self.base_layer):
            raise ValueError(
                f"base_layer is a {type(self.base_layer).__name__} with quantised weights, and "
                "W + ΔW would be rounded to their few levels again: most of a small change would "
                "be lost. Use this layer unmerged, or merge lora_A and lora_B into the weights "
                "as they were before quantisation: LoRALinear(plain_layer, ...).merge()"
            )
        merged = copy.deepcopy(self.base_layer)
        with torch.no_grad():
            merged.weight += self.delta_weight()
        return merged


class DoRALinear(LoRALinear):
    """LoRA for the direction of each weight row, and a trained magnitude for its length.

    W' = m (W + scaling * BA) / ‖W + scaling * BA‖, row by row (DoRA, arXiv:2402.09353). Each row
    of W makes one output feature. The paper writes W transposed and therefore speaks of columns. m
    starts at ‖W‖, so training starts at the base. As in PEFT, gradients treat the norm as a
    constant, which saves memory (section 4.3 of the paper).

    Raises:
        ValueError: as in LoRALinear, and if a row of W is all zero, since it has no direction.
    """

    def __init__(
        self, base_layer: nn.Linear, r: int, lora_alpha: float, use_rslora: bool = False
    ) -> None:
        super().__init__(base_layer, r, lora_alpha, use_rslora)
        norms = self._row_norms()
        if (norms == 0).any():
            raise ValueError(
                f"row {int(norms.argmin())} of the base weight is all zero: it has no direction, "
                "and DoRA would divide by its length of 0; give a LoRALinear to this layer"
            )
        self.lora_magnitude_vector = nn.Parameter(norms)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), in the dtype of the base's output."""
        result = super().forward(x)  # x (W + ΔW)ᵀ + bias
        bias = 0 if self.base_layer.bias is None else self.base_layer.bias
        return (self._stretch() * (result - bias) + bias).to(result.dtype)

    def delta_weight(self) -> Tensor:
        """The whole change to the base weight, W' - W, (out, in): its rank may be above r."""
        weight = _weight_of(self.base_layer)
        return self._stretch()[:, None] * (weight + super().delta_weight()) - weight

    def _stretch(self) -> Tensor:
        """m / ‖W + scaling * BA‖ of each row, (out,)."""
        return self.lora_magnitude_vector / self._row_norms()

    @torch.no_grad()
    def _row_norms(self) -> Tensor:
        """‖W + scaling * BA‖ of each row, (out,)."""
        return torch.linalg.vector_norm(_weight_of(self.base_layer) + super().delta_weight(), dim=1)


def _check_arguments(base_layer: nn.Module, r: int, lora_alpha: float) -> None:
    if not isinstance(base_layer, nn.Linear):
        raise TypeError(
            f"base_layer is of type {type(base_layer).__name__}, which isn't a linear layer; give "
            "an nn.Linear, or bitsandbytes' Linear4bit"
        )
    if isinstance(r, bool) or not isinstance(r, numbers.Integral):
        raise TypeError(f"r={r!r} is not a whole number; give for example 8")
    if r < 1:
        raise ValueError(f"r={r} leaves nothing to train; give 1 or more (8 is usual)")
    if not isinstance(lora_alpha, numbers.Real) or not 0 < lora_alpha < math.inf:
        raise ValueError(
            f"lora_alpha={lora_alpha!r} is not a finite number above 0; give one, for example 2 * r"
        )


def _is_quantised(layer: nn.Linear) -> bool:
    """Whether the weight holds codes: it is of whole numbers, or packed into another shape."""
    weight = layer.weight
    shape = (layer.out_features, layer.in_features)
    return not weight.is_floating_point() or weight.shape != shape


@torch.no_grad()
def _weight_of(layer: nn.Linear) -> Tensor:
    """The weight, (out, in). A quantised layer's weight is its outputs for the unit vectors."""
    if not _is_quantised(layer):
        return layer.weight
    layer = copy.copy(layer).train()  # in eval mode bitsandbytes may repack the codes it is given
    columns = layer(torch.eye(layer.in_features, device=layer.weight.device))  # (in, out)
    return (columns if layer.bias is None else columns - layer.bias).T

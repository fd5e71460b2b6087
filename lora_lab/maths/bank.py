"""Many adapters on one base layer in one batch: they share one product with the base's matrix.

K adapters that are trained one after the other send K batches through the same frozen W. Stacked,
the batches are one tall batch, and one product with W does for all. Only the thin factors A and B
differ, and `torch.bmm` computes the K thin products at once:

    x (K * batch, tokens, in) ------------- W, once --------------> (K * batch, tokens, out)
    |                                                                          +
    +-> (K, batch * tokens, in) -- A -> (K, batch * tokens, R) -- B -> (K, batch * tokens, out)
                              (K, R, in)                     (K, out, R)

R is the widest rank. A narrower adapter's A ends in rows of zeros and its B in columns of zeros.
Each is a factor of the other's gradient, so both gradients are exactly 0, and padding stays 0.
Adapters never mix: slice k of A, of B, and of their gradients belongs to adapter k alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lora_lab.maths.lora import LoRALinear


class LoRABank(nn.Module):
    """K `LoRALinear`s on one base layer, computed together; the outputs equal each adapter's alone.

    `lora_A` is (K, R, in) and `lora_B` (K, out, R), copied from the adapters. A gradient norm, a
    clipping or a learning rate for each adapter is one number for each slice along K.

    Args:
        adapters: on the same base layer object; any ranks and scalings.

    Raises:
        TypeError: if an adapter is not a plain LoRALinear (a DoRALinear is not).
        ValueError: if there is no adapter, or an adapter sits on another base layer.
    """

    def __init__(self, adapters: Sequence[LoRALinear]) -> None:
        super().__init__()
        _check_adapters(adapters)
        self.base_layer = adapters[0].base_layer
        self._choices = [(layer.r, layer.lora_alpha, layer.use_rslora) for layer in adapters]
        factors_A = [layer.lora_A.detach() for layer in adapters]  # (r, in) each
        factors_B = [layer.lora_B.detach().T for layer in adapters]  # (r, out) each
        padded_A = pad_sequence(factors_A, batch_first=True)  # rows of zeros: (K, R, in)
        padded_B = pad_sequence(factors_B, batch_first=True)  # (K, R, out)
        self.lora_A = nn.Parameter(padded_A)
        self.lora_B = nn.Parameter(padded_B.mT.contiguous())  # (K, out, R)
        scaling = padded_A.new_tensor([layer.scaling for layer in adapters])
        self.register_buffer("scaling", scaling[:, None, None], persistent=False)  # (K, 1, 1)

    def __len__(self) -> int:
        return len(self._choices)

    def forward(self, x: Tensor) -> Tensor:
        """(K * batch, ..., in) -> (K * batch, ..., out): adapter 0's batch, then adapter 1's, ...

        Raises:
            ValueError: if the adapters can't share the rows of x evenly.
        """
        if x.ndim < 2 or len(x) == 0 or len(x) % len(self):
            raise ValueError(
                f"x has shape {tuple(x.shape)}, which {len(self)} adapters can't share evenly; "
                f"give ({len(self)} * batch, ..., in), each adapter's batch after the other's"
            )
        result = self.base_layer(x)  # (K * batch, ..., out): the one product with W
        return add_changes(result, x, self.lora_A, self.lora_B, self.scaling)

    def adapter(self, k: int) -> LoRALinear:
        """A copy of adapter k as a layer of its own on the same base, without the padding."""
        weight = self.base_layer.weight
        drawing = [] if weight.device.type == "cpu" else [weight.device]
        with torch.random.fork_rng(drawing, device_type=weight.device.type):
            adapter = LoRALinear(self.base_layer, *self._choices[k])  # its random start is unused
        adapter.lora_A.data.copy_(self.lora_A.data[k, : adapter.r])  # (r, in)
        adapter.lora_B.data.copy_(self.lora_B.data[k, :, : adapter.r])  # (out, r)
        return adapter


def add_changes(
    result: Tensor, x: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: Tensor
) -> Tensor:
    """The base layer's result plus each adapter's change to its own part of the batch.

    Args:
        result: (K * batch, ..., out), the base layer's output for x.
        x: (K * batch, ..., in): adapter 0's batch, then adapter 1's, ...
        lora_A: (K, R, in), a slice an adapter.
        lora_B: (K, out, R).
        scaling: (K, 1, 1).

    Returns:
        (K * batch, ..., out), in the dtype of `result`.
    """
    rows = x.to(lora_A.dtype).reshape(len(lora_A), -1, x.shape[-1])  # (K, rows, in)
    low = torch.bmm(rows, lora_A.mT)  # (K, rows, in) @ (K, in, R) -> (K, rows, R)
    plain = result.to(rows.dtype).reshape(len(lora_A), rows.shape[1], -1)  # (K, rows, out)
    # plain + scaling * low Bᵀ in one call: a separate sum would read the memory once more
    total = torch.baddbmm(plain, scaling * low, lora_B.mT)  # (K, rows, out)
    return total.view_as(result).to(result.dtype)


def _check_adapters(adapters: Sequence[LoRALinear]) -> None:
    if not adapters:
        raise ValueError("a bank of no adapters computes nothing; give one LoRALinear or more")
    for k, layer in enumerate(adapters):
        if type(layer) is not LoRALinear:
            raise TypeError(
                f"adapter {k} is of type {type(layer).__name__}; a bank adds changes to one shared "
                "product with W, so give LoRALinears"
            )
        if layer.base_layer is not adapters[0].base_layer:
            raise ValueError(
                f"adapter {k} sits on another base layer than adapter 0, so there is no product "
                "to share; give adapters made on the same layer object"
            )

"""What a Llama with LoRA computes: its forward pass over real tokens only, with lean gradients.

It gives the numbers that transformers and PEFT give, from the same parameters, with less work.
Padding is skipped in all layers; only attention needs rows of equal length. In the last layer only
labelled tokens go on. Each operation keeps for the backward pass only what its gradient needs.

The real tokens of a batch stand below each other: (tokens, width).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from lora_lab.models import read_llama
from lora_lab.models.read_llama import Layer, Llama, Matrix, Norm

MOST_KEPT = 2**28  # bytes that the frozen layers' outputs may take: 256 MiB


class Rows(NamedTuple):
    """Where a batch's real tokens stand, and how far each position turns queries and keys."""

    examples: int
    length: int  # of the longest example
    places: Tensor | None  # (tokens,) in the padded batch, counted through; None: no padding
    cos: Tensor  # (tokens, 1, head_dim / 2)
    sin: Tensor


# --- the operations, with their gradients -------------------------------------------------------


class _Linear(torch.autograd.Function):
    """y = x W^T + scaling * (x A^T) B^T, for several matrices that read the same x.

    Their A are stacked, so x is read once for all. Kept for the backward pass: x and x A^T.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, matrices: Sequence[Matrix], *adapters: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.weights = [matrix.weight for matrix in matrices]
        ctx.scalings = [matrix.scaling for matrix in matrices]
        ctx.ranks = [0 if matrix.A is None else len(matrix.A) for matrix in matrices]
        results = [x @ weight.T for weight in ctx.weights]
        if adapters:
            stacked = torch.cat(adapters[::2])  # (all r, in)
            low = x @ stacked.T  # (tokens, all r)
            for y, matrix, own in zip(results, matrices, low.split(ctx.ranks, 1), strict=True):
                if matrix.B is not None:
                    y.addmm_(own, matrix.B.T, alpha=matrix.scaling)
            ctx.save_for_backward(x, low, stacked, *adapters[1::2])
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx = None
        if ctx.needs_input_grad[0]:
            dx = grads[0] @ ctx.weights[0]
            for dy, weight in zip(grads[1:], ctx.weights[1:], strict=True):
                dx.addmm_(dy, weight)
        if not ctx.saved_tensors:
            return dx, None
        x, low, stacked, *all_B = ctx.saved_tensors
        dlow, left = torch.empty_like(low), iter(all_B)  # the gradient of x A^T
        parts = zip(
            grads, ctx.scalings, low.split(ctx.ranks, 1), dlow.split(ctx.ranks, 1), strict=True
        )
        all_dB = []
        for dy, scaling, own, down in parts:
            if own.shape[1]:
                down.copy_(dy @ next(left)).mul_(scaling)
                all_dB.append((own.T @ dy).mul_(scaling).T)
        if dx is not None:
            dx.addmm_(dlow, stacked)
        all_dA = (dlow.T @ x).split([rank for rank in ctx.ranks if rank])
        return dx, None, *(d for pair in zip(all_dA, all_dB, strict=True) for d in pair)


def linear(x: Tensor, *matrices: Matrix) -> tuple[Tensor, ...]:
    """x, (tokens, in), through several matrices with their adapters: (tokens, out) each."""
    adapters = [part for matrix in matrices if matrix.A is not None for part in matrix[1:3]]
    return _Linear.apply(x, matrices, *adapters)


class _Norm(torch.autograd.Function):
    """y = w * x / sqrt(mean(x²) + eps), row by row."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, norm: Norm) -> Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        inverse = squares.div_(x.shape[-1]).add_(norm.eps).rsqrt_()  # (tokens, 1)
        ctx.weight = norm.weight
        ctx.save_for_backward(x, inverse)
        return torch.mul(x, inverse).mul_(norm.weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, None]:
        x, inverse = ctx.saved_tensors
        dx = dy * ctx.weight
        along = (dx * x).sum(-1, keepdim=True).mul_(inverse**3 / x.shape[-1])
        return dx.mul_(inverse).addcmul_(x, along, value=-1), None


def normed(x: Tensor, norm: Norm) -> Tensor:
    """An RMSNorm of (tokens, width)."""
    return _Norm.apply(x, norm)


class _Rotation(torch.autograd.Function):
    """RoPE: each pair (x[i], x[i + head_dim / 2]) is turned by its position's angle.

    The gradient is turned back.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turned(dy, cos, -sin), None, None


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each pair (x[i], x[i + head_dim / 2]) turned by an angle: (tokens, heads, head_dim)."""
    (first, second), y = x.chunk(2, dim=-1), torch.empty_like(x)
    y_first, y_second = y.chunk(2, dim=-1)
    torch.mul(first, cos, out=y_first).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=y_second).addcmul_(first, sin)
    return y


class _Chosen(torch.autograd.Function):
    """Some rows of x, each once. Torch's own gradient would allow for repeats, which is slow."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.rows = len(x)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, dy: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return dy.new_zeros(ctx.rows, dy.shape[1]).index_copy_(0, places, dy), None


# --- the forward pass ---------------------------------------------------------------------------


def by_head(x: Tensor, rows: Rows, head_dim: int, *, turn: bool) -> Tensor:
    """(tokens, heads * head_dim) -> (examples, heads, length, head_dim); queries and keys turn."""
    x = x.view(len(x), -1, head_dim)
    if turn:
        x = _Rotation.apply(x, rows.cos, rows.sin)
    if rows.places is not None:
        x = x.new_zeros(rows.examples * rows.length, *x.shape[1:]).index_copy(0, rows.places, x)
    return x.view(rows.examples, rows.length, *x.shape[1:]).transpose(1, 2)


def attended(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """(examples, heads, length, head_dim) each -> (examples * length, heads * head_dim).

    Without `seen` (what a query sees, a boolean mask) a token looks at itself and at what stands
    before it. Padding stands on the right then, so no real token looks at it.
    """
    grouped = q.shape[1] != k.shape[1]  # several heads of q share a head of k and v
    causal = seen is None
    y = F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal, enable_gqa=grouped)
    return y.transpose(1, 2).reshape(q.shape[0] * q.shape[2], -1)


def mlp(layer: Layer, x: Tensor) -> Tensor:
    """The second half of a layer, its residual added: (tokens, width) -> (tokens, width)."""
    gate, up = linear(normed(x, layer.norm_2), layer.gate, layer.up)
    return x + linear(F.silu(gate) * up, layer.down)[0]


def _layer(
    layer: Layer, x: Tensor, rows: Rows, head_dim: int, wanted: Tensor | None = None
) -> Tensor:
    """(tokens, width) -> (tokens, width), or only the `wanted` of the tokens."""
    q, k, v = linear(normed(x, layer.norm), layer.q, layer.k, layer.v)
    q, k = (by_head(part, rows, head_dim, turn=True) for part in (q, k))
    y = attended(q, k, by_head(v, rows, head_dim, turn=False))
    places = rows.places
    if wanted is not None:
        x = _Chosen.apply(x, wanted)
        places = wanted if places is None else places[wanted]
    y = y if places is None else _Chosen.apply(y, places)
    return mlp(layer, x + linear(y, layer.o)[0])


def logits_at(
    model: Llama, batch: dict[str, Tensor], wanted: Tensor, frozen: "FrozenLayers | None" = None
) -> Tensor:
    """The logits of some tokens of a batch, in its order: (wanted, vocab).

    Args:
        model: from `read_llama.read`.
        batch: `input_ids` and `attention_mask`, (examples, length), padded on the right.
        wanted: (examples, length - 1), true where logits are wanted; real tokens only.
        frozen: the layers below the lowest adapter, whose outputs are kept; None: keep nothing.
    """
    mask = batch["attention_mask"].bool()
    rows = rows_of(model, mask)
    if frozen is None:
        x, layers = model.embedding(batch["input_ids"][mask]), model.layers
    else:
        ids = [row[real].tolist() for row, real in zip(batch["input_ids"], mask, strict=True)]
        x = torch.cat([frozen.output(model, example) for example in ids])
        layers = model.layers[frozen.count :]
    wanted = F.pad(wanted, (0, 1))[mask].nonzero().squeeze(1)  # a last token is never wanted
    for layer in layers[:-1]:
        x = _layer(layer, x, rows, model.head_dim)
    x = _layer(layers[-1], x, rows, model.head_dim, wanted)
    return model.head(normed(x, model.norm))


def rows_of(model: Llama, mask: Tensor, before: int = 0) -> Rows:
    """Where the real tokens of a batch stand, from its mask: (examples, length).

    `before`: the number of tokens that stand before each example and are not in the batch.
    """
    examples, length = mask.shape
    places = mask.flatten().nonzero().squeeze(1)
    tables = angles(model, torch.arange(before, before + length, device=places.device))
    cos, sin = (table[places % length] for table in tables)
    return Rows(examples, length, None if len(places) == mask.numel() else places, cos, sin)


def angles(model: Llama, positions: Tensor) -> tuple[Tensor, Tensor]:
    """The cosines and sines by which RoPE turns at some positions: (positions, 1, head_dim / 2)."""
    tables = model.rotation(model.norm.weight, positions[None])
    half = model.head_dim // 2  # the table holds each angle twice, once for each entry of a pair
    cos, sin = (table[0, :, None, :half] for table in tables)
    return cos, sin


def is_padded_right(attention_mask: Tensor, wanted: Tensor) -> bool:
    """Whether each example's real tokens come first, and only they are wanted."""
    mask = attention_mask.bool()
    gaps = mask[:, 1:] & ~mask[:, :-1]
    return bool(mask[:, 0].all() and not gaps.any() and not (wanted & ~mask[:, :-1]).any())


# --- frozen layers, kept ------------------------------------------------------------------------


class FrozenLayers:
    """The layers below the lowest adapter, with each example's output kept after its first use.

    Each example goes through them alone, so its output does not depend on its batch. At most
    `MOST_KEPT` bytes are kept; the output of further examples is computed each time.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._outputs: dict[tuple[int, ...], Tensor] = {}  # by token ids
        self._bytes = 0

    def output(self, model: Llama, ids: list[int]) -> Tensor:
        """(tokens, width) of one example."""
        x = self._outputs.get(tuple(ids))
        if x is None:
            x = self._computed(model, ids)
            if self._bytes + x.nbytes <= MOST_KEPT:
                self._outputs[tuple(ids)] = x
                self._bytes += x.nbytes
        return x

    @torch.no_grad()
    def _computed(self, model: Llama, ids: list[int]) -> Tensor:
        x = model.embedding(torch.tensor(ids))
        rows = rows_of(model, torch.ones(1, len(ids), dtype=torch.bool))
        for layer in model.layers[: self.count]:
            x = _layer(layer, x, rows, model.head_dim)
        return x


def frozen_layers(model: nn.Module) -> FrozenLayers | None:
    """The layers below the lowest trained one; None where there are none, or `read` knows none."""
    known = read_llama.read(model)
    if known is None or any(weight.requires_grad for weight in known.embedding.parameters()):
        return None
    trained = (
        number
        for number, layer in enumerate(known.layers)
        if any(isinstance(part, Matrix) and part.A is not None for part in layer)
    )
    lowest = next(trained, 0)
    return FrozenLayers(lowest) if lowest else None

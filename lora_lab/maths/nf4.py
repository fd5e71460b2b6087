"""Weights in 4 bits, block by block: NF4 as QLoRA and bitsandbytes have it, and its rivals.

A block of weights is divided by its largest size, `absmax`, so that it lies between -1 and 1. Each
weight then becomes a code: the number of the nearest of 16 levels. All that is kept are the codes,
and one absmax a block. The types differ only in where their levels lie.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional

from lora_lab.recipe import nearest

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # those that bitsandbytes takes
OUTERMOST = 0.9677083  # a probability: the mean of 1 - 1/30 and 1 - 1/32, cut by bitsandbytes
NESTED_BLOCKSIZE = 256  # of the blocks of absmax values (QLoRA, section 3)


def _nf4() -> Tensor:
    """Quantiles of the normal distribution, 7 below 0 and 8 above, over the outermost."""
    quantile = NormalDist().inv_cdf  # of float32 probabilities: float64 ones change the last bits
    below = [-quantile(p) for p in torch.linspace(OUTERMOST, 0.5, 8)[:-1].tolist()]
    above = [quantile(p) for p in torch.linspace(OUTERMOST, 0.5, 9)[:-1].tolist()]
    quantiles = torch.tensor([*below, 0.0, *reversed(above)])  # (16,)
    return quantiles / quantiles.max()


def _float4(*sizes: float) -> Tensor:
    """A sign bit before 3 bits that choose a size: codes 8 to 15 are the negatives of 0 to 7."""
    return torch.tensor([*sizes, *(-size for size in sizes)]) / max(sizes)


def _dynamic() -> Tensor:
    """256 levels: seven powers of ten up to 1, in 1, 2, 4 ... 64 steps, both signs; 0; and 1."""
    sizes = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        sizes.append(10.0 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2))
    sizes = torch.cat(sizes)  # (127,)
    return torch.cat([-sizes, sizes, torch.tensor([0.0, 1.0])]).sort().values


LEVELS = {  # quant_type: what makes its levels, in the order of the codes
    "nf4": _nf4,  # 4-bit NormalFloat
    "fp4": lambda: _float4(0, 0.0625, 8, 12, 4, 6, 2, 3),  # bitsandbytes' own, not E2M1
    "e2m1": lambda: _float4(0, 0.5, 1, 1.5, 2, 3, 4, 6),  # 2 bits of exponent, 1 of mantissa
    "e3m0": lambda: _float4(0, *(2.0**power for power in range(7))),  # 3 of exponent: powers of 2
    "int4": lambda: torch.arange(-7, 8) / 7,  # 15 even steps: -8 would have no counterpart
    "int8": lambda: torch.arange(-127, 128) / 127,  # 8 bits: 255 even steps
    "dynamic": _dynamic,  # 8 bits, for absmax values
}


def levels(quant_type: str) -> Tensor:
    """The values that codes 0, 1, 2 ... stand for: float32, from -1 to 1, (levels,).

    There are 16 of them in 4 bits (int4 15), in 8 bits 256 (int8 255).

    NF4's bins are not equally full: of normal weights in blocks of 64 they hold 1.7 to 9.2 %. More
    on that in "NF4 isn't information theoretically optimal (and that's good)", arXiv:2306.06965.

    Source:
        bitsandbytes: `create_normal_map` (its idea: QLoRA, arXiv:2305.14314, section 3),
        `get_4bit_type`, `create_dynamic_map`. E2M1: OCP Microscaling formats 1.0.
    """
    if quant_type not in LEVELS:
        raise ValueError(
            f"quant_type={quant_type!r} is not known; {nearest(quant_type, tuple(LEVELS))}"
            f"give one of {', '.join(map(repr, LEVELS))}"
        )
    return LEVELS[quant_type]()


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A tensor of n values as codes and block constants, and what is needed to restore it."""

    codes: Tensor  # (n,) uint8, one code each; bitsandbytes packs two into a byte, the first high
    absmax: "Tensor | Quantized"  # (blocks,) float32, or quantized in its turn, less `offset`
    shape: torch.Size
    dtype: torch.dtype
    blocksize: int
    quant_type: str
    offset: Tensor | None = None  # () float32: the mean absmax, where absmax is quantized


def quantize(tensor: Tensor, blocksize: int = 64, quant_type: str = "nf4") -> Quantized:
    """The code of each value's nearest level, once its block is scaled to lie between -1 and 1.

    Codes equal those of bitsandbytes' `quantize_4bit` on the CPU. 16-bit values are widened to
    float32 first, which loses nothing. A value half-way between two levels takes the lower one. Its
    CUDA kernel does so for NF4 (but divides less exactly); for FP4 a tie goes towards 0 there.

    Args:
        tensor: any shape, float32, float16 or bfloat16. Blocks run on from row to row.
        blocksize: values sharing one absmax. The last block may be shorter.
        quant_type: "nf4", "fp4", "e2m1", "e3m0", "int4", "int8" or "dynamic".

    Raises:
        TypeError: if `tensor` is of another dtype.
        ValueError: if it is empty or holds NaN or infinity, or another argument is not known.
    """
    _check_tensor(tensor)
    _check_blocksize(blocksize)
    ordered, order = levels(quant_type).to(tensor.device).sort(stable=True)
    borders = (ordered[:-1] + ordered[1:]) / 2
    values = tensor.detach().float().reshape(-1)  # (n,)
    short = -len(values) % blocksize  # places that the last block lacks
    blocks = functional.pad(values, (0, short)).view(-1, blocksize)  # (blocks, blocksize)
    absmax = blocks.abs().amax(dim=1)  # (blocks,)
    divisor = absmax.clamp(min=1e-38)[:, None]  # a block of zeros is divided by this, not by 0
    scaled = blocks * (1 / divisor)  # bitsandbytes multiplies; dividing would round once, not twice
    if short:
        scaled[-1] = blocks[-1] / divisor[-1]  # here it divides, on the CPU: such bits decide ties
    places = torch.bucketize(scaled.view(-1)[: len(values)], borders, out_int32=True)  # (n,)
    codes = order.to(torch.uint8)[places]
    return Quantized(codes, absmax, tensor.shape, tensor.dtype, blocksize, quant_type)


def double_quantize(quantized: Quantized) -> Quantized:
    """The same codes with absmax in 8 bits: bitsandbytes' `compress_statistics=True`.

    No absmax is negative, so their mean is taken off first. Codes equal those of bitsandbytes'
    torch kernel. Its compiled CPU kernel rounds each value to one of 65,536 steps first, and so
    takes a neighbouring level now and then (about 2 in 1,000).

    Raises:
        ValueError: if absmax is quantized already.

    Source:
        QLoRA, arXiv:2305.14314, section 3, "Double Quantization".
    """
    if isinstance(quantized.absmax, Quantized):
        raise ValueError("absmax is quantized already; give what quantize() returned")
    offset = quantized.absmax.mean()
    absmax = quantize(quantized.absmax - offset, NESTED_BLOCKSIZE, "dynamic")
    return replace(quantized, absmax=absmax, offset=offset)


def dequantize(quantized: Quantized) -> Tensor:
    """The tensor that the codes stand for, in its shape and dtype: each level times its absmax."""
    each = _absmax_of_each(quantized)
    table = levels(quantized.quant_type).to(each.device)
    values = table[quantized.codes.int()] * each
    return values.to(quantized.dtype).view(quantized.shape)


def scaled(tensor: Tensor, quantized: Quantized) -> Tensor:
    """The tensor's values as shares of their block's absmax, (n,): what the levels stand beside.

    Raises:
        ValueError: if `tensor` is not of the shape that was quantized.
    """
    _check_same_shape(tensor, quantized)
    divisor = _absmax_of_each(quantized).clamp(min=1e-38)  # a block of zeros stays one
    return tensor.detach().float().flatten() / divisor


def _absmax_of_each(quantized: Quantized) -> Tensor:
    """The constant of each value's block, (n,)."""
    absmax = quantized.absmax
    if isinstance(absmax, Quantized):
        absmax = dequantize(absmax) + quantized.offset  # (blocks,)
    return absmax.repeat_interleave(quantized.blocksize)[: len(quantized.codes)]


def relative_error(tensor: Tensor, quantized: Quantized) -> float:
    """Root mean square of what quantizing lost, over that of the tensor: 0 is exact.

    On normal weights in blocks of 64: NF4 9.2 %, E2M1 10.6, int4 10.8, bitsandbytes' FP4 12.2. In
    QLoRA's table 2, which scores language models instead, int4 comes last.

    Raises:
        ValueError: if the shapes differ, or `tensor` is all zero (a share of nothing).
    """
    _check_same_shape(tensor, quantized)
    values = tensor.detach().float()
    if not values.any():
        raise ValueError("tensor is all zero: no error is a share of it; give other values")
    return float((dequantize(quantized).float() - values).norm() / values.norm())


def bits_per_parameter(
    blocksize: int = 64, double_quant: bool = False, quant_type: str = "nf4"
) -> dict[str, float]:
    """What storage in blocks costs a weight, part by part; `sum(ledger.values())` is the total.

    In 4 bits 4.5 for blocks of 64, 4.127 with double quantization (QLoRA, section 3). Left out are
    the one offset of a tensor, and what a last, shorter block costs more.
    """
    _check_blocksize(blocksize)
    codes = math.ceil(math.log2(len(levels(quant_type))))
    if not double_quant:
        return {"codes": codes, "absmax": 32 / blocksize}
    nested = 32 / (blocksize * NESTED_BLOCKSIZE)
    return {"codes": codes, "absmax": 8 / blocksize, "nested_absmax": nested}


def _check_tensor(tensor: Tensor) -> None:
    dtype = getattr(tensor, "dtype", type(tensor).__name__)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(
            f"tensor is of {dtype}, which bitsandbytes does not quantize; give float32, float16 or "
            "bfloat16, for example tensor.float()"
        )
    if tensor.numel() == 0:
        raise ValueError(f"tensor is empty, of shape {tuple(tensor.shape)}; give at least 1 value")
    spoilt = int((~tensor.isfinite()).sum())
    if spoilt:
        raise ValueError(f"tensor holds NaN or infinity {spoilt} times; give finite values")


def _check_same_shape(tensor: Tensor, quantized: Quantized) -> None:
    if tensor.shape != quantized.shape:
        shapes = f"tensor has shape {tuple(tensor.shape)}, quantized {tuple(quantized.shape)}"
        raise ValueError(f"{shapes}; give the tensor that was quantized")


def _check_blocksize(blocksize: int) -> None:
    if not isinstance(blocksize, int) or blocksize not in BLOCKSIZES:
        raise ValueError(
            f"blocksize={blocksize!r} is none that bitsandbytes takes; "
            f"give one of {', '.join(map(str, BLOCKSIZES))} (64 is usual)"
        )

"""Quantization block by block: NF4 as in QLoRA and bitsandbytes, and the types it competes with.

A block of weights is divided by its largest size, `absmax`, so that it lies between -1 and 1. Each
weight then becomes a code: the number of the nearest of its type's levels, 16 in 4 bits. Storage
holds only the codes and one absmax for each block.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lora_lab.maths.quant_types import levels

BLOCKSIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # all that bitsandbytes takes
NESTED_BLOCKSIZE = 256  # absmax values that share a second constant (QLoRA, section 3)


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """A tensor of n values as codes and block constants, with all that restores it."""

    codes: Tensor  # (n,) uint8, one code each; bitsandbytes packs two into a byte, the first high
    absmax: "Tensor | Quantized"  # (blocks,) float32, or absmax - `offset`, quantized too
    shape: torch.Size
    dtype: torch.dtype
    blocksize: int
    quant_type: str
    offset: Tensor | None = None  # () float32: the mean absmax, where absmax is quantized


def quantize(tensor: Tensor, blocksize: int = 64, quant_type: str = "nf4") -> Quantized:
    """A tensor as codes: each value's nearest level, once its block lies between -1 and 1.

        code(w) = the i with the smallest |w / absmax - levels[i]|

    The codes equal those of bitsandbytes' `quantize_4bit` on the CPU. 16-bit values are widened to
    float32 first, which loses nothing. A value half-way between two levels takes the lower level.
    bitsandbytes' CUDA kernel does so for NF4 too, but divides less exactly; for FP4 its ties go
    towards 0.

    Args:
        tensor: any shape, float32, float16 or bfloat16. Blocks continue from row to row.
        blocksize: how many values share one absmax. The last block may be shorter.
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
    divisor = absmax.clamp(min=1e-38)[:, None]  # (blocks, 1); a block of zeros is not divided by 0
    scaled = blocks * (1 / divisor)  # bitsandbytes multiplies; dividing would round once, not twice
    if short:
        scaled[-1] = blocks[-1] / divisor[-1]  # here its CPU code divides: such bits decide ties
    places = torch.bucketize(scaled.view(-1)[: len(values)], borders, out_int32=True)  # (n,)
    codes = order.to(torch.uint8)[places]
    return Quantized(codes, absmax, tensor.shape, tensor.dtype, blocksize, quant_type)


def double_quantize(quantized: Quantized) -> Quantized:
    """The same codes with absmax in 8 bits: bitsandbytes' `compress_statistics=True`.

    The mean of all absmax is subtracted first, since none is negative. The 8-bit codes equal those
    of bitsandbytes' torch kernel. Its compiled CPU kernel rounds each value to one of 65,536 steps
    first, so about 2 in 1,000 values take a neighbouring level.

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
    """The tensor that the codes stand for, in its shape and dtype: w = levels[code] * absmax."""
    absmax = _absmax_of_each(quantized)  # (n,)
    table = levels(quantized.quant_type).to(absmax.device)
    values = table[quantized.codes.int()] * absmax  # (n,)
    return values.to(quantized.dtype).view(quantized.shape)


def scaled(tensor: Tensor, quantized: Quantized) -> Tensor:
    """The tensor's values divided by their block's absmax, (n,): on the scale of the levels.

    Raises:
        ValueError: if `tensor` is not of the shape that was quantized.
    """
    _check_same_shape(tensor, quantized)
    divisor = _absmax_of_each(quantized).clamp(min=1e-38)  # a block of zeros stays a block of zeros
    return tensor.detach().float().flatten() / divisor


def _absmax_of_each(quantized: Quantized) -> Tensor:
    """The absmax of each value's block, (n,), restored if it is quantized too."""
    absmax = quantized.absmax
    if isinstance(absmax, Quantized):
        absmax = dequantize(absmax) + quantized.offset  # (blocks,)
    return absmax.repeat_interleave(quantized.blocksize)[: len(quantized.codes)]


def relative_error(tensor: Tensor, quantized: Quantized) -> float:
    """The root mean square of the rounding errors, as a share of that of the tensor: 0 is exact.

    On normal weights in blocks of 64: NF4 9.2 %, E2M1 10.6, int4 10.8, bitsandbytes' FP4 12.2. In
    QLoRA's table 2, which scores language models, int4 comes last.

    Raises:
        ValueError: if the shapes differ, or `tensor` is all zero: no error is a share of it.
    """
    _check_same_shape(tensor, quantized)
    values = tensor.detach().float()
    if not values.any():
        raise ValueError("tensor is all zero: no error is a share of it; give other values")
    return float((dequantize(quantized).float() - values).norm() / values.norm())


def bits_per_parameter(
    blocksize: int = 64, double_quant: bool = False, quant_type: str = "nf4"
) -> dict[str, float]:
    """The bits that a weight takes when stored in blocks, part by part; their sum is the total.

    A constant of 32 bits for each block adds 32 / blocksize to the bits of the code: in 4 bits and
    blocks of 64, that makes 4.5. With double quantization the constants add 8 / blocksize + 32 /
    (256 blocksize): 4.127 in all (QLoRA, section 3). Two costs are left out: the one offset of a
    tensor, and the higher share of a shorter last block.
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
            f"blocksize={blocksize!r} isn't a block size of bitsandbytes; "
            f"give one of {', '.join(map(str, BLOCKSIZES))} (64 is usual)"
        )

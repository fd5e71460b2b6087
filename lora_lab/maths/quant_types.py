"""The levels of each `quant_type`: the values that 4-bit and 8-bit codes stand for.

The types differ only in where their levels lie between -1 and 1. NF4 puts them at quantiles of the
normal distribution, since trained weights are nearly normal. A floating-point type puts them close
together near 0 and far apart at the ends, and an integer type puts them at even steps.
"""

from statistics import NormalDist

import torch
from torch import Tensor

from lora_lab.recipe import nearest

OUTERMOST = 0.9677083  # a probability: the mean of 1 - 1/30 and 1 - 1/32, cut by bitsandbytes


def _nf4() -> Tensor:
    """Normal quantiles, divided by the largest: 7 of them below 0, 0 itself, 8 above."""
    quantile = NormalDist().inv_cdf  # of float32 probabilities: float64 ones change the last bits
    below = [-quantile(p) for p in torch.linspace(OUTERMOST, 0.5, 8)[:-1].tolist()]
    above = [quantile(p) for p in torch.linspace(OUTERMOST, 0.5, 9)[:-1].tolist()]
    quantiles = torch.tensor([*below, 0.0, *reversed(above)])  # (16,)
    return quantiles / quantiles.max()


def _float4(*sizes: float) -> Tensor:
    """Levels of a sign bit and 3 bits for the size: codes 8 to 15 are the negatives of 0 to 7."""
    return torch.tensor([*sizes, *(-size for size in sizes)]) / max(sizes)


def _dynamic() -> Tensor:
    """256 levels: 0, 1, and 127 sizes with both signs.

    Each of seven powers of ten has its sizes, the middles of even steps. The smallest power has 1
    step, the next has 2, then 4, up to 64 steps between 0.1 and 1.
    """
    sizes = []
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power + 1)
        sizes.append(10.0 ** (power - 6) * ((edges[:-1] + edges[1:]) / 2))
    sizes = torch.cat(sizes)  # (127,)
    return torch.cat([-sizes, sizes, torch.tensor([0.0, 1.0])]).sort().values


LEVELS = {  # quant_type: the function that gives its levels, in the order of the codes
    "nf4": _nf4,  # 4-bit NormalFloat
    "fp4": lambda: _float4(0, 0.0625, 8, 12, 4, 6, 2, 3),  # bitsandbytes' own, not E2M1
    "e2m1": lambda: _float4(0, 0.5, 1, 1.5, 2, 3, 4, 6),  # 2 bits of exponent, 1 of mantissa
    "e3m0": lambda: _float4(0, *(2.0**power for power in range(7))),  # 3 of exponent: powers of 2
    "int4": lambda: (
        torch.arange(-7, 8) / 7
    ),  # 15 even steps; -8 has no counterpart, so its code is unused
    "int8": lambda: torch.arange(-127, 128) / 127,  # 8 bits: 255 even steps
    "dynamic": _dynamic,  # 8 bits, for absmax values
}


def levels(quant_type: str) -> Tensor:
    """The values that codes 0, 1, 2 ... stand for: float32, from -1 to 1, (levels,).

    4-bit types have 16 levels (int4 15), 8-bit types 256 (int8 255).

    NF4's levels are not used equally often: of normal weights in blocks of 64, a level takes 1.7 to
    9.2 %. "NF4 isn't information theoretically optimal (and that's good)", arXiv:2306.06965, says
    why.

    Raises:
        ValueError: if `quant_type` is not known, with the nearest.

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

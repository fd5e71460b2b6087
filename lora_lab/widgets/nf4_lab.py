"""Weights rounded to a few levels: type, block size and an outlier to play with."""

import ipywidgets as widgets
from torch import Tensor

from lora_lab import plots
from lora_lab.maths.nf4 import (
    BLOCKSIZES,
    Quantized,
    bits_per_parameter,
    double_quantize,
    levels,
    quantize,
    relative_error,
    scaled,
)
from lora_lab.plots import Picture
from lora_lab.recipe import nearest
from lora_lab.widgets.boxes import labelled, row
from lora_lab.widgets.explorer import DescribedExplorer

TYPES = {
    "nf4": "NF4",
    "fp4": "FP4, as in bitsandbytes",
    "e2m1": "FP4 as E2M1",
    "e3m0": "FP4 as E3M0",
    "int4": "int4",
    "int8": "int8",
}
EVERY = 4096  # weights, of which one is made an outlier


class Nf4Lab(DescribedExplorer):
    """Weights in blocks, rounded anew at each choice. Nothing is loaded.

    `quantized` holds the rounded weights, `error` the relative error, `bits` the bits a weight.

    Args:
        weights: a tensor of any shape with 4,096 numbers or more.
        quant_type: one of `TYPES`.
        blocksize: one of bitsandbytes' block sizes.

    Raises:
        ValueError: for an unknown type, or too few weights.
    """

    def __init__(self, weights: Tensor, quant_type: str = "nf4", blocksize: int = 64) -> None:
        if quant_type not in TYPES:
            raise ValueError(
                f"quant_type={quant_type!r} is not known here; {nearest(quant_type, tuple(TYPES))}"
                f"give one of {', '.join(map(repr, TYPES))}"
            )
        if weights.numel() < EVERY:
            raise ValueError(f"{weights.numel()} weights are too few; give {EVERY:,} or more")
        self._weights = weights.detach().float().reshape(-1)
        options = [(label, name) for name, label in TYPES.items()]
        self.quant_type = labelled(
            widgets.Dropdown(options=options, value=quant_type), "type", "18em"
        )
        self.blocksize = labelled(
            widgets.SelectionSlider(options=BLOCKSIZES, value=blocksize), "block size", "22em"
        )
        self.outlier = labelled(widgets.IntSlider(0, 0, 40), "outlier, standard deviations", "26em")
        self.double_quant = widgets.Checkbox(
            value=False, description="double quantisation", indent=False
        )
        self.double_quant.layout = {"width": "auto", "margin": "2px 2px 2px 16px"}
        super().__init__(
            "What do few bits do to a weight?",
            (self.quant_type, self.blocksize, self.outlier, self.double_quant),
            [row(self.quant_type, self.blocksize), row(self.outlier, self.double_quant)],
        )

    @property
    def weights(self) -> Tensor:
        """The weights, (n,), with an outlier in each 4,096 of them if it is not 0."""
        weights = self._weights.clone()
        if self.outlier.value:
            weights[::EVERY] = self.outlier.value * self._weights.std()
        return weights

    def draw(self) -> Picture:
        """The levels, how often each is used, and a block of weights that falls to them."""
        weights, size, kind = self.weights, self.blocksize.value, self.quant_type.value
        plain = quantize(weights, size, kind)
        double = self.double_quant.value
        self.quantized: Quantized = double_quantize(plain) if double else plain
        self.error = relative_error(weights, self.quantized)
        self.bits = sum(bits_per_parameter(size, double, kind).values())
        numbers = (
            scaled(weights, self.quantized).tolist(),
            self.quantized.codes.tolist(),
            levels(kind).tolist(),
        )
        return plots.picture(plots.draw_rounding, *numbers, size, self.error, self.bits)

    def __repr__(self) -> str:
        return f"Nf4Lab: {self._weights.numel():,} weights · {', '.join(TYPES)}"

"""A matrix rebuilt from its strongest k terms: the slider is k, the picture what they hold."""

import ipywidgets as widgets
import torch
from torch import Tensor

from lora_lab import plots
from lora_lab.maths.spectra import energy_kept, singular_values, truncate
from lora_lab.plots import Picture
from lora_lab.widgets.explorer import Explorer

SIZE = (560, 400)  # pixels on the screen


class SvdSlider(Explorer):
    """The rebuilt matrix beside the whole one.

    Args:
        matrix: (height, width), from 0 (black) to 1 (white).
        k: how many terms to begin with.

    Raises:
        ValueError: if it is not a matrix of finite numbers, or does not have k terms.
    """

    def __init__(self, matrix: Tensor, k: int = 5) -> None:
        whole = torch.eye(len(matrix), dtype=torch.float64)  # the matrix is I @ matrix: B and A
        self._energy = energy_kept(singular_values(matrix, whole, 1.0)).tolist()
        self._lora_A, self._lora_B = truncate(matrix.double(), whole, 1.0, len(self._energy))
        self._whole = matrix.double()
        if k not in range(1, len(self._energy) + 1):
            raise ValueError(
                f"k={k} isn't a number of terms of {tuple(matrix.shape)}; give a whole number from "
                f"1 to {len(self._energy)}"
            )
        self.k = widgets.IntSlider(
            k, 1, len(self._energy), description="k", layout={"width": "90%"}
        )
        self.k.style.description_width = "1.5em"
        super().__init__("What do k terms hold?", [self.k], width=SIZE[0])

    @property
    def rebuilt(self) -> Tensor:
        """The sum of the strongest k terms, (height, width), float64."""
        k = self.k.value
        return self._lora_B[:, :k] @ self._lora_A[:k]  # (height, k) @ (k, width)

    def draw(self) -> Picture:
        """The rebuilt matrix, the whole one, and the energy that k terms hold."""
        shown = {self.k.value: self.rebuilt.numpy(), len(self._energy): self._whole.numpy()}
        return plots.picture(plots.draw_terms, shown, self._energy, size=SIZE)

    def __repr__(self) -> str:
        height, width = self._whole.shape
        return f"SvdSlider: a matrix of {height} × {width}, rebuilt from k terms"

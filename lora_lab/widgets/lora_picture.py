"""The LoRA picture: W, B and A of a layer to scale, and how B fills while a model is trained."""

from pathlib import Path

import anywidget
import torch
import traitlets
from torch import Tensor, nn

from lora_lab import plots
from lora_lab.machine.devices import seeded
from lora_lab.maths.lora import LoRALinear
from lora_lab.maths.spectra import singular_values
from lora_lab.models.bases import Base
from lora_lab.recipe import nearest
from lora_lab.training.loop import Training

LARGEST = 64  # rank of the slider, where the matrix can have it
DRAWN = 400  # the most rows and columns drawn: of a larger matrix, every second or third
STILL = 96  # the same for the still picture: fewer make a small file
LOOKS = 12  # how often a training is looked at, evenly from its first step to its last


class LoraPicture(anywidget.AnyWidget):
    """W, B, A and ΔW of a linear layer as heat maps to scale, with r as a slider.

    Until a run at this r was looked at, A and B are as LoRA starts them, with B = 0. `for record in
    training: picture.look(training)` shows how B fills; `live.watch(picture)` does so for each
    training of a live lab.

    Args:
        base: the base with the layer, whose weight is W.
        module: the layer's name.
        r: the rank to begin with.

    Raises:
        ValueError: if the base has no linear layer of this name, or r does not fit it.
    """

    _esm = Path(__file__).with_suffix(".js")
    module = traitlets.Unicode().tag(sync=True)
    shape = traitlets.List().tag(sync=True)  # out, in
    every = traitlets.Int(1).tag(sync=True)  # 2: every second row and column is sent, and drawn
    r = traitlets.Int(8).tag(sync=True)
    largest = traitlets.Int().tag(sync=True)
    weight = traitlets.Bytes().tag(sync=True)  # float32, row by row, as all matrices here
    start = traitlets.Bytes().tag(sync=True)  # A of the largest r; a smaller r has its first rows
    looks = traitlets.List().tag(sync=True)

    def __init__(self, base: Base, module: str, r: int = 8) -> None:
        layer = linear_layer(base, module)
        largest = min(LARGEST, layer.in_features, layer.out_features)
        if isinstance(r, bool) or r not in range(1, largest + 1):
            raise ValueError(
                f"r={r!r} isn't a rank of this slider; give a whole number from 1 to {largest}"
            )
        with seeded(torch.device("cpu"), 0):
            start = LoRALinear(nn.Linear(layer.in_features, layer.out_features), largest, 1).lora_A
        self._weight = layer.weight.detach().float().cpu()
        self._start = start.detach()
        self._parts: dict[int, tuple[Tensor, Tensor, float]] = {}  # A, B and scaling, by r
        every = -(-max(self._weight.shape) // DRAWN)
        super().__init__(
            module=module,
            shape=[*self._weight.shape],
            every=every,
            r=r,
            largest=largest,
            weight=_packed(self._weight[::every, ::every]),
            start=_packed(self._start[:, ::every]),
        )

    def look(self, training: Training) -> None:
        """Show A and B, if it is time to. To be called before the first step and after each step.

        Raises:
            ValueError: if the training has no A and B for this layer, or ΔW is not their product.
        """
        step, steps = training.step, training.recipe.steps
        if step not in (0, steps) and step % max(1, round(steps / LOOKS)):
            return
        lora_A, lora_B = self._factors_in(training)
        r, scaling = len(lora_A), training.recipe.scaling
        values = singular_values(lora_A, lora_B, scaling)
        self._parts[r] = lora_A, lora_B, scaling
        look = {
            "r": r,
            "step": step,
            "steps": steps,
            "scaling": scaling,
            "A": _packed(lora_A[:, :: self.every]),
            "B": _packed(lora_B[:: self.every]),
            "values": values.tolist(),
            "change": (values.norm() / self._weight.norm()).item(),  # ‖ΔW‖ / ‖W‖
        }
        before = [old for old in self.looks if old["r"] != r or step]  # this run's, and other r's
        with self.hold_sync():
            self.looks = [*before, look]
            if step == 0:  # later, the slider is the reader's
                self.r = r

    def _factors_in(self, training: Training) -> tuple[Tensor, Tensor]:
        """Copies of A (r, in) and B (out, r) as they are now."""
        recipe = training.recipe
        if recipe.method != "lora" or recipe.use_dora or recipe.changes_the_base:
            raise ValueError(
                "this picture shows plain LoRA, where ΔW is the product of B and A and B starts at "
                f"0; this run has method={recipe.method!r}, use_dora={recipe.use_dora} and "
                f"init_lora_weights={recipe.init_lora_weights!r}"
            )
        layer = training.model.get_submodule(f"base_model.model.{self.module}")
        if not hasattr(layer, "lora_A"):
            raise ValueError(
                f"this run has no A and B for {self.module}: its target_modules are "
                f"{recipe.target_modules!r}; choose others, or another layer for the picture"
            )
        if len(layer.lora_A["default"].weight) > self.largest:
            raise ValueError(
                f"this run has r={recipe.r}, and the picture goes up to r={self.largest}; train "
                f"with r={self.largest} or less"
            )
        factors = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return tuple(part.detach().float().cpu().clone() for part in factors)

    def picture(self) -> plots.Picture:
        """The parts at the slider's r, as they were at the last look, or as LoRA starts them."""
        out, _ = self.shape
        start = self._start[: self.r], torch.zeros(out, self.r), 1.0
        lora_A, lora_B, scaling = self._parts.get(self.r, start)
        when = [look for look in self.looks if look["r"] == self.r]
        title = f"{self.module}, r = {self.r}, "
        title += f"step {when[-1]['step']} of {when[-1]['steps']}" if when else "before training"
        return still(title, self._weight, lora_A, lora_B, scaling)

    def __repr__(self) -> str:
        out, width = self.shape
        factors, share = self.r * (out + width), self.r * (out + width) / (out * width)
        return (
            f"LoraPicture: {self.module}, W {out} × {width}; at r = {self.r} A and B hold "
            f"{factors:,} numbers, {share:.1%} of W's {out * width:,}"
        )

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        """The widget; if no widget can be shown, the still picture."""
        data, metadata = super()._repr_mimebundle_(**options)
        image, size = self.picture()._repr_mimebundle_()
        return {"image/png": image["image/png"]} | data, metadata | size


def still(
    title: str, weight: Tensor, lora_A: Tensor, lora_B: Tensor, scaling: float
) -> plots.Picture:
    """The parts of a layer as a still picture: W, B, A, ΔW and its singular values.

    Args:
        title: the module's name, and when this was.
        weight: W, (out, in).
        lora_A: (r, in).
        lora_B: (out, r).
        scaling: the factor in front of BA.
    """
    values = singular_values(lora_A, lora_B, scaling).tolist()
    change = scaling * lora_B @ lora_A  # (out, r) @ (r, in) -> (out, in)
    n = -(-max(weight.shape) // STILL)
    parts = weight[::n, ::n], lora_A[:, ::n], lora_B[::n], change[::n, ::n]
    shape = tuple(weight.shape)
    numbers = title, shape, *(part.tolist() for part in parts), values
    return plots.picture(plots.draw_lora_parts, *numbers, size=plots.lora_parts_size(shape))


def picture_of_lora(base: Base, module: str, r: int = 8) -> LoraPicture:
    """W, B and A of a linear layer, drawn to scale from the real tensors, with r as a slider.

    Args:
        base: the base with the layer.
        module: the layer's name, such as "model.layers.2.mlp.up_proj".
        r: the rank to begin with.

    Raises:
        ValueError: if the base has no linear layer of this name, or r does not fit it.
    """
    return LoraPicture(base, module, r)


def linear_layer(base: Base, module: str) -> nn.Linear:
    """The layer of this name, whose weight holds numbers."""
    layers = dict(base.model.named_modules())
    layer = layers.get(module)
    if type(layer) is not nn.Linear:
        linear = tuple(name for name, child in layers.items() if type(child) is nn.Linear)
        kind = "is not there" if layer is None else f"is a {type(layer).__name__}"
        raise ValueError(
            f"{module!r} {kind} in {base.name}, and this picture is of a linear layer with "
            f"unquantised weights; {nearest(module, linear)}there are {len(linear)}, "
            f"such as {linear[0] if linear else 'none'!r}"
        )
    return layer


def _packed(matrix: Tensor) -> bytes:
    """The numbers as float32, row by row."""
    return matrix.contiguous().numpy().tobytes()

"""What training holds all the time: the base, what is trained, and the optimizer's state.

Each number is a tensor that `lora_lab.training.loop` holds. All sizes are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.cost.budget import rank
from lora_lab.models.architecture import Matrix, Shape, adapted, inside, saved_modules
from lora_lab.recipe import Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
F32 = 4  # adapters, norms and losses are float32, whatever the base's dtype is


@dataclass(frozen=True, slots=True)
class Trained:
    """One tensor that is trained."""

    module: str
    numbers: int
    size: int = F32  # bytes of each: an adapter's are float32 on a 16-bit base too

    @property
    def bytes(self) -> int:
        """Of all its numbers; its gradient has as many."""
        return self.numbers * self.size


def trained_tensors(shape: Shape, recipe: Recipe, dtype: str) -> list[Trained]:
    """Every tensor that the recipe trains. Full fine-tuning works on a float32 copy."""
    found = []
    full = recipe.method == "full"
    whole = () if full else saved_modules(shape, recipe)
    for name, sizes in [*_matrices(shape, full), *((name, [size]) for name, size in shape.others)]:
        if full:
            found += [Trained(name, size) for size in sizes]
        elif inside(name, whole):
            found += [Trained(name, size, BYTES[passing_dtype(recipe, dtype)]) for size in sizes]
    for one in adapted(shape, recipe):
        r = rank(recipe)
        sizes = [r * one.in_features, r * one.out_features]  # A, B
        sizes += [r] * (recipe.method == "adalora")  # λ
        sizes += [one.out_features] * recipe.use_dora  # the magnitudes
        found += [Trained(one.name, size) for size in sizes]
    return found


def _matrices(shape: Shape, full: bool) -> Iterator[tuple[str, list[int]]]:
    for one in shape.matrices:
        weights = [] if one.tied and full else [one.weights]
        yield one.name, weights + [one.out_features] * one.bias


def passing_dtype(recipe: Recipe, dtype: str) -> str:
    """Of what passes between layers: float32 in full fine-tuning, and on a quantised base."""
    return "float32" if recipe.method == "full" or recipe.quantize else dtype


def weights_held(shape: Shape, recipe: Recipe, dtype: str) -> int:
    """The base as it was loaded. Of a quantised one, all but the linear layers is float32."""
    if recipe.quantize is None:
        return shape.parameters * BYTES[dtype]
    linear = [one for one in shape.matrices if one.kind == "linear"]
    rest = shape.parameters - sum(one.weights for one in linear)
    return F32 * rest + sum(quantized(one, recipe) for one in linear)


def quantized(matrix: Matrix, recipe: Recipe) -> int:
    """A quantised matrix with its constants, as bitsandbytes keeps it.

    int8: a byte a weight, and a float32 a row. nf4 and fp4: half a byte a weight, and for each
    block of 64 a constant: a float32 (4.5 bits a weight in all), or with `double_quant` a byte,
    256 of which share a float32 (4.127 bits: QLoRA, arXiv:2305.14314, section 3).
    """
    if recipe.quantize == "int8":
        return matrix.weights + F32 * matrix.out_features
    blocks = math.ceil(matrix.weights / 64)
    constants = F32 * blocks
    if recipe.double_quant:
        constants = blocks + F32 * math.ceil(blocks / 256) + F32  # and their mean
    levels = 16 * F32  # those of the constants are one table for all matrices
    return math.ceil(matrix.weights / 2) + constants + levels


def optimizer_state(trained: list[Trained], recipe: Recipe) -> int:
    """AdamW's two moments; in 8 bits, 256 numbers share a float32 (bitsandbytes).

    There a tensor below 4,096 numbers keeps float32.
    """
    if recipe.optimizer == "sgd":
        return 0
    if recipe.optimizer == "adamw":
        return sum(2 * one.bytes for one in trained)
    return sum(
        2 * F32 * one.numbers
        if one.numbers < 4096
        else 2 * (one.numbers + F32 * math.ceil(one.numbers / 256))
        for one in trained
    )

"""What training holds all the time: the base, what is trained, and the optimizer's state.

Each number is a tensor that `lora_lab.training.loop` holds. All sizes are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_lab.cost.budget import rank
from lora_lab.models.architecture import Matrix, Shape, adapted_matrices, inside, saved_modules
from lora_lab.recipe import Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK = 64  # weights that share a constant, in 4 bits
AVERAGES = 3  # that AdaLoRA's allocator keeps, each as large as what is trained
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


def trained_tensors(shape: Shape, recipe: Recipe, dtype: str, usual: bool = False) -> list[Trained]:
    """Every tensor that the recipe trains. Full fine-tuning works on a float32 copy.

    In the usual mixed precision it is the 16-bit weights that have gradients.
    """
    tensors = []
    full = recipe.method == "full"
    size = BYTES[dtype] if usual else F32
    whole = () if full else saved_modules(shape, recipe)
    others = ((name, [count]) for name, count in shape.others)
    for name, sizes in (*_matrices(shape, full), *others):
        if full:
            tensors += [Trained(name, numbers, size) for numbers in sizes]
        elif inside(name, whole):
            whole_size = BYTES[passing_dtype(recipe, dtype)]
            tensors += [Trained(name, numbers, whole_size) for numbers in sizes]
    for matrix in adapted_matrices(shape, recipe):
        r = rank(recipe)
        sizes = [r * matrix.in_features, r * matrix.out_features]  # A, B
        sizes += [r] * (recipe.method == "adalora")  # λ
        sizes += [matrix.out_features] * recipe.use_dora  # the magnitudes
        tensors += [Trained(matrix.name, numbers) for numbers in sizes]
    return tensors


def _matrices(shape: Shape, full: bool) -> Iterator[tuple[str, list[int]]]:
    for matrix in shape.matrices:
        weights = [] if matrix.tied and full else [matrix.weights]
        yield matrix.name, weights + [matrix.out_features] * matrix.bias


def passing_dtype(recipe: Recipe, dtype: str, usual: bool = False) -> str:
    """Of what passes between layers: float32 in full fine-tuning, and on a quantised base.

    In the usual mixed precision it is 16-bit.
    """
    full = recipe.method == "full" and not usual
    return "float32" if full or recipe.quantize else dtype


def held_here(shape: Shape, recipe: Recipe, dtype: str, device: str) -> dict[str, int]:
    """What `lora_lab.training.loop` holds from its first step to its last, by part.

    The loop keeps a second copy of what it trains: the last good values, to fall back on. Of a
    whole model on a GPU that copy lies in the computer's own memory, and is not counted. An
    adapter that changes the base has base weights of its own, and its start is kept for the file.

    Args:
        shape: the base's.
        recipe: how it is trained.
        dtype: of the base.
        device: "cpu", or "cuda" for a GPU with memory of its own.
    """
    trained = trained_tensors(shape, recipe, dtype)
    once = sum(tensor.bytes for tensor in trained)
    held = {"weights": weights_held(shape, recipe, dtype), "adapters": 0}
    if recipe.method == "full":
        held["weights"] += once * (1 if device == "cuda" else 2)
    else:
        copies = 2 + recipe.changes_the_base
        held["adapters"] = copies * once + _averages(shape, recipe, trained)
    if recipe.changes_the_base:
        own = sum(matrix.weights for matrix in shape.matrices if not matrix.tied)
        held["weights"] += own * BYTES[dtype]
    return held | {"optimizer": optimizer_state(trained, recipe)}


def held_usually(shape: Shape, recipe: Recipe, dtype: str) -> dict[str, int]:
    """What a loop without copies of its own holds from its first step to its last, by part.

    Full fine-tuning trains the base itself. In float32 that is 4 bytes a parameter for weights, 4
    for gradients and 8 for AdamW's moments. On a 16-bit base it is mixed precision: 2 bytes for
    weights, 2 for gradients, and 12 in the optimizer: the weights in float32 once more, which it
    updates, and two moments. Either way 16 bytes a parameter.

    Source:
        ZeRO, arXiv:1910.02054, section 3.1. Where gradients are float32 too, as autocast has them,
        it is 18 (transformers' documentation, "GPU memory usage").
    """
    trained = trained_tensors(shape, recipe, dtype, usual=True)
    once = sum(tensor.bytes for tensor in trained)
    if recipe.method != "full":
        adapters = once + _averages(shape, recipe, trained)
        state = optimizer_state(trained, recipe)
        weights = weights_held(shape, recipe, dtype)
        return {"weights": weights, "adapters": adapters, "optimizer": state}
    exact = [replace(tensor, size=F32) for tensor in trained]
    state = optimizer_state(exact, recipe)
    if BYTES[dtype] < F32:
        state += sum(tensor.bytes for tensor in exact)
    return {"weights": once, "adapters": 0, "optimizer": state}


def adapter_bytes(shape: Shape, recipe: Recipe, trained: list[Trained]) -> int:
    """The bytes of what is trained, without the modules that are trained whole."""
    whole = saved_modules(shape, recipe)
    return sum(tensor.bytes for tensor in trained if not inside(tensor.module, whole))


def _averages(shape: Shape, recipe: Recipe, trained: list[Trained]) -> int:
    """The bytes of what AdaLoRA's allocator keeps."""
    if recipe.method != "adalora":
        return 0
    return AVERAGES * adapter_bytes(shape, recipe, trained)


def weights_held(shape: Shape, recipe: Recipe, dtype: str) -> int:
    """The base as it was loaded. Of a quantised one, all but the linear layers is float32."""
    if recipe.quantize is None:
        return shape.parameters * BYTES[dtype]
    linear = [matrix for matrix in shape.matrices if matrix.kind == "linear"]
    rest = shape.parameters - sum(matrix.weights for matrix in linear)
    return F32 * rest + sum(quantized(matrix, recipe) for matrix in linear)


def quantized(matrix: Matrix, recipe: Recipe) -> int:
    """A quantised matrix with its constants, as bitsandbytes keeps it.

    int8: a byte a weight, and a float32 a row. nf4 and fp4: half a byte a weight, and for each
    block of 64 a constant: a float32 (4.5 bits a weight in all), or with `double_quant` a byte,
    256 of which share a float32 (4.127 bits: QLoRA, arXiv:2305.14314, section 3).
    """
    if recipe.quantize == "int8":
        return matrix.weights + F32 * matrix.out_features
    blocks = math.ceil(matrix.weights / BLOCK)
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
        return sum(2 * tensor.bytes for tensor in trained)
    return sum(
        2 * F32 * tensor.numbers
        if tensor.numbers < 4096
        else 2 * (tensor.numbers + F32 * math.ceil(tensor.numbers / 256))
        for tensor in trained
    )

"""What training holds all the time: the base, what is trained, and the optimizer's state.

Each number is a tensor that `lora_lab.training.loop` keeps from its first step on. All sizes are
bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_lab.cost.budget import rank
from lora_lab.cost.stacks import Stack
from lora_lab.models.architecture import Matrix, Shape, adapted_matrices, inside, saved_modules
from lora_lab.recipe import Recipe

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
BLOCK = 64  # weights that share a constant, in 4 bits
AVERAGES = 3  # kept by AdaLoRA's allocator, each as large as what is trained
F32 = 4  # adapters, norms and losses are float32, whatever the base's dtype is


@dataclass(frozen=True, slots=True)
class Trained:
    """A tensor that is trained."""

    module: str
    numbers: int
    size: int = F32  # bytes of each: an adapter's are float32 on a 16-bit base too

    @property
    def bytes(self) -> int:
        """The bytes of all its numbers; its gradient takes as many."""
        return self.numbers * self.size


def trained_tensors(shape: Shape, recipe: Recipe, dtype: str, usual: bool = False) -> list[Trained]:
    """The tensors that the recipe trains. Full fine-tuning trains a float32 copy of the base.

    With `usual` it trains the base's own weights, as mixed precision does.
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
            whole_size = BYTES[activation_dtype(recipe, dtype)]
            tensors += [Trained(name, numbers, whole_size) for numbers in sizes]
    for matrix in adapted_matrices(shape, recipe):
        r = rank(recipe)
        sizes = [r * matrix.in_features, r * matrix.out_features]  # A, B
        sizes += [r] * (recipe.method == "adalora")  # λ
        sizes += [matrix.out_features] * recipe.use_dora  # the magnitudes
        tensors += [Trained(matrix.name, numbers) for numbers in sizes]
    return tensors


def _matrices(shape: Shape, full: bool) -> Iterator[tuple[str, list[int]]]:
    """Each matrix's name with the sizes of its tensors: weights and bias."""
    for matrix in shape.matrices:
        weights = [] if matrix.tied and full else [matrix.weights]
        yield matrix.name, weights + [matrix.out_features] * matrix.bias


def activation_dtype(recipe: Recipe, dtype: str, usual: bool = False) -> str:
    """The dtype of the tensors that pass between layers.

    It is float32 in full fine-tuning and on a quantised base, else the base's dtype. With `usual`,
    full fine-tuning computes in the base's dtype too, as mixed precision does.
    """
    full = recipe.method == "full" and not usual
    return "float32" if full or recipe.quantize else dtype


def lab_static_memory(shape: Shape, recipe: Recipe, dtype: str, device: str) -> dict[str, int]:
    """The bytes, by part, that `lora_lab.training.loop` keeps from its first step to its last.

    The loop keeps a second copy of what it trains: the last good values, to fall back on. With a
    patience it keeps a third copy: the values of the best validation loss. If a whole model is
    trained on a GPU, copies lie in the computer's own memory and are not counted. An adapter that
    changes the base has its own base weights, and its start is kept for the saved file.

    Args:
        shape: the base's.
        recipe: how it is trained.
        dtype: of the base.
        device: "cpu", or "cuda" for a GPU with memory of its own.
    """
    trained = trained_tensors(shape, recipe, dtype)
    once = sum(tensor.bytes for tensor in trained)
    parts = {"weights": base_weights(shape, recipe, dtype), "adapters": 0}
    if recipe.method == "full":
        parts["weights"] += once * (1 if device == "cuda" else 2 + bool(recipe.patience))
    else:
        copies = 2 + recipe.changes_the_base + bool(recipe.patience)
        parts["adapters"] = copies * once + _averages(shape, recipe, trained)
    if recipe.changes_the_base:
        own = sum(matrix.weights for matrix in shape.matrices if not matrix.tied)
        parts["weights"] += own * BYTES[dtype]
    return parts | {"optimizer": optimizer_bytes(trained, recipe)}


def usual_static_memory(shape: Shape, recipe: Recipe, dtype: str) -> dict[str, int]:
    """The bytes, by part, that a loop without copies keeps from its first step to its last.

    Full fine-tuning trains the base itself, at 16 bytes a parameter. In float32 these are 4 for
    weights, 4 for gradients and 8 for AdamW's moments. On a 16-bit base (mixed precision) they are
    2 for weights, 2 for gradients and 12 in the optimizer. The optimizer updates a float32 copy of
    the weights (4) with two moments (8).

    Source:
        ZeRO, arXiv:1910.02054, section 3.1. With float32 gradients, as under autocast, it is 18
        bytes (transformers' documentation, "GPU memory usage").
    """
    trained = trained_tensors(shape, recipe, dtype, usual=True)
    once = sum(tensor.bytes for tensor in trained)
    if recipe.method != "full":
        adapters = once + _averages(shape, recipe, trained)
        state = optimizer_bytes(trained, recipe)
        weights = base_weights(shape, recipe, dtype)
        return {"weights": weights, "adapters": adapters, "optimizer": state}
    exact = [replace(tensor, size=F32) for tensor in trained]
    state = optimizer_bytes(exact, recipe)
    if BYTES[dtype] < F32:
        state += sum(tensor.bytes for tensor in exact)
    return {"weights": once, "adapters": 0, "optimizer": state}


def stack_tensors(shape: Shape, recipe: Recipe, dtype: str, stack: Stack) -> list[Trained]:
    """The tensors that a training program trains. Full fine-tuning trains the base's own."""
    tensors = trained_tensors(shape, recipe, dtype, usual=True)
    if recipe.method == "full" or stack.adapters == "float32":
        return tensors
    return [replace(tensor, size=min(tensor.size, BYTES[dtype])) for tensor in tensors]


def stack_static_memory(shape: Shape, recipe: Recipe, dtype: str, stack: Stack) -> dict[str, int]:
    """The bytes, by part, that a training program keeps from its first step to its last."""
    if recipe.method == "full" and stack.exact_weights:
        return usual_static_memory(shape, recipe, dtype)
    trained = stack_tensors(shape, recipe, dtype, stack)
    once, state = sum(tensor.bytes for tensor in trained), optimizer_bytes(trained, recipe)
    if recipe.method == "full":
        return {"weights": once, "adapters": 0, "optimizer": state}
    weights = base_weights(shape, recipe, dtype)
    if recipe.quantize and stack.beside != "float32":
        weights -= (F32 - BYTES[dtype]) * _beside(shape)
    adapters = once + _averages(shape, recipe, trained)
    return {"weights": weights, "adapters": adapters, "optimizer": state}


def _beside(shape: Shape) -> int:
    """The parameters beside the linear layers: embeddings, the output layer and norms."""
    return shape.parameters - sum(
        matrix.weights for matrix in shape.matrices if matrix.kind == "linear"
    )


def adapter_bytes(shape: Shape, recipe: Recipe, trained: list[Trained]) -> int:
    """The bytes of the adapter alone: of what is trained, without the modules trained whole."""
    whole = saved_modules(shape, recipe)
    return sum(tensor.bytes for tensor in trained if not inside(tensor.module, whole))


def _averages(shape: Shape, recipe: Recipe, trained: list[Trained]) -> int:
    """The bytes of the averages that AdaLoRA's allocator keeps."""
    if recipe.method != "adalora":
        return 0
    return AVERAGES * adapter_bytes(shape, recipe, trained)


def base_weights(shape: Shape, recipe: Recipe, dtype: str) -> int:
    """The bytes of the base as loaded. A quantised base is float32 outside its linear layers."""
    if recipe.quantize is None:
        return shape.parameters * BYTES[dtype]
    linear = [matrix for matrix in shape.matrices if matrix.kind == "linear"]
    return F32 * _beside(shape) + sum(quantized_bytes(matrix, recipe) for matrix in linear)


def quantized_bytes(matrix: Matrix, recipe: Recipe) -> int:
    """The bytes of a quantised matrix with its constants, as bitsandbytes keeps it.

    int8 takes a byte a weight, and a float32 a row. nf4 and fp4 take half a byte a weight, and a
    constant for each block of 64. The constant is a float32 (4.5 bits a weight in all). With
    `double_quant` it is a byte, and 256 of them share a float32 (4.127 bits a weight: QLoRA,
    arXiv:2305.14314, section 3).
    """
    if recipe.quantize == "int8":
        return matrix.weights + F32 * matrix.out_features
    blocks = math.ceil(matrix.weights / BLOCK)
    constants = F32 * blocks
    if recipe.double_quant:
        constants = blocks + F32 * math.ceil(blocks / 256) + F32  # and their mean
    levels = 16 * F32  # the table of levels of the constants is shared by all matrices
    return math.ceil(matrix.weights / 2) + constants + levels


def optimizer_bytes(trained: list[Trained], recipe: Recipe) -> int:
    """The bytes of the optimizer's state: none for SGD, two moments for AdamW.

    In 8 bits, 256 numbers share a float32, and a tensor below 4,096 numbers keeps float32
    (bitsandbytes).
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

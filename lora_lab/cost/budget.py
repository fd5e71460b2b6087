"""Parameters, memory and FLOPs of a fine-tune, by arithmetic on a model's shape."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lora_lab.models.architecture import (
    LAYER,
    Matrix,
    Shape,
    adapted_matrices,
    inside,
    layer_of,
    saved_modules,
)
from lora_lab.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Batch:
    """The sizes of a batch, which a pass through the model works on."""

    examples: int
    length: int  # tokens of the longest example; the others are padded to it
    places: int  # positions with a label in some example: logits are computed there
    labels: int  # tokens with a label, of all examples together
    padded: bool = False  # whether the examples differ in length


# --- parameters ---------------------------------------------------------------------------------


def rank(recipe: Recipe) -> int:
    """The rank that an adapter is made with. AdaLoRA keeps it, and masks what it prunes."""
    return recipe.init_r if recipe.method == "adalora" else recipe.r


def adapter_parameters(matrix: Matrix, recipe: Recipe) -> int:
    """The trained parameters of an adapted matrix: A and B, AdaLoRA's λ, DoRA's magnitudes."""
    r = rank(recipe)
    both = r * (matrix.in_features + matrix.out_features)
    if recipe.method == "adalora":
        return both + r
    return both + recipe.use_dora * matrix.out_features


def trained_by_layer(shape: Shape, recipe: Recipe) -> dict[int | None, int]:
    """The number of trained parameters in each layer; under None, those outside the layers."""
    counts: dict[int | None, int] = {}

    def add(name: str, count: int) -> None:
        counts[layer_of(name)] = counts.get(layer_of(name), 0) + count

    if recipe.method == "full":
        for matrix in shape.matrices:
            add(matrix.name, matrix.parameters - matrix.tied * matrix.weights)
        for name, count in shape.others:
            add(name, count)
        return counts
    saved = saved_modules(shape, recipe)
    for matrix in adapted_matrices(shape, recipe):
        add(matrix.name, adapter_parameters(matrix, recipe))
    for matrix in shape.matrices:
        if inside(matrix.name, saved):
            add(matrix.name, matrix.parameters)  # its own copy, even of a tied matrix
    for name, count in shape.others:
        if inside(name, saved):
            add(name, count)
    return counts


def trainable_parameters(shape: Shape, recipe: Recipe) -> int:
    """The number of trained parameters: the first of PEFT's `get_nb_trainable_parameters`."""
    return sum(trained_by_layer(shape, recipe).values())


def total_parameters(shape: Shape, recipe: Recipe) -> int:
    """The number of all parameters: the second of PEFT's `get_nb_trainable_parameters`."""
    if recipe.method == "full":
        return shape.parameters
    kept = (
        len(adapted_matrices(shape, recipe)) if recipe.method == "adalora" else 0
    )  # each one's `ranknum`
    return shape.parameters + trainable_parameters(shape, recipe) + kept


# --- FLOPs --------------------------------------------------------------------------------------


def flops(shape: Shape, recipe: Recipe, batches: Sequence[Batch]) -> int:
    """The floating-point operations of one optimizer step: forward and backward of its batches.

    A product of (m, k) and (k, n) takes 2mkn. The count includes the products with the model's
    matrices, with the adapters, and of attention (queries with keys, scores with values). It leaves
    out norms, softmax, activation functions, the loss and the optimizer, which take no matrix
    products, and AdaLoRA's orthogonality term, which does not grow with the batch.

    In the backward pass a frozen matrix is multiplied once, for the gradient of its input. A
    trained matrix is multiplied once more, for its own gradient. Autograd stops below the lowest
    trained matrix, which is found by the matrices' order: within a module (attention, MLP), all
    matrices but the last read the module's input. That holds in Llama; in other models the lowest
    may be off by one matrix.

    Raises:
        ValueError: for a recipe that does not fit the model, and for an encoder-decoder.
    """
    blocks = {LAYER.match(matrix.name)[0] for matrix in shape.matrices if LAYER.match(matrix.name)}
    if len(blocks) > shape.num_layers:
        raise ValueError(
            f"{shape.name} has an encoder and a decoder, whose lengths and attention this budget "
            "does not know; give a model with one stack of layers. Its parameters alone: "
            "budget.trainable_parameters(shape, recipe)"
        )
    return sum(_flops_of(shape, recipe, batch) for batch in batches)


def _flops_of(shape: Shape, recipe: Recipe, batch: Batch) -> int:
    tokens = batch.examples * batch.length
    targets = {matrix.name for matrix in adapted_matrices(shape, recipe)}
    saved = saved_modules(shape, recipe)
    stages = _stages(shape.matrices)
    lowest = _lowest_trained(shape, recipe, stages)
    last = {layer_of(matrix.name): matrix for matrix in shape.matrices}  # each layer's last matrix
    total = 0
    for matrix, stage in zip(shape.matrices, stages, strict=True):
        layer = layer_of(matrix.name)
        rows = batch.examples * batch.places if matrix.kind == "output" else tokens
        product = 0 if matrix.kind == "embedding" else 2 * matrix.weights * rows  # else a look-up
        trained = recipe.method == "full" or inside(matrix.name, saved)
        passed_on = stage > lowest  # a trained matrix below needs this matrix's input gradient
        again = recipe.gradient_checkpointing and layer is not None  # a second forward pass
        target = matrix.name in targets
        ends = matrix is last[layer]  # the second forward pass ends once all it needs is there
        total += product * (1 + passed_on + trained + (again and (target or not ends)))
        if target:
            down, up = _adapter_products(matrix, recipe, rows)
            total += down * (2 + passed_on + again)
            total += up * (3 + (again and (recipe.use_dora or not ends)))
        if target and recipe.use_dora:
            total += (1 + again) * _dora_flops(matrix, recipe)
            if recipe.lora_dropout:  # the base layer once more, on what dropout left
                total += product * (1 + passed_on + again)
    return total + _attention_flops(shape, recipe, batch, stages, lowest)


def _adapter_products(matrix: Matrix, recipe: Recipe, rows: int) -> tuple[int, int]:
    """The FLOPs of the products with A and with B. An embedding's A is looked up."""
    down = 0 if matrix.kind == "embedding" else 2 * rank(recipe) * matrix.in_features * rows
    return down, 2 * rank(recipe) * matrix.out_features * rows


def _dora_flops(matrix: Matrix, recipe: Recipe) -> int:
    """The FLOPs of BA, whose norms with W DoRA needs: PEFT sends an identity through A and B."""
    through_a = 0 if matrix.kind == "embedding" else 2 * recipe.r * matrix.in_features**2
    return through_a + 2 * recipe.r * matrix.in_features * matrix.out_features


def _attention_flops(
    shape: Shape, recipe: Recipe, batch: Batch, stages: Sequence[int], lowest: int
) -> int:
    """The FLOPs of attention in all layers; where needed, backward takes twice the forward pass."""
    heads = batch.examples * shape.num_heads
    forward = 4 * heads * batch.length**2 * shape.head_dim  # scores, and their sum of values
    first: dict[int | None, int] = {}  # the stage at which each layer makes queries, keys, values
    for matrix, stage in zip(shape.matrices, stages, strict=True):
        first.setdefault(layer_of(matrix.name), stage)
    backward = sum(2 * forward for layer in range(shape.num_layers) if first[layer] >= lowest)
    return shape.num_layers * forward * (1 + recipe.gradient_checkpointing) + backward


def _stages(matrices: Sequence[Matrix]) -> list[int]:
    """The stage of the forward pass of each matrix; matrices of a stage read the same input."""
    stages: list[int] = []
    for _, group in itertools.groupby(matrices, lambda matrix: matrix.name.rpartition(".")[0]):
        size, stage = len(list(group)), stages[-1] + 1 if stages else 0
        stages += [stage] * (size - 1) + [stage + (size > 1)]
    return stages


def _lowest_trained(shape: Shape, recipe: Recipe, stages: Sequence[int]) -> int:
    """The stage below which no gradient goes; -1: gradients go down to the input."""
    if recipe.method == "full" or recipe.gradient_checkpointing:
        return -1  # checkpointing makes the first layer's input ask for a gradient
    saved = saved_modules(shape, recipe)
    names = {matrix.name for matrix in adapted_matrices(shape, recipe)}
    return min(
        stage
        for matrix, stage in zip(shape.matrices, stages, strict=True)
        if matrix.name in names or inside(matrix.name, saved)
    )

"""Memory of a training step, part by part: a count of what torch keeps, operation by operation.

Nothing is fitted and nothing is run. Each number below is a tensor that `lora_lab.training` holds,
or that an operation of a Llama's layer keeps for its backward pass. All sizes are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.budget import Matrix, Shape, adapted, layer_of, rank, saved_modules
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

ERROR = 0.1  # of the total, either way: measured on a CPU, for models built like a Llama

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
F32 = 4  # adapters, norms and losses are float32, whatever the base's dtype is
ID = 8  # token ids and labels are int64

INTO_ATTENTION = ("q_proj", "k_proj", "v_proj")  # these three read the same input
INTO_MLP = ("gate_proj", "up_proj")  # and these two
LLAMA = {*INTO_ATTENTION, "o_proj", *INTO_MLP, "down_proj"}  # the matrices of a layer


# --- what is held all the time --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trained:
    """One tensor that is trained."""

    module: str
    numbers: int
    size: int = F32  # bytes of each: an adapter's are float32 on a 16-bit base too


def trained_tensors(shape: Shape, recipe: Recipe, dtype: str) -> list[Trained]:
    """Every tensor that the recipe trains. Full fine-tuning works on a float32 copy."""
    found = []
    full = recipe.method == "full"
    whole = () if full else saved_modules(shape, recipe)
    for name, sizes in [*_matrices(shape, full), *((name, [size]) for name, size in shape.others)]:
        if full:
            found += [Trained(name, size) for size in sizes]
        elif any(f"{name}.".startswith(f"{one}.") for one in whole):
            found += [Trained(name, size, BYTES[dtype]) for size in sizes]
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


def weights_held(shape: Shape, recipe: Recipe, dtype: str) -> int:
    """The base as it was loaded. Embeddings, norms and the output layer are never quantised."""
    whole = shape.parameters * BYTES[dtype]
    if recipe.quantize is None:
        return whole
    linear = [one for one in shape.matrices if one.kind == "linear"]
    return whole + sum(quantized(one, recipe) - one.weights * BYTES[dtype] for one in linear)


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
    tables = 16 * F32  # the 16 levels
    if recipe.double_quant:
        constants = blocks + F32 * math.ceil(blocks / 256)
        tables += 256 * F32 + F32  # the constants' own levels, and their mean
    return math.ceil(matrix.weights / 2) + constants + tables


def optimizer_state(trained: list[Trained], recipe: Recipe) -> int:
    """AdamW's two moments; in 8 bits, 256 numbers share a float32 (bitsandbytes).

    There a tensor below 4,096 numbers keeps float32.
    """
    if recipe.optimizer == "sgd":
        return 0
    if recipe.optimizer == "adamw":
        return sum(2 * one.size * one.numbers for one in trained)
    return sum(
        2 * F32 * one.numbers
        if one.numbers < 4096
        else 2 * (one.numbers + F32 * math.ceil(one.numbers / 256))
        for one in trained
    )


# --- what a layer keeps of its forward pass -------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass through the model works on."""

    batch: int  # examples
    length: int  # tokens of the longest; the others are padded to it
    labels: int  # tokens of the whole batch that earn a loss
    places: int  # positions at which some example has a label: logits are computed there
    padded: bool  # whether examples differ in length: attention then needs a mask
    size: int  # bytes of one value

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.batch * self.length


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `flows`: whether a gradient of the input is wanted, at this point."""

    shape: Shape
    recipe: Recipe
    work: Pass
    targets: frozenset[str]  # last names of its matrices that get an adapter

    def kept(self, flows: bool) -> int:
        """All that the layer keeps for its backward pass, from its input to its output."""
        shape, work = self.shape, self.work
        wide = work.tokens * shape.hidden_size  # numbers: (batch, length, hidden)
        heads = work.tokens * shape.num_heads * shape.head_dim
        inner = work.tokens * shape.intermediate_size
        kept = self.norm(flows) + self._inputs(INTO_ATTENTION, wide, flows)
        flows = flows or self._trains(*INTO_ATTENTION)
        kept += self._attention(flows) + self._inputs(("o_proj",), heads, flows, there=flows)
        flows = flows or self._trains("o_proj")
        kept += self.norm(flows) + self._inputs(INTO_MLP, wide, flows)
        gate, up = flows or self._trains("gate_proj"), flows or self._trains("up_proj")
        kept += work.size * inner * (2 * gate + up)  # SiLU keeps its input, a product its factors
        return kept + self._inputs(("down_proj",), inner, gate or up)

    def norm(self, flows: bool) -> int:
        """The input in float32, and a number a token to divide by; trained, the quotient too."""
        if not flows:
            return 0
        copies = 2 if self.full else 1
        return F32 * self.work.tokens * (copies * self.shape.hidden_size + 1)

    def _attention(self, flows: bool) -> int:
        """Queries, keys, values, the mask, the output, and the log of each softmax's sum.

        Under a mask, keys and values are repeated for each head.
        """
        if not flows:
            return 0
        shape, work = self.shape, self.work
        pairs = shape.num_heads if work.padded else shape.num_key_value_heads
        values = 2 * work.tokens * (shape.num_heads + pairs) * shape.head_dim
        mask = work.padded * work.batch * work.length**2
        return work.size * (values + mask) + F32 * work.tokens * shape.num_heads

    def _inputs(
        self, names: tuple[str, ...], numbers: int, flows: bool, there: bool = False
    ) -> int:
        """What the matrices `names` keep of the input that they share.

        A frozen matrix keeps nothing of it. A trained one keeps it, and so does lora_A, in
        float32: on a 16-bit base each adapter makes a copy of its own. With dropout each has a
        copy of its own on any base, and the factors of dropout where a gradient has to pass.
        bitsandbytes' int8 product keeps its input on a CPU.

        Args:
            names: last names of matrices.
            numbers: in their input.
            flows: as above.
            there: whether the operation before keeps this input already.
        """
        if self.full:
            return 0 if there else F32 * numbers
        count = len(self.targets.intersection(names))
        shared = self.work.size == F32 and not self.recipe.lora_dropout
        copies = count * (2 if self.recipe.lora_dropout and flows else 1)
        if shared:
            copies = min(count, 0 if there else 1)
        kept = F32 * copies * numbers
        if self.recipe.quantize == "int8" and flows and not there and not (shared and count):
            kept += self.work.size * numbers
        kept += F32 * count * self.work.tokens * rank(self.recipe)  # lora_B's input
        if self.recipe.use_dora:  # the magnitudes' factors: the base's output and the adapter's
            kept += (self.work.size + F32) * self.work.tokens * self._outputs(names)
        return kept

    def _outputs(self, names: tuple[str, ...]) -> int:
        """Of the adapted ones among the matrices `names`, together."""
        wanted = self.targets.intersection(names)
        first = [one for one in self.shape.matrices if layer_of(one.name) == 0]
        return sum(one.out_features for one in first if _last(one.name) in wanted)

    def _trains(self, *names: str) -> bool:
        return self.full or not self.targets.isdisjoint(names)

    @property
    def full(self) -> bool:
        """Whether every matrix and norm is trained."""
        return self.recipe.method == "full"

    def passing(self) -> int:
        """What the way back holds at its most besides what is kept: that is at down_proj.

        The gradient of the layer's output; those of down_proj's input, one from the adapter in
        float32, one from the base, and their sum, or those of the product's two factors. The input
        that the adapter kept is gone by then. A quantised down_proj is there as a whole.
        """
        shape, work = self.shape, self.work
        wide, inner = work.tokens * shape.hidden_size, work.tokens * shape.intermediate_size
        gone = self._inputs(("down_proj",), inner, flows=True)
        most = max(3 * work.size * inner - gone, F32 * inner if self._trains("down_proj") else 0)
        down = shape.hidden_size * shape.intermediate_size
        if self.recipe.quantize:
            most += work.size * down
        return work.size * wide + most


def _last(name: str) -> str:
    return name.rpartition(".")[2]


# --- a step, moment by moment ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """What comes and goes in a step, at one of its moments."""

    gradients: int = 0
    activations: int = 0
    logits: int = 0
    other: int = 0  # in no part: gone within an operation

    @property
    def total(self) -> int:
        """All of it."""
        return self.gradients + self.activations + self.logits + self.other


def memory(
    shape: Shape,
    recipe: Recipe,
    *,
    batch: int,
    length: int,
    labels: int,
    places: int | None = None,
    padded: bool = True,
    dtype: str = "float32",
) -> Memory:
    """What a training step of `lora_lab.training` holds, part by part, and at its peak.

    The total is right within `ERROR` for models built like a Llama, as measured on a CPU.

    Args:
        shape: the base's.
        recipe: how it is trained. One that quantises is taken to train on a base loaded so.
        batch: examples in one pass.
        length: tokens of the longest of them.
        labels: tokens of the batch that earn a loss.
        places: positions at which some example has a label; None: as many as labels an example.
        padded: whether the examples differ in length.
        dtype: of the base; where it is quantised, of the rest and of the products.

    Raises:
        ValueError: for a model that is not built like a Llama, or what `adapted` refuses.
    """
    _check_llama(shape)
    size = F32 if recipe.method == "full" else BYTES[dtype]
    places = places or min(length, math.ceil(labels / batch))
    work = Pass(batch=batch, length=length, labels=labels, places=places, padded=padded, size=size)
    trained = trained_tensors(shape, recipe, dtype)
    copies = 2 if recipe.method == "full" else 3  # with the last good values, an adapter's start
    always = {
        "weights": weights_held(shape, recipe, dtype),
        "adapters": copies * sum(one.size * one.numbers for one in trained),
        "optimizer": optimizer_state(trained, recipe),
    }
    moments = list(_moments(shape, recipe, work, trained))
    parts = {
        part: max(getattr(moment, part) for moment in moments)
        for part in ("gradients", "activations", "logits")
    }
    total = sum(always.values()) + max(moment.total for moment in moments)
    return Memory(**always, **parts, total=total)


def _check_llama(shape: Shape) -> None:
    names = {_last(one.name) for one in shape.matrices if layer_of(one.name) is not None}
    if names != LLAMA:
        raise ValueError(
            f"the layers of {shape.name} hold {', '.join(sorted(names))}; memory is told for "
            f"models built like a Llama, whose layers hold {', '.join(sorted(LLAMA))}"
        )


def _moments(shape: Shape, recipe: Recipe, work: Pass, trained: list[Trained]) -> Iterator[Moment]:
    """The moments at which a step may be at its peak, in their order."""
    numbers = range(shape.num_layers)
    names = {one.module for one in trained}
    gradients = {number: 0 for number in [None, *numbers]}  # by layer
    for one in trained:
        gradients[layer_of(one.module)] += one.size * one.numbers
    every = sum(gradients.values())
    earlier = every if recipe.gradient_accumulation_steps > 1 else 0

    reached = adapted(shape, recipe)
    layers = [
        Layer(
            shape, recipe, work, frozenset(_last(a.name) for a in reached if layer_of(a.name) == n)
        )
        for n in numbers
    ]
    wide = work.tokens * shape.hidden_size
    flows = recipe.gradient_checkpointing or any(
        one.kind == "embedding" and one.name in names for one in shape.matrices
    )
    kept, again = [], []  # by layer: kept all the time; made again on the way back
    for number, layer in zip(numbers, layers, strict=True):
        whole = layer.kept(flows)
        flows = flows or gradients[number] > 0
        if recipe.gradient_checkpointing:
            kept.append(work.size * wide)  # the layer's input
            again.append(whole - (F32 * wide if work.size == F32 else 0))  # of which it is a part
        else:
            kept.append(whole)
            again.append(0)
    held = 3 * ID * work.tokens  # ids, mask and labels of the batch
    held += 2 * work.size * work.length * shape.head_dim  # cosines and sines
    if recipe.gradient_checkpointing:
        held += work.padded * work.batch * work.length**2  # the mask
        held += 2 * work.size * wide  # the embeddings are made to want a gradient, and keep it
    # Up through a frozen layer: the input, its norm, and the MLP's three.
    inner = work.tokens * shape.intermediate_size
    yield Moment(earlier, held + work.size * (2 * wide + 3 * inner))
    held += sum(kept)

    # The loss: its softmax and two gradients; or one gradient, then set among zeros, twice.
    rows, vocab = work.batch * work.places, shape.vocab_size
    head = sum(
        one.size * one.numbers
        for one in trained
        if one.module in {a.name for a in shape.matrices if a.kind == "output"}
    )
    if recipe.method == "full":
        head = F32 * vocab * shape.hidden_size
    top = held + layers[-1].norm(flows) + (work.size * rows * shape.hidden_size if head else 0)
    loss = vocab * max(3 * F32 * work.labels, work.size * (work.labels + 2 * rows))
    yield Moment(earlier, top, loss)
    yield Moment(earlier + head, top, work.size * rows * vocab)
    # The last norm: its gradient passes through five tensors of the input's size at once.
    yield Moment(earlier + head, top + 5 * F32 * wide)
    if recipe.use_dora:
        yield Moment(earlier, top + _dora(reached, work))
    # Down through the layers: activations go, and gradients come.
    so_far = head
    for number in reversed(numbers):
        back = again[number] + layers[number].passing()
        down = F32 * shape.hidden_size * shape.intermediate_size if layers[number].full else 0
        yield Moment(earlier or so_far + down, held + back)
        so_far += gradients[number]
        held -= kept[number]
    # The end: a gradient of tied embeddings is in two halves, and their sum; AdamW's quotient.
    halves = 2 * head if recipe.method == "full" and shape.tied else 0
    yield Moment(every + halves, held)
    if recipe.optimizer == "adamw":
        yield Moment(every, held, other=2 * max(one.size * one.numbers for one in trained))


def _dora(reached: tuple[Matrix, ...], work: Pass) -> int:
    """What DoRA makes to know its norm: an identity through A and B, and the sum with the weight.

    The largest of: the identity (in, in), BA three times (in, out) - itself, scaled, added to the
    weight - and a float32 copy of the weight.
    """
    return max(
        F32
        * one.in_features
        * (one.in_features + (3 if work.size == F32 else 4) * one.out_features)
        for one in reached
    )

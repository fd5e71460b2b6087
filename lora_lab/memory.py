"""Memory of a training step, part by part: a count of what torch keeps, operation by operation.

Nothing is fitted and nothing is run. Each number below is a tensor that `lora_lab.training` holds,
or that an operation of a Llama's layer keeps for its backward pass. All sizes are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.budget import Batch, Shape, rank
from lora_lab.recipe import Recipe
from lora_lab.records import Memory
from lora_lab.targets import Matrix, adapted, last_name, layer_of, saved_modules

ERROR = 0.1  # of the total, either way: measured on a CPU, for models built like a Llama

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
F32 = 4  # adapters, norms and losses are float32, whatever the base's dtype is
ID = 8  # token ids and labels are int64

INTO_ATTENTION = ("q_proj", "k_proj", "v_proj")  # these three read the same input
INTO_MLP = ("gate_proj", "up_proj")  # and these two
NORMS = ("input_layernorm", "post_attention_layernorm")
LLAMA = {*INTO_ATTENTION, "o_proj", *INTO_MLP, "down_proj", *NORMS}  # all that a layer holds


# --- what is held all the time --------------------------------------------------------------


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
        elif any(f"{name}.".startswith(f"{one}.") for one in whole):
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


# --- what a layer keeps of its forward pass -------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `flows`: whether a gradient is wanted of what comes in, at that point."""

    matrices: dict[str, Matrix]  # by last name
    targets: frozenset[str]  # last names of those that get an adapter
    shape: Shape
    recipe: Recipe
    batch: Batch
    dtype: str  # of the base; where it is quantised, of its products

    @property
    def full(self) -> bool:
        """Whether every matrix and norm is trained."""
        return self.recipe.method == "full"

    def stages(self, flows: bool) -> Iterator[tuple[tuple[str, ...], int]]:
        """The layer from its input to its output: matrices, and what is kept up to their input."""
        yield INTO_ATTENTION, self.norm(flows) + self._inputs(INTO_ATTENTION, flows)
        flows = flows or self._trains(*INTO_ATTENTION)
        yield ("o_proj",), self._attention(flows) + self._inputs(("o_proj",), flows, there=flows)
        flows = flows or self._trains("o_proj")
        yield INTO_MLP, self.norm(flows) + self._inputs(INTO_MLP, flows)
        gate, up = flows or self._trains("gate_proj"), flows or self._trains("up_proj")
        product = self.size * self.inner * (2 * gate + up)  # SiLU's input, and two factors
        yield ("down_proj",), product + self._inputs(("down_proj",), gate or up)

    def kept(self, flows: bool) -> int:
        """All that the layer keeps for its backward pass."""
        return sum(kept + self._magnitudes(names) for names, kept in self.stages(flows))

    @property
    def size(self) -> int:
        """Bytes of one value that passes through."""
        return BYTES[passing_dtype(self.recipe, self.dtype)]

    @property
    def tokens(self) -> int:
        """Of the batch, padding included."""
        return self.batch.examples * self.batch.length

    @property
    def wide(self) -> int:
        """How many numbers pass between layers: (batch, length, hidden_size)."""
        return self.tokens * self.shape.hidden_size

    @property
    def inner(self) -> int:
        """How many numbers the MLP works on: (batch, length, the width of the MLP)."""
        return self.tokens * self.matrices["down_proj"].in_features

    def norm(self, flows: bool) -> int:
        """The input in float32, and a number a token to divide by; trained, the quotient too."""
        return flows * F32 * (self.wide * (1 + self.full) + self.tokens)

    def _attention(self, flows: bool) -> int:
        """Queries, keys, values, the mask, the output, and the log of each softmax's sum.

        Under a mask, keys and values are repeated for each head, save a single pair.
        """
        shape, batch = self.shape, self.batch
        pairs = shape.num_key_value_heads
        if batch.padded and pairs > 1:
            pairs = shape.num_heads
        values = 2 * self.tokens * (shape.num_heads + pairs) * shape.head_dim
        mask = batch.padded * batch.examples * batch.length**2
        return flows * (self.size * (values + mask) + F32 * self.tokens * shape.num_heads)

    def _inputs(self, names: tuple[str, ...], flows: bool, there: bool = False) -> int:
        """What the matrices `names`, which share an input, keep of it.

        A frozen matrix keeps nothing. A trained one keeps its input, and so does lora_A, in
        float32: on a 16-bit base each adapter makes a copy of its own. With dropout each has its
        own on any base, and keeps the factors of dropout where a gradient has to pass.
        bitsandbytes' int8 product keeps its input, on a CPU.

        Args:
            names: last names of matrices.
            flows: as above.
            there: whether the operation before keeps this input already.
        """
        numbers = self.tokens * self.matrices[names[0]].in_features
        if self.full:
            return 0 if there else F32 * numbers
        adapted_ones = self.targets.intersection(names)
        count = len(adapted_ones)
        as_it_is = self.size == F32 and not self.recipe.lora_dropout
        if as_it_is:
            copies = min(count, 0 if there else 1)
        else:
            copies = count * (2 if self.recipe.lora_dropout and flows else 1)
        kept = F32 * (copies * numbers + count * self.tokens * rank(self.recipe))  # B's input
        if self.recipe.method == "adalora" and flows:
            kept += F32 * count * rank(self.recipe) * self.matrices[names[0]].in_features  # A λ
        if self.recipe.quantize == "int8" and flows and not there and not (as_it_is and count):
            kept += self.size * numbers
        return kept

    def _magnitudes(self, names: tuple[str, ...]) -> int:
        """DoRA's two products: the magnitudes by the base's output, and by the adapter's.

        With dropout the base's output is made anew from lora_A's float32 input.
        """
        reached = [self.matrices[name] for name in self.targets.intersection(names)]
        base = F32 if self.recipe.lora_dropout else self.size
        kept = (base + F32) * self.tokens * sum(one.out_features for one in reached)
        if base > self.size:
            kept += F32 * sum(one.weights for one in reached)
        return kept * self.recipe.use_dora

    def _trains(self, *names: str) -> bool:
        return self.full or not self.targets.isdisjoint(names)

    def passing(self) -> int:
        """What the way back holds at its most besides what is kept: that is around down_proj.

        The gradient of the layer's output, and three tensors of the MLP's width: down_proj's
        gradients, from the base and (float32) from the adapter, and their sum; or those of the
        product and its two factors; or, on a 16-bit base, up_proj's adapter's in float32, as it
        is and scaled. The input that down_proj kept is gone by then. Of a quantised down_proj
        there is a whole one for a moment.
        """
        whole = 0
        if self.recipe.quantize:
            exact = F32 if self.recipe.quantize == "int8" else BYTES[self.dtype]
            whole = exact * self.matrices["down_proj"].weights
        most = 2 * self.size * self.inner + max(self.size * self.inner, whole)
        if self._trains("up_proj"):
            most = max(most, 2 * F32 * self.inner)
        most -= self._inputs(("down_proj",), flows=True)
        if self._trains("down_proj"):
            most = max(most, F32 * self.inner)
        return self.size * self.wide + most

    def kept_by_int8(self) -> int:
        """The inputs of all matrices: checkpointing can't set them free.

        bitsandbytes' int8 product keeps its input, on a CPU, behind autograd's back.
        """
        if self.recipe.quantize != "int8":
            return 0
        inputs = (INTO_ATTENTION[0], "o_proj", INTO_MLP[0], "down_proj")
        return self.size * self.tokens * sum(self.matrices[name].in_features for name in inputs)

    def making_norms(self, flows: bool) -> int:
        """The most that is there while DoRA makes the norms of W + BA, with what is kept by then.

        An identity (in, in) goes through A and B; BA, as it is, scaled, and added to W, each
        (in, out); and W in float32.
        """
        copies = 3 if self.size == F32 else 4
        most = kept = 0
        for names, more in self.stages(flows):
            kept += more + self._magnitudes(names)
            for name in self.targets.intersection(names):
                one = self.matrices[name]
                made = one.in_features * (one.in_features + self.recipe.r) + copies * one.weights
                most = max(most, kept - self._magnitudes((name,)) + F32 * made)
        return most * self.recipe.use_dora


# --- a step, moment by moment ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """What comes and goes in a step, at one of its moments."""

    gradients: int
    activations: int
    logits: int = 0
    update: int = 0  # made by the optimizer, and gone at once

    @property
    def total(self) -> int:
        """All of it."""
        return self.gradients + self.activations + self.logits + self.update


def memory(shape: Shape, recipe: Recipe, batch: Batch, dtype: str = "float32") -> Memory:
    """What a training step of `lora_lab.training` holds, part by part, and at its peak.

    The total is right within `ERROR` for models built like a Llama, as measured on a CPU.

    Args:
        shape: the base's.
        recipe: how it is trained. One that quantises is taken to train on a base loaded so.
        batch: of one pass.
        dtype: of the base; where it is quantised, of the products.

    Raises:
        ValueError: for a model that is not built like a Llama, and what `adapted` refuses.
    """
    _check_llama(shape)
    trained = trained_tensors(shape, recipe, dtype)
    full, once = recipe.method == "full", sum(one.bytes for one in trained)
    copies = 6 if recipe.method == "adalora" else 3  # AdaLoRA's allocator keeps three averages
    always = {  # the loop keeps the last good values too, and an adapter's start
        "weights": weights_held(shape, recipe, dtype) + (2 * once if full else 0),
        "adapters": 0 if full else copies * once,
        "optimizer": optimizer_state(trained, recipe),
    }
    moments = list(_moments(_layers(shape, recipe, batch, dtype), trained))
    comes_and_goes = {
        part: max(getattr(moment, part) for moment in moments)
        for part in ("gradients", "activations", "logits")
    }
    peak = sum(always.values()) + max(moment.total for moment in moments)
    return Memory(**always, **comes_and_goes, total=peak)


def _check_llama(shape: Shape) -> None:
    """Refuse a model whose layers hold something else: it keeps something else, too."""
    inside = [one.name for one in shape.matrices] + [name for name, _ in shape.others]
    names = {last_name(name) for name in inside if layer_of(name) is not None}
    if names != LLAMA:
        raise ValueError(
            f"the layers of {shape.name} hold {', '.join(sorted(names))}; memory is told for "
            f"models built like a Llama, whose layers hold {', '.join(sorted(LLAMA))}"
        )


def _layers(shape: Shape, recipe: Recipe, batch: Batch, dtype: str) -> list[Layer]:
    reached = {one.name for one in adapted(shape, recipe)}
    matrices: list[dict[str, Matrix]] = [{} for _ in range(shape.num_layers)]
    for one in shape.matrices:
        if layer_of(one.name) is not None:
            matrices[layer_of(one.name)][last_name(one.name)] = one
    return [
        Layer(own, frozenset(n for n in own if own[n].name in reached), shape, recipe, batch, dtype)
        for own in matrices
    ]


def _moments(layers: list[Layer], trained: list[Trained]) -> Iterator[Moment]:
    """The moments at which a step may be at its peak, in their order."""
    shape, recipe, batch = layers[0].shape, layers[0].recipe, layers[0].batch
    size, wide, inner = layers[0].size, layers[0].wide, layers[0].inner
    full, again = recipe.method == "full", recipe.gradient_checkpointing
    gradients = dict.fromkeys([None, *range(shape.num_layers)], 0)  # by layer; None: in none
    for one in trained:
        gradients[layer_of(one.module)] += one.bytes
    every = sum(gradients.values())
    earlier = every if recipe.gradient_accumulation_steps > 1 else 0  # from the pass before
    outer = {one.kind: one.name for one in shape.matrices if one.kind != "linear"}
    of_output = sum(one.bytes for one in trained if one.module == outer["output"])
    if full and shape.tied:
        of_output = F32 * shape.vocab_size * shape.hidden_size

    # The batch (ids, mask, labels) and the cosines and sines of its positions.
    held = 3 * ID * layers[0].tokens + 2 * size * batch.length * shape.head_dim
    if again:  # the mask; the embeddings, which are made to want a gradient, with it
        held += batch.padded * batch.examples * batch.length**2 + 2 * size * wide
    # Up through a frozen layer: its input, the norm of it, and three tensors of the MLP.
    through = size * (2 * wide + 3 * inner)
    yield Moment(earlier, held + through)

    flows = again or any(one.module == outer["embedding"] for one in trained)
    kept, remade = [], []  # by layer: always; at most, when the way back makes it again
    for number, layer in enumerate(layers):
        whole, dora = layer.kept(flows), layer.making_norms(flows)
        flows = flows or gradients[number] > 0
        if again:  # only its input is kept; a float32 one is the first norm's too
            kept.append(size * wide + layer.kept_by_int8())
            twice = F32 * wide if size == F32 else 0
            remade.append(max(whole + layer.passing(), dora) - twice)
        else:
            yield Moment(earlier, held + sum(kept) + dora)
            kept.append(whole)
            remade.append(layer.passing())
    held += sum(kept)
    # The loss on the way up: logits, and those with a label; with the batch before, in part.
    rows, vocab = batch.examples * batch.places, shape.vocab_size
    into_output = size * rows * shape.hidden_size if of_output else 0
    top = held + layers[-1].norm(flows)
    before = 0
    if earlier:  # what no one sets free until its loss is forgotten
        before += 2 * size * wide if again else 0
        before += sum(one.kept_by_int8() for one in layers)
    yield Moment(earlier, held + before + (through if again else 0))
    yield Moment(earlier, top + before + into_output, size * vocab * (rows + batch.labels))
    # The loss on the way back: its softmax and two gradients; or one, twice set among zeros.
    loss = vocab * max(3 * F32 * batch.labels, size * (batch.labels + 2 * rows))
    yield Moment(earlier, top + into_output, loss)
    yield Moment(earlier + of_output, top + into_output, size * rows * vocab)
    # The last norm: on the way back, five tensors of its input's size; a quotient goes first.
    yield Moment(earlier + of_output, top + (4 if full else 5) * F32 * wide)
    # Down through the layers: activations go, and gradients come, the newest beside the others.
    newest = max((one.bytes for one in trained if layer_of(one.module) is not None), default=0)
    above = of_output
    for number in reversed(range(shape.num_layers)):
        yield Moment((earlier or above) + newest, held + remade[number])
        above += gradients[number]
        held -= kept[number]
    # The end: tied embeddings have two gradients and their sum; AdamW makes a quotient in steps.
    halves = (2 + (earlier > 0)) * of_output if full and shape.tied else 0
    yield Moment(every + halves, held)
    if recipe.method == "adalora":  # the orthogonality term's gradients, before they are added
        yield Moment(2 * every, held)
    largest = max(one.bytes for one in trained) if recipe.optimizer == "adamw" else 0
    yield Moment(every, held, update=2 * largest)

"""What a Llama's layer keeps of its forward pass, counted operation by operation.

Each number is a tensor that an operation keeps for its backward pass. All sizes are bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.cost.budget import Batch, rank
from lora_lab.cost.static_memory import BLOCK, BYTES, F32, passing_dtype
from lora_lab.models.architecture import Matrix, Shape, adapted, last_name, layer_of
from lora_lab.recipe import Recipe

ID = 8  # token ids and labels are int64
INTO_ATTENTION = ("q_proj", "k_proj", "v_proj")  # these three read the same input
INTO_MLP = ("gate_proj", "up_proj")  # and these two
NORMS = ("input_layernorm", "post_attention_layernorm")
LLAMA = {*INTO_ATTENTION, "o_proj", *INTO_MLP, "down_proj", *NORMS}  # all that a layer holds


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. `flows`: whether a gradient is wanted of what comes in, at that point."""

    matrices: dict[str, Matrix]  # by last name
    targets: frozenset[str]  # last names of those that get an adapter
    shape: Shape
    recipe: Recipe
    batch: Batch
    dtype: str  # of the base; where it is quantised, of its products
    usual: bool = False  # full fine-tuning in the usual mixed precision, and not in float32

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
        return BYTES[passing_dtype(self.recipe, self.dtype, self.usual)]

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

    def held_by_batch(self) -> int:
        """The batch (ids, mask, labels) and the cosines and sines of its positions."""
        return 3 * ID * self.tokens + 2 * self.size * self.batch.length * self.shape.head_dim

    def through(self) -> int:
        """On the way up where nothing is kept: the input, its norm, three tensors of the MLP.

        Of a quantised matrix there is a whole one for a moment.
        """
        product = max(self.size * self.inner, self.restored())
        return self.size * 2 * (self.wide + self.inner) + product

    def scoring(self) -> int:
        """What the layer holds at its most where nothing is kept for a way back: in its MLP.

        Beside the outputs of gate_proj and up_proj there are an adapter's, as it is and scaled; on
        a 16-bit base they are float32, and so are the sum and a copy of the input. bitsandbytes'
        int8 product has its integers besides.
        """
        if self.full or not self.targets.intersection(INTO_MLP):
            return self.through()
        copies = self.size < F32
        integers = self.recipe.quantize == "int8"
        inner = self.inner * (2 * self.size + (2 + copies + integers) * F32)
        most = inner + self.wide * (4 * self.size + copies * F32)
        return max(self.through(), most, self.making_norms(flows=False))

    def norm(self, flows: bool) -> int:
        """The input in float32, and a number a token to divide by; trained, the quotient too."""
        quotient = self.full * self.size * self.wide
        return flows * (F32 * (self.wide + self.tokens) + quotient)

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
            return 0 if there else self.size * numbers
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
        most = 2 * self.size * self.inner + max(self.size * self.inner, self.restored())
        exact = self.size if self.full else F32
        if self._trains("up_proj"):
            most = max(most, 2 * exact * self.inner)
        most -= self._inputs(("down_proj",), flows=True)
        if self._trains("down_proj"):
            most = max(most, exact * self.inner)
        return self.size * self.wide + most

    def restored(self) -> int:
        """The largest matrix of a quantised layer, whole again for one product.

        bitsandbytes 0.50 restores a 4-bit matrix to the dtype that it had before, and casts that to
        the products' where they differ; with it the blocks' constants, if these are quantised too.
        It does so on each way back; on the way up on a CPU, and on CUDA for more than 1,536 tokens:
        fewer go through a kernel that restores nothing. 8 bits become float32 on the way back.
        """
        numbers = self.matrices["down_proj"].weights  # no matrix of a Llama's layer has more
        if self.recipe.quantize is None:
            return 0
        if self.recipe.quantize == "int8":
            return F32 * numbers
        products = self.recipe.compute_dtype
        cast = BYTES[products] if products not in ("auto", self.dtype) else 0
        constants = F32 * math.ceil(numbers / BLOCK) if self.recipe.double_quant else 0
        return (BYTES[self.dtype] + cast) * numbers + constants

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


def layers_of(
    shape: Shape, recipe: Recipe, batch: Batch, dtype: str, usual: bool = False
) -> list[Layer]:
    """The model's decoder layers, from the first to the last.

    Args:
        shape: the base's.
        recipe: how it is trained.
        batch: of one pass.
        dtype: of the base; where it is quantised, of the products.
        usual: whether full fine-tuning passes on what has the base's dtype.

    Raises:
        ValueError: for a model that is not built like a Llama, and what `adapted` refuses.
    """
    _check_llama(shape)
    reached = {one.name for one in adapted(shape, recipe)}
    matrices: list[dict[str, Matrix]] = [{} for _ in range(shape.num_layers)]
    for one in shape.matrices:
        if layer_of(one.name) is not None:
            matrices[layer_of(one.name)][last_name(one.name)] = one
    return [
        Layer(own, _targets(own, reached), shape, recipe, batch, dtype, usual) for own in matrices
    ]


def _targets(matrices: dict[str, Matrix], reached: set[str]) -> frozenset[str]:
    return frozenset(name for name, matrix in matrices.items() if matrix.name in reached)


def _check_llama(shape: Shape) -> None:
    """Refuse a model whose layers hold something else: it keeps something else, too."""
    inside = [one.name for one in shape.matrices] + [name for name, _ in shape.others]
    names = {last_name(name) for name in inside if layer_of(name) is not None}
    if names != LLAMA:
        raise ValueError(
            f"the layers of {shape.name} hold {', '.join(sorted(names))}; memory is told for "
            f"models built like a Llama, whose layers hold {', '.join(sorted(LLAMA))}"
        )

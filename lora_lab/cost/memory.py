"""Memory of a training step, part by part: a count of what torch keeps, moment by moment.

Nothing is fitted and nothing is run. All sizes are bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.cost.activations import Layer, layers_of
from lora_lab.cost.budget import Batch
from lora_lab.cost.static_memory import F32, Trained, optimizer_state, trained_tensors, weights_held
from lora_lab.models.architecture import Shape, layer_of
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

ERROR = 0.1  # of the total, either way: measured on a CPU, for models built like a Llama

ID = 8  # token ids and labels are int64


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
    """What a training step of `lora_lab.training.loop` holds, part by part, and at its peak.

    The total is right within `ERROR` for models built like a Llama, as measured on a CPU.

    Args:
        shape: the base's.
        recipe: how it is trained. One that quantises is taken to train on a base loaded so.
        batch: of one pass.
        dtype: of the base; where it is quantised, of the products.

    Raises:
        ValueError: for a model that is not built like a Llama, and what `adapted` refuses.
    """
    layers = layers_of(shape, recipe, batch, dtype)
    trained = trained_tensors(shape, recipe, dtype)
    full, once = recipe.method == "full", sum(one.bytes for one in trained)
    copies = 6 if recipe.method == "adalora" else 3  # AdaLoRA's allocator keeps three averages
    always = {  # the loop keeps the last good values too, and an adapter's start
        "weights": weights_held(shape, recipe, dtype) + (2 * once if full else 0),
        "adapters": 0 if full else copies * once,
        "optimizer": optimizer_state(trained, recipe),
    }
    moments = list(_moments(layers, trained))
    comes_and_goes = {
        part: max(getattr(moment, part) for moment in moments)
        for part in ("gradients", "activations", "logits")
    }
    peak = sum(always.values()) + max(moment.total for moment in moments)
    return Memory(**always, **comes_and_goes, total=peak)


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

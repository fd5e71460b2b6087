"""Memory of a training step, part by part: a count of what torch keeps, moment by moment.

Nothing is fitted and nothing is run. All sizes are bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_lab.cost.activations import Layer, layers_of
from lora_lab.cost.budget import Batch
from lora_lab.cost.static_memory import F32, Trained, held_here, held_usually, trained_tensors
from lora_lab.models.architecture import Shape, layer_of
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

ERROR = 0.1  # of the total, either way: measured on a CPU, for models built like a Llama


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


def memory(
    shape: Shape,
    recipe: Recipe,
    batch: Batch,
    dtype: str = "float32",
    device: str = "cpu",
    validation: Batch | None = None,
) -> Memory:
    """What a run of `lora_lab.training.loop` holds, part by part, and at its peak.

    The total is right within `ERROR` for models built like a Llama, as measured on a CPU.

    Args:
        shape: the base's.
        recipe: how it is trained. One that quantises is taken to train on a base loaded so.
        batch: of one pass.
        dtype: of the base; where it is quantised, of the products.
        device: "cuda" for a GPU with memory of its own, else "cpu".
        validation: the largest batch of the validations between the steps; None: there are none.

    Raises:
        ValueError: for a model that is not built like a Llama, and what `adapted` refuses.
    """
    moments = list(
        _moments(layers_of(shape, recipe, batch, dtype), trained_tensors(shape, recipe, dtype))
    )
    if validation:
        moments += _validating(layers_of(shape, recipe, validation, dtype))
    return _at_the_peak(held_here(shape, recipe, dtype, device), moments)


def usual_memory(shape: Shape, recipe: Recipe, batch: Batch, dtype: str = "float32") -> Memory:
    """What a training step holds in the usual loop, which keeps no copy to fall back on.

    Full fine-tuning trains the base itself: in float32, or on a 16-bit base in mixed precision
    (`held_usually` has the bytes). This is what papers and rules of thumb count.
    """
    layers = layers_of(shape, recipe, batch, dtype, usual=True)
    trained = trained_tensors(shape, recipe, dtype, usual=True)
    return _at_the_peak(held_usually(shape, recipe, dtype), list(_moments(layers, trained)))


def _at_the_peak(always: dict[str, int], moments: list[Moment]) -> Memory:
    comes_and_goes = {
        part: max(getattr(moment, part) for moment in moments)
        for part in ("gradients", "activations", "logits")
    }
    peak = sum(always.values()) + max(moment.total for moment in moments)
    return Memory(**always, **comes_and_goes, total=peak)


def _moments(layers: list[Layer], trained: list[Trained]) -> Iterator[Moment]:
    """The moments at which a step may be at its peak, in their order."""
    shape, recipe, batch = layers[0].shape, layers[0].recipe, layers[0].batch
    size, wide = layers[0].size, layers[0].wide
    full, again = recipe.method == "full", recipe.gradient_checkpointing
    gradients = dict.fromkeys([None, *range(shape.num_layers)], 0)  # by layer; None: in none
    for one in trained:
        gradients[layer_of(one.module)] += one.bytes
    every = sum(gradients.values())
    earlier = every if recipe.gradient_accumulation_steps > 1 else 0  # from the pass before
    outer = {one.kind: one.name for one in shape.matrices if one.kind != "linear"}
    of_output = sum(one.bytes for one in trained if one.module == outer["output"])
    if full and shape.tied:
        of_output = trained[0].size * shape.vocab_size * shape.hidden_size

    held = layers[0].held_by_batch()
    if again:  # the mask; the embeddings, which are made to want a gradient, with it
        held += batch.padded * batch.examples * batch.length**2 + 2 * size * wide
    through = layers[0].through()
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
    # The loss on the way back: its softmax and two gradients; or one, set among zeros.
    loss = vocab * max(3 * F32 * batch.labels, size * (batch.labels + rows))
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
    largest = max(one.numbers for one in trained) if recipe.optimizer == "adamw" else 0
    yield Moment(every, held, update=2 * F32 * largest)


def _validating(layers: list[Layer]) -> Iterator[Moment]:
    """Between two steps: no gradient is there, and no layer keeps anything."""
    layer = layers[-1]
    held = layer.held_by_batch()
    yield Moment(0, held + max(one.scoring() for one in layers))
    rows, labels = layer.batch.examples * layer.batch.places, layer.batch.labels
    logits = layer.shape.vocab_size * max(layer.size * (rows + labels), 2 * F32 * labels)
    yield Moment(0, held + layer.size * layer.wide, logits)

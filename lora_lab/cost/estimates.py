"""The cost of a fine-tune before it runs: `estimate`, and the models that it knows by name."""

import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, replace
from itertools import islice
from operator import ge
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lora_lab.cost.budget import Batch, flops, total_parameters, trainable_parameters
from lora_lab.cost.known_models import Known, find_named
from lora_lab.cost.memory import memory, stack_memory, usual_memory
from lora_lab.cost.stacks import TRAINER
from lora_lab.machine.devices import WIDE, choose_dtype, matmul_speed, named
from lora_lab.models.architecture import Shape
from lora_lab.models.read_architecture import cached_shape, shape_of
from lora_lab.recipe import Recipe, check_is_recipe
from lora_lab.records import Budget, Memory
from lora_lab.tasks.examples import (
    Encoded,
    Example,
    Task,
    batches_to_score,
    check_passes,
    encode_all,
    encode_fitting,
    order_of_examples,
    places_of,
    scored_at_once,
)

if TYPE_CHECKING:  # transformers takes a second to import, and a model's name does not need it
    from lora_lab.models.bases import Base

FIRST = 50  # batches that are drawn to find the largest
DRAWN = 20_000  # batches in a mean, at most: more batches do not move the mean


def estimate(model: object, recipe: Recipe, task: Task | None = None) -> Budget:
    """The cost of a recipe on a model: parameters, memory and FLOPs of a step. Nothing is run.

    Args:
        model: a Base; a name such as "llama-7b" (of `known_shapes()`, or "pocket"); a config of
            transformers; or a folder with a config.json. No weights are loaded. Without a Base the
            estimate assumes bfloat16 on a GPU for a wide model, and float32 on a CPU for a narrow
            model.
        recipe: the choices of the training. With `eval_steps`, the memory of its validations
            counts, since the optimizer's state is held meanwhile. A test after the training does
            not count.
        task: the batches have the lengths of its examples, in the order in which training draws
            them. FLOPs are a mean over the steps, memory is the largest batch's. A task needs a
            Base, for its tokenizer. A planted task's teacher is left out. None: each example is
            `max_length` long, and every token earns a loss.

    Returns:
        The budget. `memory` is for this lab's loop: full fine-tuning on a 16-bit base takes 18
        bytes a parameter on a GPU, and 22 on a CPU. `usual_memory` is for a loop that keeps no
        copies: 16 bytes a parameter (`usual_static_memory` has the convention). `trainer_memory`
        is for transformers' Trainer with PEFT on a GPU, which computes logits at every position:
        `lora_lab.cost.gpus.which_gpu` judges cards by it.

    Warns:
        UserWarning: for a kind of model whose FLOPs or memory are not known; they are then None.

    Raises:
        ValueError: for an unknown name, or a recipe that does not fit the model.
        TypeError: if `model` is nothing that names or holds a model.
        FileNotFoundError: for a folder that holds no model.
    """
    return _estimate(model, recipe, task, trainer=True)


def _estimate(model: object, recipe: Recipe, task: Task | None, trainer: bool) -> Budget:
    """`estimate`; without `trainer`, the memory of transformers' Trainer is left out."""
    check_is_recipe(recipe)
    shape, is_base = find_shape(model), _is_base(model)
    if is_base:
        recipe = _at_bases_precision(model, recipe)
    if task is None:
        batches = Counter([_longest_batch(recipe.batch_size, recipe)])
    elif is_base:
        batches = Counter(batches_of(task, model.tokenizer, recipe))
    else:
        raise ValueError(
            f"the lengths of the task {task.name!r} are counted by a base's tokenizer, and "
            f"{shape.name!r} has none here; give lab.load_base(...), or leave the task out"
        )
    trainable = trainable_parameters(shape, recipe)  # first: it refuses what does not fit
    dtype, device = dtype_and_device(model, shape)
    scored = _validation_batch(model, shape, recipe, task)
    largest = largest_batches(batches)
    most = _or_none(_largest_memory, shape, recipe, largest, dtype, device, scored)
    others = None
    if trainer and most is not None:
        others = _or_none(_trainer_memory, shape, recipe, largest, dtype)
    return Budget(
        trainable_parameters=trainable,
        total_parameters=total_parameters(shape, recipe),
        flops_per_step=_or_none(_mean_flops, shape, recipe, batches),
        memory=most,
        usual_memory=most and _most(usual_memory(shape, recipe, batch, dtype) for batch in largest),
        trainer_memory=others,
    )


def budget_of(base: "Base", task: Task, recipe: Recipe) -> Budget | None:
    """`estimate` for this lab's own loop, without a warning; None: the model is not known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return _estimate(base, recipe, task, trainer=False)
        except ValueError:
            return None


def more_memory(base: "Base", task: Task, recipe: Recipe) -> int | None:
    """The bytes that a run will take beside the loaded base; None: not known.

    They are counted for the largest of the first `FIRST` batches, since drawing all batches of a
    long run takes a while. The test at the end counts too: in a notebook the training is still in
    memory then.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # training warns of it too
        try:
            first = list(islice(batches_of(task, base.tokenizer, recipe), FIRST))
            validated = _validation_batch(base, find_shape(base), recipe, task)
        except ValueError:
            return None
    scored = (validated, _test_batch(task, base))
    most = [memory_beside_base(base, recipe, first, batch) for batch in scored]
    return None if None in most else max(most)


def memory_beside_base(
    base: "Base", recipe: Recipe, batches: Iterable[Batch], scored: Batch | None = None
) -> int | None:
    """The bytes that a step with the largest batch takes beside the base; None: not known.

    With `scored`, a batch that is scored between two steps counts as well.
    """
    try:
        shape, recipe = find_shape(base), _at_bases_precision(base, recipe)
        dtype, device = dtype_and_device(base, shape)
        most = _largest_memory(shape, recipe, largest_batches(batches), dtype, device, scored).total
    except ValueError:
        return None
    return most - sum(tensor.numel() * tensor.element_size() for tensor in base.model.parameters())


def _at_bases_precision(base: "Base", recipe: Recipe) -> Recipe:
    """The recipe with the base's precision, if the base was loaded quantised."""
    from lora_lab.models.adapters import quantization_for  # PEFT takes seconds to import

    how = quantization_for(base, recipe)
    if how is None:
        return recipe
    return replace(recipe, quantize=how.quantize, double_quant=how.double_quant)


def dtype_and_device(model: object, shape: Shape) -> tuple[str, str]:
    """The dtype of a model's weights, and the kind of device: "cuda", or else "cpu"."""
    if _is_base(model):
        return named(model.dtype), "cuda" if model.device.type == "cuda" else "cpu"
    return ("bfloat16", "cuda") if shape.hidden_size >= WIDE else ("float32", "cpu")


def _longest_batch(examples: int, recipe: Recipe) -> Batch:
    """A batch of examples of `max_length` tokens, all with a label but the first."""
    places = recipe.max_length - 1  # the first token is not predicted
    return Batch(examples, recipe.max_length, places, examples * places)


def _or_none(compute: Callable[..., Any], *of: object) -> Any:
    """The value of `compute(*of)`; None, with a warning, for a model that it does not know."""
    try:
        return compute(*of)
    except ValueError as error:  # the recipe fits: its parameters were counted
        warnings.warn(str(error), stacklevel=4)
        return None


def _mean_flops(shape: Shape, recipe: Recipe, batches: Counter[Batch]) -> float:
    """The FLOPs of a step: all its batches together, as a mean over the steps."""
    whole = sum(flops(shape, recipe, [batch]) * count for batch, count in batches.items())
    return recipe.gradient_accumulation_steps * whole / batches.total()


def _largest_memory(
    shape: Shape,
    recipe: Recipe,
    batches: Iterable[Batch],
    dtype: str,
    device: str,
    scored: Batch | None,
) -> Memory:
    return _most(memory(shape, recipe, batch, dtype, device, scored) for batch in batches)


def _trainer_memory(shape: Shape, recipe: Recipe, batches: Iterable[Batch], dtype: str) -> Memory:
    stack = replace(TRAINER, autocast=dtype != "float32")
    return _most(stack_memory(shape, recipe, batch, dtype, stack) for batch in batches)


def largest_batches(batches: Iterable[Batch]) -> list[Batch]:
    """The batches that no other exceeds in every size: one of them takes the most memory."""
    largest: list[Batch] = []
    for batch in sorted(set(batches), key=astuple, reverse=True):  # so none exceeds one before it
        if not any(all(map(ge, astuple(other), astuple(batch))) for other in largest):
            largest.append(batch)
    return largest


def _most(memories: Iterable[Memory]) -> Memory:
    """The memory of the batch that takes the most."""
    return max(memories, key=lambda memory: memory.total)


def batches_of(task: Task, tokenizer: object, recipe: Recipe) -> Iterator[Batch]:
    """The sizes of the batches that training on the task will draw, in order."""
    encoded = encode_all(task.train, tokenizer, recipe.max_length, recipe.loss_on)
    return sizes_drawn(encoded, recipe)


def sizes_drawn(encoded: Sequence[Encoded], recipe: Recipe) -> Iterator[Batch]:
    """The sizes of a run's batches in order, of the first `DRAWN` at most.

    Raises:
        ValueError: for a step that repeats the examples many times.
    """
    lengths = [len(example.input_ids) for example in encoded]
    # logits at position t are computed where token t + 1 has a label
    places = [places_of(example) for example in encoded]
    order = order_of_examples(len(encoded), recipe.seed)
    check_passes(len(encoded), recipe)
    for _ in range(min(recipe.steps * recipe.gradient_accumulation_steps, DRAWN)):
        chosen = list(islice(order, recipe.batch_size))
        sizes = {lengths[number] for number in chosen}
        yield Batch(
            examples=len(chosen),
            length=max(sizes),
            places=len({place for number in chosen for place in places[number]}),
            labels=sum(len(places[number]) for number in chosen),
            padded=len(sizes) > 1,
        )


def _validation_batch(
    model: object, shape: Shape, recipe: Recipe, task: Task | None
) -> Batch | None:
    """The largest batch of the validations between the steps; None: no validations."""
    if recipe.eval_steps is None:
        return None
    if task is None:
        return _longest_batch(scored_at_once(recipe.max_length - 1, shape.vocab_size), recipe)
    return largest_scored_batch(task.validation, model, recipe.max_length, recipe.loss_on)


def _test_batch(task: Task, base: "Base") -> Batch | None:
    """The largest batch of a test at the end."""
    return largest_scored_batch(
        task.test, base, loss_on="answer" if task.teacher is None else "all"
    )


def largest_scored_batch(
    examples: Sequence[Example], base: "Base", max_length: int = 4096, loss_on: str = "answer"
) -> Batch | None:
    """The batch with the most logits among those that score examples; None: no examples."""
    encoded = encode_fitting(examples, base.tokenizer, max_length, loss_on).encoded
    vocab_size = base.model.config.get_text_config().vocab_size
    batches = map(_batch_sizes, batches_to_score(encoded, vocab_size))
    return max(
        batches, key=lambda batch: batch.examples * batch.places + batch.labels, default=None
    )


def _batch_sizes(encoded: Sequence[Encoded]) -> Batch:
    lengths = {len(example.input_ids) for example in encoded}
    places = [places_of(example) for example in encoded]
    return Batch(
        examples=len(encoded),
        length=max(lengths),
        places=len(set().union(*places)),
        labels=sum(map(len, places)),
        padded=len(lengths) > 1,
    )


# --- how long -----------------------------------------------------------------------------------


# The lowest and highest share of the rate of matrix products that a step reaches. The rest of the
# time goes into other operations, and into products too thin to be fast. Measured on a CPU with
# batches of 100 to 450 tokens (benchmarks/results/seconds.md): .29 to .59 on pocket, .63 to .87 on
# smollm2, .26 to .52 on smollm2 in bfloat16. Batches of a few dozen tokens reach less: .09 to .17
# on pocket.
SHARES = (0.25, 0.9)


def flops_per_second(shape: Shape, recipe: Recipe, device: torch.device) -> float:
    """The rate of such a model's matrix products on a device, in the dtype chosen there."""
    dtype, _ = choose_dtype("auto", device, shape.hidden_size)
    if recipe.method == "full":
        dtype = torch.float32  # full fine-tuning works on a float32 copy
    return matmul_speed(device, dtype, shape.parameters, shape.hidden_size)


def expected_seconds(flops_per_step: float, rate: float) -> tuple[float, float]:
    """The least and the most seconds that a step will take, on a machine that does nothing else.

    Args:
        flops_per_step: a budget's.
        rate: FLOPs a second, from `flops_per_second`.
    """
    least, most = SHARES
    return flops_per_step / rate / most, flops_per_step / rate / least


# --- which model --------------------------------------------------------------------------------


def find_shape(model: object) -> Shape:
    """The shape of any model that `estimate` takes: a Base, a name, a config or a folder.

    Raises:
        ValueError: for an unknown name, with the nearest that is known.
        TypeError: if `model` is none of these.
        FileNotFoundError: for a folder that is not there, or holds no config.json.
    """
    if _is_base(model):
        return shape_of(model.model, model.name)
    if not isinstance(model, str | Path):
        return shape_of(model)
    found = find_named(model)
    if isinstance(found, Known):
        config = json.dumps([found.name, found.config])
        return cached_shape(config, lambda: shape_of(found.config, found.name))
    return _shape_in(found, "pocket" if model == "pocket" else found.resolve().name)


def _shape_in(folder: Path, name: str) -> Shape:
    config = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    return cached_shape(json.dumps([name, config]), lambda: shape_of(folder, name))


def _is_base(model: object) -> bool:
    if isinstance(model, str | Path):
        return False
    from lora_lab.models.bases import Base

    return isinstance(model, Base)

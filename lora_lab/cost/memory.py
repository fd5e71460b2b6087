"""Memory of a training step of any model, part by part: a step is traced, and nothing is run.

Only those layers are traced that differ. Each counts as often as the model has it. All sizes are
bytes.
"""

import functools
import json
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lora_lab.cost.budget import Batch
from lora_lab.cost.static_memory import (
    Trained,
    adapter_bytes,
    held_here,
    held_usually,
    trained_tensors,
)
from lora_lab.cost.tracing import META, Live, Stretch, attention_of_cpu
from lora_lab.models import architecture
from lora_lab.models.architecture import (
    LAYER,
    Shape,
    adapted_matrices,
    column_of,
    inside,
    layer_of,
    saved_modules,
)
from lora_lab.models.read_architecture import on_meta
from lora_lab.places import cached_value
from lora_lab.recipe import Recipe
from lora_lab.records import Memory
from lora_lab.tasks import losses

ERROR = 0.1  # of the total, either way: measured on a CPU
PARTS = ("gradients", "activations", "logits")  # they come and go within a step
FIELDS = (  # of a recipe: those that decide what a step makes
    *("method", "r", "init_r", "target_r", "target_modules", "layers_to_transform"),
    *("modules_to_save", "lora_dropout", "use_dora", "quantize", "double_quant", "compute_dtype"),
    *("gradient_checkpointing", "gradient_accumulation_steps"),
)


class Peaks(NamedTuple):
    """The most of each part that comes and goes, and the most of all together."""

    gradients: int
    activations: int
    logits: int
    together: int


def memory(
    shape: Shape,
    recipe: Recipe,
    batch: Batch,
    dtype: str = "float32",
    device: str = "cpu",
    validation: Batch | None = None,
) -> Memory:
    """The memory of a run of `lora_lab.training.loop`, part by part, and at its peak.

    The total is right within `ERROR`, as measured on a CPU.

    Args:
        shape: the base's.
        recipe: how it is trained. One that quantises is taken to train on a base loaded so.
        batch: of one pass.
        dtype: of the base; where it is quantised, of the products.
        device: "cuda" for a GPU with memory of its own, else "cpu".
        validation: the largest batch of the validations between the steps; None: there are none.

    Raises:
        ValueError: for a recipe that does not fit the model, and for a model whose step can't be
            traced, such as an encoder-decoder.
    """
    trained = trained_tensors(shape, recipe, dtype)
    step = _step(shape, _relevant(recipe), batch, dtype, "step")
    peaks = [_with_update(step, shape, recipe, trained)]
    if validation:
        peaks.append(_step(shape, _relevant(recipe), validation, dtype, "score"))
    return _at_the_peak(held_here(shape, recipe, dtype, device), peaks)


def usual_memory(shape: Shape, recipe: Recipe, batch: Batch, dtype: str = "float32") -> Memory:
    """The memory of a training step in the usual loop, which keeps no copy to fall back on.

    Full fine-tuning trains the base itself: in float32, or on a 16-bit base in mixed precision
    (`held_usually` has the bytes). This is what papers and rules of thumb count.
    """
    trained = trained_tensors(shape, recipe, dtype, usual=True)
    mixed = recipe.method == "full" and dtype != "float32"
    what = "mixed step" if mixed else "step"
    peaks = _step(shape, _relevant(recipe), batch, dtype, what)
    peaks = _with_update(peaks, shape, recipe, trained)
    return _at_the_peak(held_usually(shape, recipe, dtype), [peaks])


def _relevant(recipe: Recipe) -> Recipe:
    """A recipe with the same step, alike for all seeds, rates and numbers of steps."""
    fields = {name: getattr(recipe, name) for name in FIELDS}
    fields["gradient_accumulation_steps"] = min(recipe.gradient_accumulation_steps, 2)
    return Recipe(**fields)  # from the second pass on, passes are alike


def _at_the_peak(always: dict[str, int], peaks: list[Peaks]) -> Memory:
    comes_and_goes = {part: max(getattr(peak, part) for peak in peaks) for part in PARTS}
    total = sum(always.values()) + max(peak.together for peak in peaks)
    return Memory(**always, **comes_and_goes, total=total)


def _with_update(peaks: Peaks, shape: Shape, recipe: Recipe, trained: list[Trained]) -> Peaks:
    """The peaks with what follows the last gradient."""
    gradients = sum(tensor.bytes for tensor in trained)
    most = {}
    if recipe.method == "adalora":  # the orthogonality term's gradients, before they are added
        twice = gradients + adapter_bytes(shape, recipe, trained)
        most = {"gradients": max(peaks.gradients, twice), "together": twice}
    elif recipe.optimizer == "adamw":  # it makes a quotient in steps
        most["together"] = gradients + 2 * max(tensor.bytes for tensor in trained)
    most["together"] = max(peaks.together, most.get("together", 0))
    return peaks._replace(**most)


@functools.lru_cache(maxsize=512)
def _step(shape: Shape, recipe: Recipe, batch: Batch, dtype: str, what: str) -> Peaks:
    """What comes and goes in a step, up to its last gradient: traced once, and then kept.

    Args:
        shape: of the base.
        recipe: as `_relevant` gives it.
        batch: of one pass.
        dtype: of the base.
        what: "step"; "mixed step", in which full fine-tuning trains the 16-bit weights; or "score",
            in which nothing is trained.
    """
    key = (shape.config, repr(recipe), repr(batch), dtype, what, _versions())
    return cached_value("steps", key, Peaks, lambda: _traced(shape, recipe, batch, dtype, what))


@functools.cache
def _versions() -> str:
    """All code that a traced step depends on, by its versions or its text."""
    rooms = sorted(
        [*Path(__file__).parent.glob("*.py"), *Path(architecture.__file__).parent.glob("*.py")]
    )
    ours = "".join(path.read_text(encoding="utf-8") for path in [*rooms, Path(losses.__file__)])
    return " ".join([*map(version, ("torch", "transformers", "peft")), ours])


def _traced(shape: Shape, recipe: Recipe, batch: Batch, dtype: str, what: str) -> Peaks:
    if _config(shape).is_encoder_decoder:
        raise ValueError(
            f"{shape.name} has an encoder and a decoder, whose lengths this budget does not know; "
            "give a model with one stack of layers"
        )
    kinds = _kinds(shape, recipe)
    places = sorted({*map(kinds.index, kinds), len(kinds) - 1})
    like = [[kinds[number] for number in places].index(kind) for kind in kinds]
    like[-1] = len(places) - 1  # the last layer is traced for itself, too
    few_layers = _for_layers(shape, recipe, places)
    try:
        model = _with_layers(shape, places, getattr(torch, dtype))
        model = _adapted(model, few_layers, mixed=what == "mixed step")
        stretches = _trace(model, few_layers, batch, scored=what == "score")
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"a training step of {shape.name} can't be followed without numbers, so its memory is "
            f"not known ({said})"
        ) from error
    return _play(stretches, like)


# --- a model with few layers ----------------------------------------------------------------


def _kinds(shape: Shape, recipe: Recipe) -> list[tuple]:
    """Of each layer all that can make its memory differ from another's."""
    whole = saved_modules(shape, recipe)
    names = {matrix.name for matrix in adapted_matrices(shape, recipe)}
    sizes = [(matrix.name, matrix.in_features, matrix.out_features) for matrix in shape.matrices]
    layers: list[set] = [set() for _ in range(shape.num_layers)]
    for name, *size in [*sizes, *shape.others]:
        layer = layer_of(name)
        if layer is not None and layer < shape.num_layers:
            trained = name in names or inside(name, whole)
            layers[layer].add((column_of(name), *size, trained))
    own_fields = _by_layer(_config(shape).get_text_config())
    kinds, flows = [], False  # flows: whether a layer below is trained
    for number, modules in enumerate(layers):
        kinds.append((number == 0, flows, modules, [own[number] for own in own_fields.values()]))
        flows = flows or any(trained for *_, trained in modules)
    return kinds


def _config(shape: Shape) -> object:
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads(shape.config))


def _by_layer(config: object) -> dict[str, list]:
    """The fields of a config that have a value for each layer, such as `layer_types`."""
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list)}
    return {name: own for name, own in lists.items() if len(own) == config.num_hidden_layers}


def _with_layers(shape: Shape, kept: list[int], dtype: torch.dtype) -> nn.Module:
    """The model on the meta device, with just these of its layers."""
    config = _config(shape)
    text = config.get_text_config()
    for name, own in _by_layer(text).items():
        setattr(text, name, [own[number] for number in kept])
    text.num_hidden_layers = len(kept)
    return on_meta(config).to(dtype)


def _for_layers(shape: Shape, recipe: Recipe, kept: list[int]) -> Recipe:
    """The recipe that reaches in those layers, counted anew, what it reached there."""
    names = []
    for matrix in adapted_matrices(shape, recipe):
        match, number = LAYER.match(matrix.name), layer_of(matrix.name)
        if number is None:
            names.append(matrix.name)
        elif number in kept:
            place = str(kept.index(number))
            names.append(matrix.name[: match.start(1)] + place + matrix.name[match.end(1) :])
    if not names:
        return recipe
    return replace(recipe, target_modules=tuple(names), layers_to_transform=None)


def _adapted(model: nn.Module, recipe: Recipe, mixed: bool) -> nn.Module:
    """The model as it is trained, on the meta device."""
    from lora_lab.models.adapters import adapt, checkpoint_activations  # PEFT takes seconds
    from lora_lab.models.bases import Base
    from lora_lab.models.quantization import Quantization, quantize_layers

    if not hasattr(model, "prepare_inputs_for_generation"):
        model.prepare_inputs_for_generation = None  # PEFT asks BERT for it, too
    base = Base("traced", model, None, torch.device("cpu"), model.dtype, 0, Path())
    if recipe.quantize:
        products = model.dtype
        if recipe.compute_dtype != "auto":
            products = getattr(torch, recipe.compute_dtype)
        base.quantization = Quantization(recipe.quantize, recipe.double_quant, products)
        quantize_layers(model, base.quantization, META)
    if mixed:
        model.requires_grad_(True)
    else:
        with warnings.catch_warnings(action="ignore"):  # training will say it
            model = adapt(base, recipe)
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    return model


# --- a step ---------------------------------------------------------------------------------


def _trace(model: nn.Module, recipe: Recipe, batch: Batch, scored: bool) -> list[Stretch]:
    """The stretches of a step, up to its last gradient; or of a batch's scoring."""
    live = Live(batch)
    _watch(live, model)
    model.train(not scored)
    with attention_of_cpu(), live, torch.set_grad_enabled(not scored):
        for _ in range(1 if scored else recipe.gradient_accumulation_steps):
            live.part, live.gradients = "activations", set()
            live.begin()
            ids = torch.zeros(batch.examples, batch.length, dtype=torch.int64, device=META)
            texts = {"input_ids": ids, "attention_mask": ids.clone(), "labels": ids.clone()}
            loss, _ = losses.loss_of_batch(model, texts)
            if not scored:
                loss.backward()
        live.begin()
    return live.stretches


def _play(stretches: list[Stretch], like: list[int]) -> Peaks:
    """Each part's most and the peak, of a model whose layers are `like` those traced."""
    row: list[Stretch] = []
    for between, run in groupby(stretches, lambda stretch: stretch.layer is None):
        if between:
            row += run
            continue
        traced = {stretch.layer: stretch for stretch in run}
        up = any(stretch.way == "up" for stretch in traced.values())
        order = like if up else reversed(like)
        row += [traced[place] for place in order if place in traced]  # none goes down to some
    now, most, peak = Counter(), Counter(), 0
    for stretch in row:
        peak = max(peak, now.total() + stretch.peak - stretch.start.total())
        for part in stretch.most:
            most[part] = max(most[part], now[part] + stretch.most[part] - stretch.start[part])
        now.update({part: stretch.end[part] - stretch.start[part] for part in stretch.most})
    return Peaks(*(most[part] for part in PARTS), together=peak)


def _watch(live: Live, model: nn.Module) -> None:
    """Let `live` know, as the model runs, which layer runs and what is made there."""
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    shapes = {tensor.shape for tensor in trained if tensor.ndim > 1}
    shapes |= {shape[::-1] for shape in shapes}

    def goes_up() -> bool:  # else checkpointing runs a layer again
        return not live.gradients

    def before_the_output(_: nn.Module, inputs: tuple) -> None:
        live.part = "logits"
        _at_gradient(inputs, lambda: setattr(live, "part", "activations"))

    def after_the_output(_: nn.Module, __: tuple, logits: torch.Tensor) -> None:
        _at_gradient(logits, lambda: setattr(live, "gradients", shapes))

    def watch_layer(layer: nn.Module, number: int, last: bool) -> None:
        def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if goes_up():
                live.begin(number, "up")
                below = (number - 1, "down") if number else ()
                _at_gradient(args or kwargs["hidden_states"], lambda: live.begin(*below))

        def leave(_: nn.Module, __: tuple, output: object) -> None:
            if goes_up():
                live.begin()
                _at_gradient(output, lambda: live.begin())
                _at_gradient(output, lambda: live.begin(number, "down"))

        layer.register_forward_pre_hook(enter, with_kwargs=True)
        if last:
            layer.register_forward_hook(leave)

    output = model.get_output_embeddings()
    output.register_forward_pre_hook(before_the_output)
    output.register_forward_hook(after_the_output)
    for tensor in trained:
        tensor.register_post_accumulate_grad_hook(lambda tensor: live.add(tensor.grad, "gradients"))
    last = model.config.get_text_config().num_hidden_layers - 1
    for name, layer in model.named_modules():
        match = LAYER.match(f"{name}.")
        if match and match[0] == f"{name}.":  # the layer itself, and nothing within it
            watch_layer(layer, int(match[1]), last=int(match[1]) == last)


def _at_gradient(of: object, do: Callable[[], None]) -> None:
    """Do something when the gradient of a tensor, or of the first of a tuple, is there."""
    tensor = of[0] if isinstance(of, tuple) else of
    if tensor.requires_grad:
        tensor.register_hook(lambda _: do())

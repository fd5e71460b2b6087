"""The peaks of a training step, from a step that is traced: nothing is run.

Only layers that differ are traced. Each traced layer counts as often as the model has it. All sizes
are in bytes.
"""

import functools
import json
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from lora_lab.cost.budget import Batch
from lora_lab.cost.stacks import Stack
from lora_lab.cost.tracing import META, Live, Stretch, attention_of_cpu, autocast_of_cuda
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
from lora_lab.models.quiet import quietly
from lora_lab.models.read_architecture import on_meta
from lora_lab.places import cached_value
from lora_lab.recipe import Recipe
from lora_lab.tasks import losses

CHUNK = 128  # tokens whose logits go through the loss together: litgpt's
PARTS = ("gradients", "activations", "logits")  # made and freed within a step
FIELDS = (  # the fields of a recipe that decide which tensors a step makes
    *("method", "r", "init_r", "target_r", "target_modules", "layers_to_transform"),
    *("modules_to_save", "lora_dropout", "use_dora", "quantize", "double_quant", "compute_dtype"),
    *("gradient_checkpointing", "gradient_accumulation_steps"),
)


class Peaks(NamedTuple):
    """The most bytes of each part that comes and goes, and of all these parts together."""

    gradients: int
    activations: int
    logits: int
    together: int


def step_peaks(
    shape: Shape,
    recipe: Recipe,
    batch: Batch,
    dtype: str,
    what: str = "step",
    stack: Stack | None = None,
) -> Peaks:
    """The peaks of a step, up to its last gradient.

    Args:
        shape: of the base.
        recipe: the choices of the training.
        batch: the batch of a pass.
        dtype: of the base.
        what: "step"; "mixed step": full fine-tuning trains the 16-bit weights; or "score":
            nothing is trained.
        stack: the program that trains; None: this lab's own loop.

    Raises:
        ValueError: for a model whose step can't be traced, such as an encoder-decoder.
    """
    return _step(shape, _step_recipe(recipe), batch, dtype, what, stack)


def _step_recipe(recipe: Recipe) -> Recipe:
    """A recipe whose step makes the same tensors; seed, rate and number of steps are left out."""
    fields = {name: getattr(recipe, name) for name in FIELDS}
    fields["gradient_accumulation_steps"] = min(recipe.gradient_accumulation_steps, 2)
    return Recipe(**fields)  # from the second pass on, passes are alike


@functools.lru_cache(maxsize=512)
def _step(
    shape: Shape, recipe: Recipe, batch: Batch, dtype: str, what: str, stack: Stack | None
) -> Peaks:
    """`step_peaks` of a recipe from `_step_recipe`: traced once, and then kept."""
    of = (shape, recipe, batch, dtype, what, stack)
    key = (shape.config, *map(repr, of[1:]), _versions())
    return cached_value("steps", key, Peaks, lambda: _traced(*of))


@functools.cache
def _versions() -> str:
    """The versions of the libraries and the text of our code that a traced step depends on."""
    rooms = sorted(
        [*Path(__file__).parent.glob("*.py"), *Path(architecture.__file__).parent.glob("*.py")]
    )
    ours = "".join(path.read_text(encoding="utf-8") for path in [*rooms, Path(losses.__file__)])
    return " ".join([*map(version, ("torch", "transformers", "peft")), ours])


def _traced(
    shape: Shape,
    recipe: Recipe,
    batch: Batch,
    dtype: str,
    what: str = "step",
    stack: Stack | None = None,
) -> Peaks:
    """The peaks of `_step`, from a model with one layer of each kind."""
    if _config(shape).is_encoder_decoder:
        raise ValueError(
            f"{shape.name} has an encoder and a decoder, whose lengths this budget does not know; "
            "give a model with one stack of layers"
        )
    kinds = _layer_kinds(shape, recipe)
    places = sorted({*map(kinds.index, kinds), len(kinds) - 1})
    like = [[kinds[number] for number in places].index(kind) for kind in kinds]
    like[-1] = len(places) - 1  # the last layer is always traced
    few_layers = _for_layers(shape, recipe, places)
    try:
        eager = stack is not None and stack.eager
        model = _with_layers(shape, places, getattr(torch, dtype), eager)
        model = _model_as_trained(model, few_layers, what == "mixed step", stack)
        stretches = _trace(model, few_layers, batch, what == "score", stack)
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"a training step of {shape.name} can't be followed without numbers, so its memory is "
            f"not known ({said})"
        ) from error
    return _model_peaks(stretches, like)


# --- a model with few layers ----------------------------------------------------------------


def _layer_kinds(shape: Shape, recipe: Recipe) -> list[tuple]:
    """For each layer everything that can make its memory differ from another layer's."""
    whole = saved_modules(shape, recipe)
    names = {matrix.name for matrix in adapted_matrices(shape, recipe)}
    sizes = [(matrix.name, matrix.in_features, matrix.out_features) for matrix in shape.matrices]
    layers: list[set] = [set() for _ in range(shape.num_layers)]
    for name, *size in [*sizes, *shape.others]:
        layer = layer_of(name)
        if layer is not None and layer < shape.num_layers:
            trained = name in names or inside(name, whole)
            layers[layer].add((column_of(name), *size, trained))
    own_fields = _fields_by_layer(_config(shape).get_text_config())
    kinds, flows = [], False  # flows: whether a layer below is trained
    for number, modules in enumerate(layers):
        values = [value[number] for value in own_fields.values()]
        kinds.append((number == 0, flows, modules, values))
        flows = flows or any(trained for *_, trained in modules)
    return kinds


def _config(shape: Shape) -> object:
    from transformers import AutoConfig

    return AutoConfig.for_model(**json.loads(shape.config))


def _fields_by_layer(config: object) -> dict[str, list]:
    """The fields of a config that have a value for each layer, such as `layer_types`."""
    lists = {name: value for name, value in vars(config).items() if isinstance(value, list)}
    number = config.num_hidden_layers
    return {name: values for name, values in lists.items() if len(values) == number}


def _with_layers(
    shape: Shape, kept: list[int], dtype: torch.dtype, eager: bool = False
) -> nn.Module:
    """The model on the meta device, with only the layers `kept`."""
    config = _config(shape)
    text = config.get_text_config()
    for name, values in _fields_by_layer(text).items():
        setattr(text, name, [values[number] for number in kept])
    text.num_hidden_layers = len(kept)
    if eager:
        config._attn_implementation = "eager"
    return on_meta(config).to(dtype)


def _for_layers(shape: Shape, recipe: Recipe, kept: list[int]) -> Recipe:
    """The recipe that reaches the same matrices in a model of only the layers `kept`."""
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


def _model_as_trained(
    model: nn.Module, recipe: Recipe, mixed: bool, stack: Stack | None = None
) -> nn.Module:
    """The model as it is trained, on the meta device."""
    from lora_lab.models.adapters import adapt, checkpoint_activations  # PEFT takes seconds
    from lora_lab.models.bases import Base
    from lora_lab.models.quantization import Quantization, quantize_layers

    if not hasattr(model, "prepare_inputs_for_generation"):
        model.prepare_inputs_for_generation = None  # PEFT looks for it on every model
    base = Base("traced", model, None, torch.device("cpu"), model.dtype, 0, Path())
    if recipe.quantize:
        products = model.dtype
        if recipe.compute_dtype != "auto":
            products = getattr(torch, recipe.compute_dtype)
        base.quantization = Quantization(recipe.quantize, recipe.double_quant, products)
        quantize_layers(model, base.quantization, META)
        if stack and stack.beside != "float32":
            kept = "norm" if stack.beside == "norms" else None
            _cast(model, products, lambda name: kept is None or kept not in name)
    if mixed:
        model.requires_grad_(True)
    else:
        with warnings.catch_warnings(action="ignore"):  # training warns of it too
            model = adapt(base, recipe)
        if stack and stack.adapters == "16-bit":
            trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
            _cast(model, base.dtype, trained.__contains__)
    if recipe.gradient_checkpointing:
        checkpoint_activations(model)
    return model


def _cast(model: nn.Module, dtype: torch.dtype, wanted: Callable[[str], bool]) -> None:
    """Make the float32 parameters with a wanted name another dtype."""
    for name, tensor in model.named_parameters():
        if tensor.dtype == torch.float32 and wanted(name):
            tensor.data = tensor.data.to(dtype)


# --- a step ---------------------------------------------------------------------------------


def _trace(
    model: nn.Module, recipe: Recipe, batch: Batch, scored: bool, stack: Stack | None = None
) -> list[Stretch]:
    """The stretches of a step, up to its last gradient; with `scored`, of scoring a batch."""
    live = Live(batch, casts_copy=stack is None)
    autocast = stack is not None and stack.autocast
    products = autocast_of_cuda(_16_bit(model)) if autocast else nullcontext()
    _register_hooks(live, model)
    model.train(not scored)
    with attention_of_cpu(), products, live, torch.set_grad_enabled(not scored):
        for _ in range(1 if scored else recipe.gradient_accumulation_steps):
            live.part, live.gradients = "activations", set()
            live.begin()
            if stack is None:
                _trace_pass(model, batch, scored)
            else:
                with quietly():  # transformers says that checkpointing keeps no cache
                    _trace_pass_of(stack, model, batch)
        live.begin()
    return live.stretches


def _trace_pass(model: nn.Module, batch: Batch, scored: bool) -> None:
    """A forward pass and its backward pass. What they keep is freed at the end, as in the loop."""
    ids = torch.zeros(batch.examples, batch.length, dtype=torch.int64, device=META)
    texts = {"input_ids": ids, "attention_mask": ids.clone(), "labels": ids.clone()}
    loss, _ = losses.loss_of_batch(model, texts)
    if not scored:
        loss.backward()


def _trace_pass_of(stack: Stack, model: nn.Module, batch: Batch) -> None:
    """A forward pass and its backward pass as the stack takes them, at every position.

    The logits are let go when the loss's backward pass is over, as transformers' Trainer does.
    """
    ids = torch.zeros(batch.examples, batch.length, dtype=torch.int64, device=META)
    texts = {"input_ids": ids}
    if stack.eager:
        texts["attention_mask"] = ids.clone()
    if stack.loss == "whole":
        output = model(**texts, labels=ids)
        logits, loss = [output.logits], output.loss
    else:
        logits = [model(**texts).logits]
        chunks = zip(logits[0].split(CHUNK, dim=1), ids.split(CHUNK, dim=1), strict=True)
        loss = sum(
            nn.functional.cross_entropy(chunk.flatten(0, 1), labels.flatten())
            for chunk, labels in chunks
        )
        output = None
    logits[0].register_hook(lambda _: logits.clear())
    del output
    loss.backward()


def _16_bit(model: nn.Module) -> torch.dtype:
    """The dtype of the model's products under autocast."""
    dtypes = {tensor.dtype for tensor in model.parameters()}
    return torch.float16 if torch.float16 in dtypes else torch.bfloat16


def _model_peaks(stretches: list[Stretch], like: list[int]) -> Peaks:
    """The peaks of the whole model, of which layer i equals the traced layer `like[i]`."""
    row: list[Stretch] = []
    for between, run in groupby(stretches, lambda stretch: stretch.layer is None):
        if between:
            row += run
            continue
        traced = {stretch.layer: stretch for stretch in run}
        up = any(stretch.way == "up" for stretch in traced.values())
        order = like if up else reversed(like)
        row += [traced[place] for place in order if place in traced]  # some have no backward pass
    now, most, peak = Counter(), Counter(), 0
    for stretch in row:
        for part in PARTS:
            if stretch.layer is None and not stretch.start[part]:  # a pass has ended: all is freed
                now[part] = 0
        peak = max(peak, now.total() + stretch.peak - stretch.start.total())
        for part in stretch.most:
            most[part] = max(most[part], now[part] + stretch.most[part] - stretch.start[part])
        now.update({part: stretch.end[part] - stretch.start[part] for part in stretch.most})
    return Peaks(*(most[part] for part in PARTS), together=peak)


def _register_hooks(live: Live, model: nn.Module) -> None:
    """Register hooks that tell `live` which layer runs, and which part its tensors belong to."""
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    shapes = {tensor.shape for tensor in trained if tensor.ndim > 1}
    shapes |= {shape[::-1] for shape in shapes}

    def goes_up() -> bool:  # False: checkpointing runs the layer again in the backward pass
        return not live.gradients

    def before_the_output(_: nn.Module, inputs: tuple) -> None:
        live.part = "logits"
        _when_gradient(inputs, lambda: setattr(live, "part", "activations"))

    def after_the_output(_: nn.Module, __: tuple, logits: torch.Tensor) -> None:
        _when_gradient(logits, lambda: setattr(live, "gradients", shapes))

    def watch_layer(layer: nn.Module, number: int, last: bool) -> None:
        def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
            if goes_up():
                live.begin(number, "up")
                below = (number - 1, "down") if number else ()
                _when_gradient(args or kwargs["hidden_states"], lambda: live.begin(*below))

        def leave(_: nn.Module, __: tuple, output: object) -> None:
            if goes_up():
                live.begin()
                _when_gradient(output, lambda: live.begin())
                _when_gradient(output, lambda: live.begin(number, "down"))

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
        if match and match[0] == f"{name}.":  # the layer itself, not a module in it
            watch_layer(layer, int(match[1]), last=int(match[1]) == last)


def _when_gradient(tensors: object, do: Callable[[], None]) -> None:
    """Call `do` when the gradient of a tensor, or of the first tensor of a tuple, is made."""
    tensor = tensors[0] if isinstance(tensors, tuple) else tensors
    if tensor.requires_grad:
        tensor.register_hook(lambda _: do())

"""A recipe's adapter put on a base by PEFT: its configuration, its start, its tensors."""

import copy
import functools
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import peft
import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lora_lab.machine.devices import named, seeded
from lora_lab.models.architecture import (
    Matrix,
    Modules,
    adapted_matrices,
    inside,
    last_name,
    matching,
    saved_modules,
    spelt_out,
)
from lora_lab.models.bases import Base, quantized_base
from lora_lab.models.quantization import Quantization, is_quantized, share_tensors, weight_of
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe

# PEFT 0.21 uses a deprecated name of transformers 5.23. A user can't mend that.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTABLE = (nn.Linear, nn.Embedding, Conv1D)


# --- does a recipe fit a base? ----------------------------------------------------------------


def check_trainable(base: Base, recipe: Recipe) -> None:
    """Refuse a recipe that can't train on this base, or whose result could not be kept.

    Raises:
        ValueError: as `adapt` does; nothing is copied or quantised for it.
    """
    quantization_for(base, recipe)
    if recipe.method != "full":
        _checked_matrices(base, recipe)


def _checked_matrices(base: Base, recipe: Recipe) -> tuple[Matrix, ...]:
    """The matrices that a recipe adapts; refused where PEFT can't adapt or start them."""
    modules = modules_of(base.model, base.name)
    matrices = adapted_matrices(modules, recipe)
    if isinstance(recipe.target_modules, str) and recipe.target_modules != "all-linear":
        _check_only_layers(base.model, modules, recipe)
    if recipe.changes_the_base:
        _check_start(base.model, matrices, recipe)
    if recipe.use_dora:
        _check_rows(base.model, matrices)
    if recipe.init_lora_weights == "orthogonal":
        _check_width(matrices, recipe, "makes r={r} directions at right angles")
    return matrices


def _check_only_layers(model: nn.Module, modules: Modules, recipe: Recipe) -> None:
    """Refuse a regex that also matches a block, a norm or an activation."""
    known = {matrix.name for matrix in modules.matrices}
    saved = saved_modules(modules, recipe)
    names = (name for name, _ in model.named_modules() if name and not inside(name, saved))
    for name in matching(recipe.target_modules, names):
        if name not in known:
            raise ValueError(
                f"target_modules={recipe.target_modules!r} also matches {name!r} "
                f"({type(model.get_submodule(name)).__name__}), which PEFT can't adapt; give a "
                'regex for whole names of linear layers, such as ".*mlp.*_proj"'
            )


def _check_start(model: nn.Module, matrices: tuple[Matrix, ...], recipe: Recipe) -> None:
    """Refuse PiSSA and OLoRA for layers whose weight does not have r directions to take out."""
    start = f"init_lora_weights={recipe.init_lora_weights!r}"
    embedding = next((matrix.name for matrix in matrices if matrix.kind == "embedding"), None)
    if embedding is not None:
        raise ValueError(
            f"{start} can't start the embedding {embedding!r}: PEFT knows it for linear layers; "
            "give init_lora_weights=True, or other target_modules"
        )
    names = [matrix.name for matrix in matrices]
    conv1ds = [name for name in names if isinstance(model.get_submodule(name), Conv1D)]
    if recipe.init_lora_weights == "olora" and conv1ds:
        raise ValueError(
            f"{start} can't start {conv1ds[0]!r}, a Conv1D: PEFT 0.21 takes its weight for the "
            "transposed one; give 'pissa', or init_lora_weights=True"
        )
    _check_width(matrices, recipe, "takes its r={r} directions out of a layer's weight")


def _check_rows(model: nn.Module, matrices: tuple[Matrix, ...]) -> None:
    """Refuse DoRA for a weight with a row of zeros: it would divide by the row's length, 0."""
    for matrix in (each for each in matrices if each.kind != "embedding"):  # columns there
        layer = model.get_submodule(matrix.name)
        weight = weight_of(layer).T if isinstance(layer, Conv1D) else weight_of(layer)
        # (out, in): a row for each output. On meta, where memory is estimated, there are no numbers
        empty = [] if weight.is_meta else (~weight.any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"use_dora=True divides each row of a weight by its length; row {empty[0]} of "
                f"{matrix.name!r} is all zero; leave that module out, or give use_dora=False"
            )


def _check_width(matrices: tuple[Matrix, ...], recipe: Recipe, does: str) -> None:
    """Refuse more directions than the narrowest layer has. `does` says what the start does."""
    narrowest = min(matrices, key=_width)
    width = _width(narrowest)
    if recipe.r > width:
        raise ValueError(
            f"init_lora_weights={recipe.init_lora_weights!r} {does.format(r=recipe.r)}, and "
            f"{narrowest.name!r} has no more than {width}; give r={width} at most, or "
            "init_lora_weights=True"
        )


def _width(matrix: Matrix) -> int:
    """The smaller of a matrix's two sizes: its change can have no higher rank."""
    return min(matrix.in_features, matrix.out_features)


def _warn_of_wasted_rank(matrices: tuple[Matrix, ...], recipe: Recipe) -> None:
    width = min(map(_width, matrices))
    field, r = ("init_r", recipe.init_r) if recipe.method == "adalora" else ("r", recipe.r)
    if r > width:
        warnings.warn(
            f"{field}={r} is above {width}, the width of the narrowest adapted layer: a "
            f"change can have no higher rank than that, so the parameters above are wasted",
            stacklevel=3,
        )


# --- PEFT's configuration ---------------------------------------------------------------------


def to_peft(recipe: Recipe, base: Base | None = None) -> "PeftConfig":
    """The PEFT configuration that does what the recipe says.

    Args:
        recipe: with method "lora" or "adalora".
        base: needed to spell out "all-linear" where `layers_to_transform` is given, since PEFT
            refuses layers together with a string.

    Raises:
        ValueError: for method "full", which has no adapter, or where `base` is needed.
    """
    options = adapter_options(recipe, base)
    if recipe.method == "adalora":
        return peft.AdaLoraConfig(**options)
    if recipe.init_lora_weights == "loftq":
        options["loftq_config"] = peft.LoftQConfig(loftq_bits=4, loftq_iter=1)
    return peft.LoraConfig(**options)


def adapter_options(recipe: Recipe, base: Base | None = None) -> dict[str, object]:
    """The keyword arguments of PEFT's configuration, for the same arguments as `to_peft`."""
    if recipe.method == "full":
        raise ValueError("method='full' trains every weight and has no PEFT configuration")
    targets = recipe.target_modules
    if isinstance(targets, str) and recipe.layers_to_transform is not None:
        if base is None or targets != "all-linear":
            raise ValueError(
                f"target_modules={targets!r} with layers_to_transform is refused by PEFT; give a "
                'tuple of names, or "all-linear" together with `base`'
            )
        targets = _linear_names(base)
    shared = {
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "lora_alpha": recipe.lora_alpha,
        "lora_dropout": recipe.lora_dropout,
        "layers_to_transform": recipe.layers_to_transform and list(recipe.layers_to_transform),
        "modules_to_save": list(recipe.modules_to_save) or None,
        "task_type": "CAUSAL_LM",
    }
    if recipe.method == "adalora":
        tinit, tfinal = recipe.schedule
        return shared | {
            "init_r": recipe.init_r,
            "target_r": recipe.target_r,
            "tinit": tinit,
            "tfinal": tfinal,
            "deltaT": recipe.deltaT,
            "beta1": recipe.beta1,
            "beta2": recipe.beta2,
            "orth_reg_weight": recipe.orth_reg_weight,
            "total_step": recipe.steps,
        }
    return shared | {
        "r": recipe.r,
        "use_rslora": recipe.use_rslora,
        "use_dora": recipe.use_dora,
        "init_lora_weights": recipe.init_lora_weights,
    }


def _linear_names(base: Base) -> tuple[str, ...]:
    """The last names of all linear layers but the output's: what PEFT's "all-linear" means."""
    matrices = modules_of(base.model, base.name).matrices
    return tuple(sorted({last_name(matrix.name) for matrix in matrices if matrix.kind == "linear"}))


# --- the weights under the adapter ------------------------------------------------------------


def quantization_for(base: Base, recipe: Recipe) -> Quantization | None:
    """The quantization of the base's weights while the recipe trains on them; None: as they are.

    Raises:
        ValueError: if the base is quantised already, and the recipe asks for something else, or
            needs the weights as they were before.
    """
    own = base.quantization
    needs_all = recipe.method == "full" or recipe.init_lora_weights == "loftq"
    if own is not None and (needs_all or recipe.changes_the_base):
        choice = "method='full'" if recipe.method == "full" else repr(recipe.init_lora_weights)
        raise ValueError(
            f"{choice} needs the whole weights, and {base.name} was loaded with "
            f"quantize={own.quantize!r}; load it without (a recipe can quantise it for LoftQ)"
        )
    quantization = own
    if recipe.quantize is not None:
        dtype = base.dtype
        if recipe.compute_dtype != "auto":
            dtype = getattr(torch, recipe.compute_dtype)
        quantization = Quantization(recipe.quantize, recipe.double_quant, dtype)
        if own not in (None, quantization):
            raise ValueError(
                f"the recipe asks for {quantization}, computed in {named(dtype)}, and {base.name} "
                f"is quantised already: {own}, computed in {named(own.compute_dtype)}; give "
                "quantize=None, or load the base without quantize"
            )
    if quantization is not None and recipe.init_lora_weights == "orthogonal":
        raise ValueError(
            f"init_lora_weights='orthogonal' can't start on {quantization.quantize} weights: PEFT "
            "0.21 makes the adapter of whole numbers as they are; give init_lora_weights=True, or "
            "quantize=None"
        )
    int8 = quantization is not None and quantization.quantize == "int8"
    if recipe.use_dora and int8 and base.device.type == "cpu":
        raise ValueError(
            "use_dora=True with 8-bit weights does not train on a CPU: PEFT 0.21 loses their "
            "constants; give quantize='nf4', or use_dora=False"
        )
    return quantization


def as_trained(base: Base, recipe: Recipe) -> Base:
    """The base in the precision that the recipe trains on: itself, or a quantised copy."""
    quantization = quantization_for(base, recipe)
    return base if quantization == base.quantization else quantized_base(base, quantization)


def about_training(base: Base, recipe: Recipe) -> str:
    """The base in a sentence, and the precision in which the recipe trains on it."""
    quantization = quantization_for(base, recipe)
    if quantization == base.quantization:
        return base.about
    return f"{base.about}; trained on a copy quantised to {quantization}"


# --- the adapter on the base ------------------------------------------------------------------


def adapt(base: Base, recipe: Recipe) -> nn.Module:
    """The base with the recipe's new adapter on it, ready to train.

    The result is a module tree of its own that shares the base's tensors (method "full": a float32
    copy of them). The base keeps its weights, its `requires_grad` and its modules. The adapter's
    start is drawn from `recipe.seed`; the global random state is left as it was.

    Method "adalora" takes more memory than "lora", not less. Every layer holds `init_r` ranks until
    the end, with their gradients and optimizer state; the ranks that are not kept are masked. Only
    the saved adapter is small (`training/adalora.py` has the steps).

    Raises:
        ValueError: if a target module, layer or module to save is not in this model.
    """
    trained_base = as_trained(base, recipe)
    if recipe.method == "full":  # in float32: its steps are too small for 16-bit weights
        return copy.deepcopy(base.model).float().requires_grad_(True)
    _warn_of_wasted_rank(_checked_matrices(base, recipe), recipe)
    model = share_tensors(trained_base.model)
    if recipe.changes_the_base:
        for module in model.modules():
            if isinstance(module, ADAPTABLE):  # its weight will be written to, so it gets a copy
                module.weight.data = module.weight.data.clone()
    loftq = recipe.init_lora_weights == "loftq"  # PEFT's own needs CUDA, and changes the base
    config = to_peft(replace(recipe, init_lora_weights=True) if loftq else recipe, base)
    targets = config.target_modules
    spell_patterns_out(config, model)
    with seeded(base.device, recipe.seed):  # PEFT draws from the global random state
        model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if "ranknum" in name:  # a count, which PEFT would train on a 16-bit base
            parameter.requires_grad_(False)
    if loftq:
        _start_as_loftq(model, base)
    if isinstance(targets, str) and targets != "all-linear":
        model.peft_config["default"].target_modules = targets  # what is saved, as PEFT saves it
    model.peft_config["default"].base_model_name_or_path = base.name  # no path of this machine
    merge_into_copies(model)
    return model


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only each layer's input, and compute the rest again on the way back."""
    enable = getattr(model, "activation_checkpointing_enable", None)  # its name from 5.23 on
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})
    model.enable_input_require_grads()


def spell_patterns_out(config: "PeftConfig", model: nn.Module) -> None:
    """Replace a configuration's regexes by the names that they match in a model.

    PEFT matches a regex without a limit of time. The names that replace it are a regex, too, but
    can be tried in one way only.

    Raises:
        ValueError: if a pattern is not a regex, or takes too long.
    """
    for field in ("modules_to_save", "layers_pattern"):
        value = getattr(config, field, None) or ()
        for name in (value,) if isinstance(value, str) else value:
            if not re.fullmatch(r"[\w.]+", name):
                raise ValueError(
                    f"{field} holds {name!r}, and PEFT would take it for a regex; give plain names"
                )
    names = [name for name, _ in model.named_modules()]
    for field in ("exclude_modules", "target_modules"):
        value = getattr(config, field, None)
        if isinstance(value, str) and value.lower() != "all-linear":
            setattr(config, field, spelt_out(matching(value, names, field)))
    reached = [name for name in names if check_target_module_exists(config, name)]
    for field in ("rank_pattern", "alpha_pattern"):  # by a regex for the end of a name
        by_name = {}
        for pattern, value in (getattr(config, field, None) or {}).items():
            for name in matching(rf"(.*\.)?({pattern})", reached, field):
                by_name.setdefault(re.escape(name), value)  # the first pattern counts, as in PEFT
        if getattr(config, field, None):  # PEFT takes the first name that ends a layer's name
            longest_first = sorted(by_name, key=len, reverse=True)
            setattr(config, field, {name: by_name[name] for name in longest_first})


@torch.no_grad()
def _start_as_loftq(model: nn.Module, base: Base) -> None:
    """Start each adapter at the rank-r matrix that is nearest to the weight's quantisation error.

    PEFT's `replace_lora_weights_loftq` leaves the scaling out, so its start is the nearest only
    where lora_alpha = r. Here A and B are each divided by the square root of the scaling.

    Source:
        LoftQ, arXiv:2310.08659, algorithm 1, with one round (T = 1).
    """
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and is_quantized(layer.base_layer):
            original = base.model.get_submodule(name)
            weight = weight_of(original).T if isinstance(original, Conv1D) else weight_of(original)
            lost = weight.float() - weight_of(layer.base_layer).float()  # (out, in)
            u, s, v = torch.linalg.svd(lost, full_matrices=False)
            A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            r = min(len(s), A.shape[0])
            root = (s[:r] / layer.scaling["default"]).sqrt()
            A.zero_()[:r] = root[:, None] * v[:r]  # (r, in)
            B.zero_()[:, :r] = u[:, :r] * root  # (out, r)


def merge_into_copies(model: nn.Module) -> None:
    """Let PEFT merge an adapter into a copy of each weight: in place, it would change the base."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.merge = functools.partial(_merge_into_copy, layer)


def _merge_into_copy(
    layer: LoraLayer, safe_merge: bool = True, adapter_names: list[str] | None = None
) -> None:
    type(layer).merge(layer, safe_merge=True, adapter_names=adapter_names)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names, each a copy. Empty for a model without one."""
    if not isinstance(model, peft.PeftModel):
        return {}
    tensors = peft.get_peft_model_state_dict(
        model, model.state_dict(), save_embedding_layers=False
    )  # with the state dict given, PEFT does not call AdaLoRA's layers of rank 0 incomplete
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}

"""A recipe's adapter put on a base: what it reaches, how it starts. The door to PEFT."""

import copy
import functools
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lora_lab.machine.devices import named, seeded
from lora_lab.models.architecture import (
    Modules,
    adapted,
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

# PEFT 0.21 asks transformers 5.23 by a name that is going away: nothing a user can mend.
warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)

import peft  # noqa: E402 - after bitsandbytes is quiet
from peft.tuners.lora import LoraLayer  # noqa: E402
from peft.tuners.tuners_utils import check_target_module_exists  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

if TYPE_CHECKING:
    from peft import PeftConfig

ADAPTABLE = (nn.Linear, nn.Embedding, Conv1D)


# --- what a recipe adapts -------------------------------------------------------------------


def check_fits(base: Base, recipe: Recipe) -> None:
    """Refuse a recipe that can't train on this base, or whose result could not be kept.

    Raises:
        ValueError: as `adapt` does; nothing is copied or quantised for it.
    """
    quantization_for(base, recipe)
    if recipe.method != "full":
        _narrowest(base, recipe)


def _narrowest(base: Base, recipe: Recipe) -> int:
    """The width of the narrowest layer that a recipe adapts, which has to fit this model."""
    modules = modules_of(base.model, base.name)
    reached = adapted(modules, recipe)
    if isinstance(recipe.target_modules, str) and recipe.target_modules != "all-linear":
        _check_only_layers(base.model, modules, recipe)
    thin = min(reached, key=lambda matrix: min(matrix.in_features, matrix.out_features))
    width = min(thin.in_features, thin.out_features)
    if recipe.changes_the_base:
        what = f"init_lora_weights={recipe.init_lora_weights!r}"
        embedding = next((matrix.name for matrix in reached if matrix.kind == "embedding"), None)
        if embedding is not None:
            raise ValueError(
                f"{what} can't start the embedding {embedding!r}: PEFT knows it for linear layers; "
                "give init_lora_weights=True, or other target_modules"
            )
        turned = [
            one.name for one in reached if isinstance(base.model.get_submodule(one.name), Conv1D)
        ]
        if recipe.init_lora_weights == "olora" and turned:
            raise ValueError(
                f"{what} can't start {turned[0]!r}, a Conv1D: PEFT 0.21 takes its weight for the "
                "transposed one; give 'pissa', or init_lora_weights=True"
            )
        if recipe.r > width:
            raise ValueError(
                f"{what} takes its r={recipe.r} directions out of a layer's weight, and "
                f"{thin.name!r} has no more than {width}; give r={width} at most, or "
                "init_lora_weights=True"
            )
    return width


def _check_reach(base: Base, recipe: Recipe) -> None:
    """Refuse a recipe that does not fit this model; warn of an r wider than a layer."""
    narrowest = _narrowest(base, recipe)
    field, r = ("init_r", recipe.init_r) if recipe.method == "adalora" else ("r", recipe.r)
    if r > narrowest:
        warnings.warn(
            f"{field}={r} is above {narrowest}, the width of the narrowest adapted layer: a "
            f"change can have no higher rank than that, so the parameters above are wasted",
            stacklevel=3,
        )


def _check_only_layers(model: nn.Module, modules: Modules, recipe: Recipe) -> None:
    """Refuse a regex that matches more than layers: a whole block, a norm, an activation."""
    known = {one.name for one in modules.matrices}
    saved = saved_modules(modules, recipe)
    names = (name for name, _ in model.named_modules() if name and not inside(name, saved))
    for name in matching(recipe.target_modules, names):
        if name not in known:
            raise ValueError(
                f"target_modules={recipe.target_modules!r} also matches {name!r} "
                f"({type(model.get_submodule(name)).__name__}), which PEFT can't adapt; give a "
                'regex for whole names of linear layers, such as ".*mlp.*_proj"'
            )


def _linear_names(base: Base) -> tuple[str, ...]:
    """The last names of all linear layers but the output's: what PEFT's "all-linear" means."""
    matrices = modules_of(base.model, base.name).matrices
    return tuple(sorted({last_name(one.name) for one in matrices if one.kind == "linear"}))


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
    """What PEFT's configuration is given, by PEFT's names, for the same arguments as `to_peft`."""
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


# --- a model of one's own, on the base's tensors --------------------------------------------


def quantization_for(base: Base, recipe: Recipe) -> Quantization | None:
    """How the weights are kept while the recipe trains on the base; None: as they are.

    Raises:
        ValueError: if the base is quantised already, and the recipe asks for something else, or
            needs the weights as they were before.
    """
    has = base.quantization
    needs_all = recipe.method == "full" or recipe.init_lora_weights == "loftq"
    if has is not None and (needs_all or recipe.changes_the_base):
        what = "method='full'" if recipe.method == "full" else repr(recipe.init_lora_weights)
        raise ValueError(
            f"{what} needs the whole weights, and {base.name} was loaded with "
            f"quantize={has.quantize!r}; load it without (a recipe can quantise it for LoftQ)"
        )
    wanted = has
    if recipe.quantize is not None:
        dtype = base.dtype
        if recipe.compute_dtype != "auto":
            dtype = getattr(torch, recipe.compute_dtype)
        wanted = Quantization(recipe.quantize, recipe.double_quant, dtype)
        if has not in (None, wanted):
            raise ValueError(
                f"the recipe asks for {wanted}, computed in {named(dtype)}, and {base.name} is "
                f"quantised already: {has}, computed in {named(has.compute_dtype)}; give "
                "quantize=None, or load the base without quantize"
            )
    if wanted is not None and recipe.init_lora_weights == "orthogonal":
        raise ValueError(
            f"init_lora_weights='orthogonal' can't start on {wanted.quantize} weights: PEFT 0.21 "
            "makes the adapter of whole numbers as they are; give init_lora_weights=True, or "
            "quantize=None"
        )
    int8 = wanted is not None and wanted.quantize == "int8"
    if recipe.use_dora and int8 and base.device.type == "cpu":
        raise ValueError(
            "use_dora=True with 8-bit weights does not train on a CPU: PEFT 0.21 loses their "
            "constants; give quantize='nf4', or use_dora=False"
        )
    return wanted


def as_trained(base: Base, recipe: Recipe) -> Base:
    """The base in the precision that the recipe trains on: itself, or a quantised copy."""
    how = quantization_for(base, recipe)
    return base if how == base.quantization else quantized_base(base, how)


def _copy_tensors(model: nn.Module) -> nn.Module:
    """A whole copy in float32: steps of full fine-tuning are too small for 16-bit weights."""
    return copy.deepcopy(model).float().requires_grad_(True)


def about_training(base: Base, recipe: Recipe) -> str:
    """Where a run is trained, and in which precision, in words."""
    how = quantization_for(base, recipe)
    new = how is not None and how != base.quantization
    return base.about + (f"; trained on a copy quantised to {how}" if new else "")


def adapt(base: Base, recipe: Recipe) -> nn.Module:
    """The base with the recipe's fresh adapter on it, ready to train.

    The result is a module tree of its own that shares the base's tensors (method "full": a float32
    copy of them). The base keeps its weights, its `requires_grad` and its modules. The adapter's
    start is drawn from `recipe.seed`; the global random state is left as it was.

    Method "adalora" trains more than "lora", not less: every layer holds `init_r` ranks until the
    end, with their gradients and optimizer state, and those not kept are masked. What is saved is
    small; no memory is spared while training (`ranks.py` has the steps).

    Raises:
        ValueError: if a target module, layer or module to save is not in this model.
    """
    on = as_trained(base, recipe)
    if recipe.method == "full":
        return _copy_tensors(base.model)
    _check_reach(base, recipe)
    model = share_tensors(on.model)
    if recipe.changes_the_base:
        for module in model.modules():
            if isinstance(module, ADAPTABLE):  # its weight will be written to: give it its own
                module.weight.data = module.weight.data.clone()
    loftq = recipe.init_lora_weights == "loftq"  # PEFT's own needs CUDA, and changes the base
    config = to_peft(replace(recipe, init_lora_weights=True) if loftq else recipe, base)
    targets = config.target_modules
    spell_patterns_out(config, model)
    with seeded(base.device, recipe.seed):  # PEFT draws from the global random state
        model = peft.get_peft_model(model, config)
    for name, one in model.named_parameters():
        if "ranknum" in name:  # a count, which PEFT would train on a 16-bit base
            one.requires_grad_(False)
    if loftq:
        _begin_with_what_was_lost(model, base)
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
    """Put in place of a configuration's regexes the names that they match in a model.

    PEFT tries a regex without end if it takes that. So it gets only such as are tried in one way.

    Raises:
        ValueError: for what is no regex, or one that takes too long.
    """
    for field in ("modules_to_save", "layers_pattern"):
        given = getattr(config, field, None) or ()
        for name in (given,) if isinstance(given, str) else given:
            if not re.fullmatch(r"[\w.]+", name):
                raise ValueError(
                    f"{field} holds {name!r}, and PEFT would take it for a regex; give plain names"
                )
    names = [name for name, _ in model.named_modules()]
    for field in ("exclude_modules", "target_modules"):
        given = getattr(config, field, None)
        if isinstance(given, str) and given.lower() != "all-linear":
            setattr(config, field, spelt_out(matching(given, names, field)))
    reached = [name for name in names if check_target_module_exists(config, name)]
    for field in ("rank_pattern", "alpha_pattern"):  # by a regex for the end of a name
        by_name = {}
        for pattern, value in (getattr(config, field, None) or {}).items():
            for name in matching(rf"(.*\.)?({pattern})", reached, field):
                by_name.setdefault(re.escape(name), value)  # of several the first counts
        if getattr(config, field, None):
            longest_first = sorted(by_name, key=len, reverse=True)  # a short one may end a long one
            setattr(config, field, {name: by_name[name] for name in longest_first})


@torch.no_grad()
def _begin_with_what_was_lost(model: nn.Module, base: Base) -> None:
    """Start each adapter at the nearest matrix of rank r to what quantisation took from its weight.

    PEFT's `replace_lora_weights_loftq` leaves the scaling out, so that its start is the nearest
    only where lora_alpha = r. Here A and B are divided by its root each.

    Source:
        LoftQ, arXiv:2310.08659, algorithm 1, with one round (T = 1).
    """
    for name, layer in model.get_base_model().named_modules():
        if isinstance(layer, LoraLayer) and is_quantized(layer.base_layer):
            whole = base.model.get_submodule(name)
            weight = weight_of(whole).T if isinstance(whole, Conv1D) else weight_of(whole)
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
    )  # its state dict, not asked for: PEFT would call AdaLoRA's layers of rank 0 incomplete
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}

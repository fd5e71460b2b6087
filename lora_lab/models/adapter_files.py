"""An adapter's folder, read and checked: what would fail later or answer wrongly is refused."""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import torch
from torch import Tensor

from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.models.tensor_files import load_tensors

if TYPE_CHECKING:  # PEFT takes seconds to import, and is quiet once lora_lab.models.bases is there
    from peft import PeftConfig

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MODEL_FILE = "model.safetensors"  # every weight of a model, where there is no adapter

SAVE_AGAIN = "save it again with save_adapter or PEFT's save_pretrained"  # ends an error

Rank = Annotated[int, msgspec.Meta(ge=1)]
Names = str | list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `adapter_config.json` that decide the answers, and what each may hold."""

    peft_type: Literal["LORA", "ADALORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None
    modules_to_save: list[str] | None = None
    r: Rank = 8
    init_r: Rank = 12  # AdaLoRA's
    lora_alpha: float = 8
    lora_dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    rank_pattern: dict[str, Rank | list[bool]] | None = None  # AdaLoRA's are lists
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    inference_mode: bool = False
    bias: Literal["none"] = "none"  # others change the base's own


FIELDS_WITHOUT_EFFECT = {  # where it comes from, how it began, how AdaLoRA shared out the ranks
    *("auto_mapping", "peft_version", "revision", "runtime_config", "ensure_weight_tying"),
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
    *("megatron_core", "qalora_group_size"),  # set even where their features are off
}


def read_settings(folder: Path) -> dict[str, object]:
    """The fields of `adapter_config.json`, checked.

    Raises:
        ValueError: if it can't be read, or switches on a field that is not known here.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        settings = msgspec.convert(config, Settings)
    except (ValueError, RecursionError, OSError, msgspec.ValidationError) as error:
        raise ValueError(
            f"{path} is no configuration of an adapter that is known here: {error}; PEFT's LORA "
            "and ADALORA for CAUSAL_LM are, with ranks of 1 or more and bias 'none'"
        ) from error
    known = {field.name for field in fields(Settings)} | FIELDS_WITHOUT_EFFECT
    for name, value in config.items():
        if value and name not in known:
            raise ValueError(
                f"{path} says {name}={value!r}, which is not known here and may change the "
                "answers; load this adapter with the PEFT that wrote it, or switch the field off"
            )
    for name, value in _alphas(settings):
        if not math.isfinite(value):
            raise ValueError(f"{path} says {name}={value}; give a finite number")
    is_adalora = settings.peft_type == "ADALORA"
    for name, rank in (settings.rank_pattern or {}).items():
        if isinstance(rank, list) != is_adalora:
            right = "a list of yes and no for AdaLoRA" if is_adalora else "a number for LoRA"
            raise ValueError(f"{path} says rank_pattern of {name!r} is {rank!r}; give {right}")
    return config


def _alphas(settings: Settings) -> Iterable[tuple[str, float]]:
    yield "lora_alpha", settings.lora_alpha
    for name, alpha in (settings.alpha_pattern or {}).items():
        yield f"alpha_pattern of {name!r}", alpha


def read_config(folder: Path) -> "PeftConfig":
    """The configuration of an adapter that `save_adapter` or PEFT wrote.

    Raises:
        ValueError: if it can't be read, or says what is not known here.
    """
    from peft import AdaLoraConfig, LoraConfig

    config = read_settings(folder)
    config_class = {"LORA": LoraConfig, "ADALORA": AdaLoraConfig}[config["peft_type"]]
    known = {field.name for field in fields(config_class)} - {"runtime_config"}  # the writer's own
    try:
        return config_class(**{name: value for name, value in config.items() if name in known})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"PEFT refuses {folder / CONFIG_FILE}: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter or of a whole model.

    Raises:
        ValueError: if the file is damaged, or holds NaN, infinite or whole numbers.
    """
    tensors = load_tensors(path)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(
                f"{path} holds {name!r} in {tensor.dtype}; weights are floating-point numbers: "
                "save the adapter again with save_adapter or PEFT's save_pretrained"
            )
        if not torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all():
            raise ValueError(
                f"{path} holds NaN or infinite numbers in {name!r}, and would answer at random; "
                "train it again, with a lower learning_rate"
            )
    return tensors


def check_files(folder: Path) -> str:
    """The name of the file with the weights in an adapter's or a model's folder.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        ValueError: if its weights are a pickle.
    """
    if (folder / MODEL_FILE).exists():
        return MODEL_FILE
    if not (folder / CONFIG_FILE).exists():
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}, so it is not an adapter; give a folder that "
            "save_adapter or PEFT's save_pretrained wrote"
        )
    if not (folder / WEIGHTS_FILE).exists():
        pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt")]
        if pickles:
            raise ValueError(
                f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is "
                f"read; save it again as {WEIGHTS_FILE} (PEFT's save_pretrained does)"
            )
        raise FileNotFoundError(f"{folder} holds a {CONFIG_FILE} but no {WEIGHTS_FILE}")
    return WEIGHTS_FILE


# --- an adapter and its base ------------------------------------------------------------------


def check_base(base: Base, tensors: dict[str, Tensor], trained_on: str | None) -> None:
    """Refuse an adapter that was trained on another base, saying which shapes differ.

    Args:
        base: the base on which it is loaded.
        tensors: the adapter's, by PEFT's names.
        trained_on: the base that the adapter's configuration names.
    """
    matrices = {matrix.name: matrix for matrix in modules_of(base.model, base.name).matrices}
    problems = []
    for key, tensor in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)(?:\.weight)?", key)
        if not match:
            continue
        name, factor = match.groups()
        if tensor.ndim != 2:
            raise ValueError(
                f"the adapter's {key!r} has the shape {tuple(tensor.shape)}, and LoRA's A and B "
                f"are matrices; {SAVE_AGAIN}"
            )
        if name not in matrices:
            problems.append(f"{name}: not in {base.name}")
            continue
        if factor == "A":
            side, width, base_width = "inputs", tensor.shape[1], matrices[name].in_features
        else:
            side, width, base_width = "outputs", tensor.shape[0], matrices[name].out_features
        if width != base_width:
            problems.append(f"{name}: the adapter has {width} {side}, {base.name} has {base_width}")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"this adapter was trained on another base than {base.name}: "
            f"{'; '.join(problems[:3])}{more}. Load the base it was trained on"
            f" ({trained_on or 'its configuration does not say which'})"
        )


def check_ranks(base: Base, tensors: dict[str, Tensor], config: "PeftConfig") -> None:
    """Refuse ranks that the tensors do not have, before PEFT makes matrices of them."""
    from peft.utils.other import get_pattern_key

    if not config.target_modules:
        raise ValueError(
            f"the adapter's target_modules reach nothing in {base.name}; {SAVE_AGAIN}, or load the "
            "base it was trained on"
        )
    field = "init_r" if config.peft_type == "ADALORA" else "r"
    pattern = config.rank_pattern or {}  # empty for AdaLoRA: `Adapted` sets its ranks
    r = getattr(config, field)
    unseen_ranks = {r, *pattern.values()}  # that no tensor has
    for key, tensor in tensors.items():
        match = re.fullmatch(r"base_model\.model\.(.+)\.lora_A\.weight", key)
        if match:
            rank = pattern.get(get_pattern_key(list(pattern), match[1]), r)
            if tensor.shape[0] != rank:
                raise ValueError(
                    f"the adapter's {key!r} has rank {tensor.shape[0]}, and its own configuration "
                    f"says {rank} ({field}={r}); {SAVE_AGAIN}"
                )
            unseen_ranks.discard(rank)
    matrices = modules_of(base.model, base.name).matrices
    widest = max(max(matrix.in_features, matrix.out_features) for matrix in matrices)
    if unseen_ranks and max(unseen_ranks) > widest:
        raise ValueError(
            f"the adapter's configuration says rank {max(unseen_ranks)}, which no tensor has, and "
            f"the widest layer is {widest} wide; {SAVE_AGAIN}"
        )

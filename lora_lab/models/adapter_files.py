"""An adapter's folder, read and checked: what would fail later or answer wrongly is refused."""

import re
import warnings
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_lab.models.adapter_config import (
    CONFIG_FILE,
    PREFIX,
    UNWRAP,
    WRAPPED_TWICE,
    chat_template_of,
    read_settings,
    unmatched_targets,
)
from lora_lab.models.architecture import last_name
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.models.tensor_files import load_tensors
from lora_lab.recipe import nearest

if TYPE_CHECKING:  # PEFT takes seconds to import, and lora_lab.models.bases must quieten it first
    from peft import PeftConfig

SAVE_AGAIN = "save it again with save_adapter or PEFT's save_pretrained"  # ends an error


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
        raise ValueError(f"PEFT refuses {folder / CONFIG_FILE}: {error}; {SAVE_AGAIN}") from error


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


# --- an adapter and its base ------------------------------------------------------------------


def check_base(base: Base, tensors: dict[str, Tensor], trained_on: str | None) -> None:
    """Refuse an adapter that was trained on another base, saying which shapes differ.

    Args:
        base: the base on which it is loaded.
        tensors: the adapter's, by PEFT's names.
        trained_on: the base that the adapter's configuration names.
    """
    twice = next((key for key in tensors if key.startswith(2 * PREFIX)), None)
    if twice is not None:
        raise ValueError(
            f"the adapter's names begin with {PREFIX!r} twice, such as {twice!r}: {WRAPPED_TWICE}. "
            f"So no layer of {base.name} is found; {UNWRAP}"
        )
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


def warn_of_what_is_missing(
    base: Base, tensors: dict[str, Tensor], config: "PeftConfig", folder: Path
) -> None:
    """Warn of targets that match nothing, of an adapter that never learned, of another template.

    Such adapters load without an error, and answer worse than they could.
    """
    matrices = modules_of(base.model, base.name).matrices
    known = tuple(sorted({last_name(matrix.name) for matrix in matrices}))
    targets = unmatched_targets(config.target_modules, [matrix.name for matrix in matrices])
    if targets:
        warnings.warn(
            f"the adapter in {folder} names {', '.join(map(repr, targets))} in target_modules, "
            f"and {base.name} has no such layer: nothing was trained there; "
            f"{nearest(targets[0], known)}`lora-lab check {folder}` says more",
            stacklevel=3,
        )
    starts = "lora_E" if config.peft_type == "ADALORA" else "lora_B", "lora_embedding_A"
    begun_at_0 = [tensor for key, tensor in tensors.items() if any(part in key for part in starts)]
    if begun_at_0 and not any(tensor.any() for tensor in begun_at_0):
        warnings.warn(
            f"the adapter in {folder} has learned nothing: {starts[0]} is all zero, as before the "
            f"first step, so it answers as {base.name} does; `lora-lab check {folder}` says more",
            stacklevel=3,
        )
    with suppress(ValueError, OSError):
        template = chat_template_of(folder)
        if template and template != base.tokenizer.chat_template:
            warnings.warn(
                f"{folder} holds a chat template of its own, and prompts are written by "
                f"{base.name}'s: an adapter answers best in the form in which it was trained; "
                f"`lora-lab check {folder}` says more",
                stacklevel=3,
            )

"""The shape of a base from the name that a recipe gives it; nothing is fetched."""

import json
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

from lora_lab.cost.estimates import find_shape
from lora_lab.cost.known_models import known_shapes
from lora_lab.models.architecture import Shape
from lora_lab.models.read_architecture import cached_shape, shape_of
from lora_lab.review.base_names import more_configs, short_name, well_known

# A family's names: its members have the same modules. With a member whose shape is known.
FAMILIES = (
    (r"qwen3-(14b|32b)", "qwen3-8b"),
    (r"qwen2(\.5)?-(14b|32b|72b)", "qwen2.5-7b"),
    (r"(code)?llama-(2-)?\d+b|llama-3(\.[13])?-\d+b|llama-30b", "llama-3.1-8b"),
    (r"gemma-7b", "gemma-2b"),
    (r"gemma-2-(9b|27b)", "gemma-2-2b"),
    (r"smollm2-360m|open-llama-\d+b(-v2)?|yi-\d+b", "llama-3.1-8b"),
)
# PEFT's choice where a recipe names no modules: src/peft/utils/constants.py, PEFT 0.21.
PEFT_TARGETS = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"), ("q_proj", "v_proj")
    ),
    **dict.fromkeys(("opt",), ("q_proj", "v_proj")),
    **dict.fromkeys(("falcon", "gpt_neox"), ("query_key_value",)),
    **dict.fromkeys(("bert", "roberta"), ("query", "value")),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "gpt2": ("c_attn",),
    "t5": ("q", "v"),
    "deberta-v2": ("query_proj", "value_proj"),
}


@dataclass(frozen=True, slots=True)
class NamedBase:
    """A base's shape, or that of a relative whose modules have the same names."""

    shape: Shape
    is_exact: bool  # False: it is a relative's shape, so nothing can be counted

    @property
    def model_type(self) -> str:
        """The kind of model, in transformers' words: "llama"."""
        return str(json.loads(self.shape.config).get("model_type"))


def named_base(name: str | None) -> NamedBase | None:
    """The shape of the base with this name: a hub id or a folder. None: not known here."""
    if not name:
        return None
    short = short_name(name)
    if short in ("pocket", "smollm2"):
        return NamedBase(find_shape(short), True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        known = well_known(name)
        if known is not None:
            shape = find_shape(known) if known in known_shapes() else _shape(known)
            return NamedBase(shape, True)
        if os.path.isfile(Path(name) / "config.json"):
            try:
                return NamedBase(find_shape(Path(name)), True)
            except (ValueError, TypeError, OSError, KeyError):
                return None
        for pattern, relative in FAMILIES:
            if re.fullmatch(pattern, short):
                shape = _shape(relative) if relative in more_configs() else find_shape(relative)
                return NamedBase(shape, False)
    return None


def _shape(short: str) -> Shape:
    config = more_configs()[short]
    return cached_shape(json.dumps([short, config]), lambda: shape_of(config, short))

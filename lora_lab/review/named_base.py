"""The shape of a base from the name that a recipe gives it; nothing is fetched."""

import functools
import json
import re
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path

from lora_lab.cost.estimates import find_shape
from lora_lab.cost.known_models import known_shapes
from lora_lab.models.architecture import Shape
from lora_lab.models.read_architecture import cached_shape, shape_of
from lora_lab.places import data_folder

# Endings of a hub's name that leave the shape as it is.
ENDINGS = re.compile(
    r"[-_](instruct|it|chat|base|hf|bnb|4bit|8bit|unsloth|fp8|block|gptq|awq|int4|int8|dynamic|deduped"
    r"|v\d+(\.\d+)*|\d{4}|16bit|fp16|bf16|sft|intermediate.*|step.*)$"
)
SAME = {  # shortened names of a shape that shapes.toml has under another name
    "llama-2-7b": "llama-7b",
    "llama-2-13b": "llama-13b",
    "llama-3-8b": "llama-3.1-8b",
    "mistral-7b": "mistral-7b",
    "phi-3.5-mini": "phi-3-mini",
    "phi-3-mini-4k": "phi-3-mini",
    "smollm2-135m": "smollm2",
    "qwen2-7b": "qwen2.5-7b",
}
# Names of a family whose members have the same modules, and a member whose shape is known.
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
    is_exact: bool  # False: a relative's, so nothing can be counted

    @property
    def model_type(self) -> str:
        """The kind of model, in transformers' words: "llama"."""
        return str(json.loads(self.shape.config).get("model_type"))


def named_base(name: str | None) -> NamedBase | None:
    """The shape of the base with this name: a hub id or a folder. None: not known here."""
    if not name:
        return None
    short = short_name(name)
    if "phi" in short and name.lower().startswith("unsloth/"):
        return None  # Unsloth's copies have other modules
    if short in ("pocket", "smollm2"):
        return NamedBase(find_shape(short), True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        listed = {known.hub.lower(): key for key, known in known_shapes().items()}
        key = listed.get(name.lower()) or SAME.get(short, short)
        if key in known_shapes():
            return NamedBase(find_shape(key), True)
        if short in _more():
            return NamedBase(_shape(short), True)
        if (Path(name) / "config.json").is_file():
            try:
                return NamedBase(find_shape(Path(name)), True)
            except (ValueError, TypeError, OSError, KeyError):
                return None
        for pattern, relative in FAMILIES:
            if re.fullmatch(pattern, short):
                shape = _shape(relative) if relative in _more() else find_shape(relative)
                return NamedBase(shape, False)
    return None


def short_name(name: str) -> str:
    """A hub id without owner and without endings such as -Instruct and -bnb-4bit."""
    short = name.rstrip("/").rpartition("/")[2].lower()
    short = short.removeprefix("meta-").replace("codellama-", "llama-2-").replace("_", "-")
    while (cut := ENDINGS.sub("", short)) != short:
        short = cut
    return short


@functools.cache
def _more() -> dict[str, dict]:
    """The configs of data/named_bases.toml, by each of their names."""
    with (data_folder() / "named_bases.toml").open("rb") as file:
        listed = tomllib.load(file)
    return {
        also: facts["config"]
        for name, facts in listed.items()
        for also in (name, *facts.get("also", ()))
    }


def _shape(short: str) -> Shape:
    config = _more()[short]
    return cached_shape(json.dumps([short, config]), lambda: shape_of(config, short))

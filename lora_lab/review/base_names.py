"""The well-known base that a hub id means, and its configuration. No torch; nothing is fetched."""

import functools
import re
import tomllib

from lora_lab.cost.known_models import known_shapes
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


def well_known(name: str) -> str | None:
    """The short name of the well-known base whose shape a hub id's model has; None: not known."""
    short = short_name(name)
    if "phi" in short and name.lower().startswith("unsloth/"):
        return None  # Unsloth's copies have other modules
    listed = {known.hub.lower(): key for key, known in known_shapes().items()}
    key = listed.get(name.lower()) or SAME.get(short, short)
    if key in known_shapes():
        return key
    return short if short in more_configs() else None


def known_configs() -> dict[str, dict]:
    """The configurations of all well-known bases, each under one short name."""
    configs = {name: known.config for name, known in known_shapes().items()}
    for name, config in more_configs().items():
        if config not in configs.values():
            configs[name] = config
    return configs


def config_of(name: str) -> dict | None:
    """The configuration of the well-known base that a hub id means; None: not known.

    Its sizes and layers are right. Its vocabulary may differ, as between Mistral's versions.
    """
    known = well_known(name)
    if known is None:
        return None
    return known_shapes()[known].config if known in known_shapes() else more_configs()[known]


def short_name(name: str) -> str:
    """A hub id without owner and without endings such as -Instruct and -bnb-4bit."""
    short = name.rstrip("/").rpartition("/")[2].lower()
    short = short.removeprefix("meta-").replace("codellama-", "llama-2-").replace("_", "-")
    while (cut := ENDINGS.sub("", short)) != short:
        short = cut
    return short


@functools.cache
def more_configs() -> dict[str, dict]:
    """The configurations of data/named_bases.toml, by each of their names."""
    with (data_folder() / "named_bases.toml").open("rb") as file:
        listed = tomllib.load(file)
    return {
        also: facts["config"]
        for name, facts in listed.items()
        for also in (name, *facts.get("also", ()))
    }

"""The keys that other programs know, from data/tools.toml."""

import functools
import tomllib

from lora_lab.places import data_folder


@functools.cache
def keys_of(*tools: str) -> tuple[str, ...]:
    """The keys that any of these programs knows: "Axolotl", "TRL", "transformers" …"""
    with (data_folder() / "tools.toml").open("rb") as file:
        listed = tomllib.load(file)
    return tuple(dict.fromkeys(key for tool in tools for key in listed[tool]["keys"].split()))

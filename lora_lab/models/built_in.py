"""The bases with a short name: what they are, and whether each is here. No model is loaded."""

from dataclasses import dataclass, replace
from pathlib import Path

from lora_lab.models.smollm2 import smollm2_is_here
from lora_lab.places import data_folder


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A base that can be loaded by its short name."""

    name: str
    about: str
    licence: str
    origin: str = ""  # for `Base.about`: whose weights they are, and what was done to them
    prepared: bool = True  # False: `lora-lab prepare` has to fetch it first


BUILT_IN = {
    "pocket": BuiltIn(
        "pocket",
        "a tiny Llama that knows one invented world: a run takes seconds on one core",
        "Apache-2.0",
    ),
    "smollm2": BuiltIn(
        "smollm2",
        "SmolLM2-135M-Instruct, a real language model; its weights are 4-bit values de-quantised",
        "Apache-2.0",
        "its weights are 4-bit values de-quantised (SmolLM2-135M-Instruct, by Hugging Face, "
        "Apache-2.0)",
    ),
}


def list_bases() -> list[BuiltIn]:
    """The bases with a short name, and whether each can be loaded now."""
    prepared = {
        "pocket": (pocket_folder() / "config.json").is_file(),
        "smollm2": smollm2_is_here(),
    }
    return [replace(base, prepared=prepared[name]) for name, base in BUILT_IN.items()]


def pocket_folder() -> Path:
    """The folder of pocket's weights, as shipped with the package."""
    return data_folder() / "pocket" / "model"

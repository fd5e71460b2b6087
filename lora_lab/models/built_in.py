"""The bases with a short name: what they are, and whether each is here. No model is loaded."""

import functools
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from lora_lab.models.smollm2 import converted_folder, smollm2_folder, smollm2_is_here
from lora_lab.places import NotPrepared, data_folder
from lora_lab.recipe import nearest


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A base that can be loaded by its short name."""

    name: str
    about: str
    licence: str
    origin: str = ""  # for `Base.about`: whose weights they are, and what was done to them
    hub: str = ""  # its id on the Hugging Face hub; empty: the hub does not have it
    beside_hub: str = ""  # what differs from the hub's files, and how much
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
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        # tests/test_exports.py measures these on the file
        "106 M of its 134.5 M weights are 4-bit values (GGUF's Q4_1: 16 levels for each block of "
        "32 weights); the embedding has 8 bits. Rounding to such levels moves the 4-bit weights by "
        "8.2 % of their size (root mean square, where each place within a step is equally likely). "
        "The hub's weights are not rounded. Its chat template adds a system prompt of its own; "
        "the one used here adds none.",
    ),
}


def hub_id(name: str) -> str:
    """The hub's id of a base by its name; empty: the hub does not have it."""
    if name in BUILT_IN:
        return BUILT_IN[name].hub
    return name if "/" in name else ""  # a folder's name has no slash


def list_bases() -> list[BuiltIn]:
    """The bases with a short name, and whether each can be loaded now."""
    prepared = {
        "pocket": _pocket_is_here(),
        "smollm2": smollm2_is_here(),
    }
    return [replace(base, prepared=prepared[name]) for name, base in BUILT_IN.items()]


def base_folder(name: str) -> Path:
    """The folder of a base with a short name, there or not; plain transformers loads it."""
    folders = {"pocket": data_folder() / "pocket" / "model", "smollm2": converted_folder()}
    return folders[name]


def prepared_folder(name: str) -> Path:
    """The folder of a base with a short name; smollm2's is made from the fetched file if need be.

    Raises:
        NotPrepared: if the base is not here.
    """
    if name == "smollm2":
        return smollm2_folder()
    if not _pocket_is_here():
        raise NotPrepared(
            f"pocket's weights are not in {base_folder(name)}: this copy of lora_lab is not "
            "whole; install it again"
        )
    return base_folder(name)


def _pocket_is_here() -> bool:
    return (base_folder("pocket") / "config.json").is_file()


# --- where a base is ---------------------------------------------------------------------------


def find_base(name_or_path: str | Path) -> tuple[str, Path | str]:
    """A base's name, and its folder or (a string) its hub id.

    Raises:
        ValueError: for an unknown name, with the nearest; for a folder that isn't a model.
        FileNotFoundError: for a folder that is not there.
        NotPrepared: if the base is not here.
    """
    if isinstance(name_or_path, str) and name_or_path in BUILT_IN:
        return name_or_path, prepared_folder(name_or_path)
    if not isinstance(name_or_path, str | Path) or not str(name_or_path):
        raise TypeError(
            f"{name_or_path!r} is not a base's name; give 'pocket', a folder or a hub id"
        )
    folder = Path(name_or_path).expanduser()
    if os.path.isdir(folder):  # Path's own fails for a long name
        _check_folder(folder)
        return folder.resolve().name, Path(os.path.abspath(folder))  # from any working directory
    if os.path.isfile(folder):
        raise ValueError(f"{str(name_or_path)!r} is a file; give the folder that holds config.json")
    if isinstance(name_or_path, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name_or_path):
        return name_or_path, name_or_path
    if isinstance(name_or_path, Path) or set(name_or_path) & set("/\\~"):
        raise FileNotFoundError(
            f"there is no folder {str(name_or_path)!r}; give one that holds a model"
        )
    raise ValueError(
        f"no base is called {name_or_path!r}; {nearest(name_or_path, tuple(BUILT_IN))}"
        f"give {', '.join(map(repr, BUILT_IN))}, a folder, or a hub id such as 'Qwen/Qwen2.5-0.5B'"
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that isn't a model, or whose weights are a pickle."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter, not a base; load the base that it was trained on, and "
            "give both to lab.load_adapter(base, folder)"
        )
    if not (folder / "config.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
        hint = f" ({', '.join(inside[:3])} in it: an adapter)" if inside else ""
        raise ValueError(
            f"{folder} has no config.json{hint}; give a folder that save_pretrained wrote"
        )
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(
        path.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(ending)
    )
    if pickles:
        raise ValueError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), and loading a pickle can run "
            "any code; give a folder with .safetensors, for example from save_pretrained"
        )
    raise ValueError(f"{folder} has no .safetensors file; give a folder that holds weights")


# --- whose words they are -------------------------------------------------------------------------


@functools.cache
def pocket_words() -> frozenset[str]:
    """The words that are one token for pocket, in small letters: those of its world."""
    file = base_folder("pocket") / "tokenizer.json"
    vocabulary = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    words = (token.removeprefix("Ġ").lower() for token in vocabulary)  # Ġ: a space before it
    return frozenset(word for word in words if word.isalpha())

"""The kind of a path, known by its content: data, an adapter's or a model's folder, a recipe."""

import os
from pathlib import Path
from typing import Literal

from lora_lab.models.adapter_config import CONFIG_FILE, PICKLES
from lora_lab.places import check_regular
from lora_lab.recipe import nearest
from lora_lab.tasks.tables import KINDS

Kind = Literal["data", "adapter", "model", "recipe"]

RECIPES = (".yaml", ".yml", ".toml", ".py", ".ipynb", ".sh")  # files that can only be a recipe
WEIGHTS = (".safetensors", ".gguf", ".npz", *PICKLES)


def kind_of(path: str | Path) -> Kind:
    """Whether a path is data, an adapter's folder, a whole model's folder, or a recipe.

    The log of a training, trainer_state.json, counts as a recipe; so does a folder that holds only
    this log. A JSON file with a list is data. A JSON file with an object is a recipe, except an
    adapter's own configuration, which stands for its folder.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is of another kind, with the kinds that are known.
    """
    path = Path(path)
    if os.path.isdir(path):
        if (path / CONFIG_FILE).exists():
            return "adapter"
        if (path / "config.json").exists():
            return "model"
        if (path / "trainer_state.json").is_file():
            return "recipe"
        inside = sorted(found.parent.name for found in path.glob(f"*/{CONFIG_FILE}"))
        hint = f" ({', '.join(inside[:3])} in it is one)" if inside else ""
        raise ValueError(
            f"{path} is a folder without {CONFIG_FILE}, so it isn't an adapter{hint}; give an "
            "adapter's folder, or one file of data or one recipe"
        )
    if not os.path.exists(path):  # Path.exists fails for a long name
        beside = path.parent.glob("*") if os.path.isdir(path.parent) else ()
        names = tuple(entry.name for entry in beside)
        raise FileNotFoundError(
            f"there is nothing at {str(path)!r}; {nearest(path.name, names)}give a file of data "
            f"({', '.join(KINDS)}), an adapter's folder, or a recipe ({', '.join(RECIPES)}, .json)"
        )
    suffix = path.suffix.lower()
    if path.name == CONFIG_FILE:
        return "adapter"
    if suffix in WEIGHTS:
        raise ValueError(
            f"{path.name!r} holds weights alone; give the folder that it is in, with {CONFIG_FILE}"
        )
    if suffix == ".json" and _holds_object(path):
        return "recipe"
    if suffix in KINDS:
        return "data"
    if suffix in RECIPES:
        return "recipe"
    raise ValueError(
        f"{path.name!r} is of a kind that is not known here; give data ({', '.join(KINDS)}), an "
        f"adapter's folder, or a recipe ({', '.join(RECIPES)}, or .json with one object)"
    )


def _holds_object(path: Path) -> bool:
    """Whether a JSON file begins with an object; the rest of it may be broken."""
    check_regular(path)
    with path.open("rb") as file:
        return file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")

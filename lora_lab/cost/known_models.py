"""Well-known models by name, and the folder that a name means. Loads no torch: errors are quick."""

import functools
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lora_lab.models.built_in import base_folder
from lora_lab.places import data_folder
from lora_lab.recipe import nearest


@dataclass(frozen=True, slots=True)
class Known:
    """A well-known model, with its publisher's figures."""

    name: str
    hub: str
    published: str  # its number of parameters, as the source in data/shapes.toml gives it
    config: dict  # fields of transformers' config


@functools.cache
def known_shapes() -> dict[str, Known]:
    """The models of data/shapes.toml, by the names that `estimate` takes."""
    with (data_folder() / "shapes.toml").open("rb") as file:
        return {name: Known(name, **facts) for name, facts in tomllib.load(file).items()}


def find_named(model: str | Path) -> Known | Path:
    """The well-known model with this name or hub id, or the folder that it means.

    Raises:
        ValueError: for an unknown name, with the nearest that is known.
        FileNotFoundError: for a folder that is not there, or holds no config.json.
    """
    if model == "pocket":
        return base_folder("pocket")
    for known in known_shapes().values():
        if str(model).lower() in (known.name, known.hub.lower()):
            return known
    folder = Path(model).expanduser()
    if model != "" and os.path.isfile(folder / "config.json"):
        return folder
    is_path = isinstance(model, Path) or os.path.isdir(folder) or set(model) & set("\\~")
    if model != "" and is_path:
        raise FileNotFoundError(
            f"{model} holds no config.json; give a folder that save_pretrained wrote"
        )
    names = ("pocket", *known_shapes())
    raise ValueError(
        f"no model is known by the name {model!r}; {nearest(model.lower(), names)}"
        f"known are {', '.join(names)}. For another give its folder, its config "
        "(AutoConfig.from_pretrained), or lab.load_base(...)"
    )

"""The well-known models of data/shapes.toml, by the names that `estimate` takes."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder


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

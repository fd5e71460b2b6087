"""What well-known repositories multiply their adapters by, each with file and commit."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder
from lora_lab.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A rank and an alpha as they stand in a public file."""

    name: str
    r: int
    repository: str
    file: str
    commit: str  # at which it was read
    lora_alpha: float | None = None
    use_rslora: bool = False
    scale: float | None = None  # where the file gives the factor itself, and no alpha

    @property
    def scaling(self) -> float:
        """The factor in front of BA."""
        if self.scale is not None:
            return self.scale
        return Recipe(r=self.r, lora_alpha=self.lora_alpha, use_rslora=self.use_rslora).scaling

    @property
    def source(self) -> str:
        """Where it stands: `artidoro/qlora, scripts/finetune_guanaco_7b.sh, at 0b46ca80`."""
        return f"{self.repository}, {self.file}, at {self.commit[:8]}"


@functools.cache
def found_scalings() -> tuple[Found, ...]:
    """Those of data/scalings.toml, from the smallest factor to the largest."""
    with (data_folder() / "scalings.toml").open("rb") as file:
        found = [Found(name=name, **facts) for name, facts in tomllib.load(file).items()]
    return tuple(sorted(found, key=lambda one: one.scaling))

"""The scaling factors of well-known repositories, each with its file and commit."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder
from lora_lab.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A rank and an alpha of a public file."""

    name: str
    r: int
    repository: str
    file: str
    commit: str  # at which it was read
    lora_alpha: float | None = None
    use_rslora: bool = False
    scale: float | None = None  # the factor itself, where the file gives no alpha

    @property
    def scaling(self) -> float:
        """The factor in front of BA."""
        if self.scale is not None:
            return self.scale
        return Recipe(r=self.r, lora_alpha=self.lora_alpha, use_rslora=self.use_rslora).scaling

    @property
    def source(self) -> str:
        """The file and commit: `artidoro/qlora, scripts/finetune_guanaco_7b.sh, at 0b46ca80`."""
        return f"{self.repository}, {self.file}, at {self.commit[:8]}"


@functools.cache
def found_scalings() -> tuple[Found, ...]:
    """The scalings of data/scalings.toml, from the smallest factor to the largest."""
    with (data_folder() / "scalings.toml").open("rb") as file:
        scalings = [Found(name=name, **facts) for name, facts in tomllib.load(file).items()]
    return tuple(sorted(scalings, key=lambda found: found.scaling))

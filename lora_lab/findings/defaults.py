"""What tools and well-known scripts ship: the values of data/defaults.toml, each with its file."""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from lora_lab.places import data_folder
from lora_lab.recipe import Recipe

if TYPE_CHECKING:  # pandas takes a moment to import, and the values do not need it
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDefaults:
    """The choices that a tool's or a script's file makes. None: the file does not say.

    Names are PEFT's and transformers'.
    """

    name: str
    r: int
    lora_alpha: float | None = None
    use_rslora: bool = False
    scale: float | None = None  # the factor in front of BA, where the file gives it and no alpha
    lora_dropout: float | None = None
    target_modules: str | tuple[str, ...] | None = None
    learning_rate: float | None = None
    lr_scheduler_type: str | None = None
    warmup_ratio: float | None = None  # a share of all steps
    warmup_steps: int | None = None
    batch_size: int | None = None  # examples at once
    gradient_accumulation_steps: int | None = None
    max_length: int | None = None  # tokens
    repository: str
    file: str
    commit: str  # at which it was read
    note: str = ""

    @property
    def scaling(self) -> float | None:
        """The factor in front of BA."""
        if self.scale is not None or self.lora_alpha is None:
            return self.scale
        return Recipe(r=self.r, lora_alpha=self.lora_alpha, use_rslora=self.use_rslora).scaling

    @property
    def batch(self) -> int | None:
        """Examples in one step of one card: those at once, times the accumulation."""
        if self.batch_size is None:
            return None
        return self.batch_size * (self.gradient_accumulation_steps or 1)

    @property
    def source(self) -> str:
        """The file and commit: `artidoro/qlora, scripts/finetune_guanaco_7b.sh, at 0b46ca80`."""
        return f"{self.repository}, {self.file}, at {self.commit[:8]}"


@functools.cache
def defaults() -> Mapping[str, ToolDefaults]:
    """Everything in data/defaults.toml, by its name."""
    with (data_folder() / "defaults.toml").open("rb") as file:
        found = tomllib.load(file)
    return MappingProxyType({name: _tool_defaults(name, facts) for name, facts in found.items()})


def table() -> "pandas.DataFrame":
    """A row for each file, by name: its values, then scaling, batch and source."""
    import pandas

    fields = [field.name for field in dataclasses.fields(ToolDefaults)]
    columns = [*fields[1 : fields.index("repository")], "scaling", "batch", "source", "note"]
    rows = [{column: getattr(tool, column) for column in columns} for tool in defaults().values()]
    return pandas.DataFrame(rows, index=pandas.Index(defaults(), name="name"), dtype=object)


def _tool_defaults(name: str, facts: dict) -> ToolDefaults:
    modules = facts.get("target_modules")
    if isinstance(modules, list):
        facts["target_modules"] = tuple(modules)
    return ToolDefaults(name=name, **facts)

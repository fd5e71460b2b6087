"""A recipe of another program in our words, and the helper with which each reader collects it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_lab.recipe import INITIALISATIONS, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class BroughtRecipe:
    """The fine-tune that a file of another program describes.

    `said` and `assumed` use the names of `lab.Recipe`'s fields. A key without such a field is in
    `untranslated`, and in `traits` too if the review needs it.
    """

    tool: str  # "TRL", "Axolotl", "LLaMA-Factory", "torchtune", "Unsloth", "PEFT", "lora_lab"
    source: str  # the file's name
    said: Mapping[str, object]  # fields of Recipe that the file gives
    assumed: Mapping[str, object] = field(default_factory=dict)  # fields that the tool fills in
    base: str | None = None
    data: tuple[str, ...] = ()
    stage: str = "sft"  # "dpo", "grpo", "pretrain" …
    epochs: float | None = None
    warmup_ratio: float | None = None  # a share of all steps
    traits: Mapping[str, object] = field(default_factory=dict)  # e.g. "packing": True
    untranslated: Mapping[str, object] = field(default_factory=dict)  # keys without a counterpart
    unknown: tuple[str, ...] = ()  # keys that the tool does not have
    vocabulary: tuple[str, ...] = ()  # keys that the tool has
    notes: tuple[str, ...] = ()  # how the file was read, in sentences

    @property
    def fields(self) -> dict[str, object]:
        """The fields of Recipe: those that the file gives, then those that the tool fills in."""
        return {**self.assumed, **self.said}

    @property
    def is_lora(self) -> bool:
        """Whether an adapter of LoRA's kind is trained."""
        return self.fields.get("method", "lora") != "full"

    def steps_for(self, examples: int) -> int | None:
        """The steps that the epochs take with this many examples; None: no epochs are given."""
        if self.epochs is None:
            return None
        fields = self.fields
        batch = fields.get("batch_size", 16) * fields.get("gradient_accumulation_steps", 1)
        return max(1, math.ceil(math.ceil(examples / batch) * self.epochs))

    def recipe(self, steps: int | None = None) -> Recipe:
        """The recipe. `steps` is used if the file gives epochs instead of steps.

        A share of warm-up becomes a number of steps. If no number of steps is known, warm-up is
        left out, since a recipe needs more steps than warm-up.

        Raises:
            ValueError, TypeError: for values that `lab.Recipe` refuses.
        """
        fields = self.fields
        known = fields.get("steps") or steps
        if known is None:
            fields.pop("warmup_steps", None)
            if fields.get("method") == "adalora":  # its phases need steps to lie in
                phases = (fields.get("tinit") or 0, fields.get("tfinal") or 0)
                fields["steps"] = sum(phases) + 1000
        else:
            fields["steps"] = known
            if self.warmup_ratio is not None and "warmup_steps" not in self.said:
                fields["warmup_steps"] = math.ceil(self.warmup_ratio * known)
        return Recipe(**fields)


class Reading:
    """Keys and values of a file, and which of them a reader has used."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = {str(key): value for key, value in values.items()}
        self.used: set[str] = set()
        self.said: dict[str, object] = {}
        self.traits: dict[str, object] = {}

    def take(self, *names: str, default: object = None) -> Any:
        """The value of the first of these keys that is set."""
        self.used.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        return default

    def number(self, *names: str) -> float | int | None:
        """A number. It may be quoted, since YAML reads 2e-4 as a text.

        Raises:
            ValueError: if the value is not a number.
        """
        return as_number(self.take(*names), " or ".join(names))

    def text(self, *names: str) -> str | None:
        """A text; None: it is not set, or not a text."""
        value = self.take(*names)
        return value if isinstance(value, str) and value else None

    def flag(self, *names: str) -> bool | None:
        """A yes or no, which may be quoted."""
        value = self.take(*names)
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no"):
            return value.lower() in ("true", "yes")
        return value if isinstance(value, bool) else None

    def say(self, name: str, value: object) -> None:
        """Give a field of Recipe its value, if there is one."""
        if value is not None:
            self.said[name] = value

    def rest(self, vocabulary: Iterable[str]) -> tuple[dict[str, object], tuple[str, ...]]:
        """The keys that no reader has used: those that the tool knows, and those it does not."""
        known = set(vocabulary)
        left = {name: value for name, value in self.values.items() if name not in self.used}
        unknown = tuple(name for name in left if name not in known)
        return {name: value for name, value in left.items() if name in known}, unknown


def known_initialisation(value: object) -> bool | str | None:
    """The value of `init_lora_weights`; None: `lab.Recipe` does not have this value."""
    known = value in INITIALISATIONS or str(value).startswith("pissa_niter_")
    return value if isinstance(value, bool) or known else None


def as_number(value: object, name: str) -> float | int | None:
    """A value as a number; None stays None.

    Raises:
        ValueError: if the value is not a number.
    """
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, str):
        if value.strip().lower() in ("none", "null", ""):
            return None
        for kind in (int, float):
            try:
                return kind(value.strip().replace("_", "") if kind is int else value)
            except ValueError:
                continue
    raise ValueError(
        f"{name} is {shortened(value)}, which isn't a number; give for example 8 or 2e-4"
    )


def as_names(value: object) -> tuple[str, ...] | str | None:
    """Names of modules: a list, or a text with commas or spaces between them; a regex stays."""
    if isinstance(value, list | tuple) and len(value) == 1 and value[0] == "all-linear":
        return "all-linear"
    if isinstance(value, list | tuple):
        return tuple(str(name) for name in value)
    if isinstance(value, str):
        text = value.strip()
        if not text or text.lower() in ("none", "null"):
            return None
        parts = text.replace(",", " ").split()
        plain = all(part.replace("_", "").replace(".", "").isalnum() for part in parts)
        return tuple(parts) if plain else text
    return None


def shortened(value: object) -> str:
    """A value in a message: its repr, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

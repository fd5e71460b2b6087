"""Fields of a recipe that a sweep ties to another: `--vary "r=4,16 lora_alpha=2r"`."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from lora_lab.recipe import REAL, WHOLE, checked_value, nearest

SHORT = {"alpha": "lora_alpha", "lr": "learning_rate"}  # short name: PEFT's name
NEXT = re.compile(r"\s+(?=[\w-]+\s*=)")  # between two parts of a --vary
TIE = re.compile(
    r"(?P<factor>[0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)?\s*\*?\s*"  # 2, 0.5 or 1e-4, and perhaps *
    r"(?:sqrt\(\s*(?P<root>[a-z]\w*)\s*\)|(?P<name>[a-z]\w*))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Tie:
    """A field whose value is a multiple of another's, or of its square root."""

    field: str
    factor: float
    root: bool

    def value_at(self, other: float) -> float:
        """The value for a value of the other field; an int if it is whole."""
        value = self.factor * (math.sqrt(other) if self.root else other)
        return checked_value(self.field, int(value) if float(value).is_integer() else value)


def parts_of(words: str) -> list[str]:
    """The parts of `r=4,16 lora_alpha=2r`: the varied field first, then the fields tied to it."""
    return NEXT.split(words.strip())


def full_name(name: str) -> str:
    """A field's name in PEFT, for a name on the command line."""
    name = name.strip().replace("-", "_")
    return SHORT.get(name, name)


def tie_of(part: str, varied: str) -> Tie:
    """The tie that `lora_alpha=2r` means beside the varied field `r`. Nothing is evaluated.

    Raises:
        ValueError: for anything but a multiple of that field or of its square root.
    """
    left, _, right = part.partition("=")
    field, written = full_name(left), right.strip()
    numbers = (*WHOLE, *REAL)
    if field not in numbers:
        raise ValueError(
            f"{part}: {field!r} isn't a number of a recipe; {nearest(field, (*numbers, *SHORT))}"
            f"write one as in lora_alpha=2{varied}"
        )
    if varied not in numbers:
        raise ValueError(f"{part}: {varied} has no numbers, so that nothing can be tied to it")
    if field in (varied, "seed"):
        raise ValueError(f"{part}: {field} can't be tied to {varied}; tie another field to it")
    found = TIE.fullmatch(written)
    if found is None or full_name(found["root"] or found["name"]) != varied:
        raise ValueError(
            f"{part}: {written or 'nothing'!r} isn't a multiple of {varied}; write "
            f"{field}=2{varied}, {field}={varied} or {field}=4*sqrt({varied}); values of its own "
            "stand in another --vary"
        )
    return Tie(field, float(found["factor"] or 1), found["root"] is not None)


def tied_values(ties: list[Tie], varied: str, value: float) -> Mapping[str, float]:
    """The fields of a setting: the varied field, and those tied to it."""
    return {varied: value} | {tie.field: tie.value_at(value) for tie in ties}

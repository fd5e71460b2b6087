"""Graphics cards by name, and which of them a fine-tune fits on."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder
from lora_lab.records import Memory

GIB = 2**30
# The memory that a process takes before its first tensor, mostly for CUDA's context. Reports say
# 0.3 to 0.4 GiB since CUDA 11.7, and 1 GiB before (pytorch#107667, pytorch#109888, pytorch#28394).
# The rest of this GiB is assumed: what the allocator can't use, and a screen.
TAKEN = GIB


@dataclass(frozen=True, slots=True)
class Card:
    """A graphics card, or a machine whose GPU shares its memory."""

    name: str
    memory: float  # GiB that a program finds
    source: str  # the maker's specification, and where the memory was seen
    share: float = 1.0  # of the memory that the GPU may take
    bfloat16: bool = True  # False: the GPU computes in float16, which takes as much memory

    @property
    def usable(self) -> int:
        """Bytes for tensors."""
        return int(self.memory * self.share * GIB) - TAKEN


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a fine-tune fits on a card, and how much memory is left or lacking."""

    card: Card
    verdict: str  # "fits", "fits with checkpointing" or "does not fit"
    spare: int  # bytes left on it; below 0: bytes that it lacks
    note: str = ""  # that the card has no bfloat16, where the base is in bfloat16


@functools.cache
def cards() -> tuple[Card, ...]:
    """The cards of data/cards.toml, from small to large."""
    with (data_folder() / "cards.toml").open("rb") as file:
        listed = [Card(name, **facts) for name, facts in tomllib.load(file).items()]
    return tuple(sorted(listed, key=lambda card: card.usable))


def which_gpu(memory: Memory, checkpointed: Memory, dtype: str = "bfloat16") -> tuple[Fit, ...]:
    """The fit of a training step on each card, from small to large.

    Args:
        memory: of the step as planned.
        checkpointed: of the same step with gradient checkpointing. It counts only on cards on
            which the step as planned does not fit.
        dtype: of the base.
    """
    return tuple(_fit(card, memory.total, checkpointed.total, dtype) for card in cards())


def _fit(card: Card, plain: int, checkpointed: int, dtype: str) -> Fit:
    lacks = dtype == "bfloat16" and not card.bfloat16
    note = "in float16: it has no bfloat16" if lacks else ""
    if plain <= card.usable:
        return Fit(card, "fits", card.usable - plain, note)
    if checkpointed <= card.usable:
        return Fit(card, "fits with checkpointing", card.usable - checkpointed, note)
    return Fit(card, "does not fit", card.usable - min(plain, checkpointed), note)

"""Graphics cards by name, and which of them a fine-tune fits on."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder
from lora_lab.records import Memory

GIB = 2**30
# What a process takes of a card before its first tensor, mostly CUDA's context: 0.3 to 0.4 GiB are
# reported since CUDA 11.7 and a whole one before (pytorch#107667, pytorch#109888, pytorch#28394).
# The rest of the GiB is an assumption: what the allocator can't use, and a screen.
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
    """What a card makes of a fine-tune."""

    card: Card
    verdict: str  # "fits", "fits with checkpointing" or "does not fit"
    spare: int  # bytes left on it; below 0: bytes that it lacks
    note: str = ""  # what else has to be known: that bfloat16 is lacking


@functools.cache
def cards() -> tuple[Card, ...]:
    """The cards of data/cards.toml, from small to large."""
    with (data_folder() / "cards.toml").open("rb") as file:
        listed = [Card(name, **facts) for name, facts in tomllib.load(file).items()]
    return tuple(sorted(listed, key=lambda card: card.usable))


def which_gpu(memory: Memory, checkpointed: Memory, dtype: str = "bfloat16") -> tuple[Fit, ...]:
    """What each card makes of it, from small to large.

    Args:
        memory: of a training step as it is planned.
        checkpointed: of the same step with gradient checkpointing, which is asked of a card only
            where the plain step does not fit.
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

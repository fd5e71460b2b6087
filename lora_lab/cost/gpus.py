"""Graphics cards by name, and which of them a fine-tune fits on."""

import functools
import tomllib
from dataclasses import dataclass

from lora_lab.places import data_folder
from lora_lab.records import Memory

GIB = 2**30
# The memory that a process takes before its first tensor, mostly for CUDA's context. Reports say
# 0.3 to 0.4 GiB since CUDA 11.7, and 1 GiB before (pytorch#107667, pytorch#109888, pytorch#28394).
# The rest of this GiB is assumed: the libraries' workspaces, and a screen.
TAKEN = GIB
# What torch's allocator keeps beside a step's tensors, as a share of those that come and go: blocks
# that were freed and fit nothing else. It is the median of the runs of data/evidence/gpu-memory.csv
# whose tensors and process were both measured, of the half that was not held back: 0.25 to 0.37.
# The allocator gives free blocks back before it fails, so a run with less room may work.
CACHED = 0.28
# The error of the tensors' memory: half of the runs that were held back are nearer.
ERROR = 0.05
# The runs that were held back and whose outcome alone is known, by the verdict on them.
FORETOLD = {
    "out of memory": {"does not fit": 7, "at the edge": 0, "fits": 1},
    "ran": {"does not fit": 0, "at the edge": 0, "fits": 2},
}
FITS, EDGE, NOT = VERDICTS = ("fits", "at the edge", "does not fit")


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
    verdict: str  # one of `VERDICTS`; the first two may end in " with checkpointing"
    spare: int  # bytes that its tensors leave; below 0: bytes that they lack
    note: str = ""  # that the card has no bfloat16, where the base is in bfloat16


@functools.cache
def cards() -> tuple[Card, ...]:
    """The cards of data/cards.toml, from small to large."""
    with (data_folder() / "cards.toml").open("rb") as file:
        listed = [Card(name, **facts) for name, facts in tomllib.load(file).items()]
    return tuple(sorted(listed, key=lambda card: card.usable))


def cached(memory: Memory) -> int:
    """The bytes that torch's allocator keeps beside a step's tensors, where a card has room."""
    lasting = memory.weights + memory.adapters + memory.optimizer
    return int(CACHED * (memory.total - lasting))


def verdict_on(usable: int, memory: Memory) -> str:
    """Whether a step fits into the usable bytes of a card: one of `VERDICTS`.

    It fits if there is room for its tensors and for what the allocator keeps beside them. It does
    not fit if the tensors alone are too large. At the edge it depends on how the allocator's blocks
    fall, and on the error of the estimate.
    """
    if (1 + ERROR) * (memory.total + cached(memory)) <= usable:
        return FITS
    return EDGE if (1 - ERROR) * memory.total <= usable else NOT


def which_gpu(memory: Memory, checkpointed: Memory, dtype: str = "bfloat16") -> tuple[Fit, ...]:
    """The fit of a training step on each card, from small to large.

    Args:
        memory: of the step as planned.
        checkpointed: of the same step with gradient checkpointing. It counts only on cards on
            which it does better than the step as planned.
        dtype: of the base.
    """
    return tuple(_fit(card, memory, checkpointed, dtype) for card in cards())


def _fit(card: Card, plain: Memory, checkpointed: Memory, dtype: str) -> Fit:
    lacks = dtype == "bfloat16" and not card.bfloat16
    note = "in float16: it has no bfloat16" if lacks else ""
    verdict, lighter = (verdict_on(card.usable, memory) for memory in (plain, checkpointed))
    if VERDICTS.index(verdict) <= VERDICTS.index(lighter):
        least = min(plain.total, checkpointed.total) if verdict == NOT else plain.total
        return Fit(card, verdict, card.usable - least, note)
    return Fit(card, f"{lighter} with checkpointing", card.usable - checkpointed.total, note)

"""Attempts at a game: what was chosen, what it scored, and the best so far, kept on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from lora_lab.places import append_line, attempts_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One run of a game, scored by the worse of what it learnt and what it kept.

    Raises:
        ValueError: for a share that is none.
    """

    game: str  # which one: only attempts at the same game are compared
    choices: Mapping[str, object]  # recipe fields
    new: float  # share of the new facts that are right, 0 to 1
    old: float  # the same of the old ones
    seconds: float
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        for name in ("new", "old"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} is no share; give 0 to 1")

    @property
    def score(self) -> float:
        """The lower of the two shares: who forgets to learn gains nothing."""
        return min(self.new, self.old)


def keep_attempt(attempt: Attempt) -> None:
    """Add an attempt to those that are kept: one line of JSON."""
    append_line(attempts_file(), json.dumps(asdict(attempt)))


def best_attempts(game: str, count: int = 5) -> tuple[Attempt, ...]:
    """The best attempts at a game, best first; of equal scores the faster one.

    A line that can't be read is left out.
    """
    path, found = attempts_file(), []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            found.append(Attempt(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    of_game = [one for one in found if one.game == game]
    return tuple(sorted(of_game, key=lambda one: (-one.score, one.seconds))[:count])

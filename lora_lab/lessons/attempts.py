"""Attempts at a game: the choices, the score and the best so far, kept on disk."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from lora_lab.places import append_line, attempts_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A run of a game, scored by the lower of two shares: new facts learned, old facts kept.

    Raises:
        ValueError: for a share that is not between 0 and 1.
    """

    game: str  # only attempts at the same game are compared
    choices: Mapping[str, object]  # recipe fields
    new: float  # share of the new facts that are right, 0 to 1
    old: float  # share of the old facts that are right, 0 to 1
    seconds: float
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        for name in ("new", "old"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)!r} isn't a share; give 0 to 1")

    @property
    def score(self) -> float:
        """The lower of the two shares: learning new facts by forgetting old ones gains nothing."""
        return min(self.new, self.old)

    @property
    def rank(self) -> tuple[float, float]:
        """The key by which attempts are sorted: the best first, the faster of equals first."""
        return -self.score, self.seconds


def keep_attempt(attempt: Attempt) -> None:
    """Append an attempt to the file of attempts, as a line of JSON."""
    append_line(attempts_file(), json.dumps(asdict(attempt)))


def best_attempts(game: str, count: int = 5) -> tuple[Attempt, ...]:
    """The best attempts at a game, best first; at equal scores the faster attempt comes first.

    A line that can't be read is left out.
    """
    path, attempts = attempts_file(), []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        try:
            attempts.append(Attempt(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    of_game = [attempt for attempt in attempts if attempt.game == game]
    return tuple(sorted(of_game, key=lambda attempt: attempt.rank)[:count])

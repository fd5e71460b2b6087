"""A class's guesses and attempts: learners send them to a shared folder, and a board reads them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_lab.lessons.attempts import Attempt
from lora_lab.lessons.predictions import Question, Value
from lora_lab.places import append_line, class_file, folder_name, write_atomically

GUESS, ATTEMPT = "guess", "attempt"  # the kinds of lines
LONGEST = 60  # letters of a name


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a learner's guesses and attempts go, and under which name."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        """The file in the shared folder that this learner alone writes."""
        return self.folder / f"{folder_name(self.name)}.jsonl"

    def __str__(self) -> str:
        return (
            f"Guesses and attempts of this machine go to {self.file}, as {self.name!r}; nothing "
            "else does. lab.share(None) ends it."
        )


@dataclass(frozen=True, slots=True)
class Guess:
    """A learner's first answer to a question, given before the measurement."""

    name: str
    question: Question
    guess: Value
    confidence: float


@dataclass(frozen=True, slots=True)
class ClassAttempt:
    """A learner's attempt at a game."""

    name: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class SharedClass:
    """What a class has sent so far."""

    guesses: tuple[Guess, ...]  # the first of each learner to each question
    attempts: tuple[ClassAttempt, ...]  # each learner's best at each game, the best first
    unreadable: int = 0  # lines

    def questions(self) -> dict[str, Question]:
        """The questions that have been answered, by their ids."""
        return {guess.question.id: guess.question for guess in self.guesses}

    def guesses_at(self, id: str) -> list[Guess]:
        """The guesses at a question."""
        return [guess for guess in self.guesses if guess.question.id == id]


# --- a learner's side ---------------------------------------------------------------------------


def share(folder: str | Path | None, name: str = "") -> Seat | None:
    """Send your guesses and your attempts at "five minutes" to your class's board from now on.

    It holds on this machine for all notebooks, until `lab.share(None)`. A guess is sent when it is
    given, with how sure you are. Your reason is not sent, nor anything that you train or write.

    Args:
        folder: a folder that the whole class can write to; None: nothing is sent any more.
        name: your name on the board.

    Raises:
        ValueError: if the name is empty or too long.
        NotADirectoryError: if there is no such folder.
    """
    if folder is None:
        class_file().unlink(missing_ok=True)
        return None
    name = " ".join(str(name).split())
    if not 0 < len(name) <= LONGEST:
        raise ValueError(f"name={name!r} does not fit; give 1 to {LONGEST} letters, such as 'Ada'")
    place = Path(folder).expanduser().resolve()
    if not place.is_dir():
        raise NotADirectoryError(f"there is no folder {place}; give the one that your class shares")
    with write_atomically(class_file()) as new:
        new.write_text(json.dumps({"folder": str(place), "name": name}), encoding="utf-8")
    return Seat(place, name)


def seat() -> Seat | None:
    """The seat of this machine, where its guesses go; None: they go nowhere."""
    try:
        values = json.loads(class_file().read_text(encoding="utf-8"))
        return Seat(Path(values["folder"]), str(values["name"]))
    except (OSError, ValueError, TypeError, LookupError):
        return None


def share_guess(question: Question, guess: Value, confidence: float) -> str:
    """Send a guess to the class, if there is one.

    Returns:
        Why it could not be sent, in words; "" if it was sent, or if there is no class.
    """
    values = {"question": asdict(question), "guess": guess, "confidence": confidence}
    return _send(GUESS, values)


def share_attempt(attempt: Attempt) -> str:
    """Send an attempt to the class, as `share_guess` does."""
    return _send(ATTEMPT, {"attempt": asdict(attempt)})


def _send(kind: str, values: Mapping[str, object]) -> str:
    """Write a line into the learner's file. If that fails, the lesson still goes on."""
    own = seat()
    if own is None:
        return ""
    try:
        if not own.folder.is_dir():
            raise NotADirectoryError(f"there is no folder {own.folder}")
        append_line(own.file, json.dumps({"kind": kind, "name": own.name, **values}, default=str))
    except OSError as error:
        return f"it could not be sent to the class: {error}"
    return ""


# --- the board's side ---------------------------------------------------------------------------


def read_class(folder: str | Path) -> SharedClass:
    """The guesses and attempts in a class's shared folder.

    Raises:
        NotADirectoryError: if there is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise NotADirectoryError(f"there is no folder {place}; give the one that your class shares")
    guesses: dict[tuple[str, str], Guess] = {}
    best: dict[tuple[str, str], ClassAttempt] = {}
    unreadable = 0
    for line in _lines(place):
        try:
            values = json.loads(line)
            name = " ".join(str(values["name"]).split())[:LONGEST]
            if values["kind"] == GUESS:
                found = _guess(name, values)
                guesses.setdefault((name, found.question.id), found)
            else:
                attempt = Attempt(**values["attempt"])
                earlier = best.get((name, attempt.game))
                if earlier is None or attempt.score > earlier.attempt.score:
                    best[name, attempt.game] = ClassAttempt(name, attempt)
        except (ValueError, TypeError, LookupError, AttributeError):
            unreadable += 1
    ranked = sorted(best.values(), key=lambda entry: entry.attempt.rank)
    return SharedClass(tuple(guesses.values()), tuple(ranked), unreadable)


def _lines(place: Path) -> Iterator[bytes]:
    for path in sorted(place.glob("*.jsonl")):
        if path.is_file() and not path.is_symlink():
            yield from filter(None, path.read_bytes().splitlines())


def _guess(name: str, values: Mapping[str, object]) -> Guess:
    question = Question(**values["question"])
    confidence = float(values["confidence"])
    if not 0 <= confidence <= 1:
        raise ValueError(confidence)
    return Guess(name, question, question.check(values["guess"]), confidence)

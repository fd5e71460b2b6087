"""A learner's own score: the exercises that are right, lesson by lesson."""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from lora_lab.places import append_line, checks_file
from lora_lab.records import Verdict
from lora_lab.wording import percent


@dataclass(frozen=True, slots=True)
class LessonScore:
    """The score of a lesson: a point for each exercise that is right."""

    lesson: str  # its number: "05"
    verdicts: Mapping[str, Verdict | None]  # by exercise; None: not checked so far

    @property
    def right(self) -> int:
        """The number of exercises that are right."""
        return sum(bool(verdict) for verdict in self.verdicts.values())

    @property
    def share(self) -> float:
        """The share of the lesson's exercises that are right, 0 to 1."""
        return self.right / len(self.verdicts)

    def __str__(self) -> str:
        """`lesson 05: 1 of 2 right (rank_sweep right, smallest_r not yet)`."""
        each = ", ".join(f"{name} {state(verdict)}" for name, verdict in self.verdicts.items())
        return f"lesson {self.lesson}: {self.right} of {len(self.verdicts)} right ({each})"


@dataclass(frozen=True, slots=True)
class Progress:
    """The scores of all lessons; its text is a line for each."""

    lessons: tuple[LessonScore, ...]

    @property
    def right(self) -> int:
        """The number of exercises that are right, in all lessons."""
        return sum(lesson.right for lesson in self.lessons)

    def __str__(self) -> str:
        """The whole score, then a line for each lesson."""
        count = sum(len(lesson.verdicts) for lesson in self.lessons)
        whole = f"{self.right} of {count} exercises right ({percent(self.right / count)})"
        return "\n".join([whole, *map(str, self.lessons)])

    __repr__ = __str__


def state(verdict: Verdict | None) -> str:
    """A verdict in a word or two: `right`, `not yet`, `not checked`."""
    return "not checked" if verdict is None else "right" if verdict else "not yet"


def keep_verdict(name: str, verdict: Verdict) -> None:
    """Append an exercise's verdict as a line of JSON. A full disk gives a warning, not an error."""
    line = json.dumps({"exercise": name, "right": verdict.passed, "message": verdict.message})
    try:
        append_line(checks_file(), line)
    except OSError as error:
        warnings.warn(f"lab.progress() will not know of this check: {error}", stacklevel=3)


def kept_verdicts() -> dict[str, Verdict]:
    """The last verdict on each exercise; lines that can't be read are left out."""
    verdicts: dict[str, Verdict] = {}
    path = checks_file()
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            values = json.loads(line)
            verdicts[str(values["exercise"])] = Verdict(values["right"] is True, values["message"])
        except (ValueError, TypeError, KeyError):
            continue
    return verdicts

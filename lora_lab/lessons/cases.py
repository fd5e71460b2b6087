"""The cases of data/cases/NN.toml: questions on what a lesson needs, and decisions from work."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_lab.lessons.predictions import Prediction, Question
from lora_lab.places import data_folder
from lora_lab.recipe import nearest

SURE = {"a guess": 0.0, "fairly sure": 0.5, "certain": 1.0}  # from a blind guess to certainty


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A situation with a choice, and the right answer.

    Raises:
        ValueError: if the right answer is not among the choices, or if there are fewer than two.
    """

    id: str  # the lesson, the kind and its place: "07 decision 1"
    text: str  # the situation and the question
    choices: tuple[str, ...]
    right: str  # one of the choices
    because: str
    lesson: str = ""  # a question's: the earlier lesson that answers it
    source: str = ""  # a decision's: a public page that supports it

    def __post_init__(self) -> None:
        try:
            self.question.check(self.right)
        except ValueError as error:
            raise ValueError(f"case {self.id!r}: {error}") from None

    @property
    def question(self) -> Question:
        """The case as the log of predictions keeps it."""
        return Question(self.id, self.text, self.choices)

    def confidence(self, sure: str) -> float:
        """The probability for a blind guess (1 / choices), "fairly sure" or "certain".

        Raises:
            ValueError: if `sure` is none of the three.
        """
        if sure not in SURE:
            raise ValueError(f"sure={sure!r} is unknown; give one of {', '.join(map(repr, SURE))}")
        blind = self.question.blind
        return blind + SURE[sure] * (1 - blind)

    def answered(self, choice: str, sure: str) -> Prediction:
        """The choice as a prediction, with the right answer as the measurement.

        Raises:
            ValueError: if the choice is not among the case's choices, or `sure` is unknown.
        """
        return Prediction(self.question, choice, (self.right,), self.confidence(sure))


@dataclass(frozen=True, slots=True)
class LessonCases:
    """The cases around a lesson: `questions` on earlier lessons before it, `decisions` after it."""

    questions: tuple[Case, ...]
    decisions: tuple[Case, ...]


def lesson_cases(lesson: str) -> LessonCases:
    """The cases of a lesson, by its number as in its file's name: "07".

    Raises:
        ValueError: if the lesson has no cases, with the lessons that have some.
    """
    folder = data_folder() / "cases"
    path = folder / f"{lesson}.toml"
    known = tuple(sorted(file.stem for file in folder.glob("*.toml")))
    if lesson not in known:
        near = nearest(str(lesson).zfill(2), known)
        raise ValueError(f"lesson {lesson!r} has no cases; {near}these have: {', '.join(known)}")
    entries = tomllib.loads(path.read_text(encoding="utf-8"))
    unknown = sorted(entries.keys() - {"questions", "decisions"})
    if unknown:
        raise ValueError(f"{path.name}: {unknown} aren't cases; give questions and decisions")
    return LessonCases(
        _cases(lesson, "question", entries.get("questions", [])),
        _cases(lesson, "decision", entries.get("decisions", [])),
    )


def _cases(lesson: str, kind: str, entries: Sequence[Mapping]) -> tuple[Case, ...]:
    """The entries as cases, numbered from 1."""
    return tuple(
        Case(**entry | {"id": f"{lesson} {kind} {number}", "choices": tuple(entry["choices"])})
        for number, entry in enumerate(entries, start=1)
    )

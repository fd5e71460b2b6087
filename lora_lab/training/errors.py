"""What a model gets wrong: by class where answers are labels, by field where they are JSON."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lora_lab.records import Answer, Scores
from lora_lab.training.evaluation import json_fields, same_label

SHOWN = 3  # wrong answers that a line names
LONGEST = 40  # letters of an answer that isn't a label


@dataclass(frozen=True, slots=True)
class ClassErrors:
    """The questions with a certain label as their right answer, and the errors on them."""

    label: str
    asked: int
    right: int
    instead: dict[str, int]  # the wrong answers, the most frequent first

    @property
    def errors(self) -> int:
        """How many answers are wrong."""
        return self.asked - self.right

    @property
    def instead_text(self) -> str:
        """`neutral 4, negative 1`: the wrong answers and how often each was given."""
        shown = [f"{given} {count}" for given, count in [*self.instead.items()][:SHOWN]]
        others = self.errors - sum([*self.instead.values()][:SHOWN])
        return ", ".join([*shown, *([f"others {others}"] if others else [])])


@dataclass(frozen=True, slots=True)
class FieldErrors:
    """A field of the right answers, or one that only the model gives."""

    field: str
    wanted: int  # answers that should have it
    right: int
    wrong: int  # with another value
    missing: int  # also where the answer isn't a JSON object
    unwanted: int  # answers that have it and should not

    @property
    def errors(self) -> int:
        """How many answers have it wrong."""
        return self.wrong + self.missing + self.unwanted


def errors_of(scores: Scores) -> tuple[ClassErrors, ...] | tuple[FieldErrors, ...]:
    """The errors by class for accuracy, by field for field F1, most errors first; else none."""
    if scores.metric_name == "accuracy":
        return errors_by_class(scores.answers)
    return errors_by_field(scores.answers) if scores.metric_name == "field F1" else ()


def errors_by_class(answers: Sequence[Answer]) -> tuple[ClassErrors, ...]:
    """A row for each label that was asked for, the one with most errors first."""
    labels = list(dict.fromkeys(answer.expected for answer in answers))
    rows = []
    for label in labels:
        given = [answer.given for answer in answers if answer.expected == label]
        right = sum(same_label(label, text) for text in given)
        wrong = Counter(_label_of(text, labels) for text in given if not same_label(label, text))
        rows.append(ClassErrors(label, len(given), right, dict(wrong.most_common())))
    return tuple(sorted(rows, key=lambda row: (-row.errors, row.label)))


def _label_of(text: str, labels: Sequence[str]) -> str:
    """The label that an answer gives; an answer that isn't a label stays text, shortened."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return next((label for label in labels if same_label(label, text)), short or "(nothing)")


def errors_by_field(answers: Sequence[Answer]) -> tuple[FieldErrors, ...]:
    """A row for each field, the one with most errors first."""
    counts: dict[str, Counter[str]] = {}
    for answer in answers:
        wanted, given = (dict(json_fields(text) or ()) for text in (answer.expected, answer.given))
        for field in wanted | given:
            if field not in wanted:
                found = "unwanted"
            elif field not in given:
                found = "missing"
            else:
                found = "right" if wanted[field] == given[field] else "wrong"
            counts.setdefault(field, Counter())[found] += 1
    rows = [
        FieldErrors(
            field,
            count.total() - count["unwanted"],
            *(count[found] for found in ("right", "wrong", "missing", "unwanted")),
        )
        for field, count in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.errors, row.field)))

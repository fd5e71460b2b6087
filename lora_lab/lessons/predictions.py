"""Predict, then run: what was expected, how surely, what was measured, and how good that was."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import mean, median, multimode

from lora_lab.places import append_line, predictions_file
from lora_lab.records import Verdict

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Question:
    """Something to predict before it is measured: one of several options, or a number.

    Raises:
        ValueError: if the options are one only or repeat, or `within` is not above 0 or has no use.
    """

    id: str  # the notebook and a name: "05 first rank"
    text: str
    options: tuple[Value, ...] = ()  # none: a number is wanted
    unit: str = ""  # of the number: "%"
    within: float | None = None  # how near a number must be, in its unit; None: a factor of 2

    def __post_init__(self) -> None:
        options = tuple(self.options)
        object.__setattr__(self, "options", options)  # a list from JSON: frozen, but not yet seen
        if options and len({*options}) < max(2, len(options)):
            raise ValueError(
                f"options={options} leave no choice, or repeat; give two or more different ones, "
                "or none to ask for a number"
            )
        if self.within is not None and (options or not self.within > 0):
            raise ValueError(
                f"within={self.within} does not fit; give a number above 0 in the answer's unit, "
                "and no options, or None for a factor of 2"
            )

    @property
    def blind(self) -> float:
        """How sure one is who knows nothing: all options alike; of a number, one half."""
        return 1 / len(self.options) if self.options else 0.5

    @property
    def scoring(self) -> str:
        """How an answer is scored, in one sentence."""
        near = "a factor of 2" if self.within is None else self.amount(self.within)
        right = (
            "if it is what is measured" if self.options else f"within {near} of what is measured"
        )
        return (
            f"Right {right}. The score (Brier) is 0 for certain and right, 2 for certain and "
            f"wrong, {_brier(self.blind, 1, self._others):.2f} for a blind guess."
        )

    @property
    def _others(self) -> int:
        """How many outcomes there are beside the guess; of a number one: not near it."""
        return len(self.options) - 1 if self.options else 1

    def check(self, value: object) -> Value:
        """The value, if it can be an answer to this question.

        Raises:
            ValueError: if it is none of the options, or no finite number.
        """
        if self.options:
            if value not in self.options:
                known = ", ".join(map(repr, self.options))
                raise ValueError(f"{value!r} is none of the options; give one of {known}")
            return self.options[self.options.index(value)]  # 8 for 8.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{value!r} is not a number; give one, such as 12.5")
        if not math.isfinite(value) or self.within is None and value <= 0:
            bound = " above 0" if self.within is None else ""
            raise ValueError(f"{value!r} cannot be; give a finite number{bound}")
        return value

    def right(self, guess: Value, measured: Value) -> bool:
        """Whether the guess is what was measured, or near enough."""
        if self.options:
            return guess == measured
        low, high = self.near(guess)
        return low <= measured <= high

    def near(self, guess: float) -> tuple[float, float]:
        """From where to where a measured number makes the guess right."""
        if self.within is None:
            return guess / 2, guess * 2
        return guess - self.within, guess + self.within

    def amount(self, value: Value) -> str:
        """A value with its unit, in three digits: `0.391 %`."""
        said = value if isinstance(value, str) else _three_digits(value)
        return f"{said} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to a question, beside what was measured.

    Scored as Brier did: each possible outcome was given a probability, and the score is the sum of
    the squared distances to what happened (1 or 0), averaged over the seeds. Of a choice, the guess
    is given `confidence`, and the other options share the rest; of a number, there are two
    outcomes: near enough, or not.

    Raises:
        ValueError: if an answer or measurement doesn't fit the question, or there is none.

    Source:
        Brier, 1950, "Verification of forecasts expressed in terms of probability", equation 2.
    """

    question: Question
    guess: Value
    measured: tuple[Value, ...]  # one per seed
    confidence: float  # the probability that the guess is right
    reason: str = ""
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        check = self.question.check
        object.__setattr__(self, "guess", check(self.guess))  # frozen, but not yet seen by anyone
        object.__setattr__(self, "measured", tuple(check(one) for one in self.measured))
        if not self.measured:
            raise ValueError("measured is empty; give what each seed gave, at least one")
        if not 0 <= self.confidence <= 1:
            raise ValueError(
                f"confidence={self.confidence!r} is no probability; give 0 to 1 (1: certain)"
            )

    def given(self, option: Value) -> float:
        """The probability that the prediction gave to an option."""
        rest = (1 - self.confidence) / self.question._others
        return self.confidence if option == self.guess else rest

    @property
    def right(self) -> float:
        """The share of seeds in which the guess was right."""
        return mean(float(self.question.right(self.guess, one)) for one in self.measured)

    @property
    def score(self) -> float:
        """Brier's: 0 is best, 2 worst."""
        return _brier(self.confidence, self.right, self.question._others)

    @property
    def outcome(self) -> tuple[Value, ...]:
        """What was measured most often; of numbers, the median."""
        if self.question.options:
            return tuple(multimode(self.measured))
        return (median(self.measured),)

    def __str__(self) -> str:
        """`you said 8, 70 % sure; it was 4 (3 seeds: 4, 4, 8) · score 0.49`."""
        told = self.question.amount
        outcome = " or ".join(told(one) for one in self.outcome)
        return (
            f"you said {told(self.guess)}, {100 * self.confidence:.0f} % sure; it was {outcome}"
            f"{self._distance()}{self._spread()} · score {self.score:.2f}"
        )

    def _distance(self) -> str:
        """How far off a number is, where a factor decides."""
        if self.question.options or self.question.within is not None:
            return ""
        (actual,) = self.outcome
        times = max(self.guess, actual) / min(self.guess, actual)
        how = "less" if actual < self.guess else "more"
        return "" if times < 1.05 else f", {_three_digits(times)} times {how}"

    def _spread(self) -> str:
        seeds = len(self.measured)
        each = ", ".join(self.question.amount(one) for one in self.measured)
        return f" ({seeds} seeds: {each})" if seeds > 1 else " (1 seed)"


def _brier(confidence: float, right: float, others: int) -> float:
    """The mean score over seeds of which the share `right` went as guessed.

    Where the guess is right, it lacks 1 - confidence, and the others have that too much in equal
    parts. Where it is wrong, it has its confidence too much, one of the others lacks its rest.
    """
    rest = 1 - confidence
    part = rest / others
    when_right = rest**2 + others * part**2
    when_wrong = confidence**2 + (1 - part) ** 2 + (others - 1) * part**2
    return right * when_right + (1 - right) * when_wrong


def _three_digits(value: float) -> str:
    """`4,194,304`, `16.4`, `0.391`: whole numbers in full."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# --- the log --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Log:
    """All predictions that were kept, oldest first; shown as what they say together."""

    predictions: tuple[Prediction, ...]
    unreadable: tuple[int, ...] = ()  # the numbers of lines left out, from 1

    @property
    def counted(self) -> tuple[Prediction, ...]:
        """The first of each question: who predicts again has seen the answer."""
        first: dict[str, Prediction] = {}
        for one in self.predictions:
            first.setdefault(one.question.id, one)
        return tuple(first.values())

    def find(self, question: Question) -> Prediction | None:
        """The first prediction for this question, if there is one."""
        return next((one for one in self.counted if one.question.id == question.id), None)

    @property
    def summary(self) -> str:
        """How sure, how often right, and the mean score."""
        all_of_them = self.counted
        if not all_of_them:
            return "no predictions so far"
        sure, right = (
            mean(one.confidence for one in all_of_them),
            mean(p.right for p in all_of_them),
        )
        return (
            f"{len(all_of_them)} prediction{'s' * (len(all_of_them) > 1)} so far: "
            f"{100 * sure:.0f} % sure on average, {100 * right:.0f} % right; "
            f"mean score {mean(one.score for one in all_of_them):.2f}"
        )

    def __str__(self) -> str:
        """The summary, what could not be read, and a line for each prediction."""
        lines = [f"{self.summary} (0 is best, 2 worst)"]
        if self.unreadable:
            which = ", ".join(map(str, self.unreadable))
            lines.append(f"left out, since it can't be read: line {which} of the log")
        lines += [f"{one.question.id}: {one}" for one in self.counted]
        return "\n".join(lines)

    __repr__ = __str__


def keep(prediction: Prediction) -> None:
    """Add a prediction to the log: one line of JSON, written in one piece."""
    append_line(predictions_file(), json.dumps(asdict(prediction)))


def read_log() -> Log:
    """The predictions kept so far. A line that can't be read is left out, and its number told."""
    path = predictions_file()
    if not path.exists():
        return Log(())
    predictions, unreadable = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:  # two writers, of whom one found the other's line half written
            continue
        try:
            values = json.loads(line)
            question = Question(**values.pop("question"))
            predictions.append(Prediction(question, **values))
        except (ValueError, TypeError, KeyError, AttributeError):
            unreadable.append(number)
    return Log(tuple(predictions), tuple(unreadable))


def check_guess(
    question: Question,
    guess: Value | None,
    measured: Sequence[Value],
    confidence: float | None = None,
    reason: str = "",
) -> Verdict:
    """Set a guess beside the measurement, and keep both: the plain form of `Predict`.

    Args:
        question: what was asked.
        guess: None: no guess yet, and so no answer.
        measured: what each seed gave.
        confidence: the probability that the guess is right; None: a blind guess.
        reason: why.

    Raises:
        ValueError: if the guess or the confidence does not fit the question.
    """
    if guess is None:
        return Verdict(
            False,
            "there is no guess; write one where `guess = None` stands, and run on from there.",
        )
    sure = question.blind if confidence is None else confidence
    prediction = Prediction(question, guess, tuple(measured), sure, reason)
    keep(prediction)
    return Verdict(prediction.right >= 0.5, f"{prediction}.")

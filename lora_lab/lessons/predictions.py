"""Predictions beside measurements: the guess, its confidence, the outcome and the Brier score."""

import json
import math
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from statistics import mean, median, multimode

from lora_lab.places import append_line, predictions_file
from lora_lab.wording import counted, percent, significant

Value = str | int | float


@dataclass(frozen=True, slots=True)
class Question:
    """A question to answer before the measurement: by an option, or by a number.

    Raises:
        ValueError: if options repeat or are fewer than two; if `within` is not above 0, or stands
            beside options.
    """

    id: str  # the notebook and a name: "05 first rank"
    text: str
    options: tuple[Value, ...] = ()  # none: the answer is a number
    unit: str = ""  # of the number: "%"
    within: float | None = None  # the tolerance of a number, in its unit; None: a factor of 2

    def __post_init__(self) -> None:
        options = tuple(self.options)
        object.__setattr__(self, "options", options)  # from JSON it is a list
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
        """The confidence of a blind guess: 1 / options; for a number, one half."""
        return 1 / len(self.options) if self.options else 0.5

    @property
    def scoring(self) -> str:
        """The rule by which an answer is scored, as a sentence."""
        near = "a factor of 2" if self.within is None else self.amount(self.within)
        right = (
            "if it is what is measured" if self.options else f"within {near} of what is measured"
        )
        return (
            f"Right {right}. The score (Brier) is 0 for certain and right, 2 for certain and "
            f"wrong, {_brier(self.blind, 1, self.other_outcomes):.2f} for a blind guess."
        )

    @property
    def other_outcomes(self) -> int:
        """The number of outcomes other than the guess; 1 for a number: not near enough."""
        return len(self.options) - 1 if self.options else 1

    def check(self, value: object) -> Value:
        """The value, checked to be a possible answer to this question.

        Raises:
            ValueError: if it is not an option, or not a finite number.
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
        """Whether the guess equals the measurement, or is near enough."""
        if self.options:
            return guess == measured
        low, high = self.near(guess)
        return low <= measured <= high

    def near(self, guess: float) -> tuple[float, float]:
        """The lowest and the highest measured number that make the guess right."""
        if self.within is None:
            return guess / 2, guess * 2
        return guess - self.within, guess + self.within

    def amount(self, value: Value) -> str:
        """A value with its unit, in three digits: `0.391 %`."""
        words = value if isinstance(value, str) else significant(value)
        return f"{words} {self.unit}".strip()


@dataclass(frozen=True, slots=True)
class Prediction:
    """An answer to a question, beside the measurement.

    The score is Brier's: each possible outcome has a probability, and the score is the sum of the
    squared distances to what happened (1 or 0), averaged over the seeds. With options, the guess
    has the probability `confidence`, and the other options share the rest. A number has two
    outcomes: near enough, or not.

    Raises:
        ValueError: if the guess or a measurement doesn't fit the question, or there is no
            measurement.

    Source:
        Brier, 1950, "Verification of forecasts expressed in terms of probability", equation 2.
    """

    question: Question
    guess: Value
    measured: tuple[Value, ...]  # a value per seed
    confidence: float  # the probability that the guess is right
    reason: str = ""
    made: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        check = self.question.check
        object.__setattr__(self, "guess", check(self.guess))
        object.__setattr__(self, "measured", tuple(map(check, self.measured)))
        if not self.measured:
            raise ValueError("measured is empty; give what each seed gave, at least one")
        if not 0 <= self.confidence <= 1:
            raise ValueError(
                f"confidence={self.confidence!r} isn't a probability; give 0 to 1 (1: certain)"
            )

    def probability(self, option: Value) -> float:
        """The probability that the prediction gives to an option."""
        rest = (1 - self.confidence) / self.question.other_outcomes
        return self.confidence if option == self.guess else rest

    @property
    def right(self) -> float:
        """The share of seeds in which the guess was right."""
        return mean(float(self.question.right(self.guess, value)) for value in self.measured)

    @property
    def score(self) -> float:
        """The Brier score: 0 is best, 2 worst."""
        return _brier(self.confidence, self.right, self.question.other_outcomes)

    @property
    def outcome(self) -> tuple[Value, ...]:
        """The most frequent measurements; for numbers, the median."""
        if self.question.options:
            return tuple(multimode(self.measured))
        return (median(self.measured),)

    def __str__(self) -> str:
        """`you said 8, 70 % sure; it was 4 (3 seeds: 4, 4, 8) · score 0.49`."""
        amount = self.question.amount
        outcome = " or ".join(map(amount, self.outcome))
        return (
            f"you said {amount(self.guess)}, {percent(self.confidence)} sure; it was {outcome}"
            f"{self._factor_text()}{self._seeds_text()} · score {self.score:.2f}"
        )

    def _factor_text(self) -> str:
        """The factor between guess and outcome, where a factor decides."""
        if self.question.options or self.question.within is not None:
            return ""
        (actual,) = self.outcome
        factor = max(self.guess, actual) / min(self.guess, actual)
        direction = "less" if actual < self.guess else "more"
        return "" if factor < 1.05 else f", {significant(factor)} times {direction}"

    def _seeds_text(self) -> str:
        """The number of seeds, and what each measured."""
        seeds = len(self.measured)
        each = ", ".join(map(self.question.amount, self.measured))
        return f" ({seeds} seeds: {each})" if seeds > 1 else " (1 seed)"


def _brier(confidence: float, right: float, others: int) -> float:
    """The mean score over seeds, if the guess is right for the share `right` of them.

    The guess has the probability `confidence`, and each of the `others` has an equal share of the
    rest. The outcome that happens should have had 1, and all others 0.
    """
    rest = 1 - confidence
    each = rest / others
    when_right = rest**2 + others * each**2
    when_wrong = confidence**2 + (1 - each) ** 2 + (others - 1) * each**2
    return right * when_right + (1 - right) * when_wrong


# --- the log --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Log:
    """All predictions that were kept, oldest first; its text is their summary and a list."""

    predictions: tuple[Prediction, ...]
    unreadable: tuple[int, ...] = ()  # the numbers of lines left out, from 1

    @property
    def counted(self) -> tuple[Prediction, ...]:
        """The first prediction of each question; a later one was made with the answer known."""
        first: dict[str, Prediction] = {}
        for prediction in self.predictions:
            first.setdefault(prediction.question.id, prediction)
        return tuple(first.values())

    def find(self, question: Question) -> Prediction | None:
        """The first prediction for this question, if there is one."""
        same = (prediction for prediction in self.counted if prediction.question.id == question.id)
        return next(same, None)

    @property
    def summary(self) -> str:
        """The mean confidence, the share of right guesses, and the mean score."""
        predictions = self.counted
        if not predictions:
            return "no predictions so far"
        confidence = mean(prediction.confidence for prediction in predictions)
        right = mean(prediction.right for prediction in predictions)
        score = mean(prediction.score for prediction in predictions)
        return (
            f"{counted(len(predictions), 'prediction')} so far: {percent(confidence)} sure on "
            f"average, {percent(right)} right; mean score {score:.2f}"
        )

    def __str__(self) -> str:
        """The summary, the unreadable lines, and a line for each prediction."""
        lines = [f"{self.summary} (0 is best, 2 worst)"]
        if self.unreadable:
            which = ", ".join(map(str, self.unreadable))
            lines.append(f"left out, since it can't be read: line {which} of the log")
        lines += [f"{prediction.question.id}: {prediction}" for prediction in self.counted]
        return "\n".join(lines)

    __repr__ = __str__


def keep(prediction: Prediction) -> None:
    """Append a prediction to the log, as a line of JSON that is written in one piece."""
    append_line(predictions_file(), json.dumps(asdict(prediction)))


def read_log() -> Log:
    """The predictions kept so far, with the numbers of the lines that can't be read."""
    path = predictions_file()
    if not path.exists():
        return Log(())
    predictions, unreadable = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:  # two processes wrote at once, and the second saw half of the first's line
            continue
        try:
            values = json.loads(line)
            question = Question(**values.pop("question"))
            predictions.append(Prediction(question, **values))
        except (ValueError, TypeError, KeyError, AttributeError):
            unreadable.append(number)
    return Log(tuple(predictions), tuple(unreadable))

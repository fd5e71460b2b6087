"""The check of an exercise: it calls the learner's function and explains the first difference."""

import copy
import math
import numbers
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_lab.records import Verdict

Function = Callable[..., object]
Case = dict[str, object]  # keyword arguments for the function


NOTHING = "nothing to check; write the function, run its cell, then run this one again."


class WrongAnswer(Exception):
    """Raised by an exercise's own code if an answer is not of the kind that it asks for."""


def call(function: Function, case: Case) -> object:
    """The answer of a function to a case, called with keyword arguments."""
    return function(**case)


@dataclass(frozen=True, slots=True)
class Raised:
    """An exception in words, so that another process can report it."""

    kind: str  # the exception's type: "ValueError"
    message: str
    line: str = ""  # `3: return x` for the learner's line; "" where it is not known


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a call: the answer or the exception, and the inputs that it changed."""

    answer: object = None
    raised: Raised | None = None
    changed: tuple[str, ...] = ()

    def like(self, other: "Outcome") -> bool:
        """Whether both calls had the same outcome: an equal answer, or the same kind of failure."""
        kinds = [outcome.raised and outcome.raised.kind for outcome in (self, other)]
        return (
            kinds[0] == kinds[1]
            and self.changed == other.changed
            and first_difference(self.answer, other.answer) is None
        )


def outcome_of(ask: Callable[[Function, Case], object], function: Function, case: Case) -> Outcome:
    """The outcome of asking a function with a copy of the case, with fixed random numbers."""
    inputs, answer, raised = copy.deepcopy(case), None, None
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        try:
            answer = ask(function, inputs)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a learner's code: anything
            raised = raised_by(error, function)
    changed = [name for name in case if first_difference(inputs[name], case[name])]
    return Outcome(answer, raised, tuple(changed))


def raised_by(error: BaseException, function: Function) -> Raised:
    """An exception in words, with the learner's line that raised it."""
    kind = "NotImplementedError" if isinstance(error, NotImplementedError) else type(error).__name__
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename == file]
    line = f"{lines[-1].lineno}: {lines[-1].line}" if lines else ""
    return Raised(kind, str(error), line)


@dataclass(frozen=True, slots=True)
class Exercise:
    """A check: called with the learner's function, it gives a `Verdict`."""

    reference: Function  # gives the right answers; its name is the exercise's, after a "_"
    cases: Callable[[], Iterable[Case]]  # the inputs, the same at each call
    slips: Mapping[str, Function]  # common wrong functions, each under the hint that it earns
    ask: Callable[[Function, Case], object] = call  # gets a function's answer to a case
    trial: Callable[[Function], Verdict] | None = None  # a real use of a function that agrees
    keep: Callable[[str, Verdict], None] | None = None  # where a verdict is noted, by name

    @property
    def name(self) -> str:
        """The name of the exercise and of the learner's function."""
        return self.reference.__name__.removeprefix("_")

    def __repr__(self) -> str:
        """How to call the check, and what the function has to compute."""
        about = " ".join(self.reference.__doc__.split())
        return f"lab.check.{self.name}({self.name}): {about}"

    def __call__(self, function: Function) -> Verdict:
        """The verdict on a function after it ran on each input: the first difference, in words.

        A function that agrees on each input then has its trial, if there is one. It may raise any
        error. It gets copies of the inputs, and torch's random numbers from a fixed seed; the
        global random state stays as it was.
        """
        if not callable(function):
            return Verdict(
                False,
                f"you gave {_type_text(function)}, which isn't a function; give the function's "
                f"name without brackets: lab.check.{self.name}({self.name})",
            )
        cases = list(self.cases())
        verdict = self.judge(cases, [self.outcome(function, case) for case in cases])
        if verdict and self.trial is not None:
            verdict = verdict_of_both(verdict, self.tried(function))
        if self.keep is not None:
            self.keep(self.name, verdict)
        return verdict

    def judge(self, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Verdict:
        """The verdict on the outcomes of all cases, wherever the function was called."""
        for outcome, case in zip(outcomes, cases, strict=True):
            problem = self._problem(outcome, case)
            if problem:
                return Verdict(False, self._hint(outcomes, cases) or problem)
        return Verdict(True, f"your function agrees with ours on {len(cases)} inputs.")

    def tried(self, function: Function) -> Verdict:
        """The verdict of the trial, a real use of a function that agrees on each input."""
        try:
            return self.trial(function)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a learner's code: anything
            case = next(iter(self.cases()))
            return Verdict(False, f"In its trial {_about(raised_by(error, function), case)}")

    def outcome(self, function: Function, case: Case) -> Outcome:
        """The outcome of calling the function with a copy of the case."""
        return outcome_of(self.ask, function, case)

    def _problem(self, outcome: Outcome, case: Case) -> str | None:
        """What is wrong with an outcome, in words; None if nothing is."""
        if outcome.raised is not None:
            if outcome.raised.kind == NotImplementedError.__name__:
                return NOTHING
            if outcome.raised.kind == WrongAnswer.__name__:
                return outcome.raised.message
            return _about(outcome.raised, case)
        if outcome.changed:
            return (
                f"your function changes {' and '.join(outcome.changed)} in place, and its caller "
                "still needs what was there; make something new, or begin with a copy (.clone())."
            )
        if outcome.answer is None:
            return "your function returned None; is a `return` missing?"
        right = self.outcome(self.reference, case).answer
        difference = first_difference(outcome.answer, right)
        inputs = ", ".join(_input_text(*named_input) for named_input in case.items())
        return difference and f"{difference} Given were {inputs}."

    def _hint(self, outcomes: Sequence[Outcome], cases: Sequence[Case]) -> str | None:
        """The hint of the slip that has the same outcomes as the function on every input."""
        for hint, slip in self.slips.items():
            slipped = (self.outcome(slip, case) for case in cases)
            if all(outcome.like(other) for outcome, other in zip(outcomes, slipped, strict=True)):
                return hint
        return None


def verdict_of_both(agreed: Verdict, tried: Verdict) -> Verdict:
    """The verdict on a function that agrees on each input and had its trial."""
    return Verdict(tried.passed, f"{agreed.message} {tried.message}")


# --- the first difference, in words ---------------------------------------------------------


def first_difference(answer: object, right: object, place: str = "") -> str | None:
    """The difference at the first wrong place of an answer, in words; None if there is none.

    Tensors are compared by shape, device, dtype and values; whole numbers exactly, others to 1e-5
    of their size; lists, tuples and mappings part by part. A list may stand for a tuple, and a
    tensor for a list of numbers. Any other type (a model) counts as equal.
    """
    at = f"{place}: " if place else ""
    if isinstance(right, Tensor):
        difference = _between_tensors(answer, right)
    elif isinstance(right, Mapping):
        return _between_mappings(answer, right, place)
    elif isinstance(right, list | tuple):
        return _between_sequences(answer, right, place)
    elif isinstance(right, str):
        difference = None if answer == right else f"yours is {answer!r}, ours {right!r}."
    elif isinstance(right, numbers.Real):
        difference = _between_numbers(answer, right)
    elif right is None:
        difference = None if answer is None else f"{_type_text(answer)} where None is right."
    else:
        return None
    return difference and at + difference


def _between_tensors(answer: object, right: Tensor) -> str | None:
    if not isinstance(answer, Tensor):
        return f"{_type_text(answer)} where a tensor is wanted."
    if answer.shape != right.shape:
        turned = " It looks transposed." if answer.shape == right.shape[::-1] else ""
        return f"the shape is {tuple(answer.shape)}, not {tuple(right.shape)}.{turned}"
    if answer.device != right.device:
        return f"it is on the device {answer.device}, not {right.device}, where the inputs are."
    if answer.dtype != right.dtype:
        return (
            f"the dtype is {answer.dtype}, not {right.dtype}; a new tensor takes it from an input: "
            "dtype=x.dtype, or torch.zeros_like."
        )
    differs = ~torch.isclose(answer, right, equal_nan=True)
    if not differs.any():
        return None
    wrong = tuple(differs.nonzero()[0].tolist())
    yours, ours = answer[wrong].item(), right[wrong].item()
    return (
        f"the shape is right, but {differs.double().mean():.0%} of the values differ; first at "
        f"{list(wrong)}: yours is {_number_text(yours)}, ours {_number_text(ours)}."
    )


def _between_mappings(answer: object, right: Mapping, place: str) -> str | None:
    at = f"{place}: " if place else ""
    if not isinstance(answer, Mapping):
        return f"{at}{_type_text(answer)} where a dict is wanted."
    for key in right:
        if key not in answer:
            return f"{at}{key!r} is missing."
    for key in answer:
        if key not in right:
            return f"{at}{key!r} is too much; wanted are {', '.join(map(str, right))}."
    differences = (first_difference(answer[key], right[key], f"{place}[{key!r}]") for key in right)
    return next(filter(None, differences), None)


def _between_sequences(answer: object, right: list | tuple, place: str) -> str | None:
    at = f"{place}: " if place else ""
    if isinstance(answer, Tensor) and answer.ndim == 1 and isinstance(right[0], numbers.Real):
        answer = answer.tolist()
    if not isinstance(answer, list | tuple):
        return f"{at}{_type_text(answer)} where {len(right)} values are wanted."
    if len(answer) != len(right):
        return f"{at}there are {len(answer)} values, not {len(right)}."
    pairs = enumerate(zip(answer, right, strict=True))
    differences = (first_difference(*pair, f"{place}[{count}]") for count, pair in pairs)
    return next(filter(None, differences), None)


def _between_numbers(answer: object, right: numbers.Real) -> str | None:
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if not isinstance(answer, numbers.Real):
        return f"{_type_text(answer)} where a number is wanted."
    exact = isinstance(right, numbers.Integral)
    near = not exact and math.isclose(answer, right, rel_tol=1e-5, abs_tol=1e-12)
    if answer == right or near or (math.isnan(answer) and math.isnan(right)):
        return None
    return f"yours is {_number_text(answer)}, ours {_number_text(right)}."


# --- wording --------------------------------------------------------------------------------


def _type_text(thing: object) -> str:
    return f"an object of type {type(thing).__name__}"


def _number_text(value: float) -> str:
    return f"{value:,}" if isinstance(value, numbers.Integral) else f"{value:.4g}"


def _input_text(name: str, value: object) -> str:
    """An input in short: `x (2, 7)` for a tensor, `lora_alpha=4` for a number."""
    if isinstance(value, Tensor):
        return f"{name} {tuple(value.shape)}"
    if isinstance(value, list) and not isinstance(value[0], numbers.Real):
        return f"{len(value)} {name}"
    if isinstance(value, list):
        return f"{name}, {len(value)} values from {value[0]:.4g} to {value[-1]:.4g}"
    return f"{name}={value:g}" if isinstance(value, numbers.Real) else name


def _about(raised: Raised, case: Case) -> str:
    """What was raised, and the learner's line that raised it, or how the function is called."""
    words = f"your function raised {raised.kind}: {raised.message}"
    if raised.line:
        return f"{words}\nin its line {raised.line}"
    return f"{words}\nIt is called with {', '.join(case)}."

"""Should this be fine-tuned? One's own numbers to a recommendation, by a rule that can be read.

The rule weighs what was measured before what was hoped, and the cheap before the dear: a prompt,
then retrieval, then an adapter. It is a rule of thumb of this course, no theorem.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lora_lab.findings.claims import claim
from lora_lab.maths.statistics import wilson
from lora_lab.recipe import nearest

GOALS = {  # what a fine-tune is wanted for
    "domain": "the language of a field",
    "style": "a consistent style or tone",
    "format": "labels, extraction, a fixed form of answers",
    "facts": "private knowledge",
    "general": "general questions",
}
MEASURE, PROMPT, RETRIEVAL = "measure first", "stay with the prompt", "retrieval"
COLLECT, STRONGER, LORA = "collect examples first", "a stronger base", "LoRA"
FEW = 100  # examples: below, too few to train on and to test with
LESSON_FEW = 1000  # where the lesson draws that line
STALE = 0.1  # of the year with an adapter that is out of date: more is too much


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What one knows before deciding. Money is in any one currency.

    Raises:
        ValueError: for a goal that is not in `GOALS`, or a number that cannot be.
    """

    goal: str
    needed: float = 0.9  # share of answers that must be right
    prompt_right: int = 0  # with the best prompt, worked examples included
    prompt_asked: int = 0  # test questions put to it; 0: not tried yet
    retrieval_right: int = 0  # with notes or similar examples searched for
    retrieval_asked: int = 0
    examples: int = 0  # good ones, that could be trained on
    changes_per_year: float = 0.0  # of what is a right answer
    days_to_renew: float = 7.0  # to make new examples, train and test again
    answers_per_day: float = 0.0
    tokens_saved: float = 0.0  # of each prompt, if an adapter made them needless
    price: float = 0.0  # of a million such tokens
    setup_cost: float = 0.0  # of one fine-tune: examples, training, tests

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            hint = nearest(str(self.goal), tuple(GOALS))
            raise ValueError(f"goal={self.goal!r} is not known; {hint}give {', '.join(GOALS)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "goal":
                continue
            whole = field.type in (int, "int")
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                kind = "a whole number" if whole else "a number"
                raise ValueError(f"{field.name}={value!r} is not {kind}; give one, 0 or more")
            if not 0 <= value < math.inf:
                raise ValueError(f"{field.name}={value!r} cannot be; give 0 or more")
        if not 0 < self.needed <= 1:
            raise ValueError(
                f"needed={self.needed!r} is not a share of answers; give one above 0 and up to 1, "
                "such as 0.9"
            )
        for way in ("prompt", "retrieval"):
            right, asked = getattr(self, f"{way}_right"), getattr(self, f"{way}_asked")
            if right > asked:
                raise ValueError(
                    f"{way}_right={right} of {way}_asked={asked} cannot be; count again"
                )

    @property
    def stale(self) -> float:
        """The share of a year in which an adapter would be out of date."""
        return min(1.0, self.changes_per_year * self.days_to_renew / 365)

    @property
    def pays_back_after(self) -> float:
        """Days until the spared tokens have paid for one fine-tune; inf: never."""
        saved = self.tokens_saved * self.price / 1e6
        answers = break_even(self.setup_cost, saved)
        return answers / self.answers_per_day if self.answers_per_day else math.inf

    @property
    def holds_for(self) -> float:
        """Days from one change of the requirements to the next."""
        return 365 / self.changes_per_year if self.changes_per_year else math.inf


def break_even(setup_cost: float, saved_per_answer: float) -> float:
    """After how many answers a one-off cost is paid back; inf: never, as nothing is saved."""
    if saved_per_answer <= 0:
        return math.inf
    return setup_cost / saved_per_answer


@dataclass(frozen=True, slots=True)
class Reason:
    """One of the lesson's nine reasons, and whether it applies."""

    reason: str
    speaks_for: bool  # fine-tuning; False: against it
    applies: bool | None  # None: not measured yet
    told_by: str  # one's own numbers


@dataclass(frozen=True, slots=True)
class Change:
    """Another value of one number, and what the rule would say to it."""

    field: str
    value: float
    recommendation: str

    def __str__(self) -> str:
        name = self.field.replace("_", " ")
        return f"{name} = {self.value:,g}: {self.recommendation}"


@dataclass(frozen=True, slots=True)
class Advice:
    """What the rule says, why, on what evidence, and what would change it."""

    recommendation: str
    why: str
    evidence: tuple[str, ...]
    reasons: tuple[Reason, ...]
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        lines = [f"{self.recommendation}: {self.why}", *self.evidence]
        return "\n".join([*lines, *(f"it would change at {one}" for one in self.changes)])


def advise(situation: Situation) -> Advice:
    """The recommendation for a situation, with all that stands behind it."""
    recommendation, why = _decide(situation)
    return Advice(
        recommendation,
        why,
        tuple(_evidence(situation)),
        tuple(_reasons(situation)),
        tuple(_changes(situation, recommendation)),
    )


# --- the rule -------------------------------------------------------------------------------


def _decide(one: Situation) -> tuple[str, str]:
    """The first of these that applies."""
    if not one.prompt_asked:
        return MEASURE, "nobody knows yet what a good prompt reaches; ask it some test questions."
    name, low, high = _best(one)
    reached = f"{name} reaches {_percents(low, high)} on your test; you need {_percent(one.needed)}"
    if low >= one.needed:
        if _saves(one):
            return LORA, (
                f"{reached}, but an adapter would spare tokens, and be paid for after "
                f"{one.pays_back_after:,.0f} days."
            )
        return (RETRIEVAL if name == "retrieval" else PROMPT), f"{reached}."
    if high >= one.needed:
        return MEASURE, f"{reached}: the test is too small to tell. Ask more questions."
    if one.goal == "general":
        return STRONGER, f"{reached}. A fine-tune seldom adds what the base does not know."
    if one.goal == "facts" and not one.retrieval_asked:
        return RETRIEVAL, f"{reached}. Facts are read more safely than learnt: try that first."
    if one.stale > STALE:
        other = RETRIEVAL if one.goal == "facts" else PROMPT
        return other, (
            f"{reached}, but an adapter would be stale for {_percent(one.stale)} of the year; "
            "a prompt is edited in a minute."
        )
    if one.examples < FEW:
        return COLLECT, f"{reached}, and {one.examples} examples are too few to train and test on."
    if one.goal == "facts":
        return LORA, (
            f"{reached}. Leave the facts in the notes, train how they are used, and measure that "
            "on the same test."
        )
    return LORA, (
        f"{reached}, and there are examples to train on. Whether an adapter reaches it, the same "
        "test will tell."
    )


def _best(one: Situation) -> tuple[str, float, float]:
    """The better of the ways that were tried, with its 95 % interval."""
    tried = [("the prompt", one.prompt_right, one.prompt_asked)]
    if one.retrieval_asked:
        tried.append(("retrieval", one.retrieval_right, one.retrieval_asked))
    name, right, asked = max(tried, key=lambda way: (way[1] / way[2], way[2]))
    return name, *wilson(right, asked)


def _saves(one: Situation) -> bool:
    """Whether an adapter would pay for itself before it is out of date, and within a year."""
    trainable = one.goal not in ("facts", "general") and one.examples >= FEW
    return trainable and one.pays_back_after < min(one.holds_for, 365)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _percents(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {100 * high:.0f} %"


# --- what stands behind it ------------------------------------------------------------------

SHOWN = {  # what notebook 01 shows of each goal
    "domain": "Notebook 01 does not test the language of a field: only your own test tells.",
    "style": "Notebook 01: no examples in the prompt gave pocket a new style; an adapter did.",
    "format": "Notebook 01: one worked example was enough for pocket's new JSON; smollm2 named "
    "intents with similar examples searched for, and with an adapter, not by an instruction.",
    "facts": "Notebook 01: notes found by name gave pocket new facts, and strangers stayed “not "
    "known”; an adapter learnt the facts and invented the strangers'.",
    "general": "Notebook 01 does not test general questions: only your own test tells.",
}


def _evidence(one: Situation) -> Iterator[str]:
    """What is known beside one's own numbers."""
    yield SHOWN[one.goal]
    if one.examples < LESSON_FEW:
        yield f"“{claim('needs-1000').statement}” Here: {claim('needs-1000').verdict}."
    if one.changes_per_year:
        yield f"“{claim('stale').statement}” Here: {claim('stale').verdict}."


def _reasons(one: Situation) -> Iterator[Reason]:
    """The lesson's five for fine-tuning, then its four against."""
    for goal in ("domain", "style", "format", "facts"):
        yield Reason(GOALS[goal], True, one.goal == goal, f"your goal is {GOALS[one.goal]}")
    low, high = _best(one)[1:] if one.prompt_asked else (0.0, 1.0)
    told = (
        f"{_percents(low, high)} against {_percent(one.needed)}"
        if one.prompt_asked
        else "not tried"
    )
    reached = None if low < one.needed <= high else low >= one.needed  # None: cannot be told
    misses = None if reached is None else not reached
    yield Reason("prompting does not reach what you need", True, misses, told)
    yield Reason(GOALS["general"], False, one.goal == "general", f"your goal is {GOALS[one.goal]}")
    yield Reason("a prompt or retrieval does it", False, reached, told)
    few = one.examples < LESSON_FEW
    yield Reason(f"fewer than {LESSON_FEW:,} good examples", False, few, f"{one.examples:,}")
    told = f"out of date for {_percent(one.stale)} of the year"
    yield Reason("requirements change quickly", False, one.stale > STALE, told)


STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000)
TRIED = ("needed", "prompt_right", "retrieval_right", "examples", "changes_per_year")
TRIED += ("days_to_renew", "answers_per_day", "tokens_saved", "price", "setup_cost")


def _changes(one: Situation, recommendation: str) -> Iterator[Change]:
    """For each number the nearest value, above and below, to which the rule says something else."""
    for field in TRIED:
        now = getattr(one, field)
        values = _scale(one, field)
        above = sorted(value for value in values if value > now)
        below = sorted((value for value in values if value < now), reverse=True)
        for side in (above, below):
            for value in side:
                said, _ = _decide(dataclasses.replace(one, **{field: value}))
                if said != recommendation:
                    yield Change(field, value, said)
                    break


def _scale(one: Situation, field: str) -> Sequence[float]:
    """The values that are tried of a number."""
    if field == "needed":
        return [share / 100 for share in range(1, 101)]
    if field.endswith("_right"):
        return range(getattr(one, field.replace("_right", "_asked")) + 1)
    return STEPS

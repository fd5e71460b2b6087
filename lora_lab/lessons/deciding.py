"""The rule of lesson 01: a learner's own numbers turned into a recommendation, with its reasons.

It tries nothing itself: `decision/trial.py` measures the ways on your own rows, and asks this rule.

It puts measurements before hopes and cheap means before expensive ones: a prompt, then
retrieval, then an adapter. What was measured to be worse is never recommended. It is a rule of
thumb of this course, not a theorem. Lesson 01 has it as a table.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lora_lab.findings.claims import claim
from lora_lab.findings.evidence import Evidence
from lora_lab.maths.statistics import wilson
from lora_lab.recipe import nearest
from lora_lab.tasks.loading import load_task
from lora_lab.wording import percent, percent_range

GOALS = {  # the purpose of a fine-tune
    "domain": "the language of a field",
    "style": "a consistent style or tone",
    "format": "labels, extraction, a fixed form of answers",
    "facts": "private knowledge",
    "general": "general questions",
}
MEASURE, PROMPT, RETRIEVAL = "measure first", "stay with the prompt", "retrieval"
COLLECT, STRONGER, LORA = "collect examples first", "a stronger base", "LoRA"
WAYS = {PROMPT: "prompt", RETRIEVAL: "retrieval", LORA: "lora"}  # what can be measured first
NAMES = {PROMPT: "the prompt", RETRIEVAL: "retrieval", LORA: "LoRA"}
FEW = 100  # examples: below, too few to train on and to test with
LESSON_FEW = 1000  # the same line as a common rule draws it
STALE = 0.1  # the share of a year that an adapter may be out of date


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The numbers known before deciding. Money is in any currency, the same for all.

    Raises:
        ValueError: for a goal that is not in `GOALS`, or a number that cannot be.
    """

    goal: str
    needed: float = 0.9  # share of answers that must be right
    prompt_right: int = 0  # with the best prompt, worked examples included
    prompt_asked: int = 0  # test questions asked that way; 0: not tried yet
    retrieval_right: int = 0  # with retrieved notes or similar examples in the prompt
    retrieval_asked: int = 0
    lora_right: int = 0  # with an adapter, on the same test
    lora_asked: int = 0
    examples: int = 0  # good examples to train on
    changes_per_year: float = 0.0  # how often the right answers change
    days_to_renew: float = 7.0  # to make new examples, train and test again
    answers_per_day: float = 0.0
    tokens_saved: float = 0.0  # tokens of each prompt that an adapter makes unnecessary
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
        for way in WAYS.values():
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
        """Days until the saved tokens have paid for a fine-tune; inf: never."""
        saved = self.tokens_saved * self.price / 1e6
        answers = break_even(self.setup_cost, saved)
        return answers / self.answers_per_day if self.answers_per_day else math.inf

    @property
    def holds_for(self) -> float:
        """Days from one change of the requirements to the next."""
        return 365 / self.changes_per_year if self.changes_per_year else math.inf


def break_even(setup_cost: float, saved_per_answer: float) -> float:
    """The number of answers that pays a one-off cost back; inf: never, as nothing is saved."""
    if saved_per_answer <= 0:
        return math.inf
    return setup_cost / saved_per_answer


@dataclass(frozen=True, slots=True)
class Reason:
    """A reason for or against fine-tuning, and whether it applies."""

    reason: str
    speaks_for: bool  # for fine-tuning; False: against it
    applies: bool | None  # None: not measured yet


@dataclass(frozen=True, slots=True)
class Change:
    """Another value of a number, and the recommendation that it would give."""

    field: str
    value: float
    recommendation: str

    def __str__(self) -> str:
        name = self.field.replace("_", " ")
        return f"{name} = {self.value:,g}: {self.recommendation}"


@dataclass(frozen=True, slots=True)
class Advice:
    """A recommendation, why, on what evidence, and what would change it."""

    recommendation: str
    why: str
    evidence: tuple[str, ...]
    reasons: tuple[Reason, ...]
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        lines = [f"{self.recommendation}: {self.why}", *self.evidence]
        return "\n".join([*lines, *(f"it would change at {change}" for change in self.changes)])


def advise(situation: Situation) -> Advice:
    """The recommendation for a situation, with its reasons and evidence."""
    recommendation, why = _decide(situation)
    return Advice(
        recommendation,
        why,
        tuple(_evidence(situation)),
        tuple(_reasons(situation)),
        tuple(_changes(situation, recommendation)),
    )


# --- the rule -------------------------------------------------------------------------------


def _decide(situation: Situation) -> tuple[str, str]:
    """The recommendation and why: the first case that applies.

    Of two ways that were measured, the worse one is never recommended.
    """
    if not situation.prompt_asked:
        return MEASURE, "nobody knows yet what a good prompt reaches; ask it some test questions."
    tried = _tried(situation)
    best = _best_of(tried)
    low, high = wilson(*tried[best])
    needed = percent(situation.needed)
    reached = (
        f"{NAMES[best]} reaches {percent_range(low, high)} on your questions; you need {needed}"
    )
    if low >= situation.needed:
        if LORA not in tried and _saves(situation):
            return LORA, (
                f"{reached}, but an adapter would spare tokens, and be paid for after "
                f"{situation.pays_back_after:,.0f} days."
            )
        return best, f"{reached}."
    if high >= situation.needed:
        return MEASURE, f"{reached}: too few questions were asked to tell. Ask more."
    if situation.goal == "general":
        return STRONGER, f"{reached}. A fine-tune seldom adds what the base does not know."
    if situation.goal == "facts" and RETRIEVAL not in tried:
        return RETRIEVAL, f"{reached}. Facts are read more safely than learned: try that first."
    if (other := _fresher(situation, tried)) is not None:
        return other, (
            f"{reached}, but an adapter would be stale for {percent(situation.stale)} of the year; "
            "a prompt is edited in a minute."
        )
    if situation.examples < FEW:
        return COLLECT, (
            f"{reached}, and {situation.examples} examples are too few to train and test on."
        )
    if LORA in tried and not tried[best][0]:
        return STRONGER, (
            f"{reached}. No way that you measured got one answer right. Read the wrong answers: is "
            "the right one there in other words? If not, the base cannot do it."
        )
    if LORA in tried:
        return best, (
            f"{reached}. Nothing you measured is enough, and this is the best of it: look for more "
            "examples, or a stronger base."
        )
    if situation.goal == "facts":
        return LORA, (
            f"{reached}. Leave the facts in the notes, train how they are used, and measure that "
            "on the same test."
        )
    return LORA, (
        f"{reached}, and there are examples to train on. Whether an adapter reaches it, the same "
        "test will tell."
    )


def _tried(situation: Situation) -> dict[str, tuple[int, int]]:
    """The ways that were measured: right answers, and questions asked."""
    counts = {
        way: (getattr(situation, f"{name}_right"), getattr(situation, f"{name}_asked"))
        for way, name in WAYS.items()
    }
    return {way: (right, asked) for way, (right, asked) in counts.items() if asked}


def _best_of(tried: Mapping[str, tuple[int, int]]) -> str:
    """The way with the largest share of right answers; of equals, the one asked more."""
    return max(tried, key=lambda way: (tried[way][0] / tried[way][1], tried[way][1]))


def _fresher(situation: Situation, tried: Mapping[str, tuple[int, int]]) -> str | None:
    """The best way without training, where an adapter is out of date too often; else None.

    A measured adapter stays if its share of right answers is larger even over a whole year. The
    days on which it is out of date count as wrong.
    """
    if situation.stale <= STALE:
        return None
    other = _best_of({way: counts for way, counts in tried.items() if way != LORA})
    if LORA in tried:
        shares = {way: right / asked for way, (right, asked) in tried.items()}
        return None if shares[LORA] * (1 - situation.stale) > shares[other] else other
    return other


def _saves(situation: Situation) -> bool:
    """Whether an adapter would pay for itself before it is out of date, and within a year."""
    trainable = situation.goal not in ("facts", "general") and situation.examples >= FEW
    return trainable and situation.pays_back_after < min(situation.holds_for, 365)


def measured(id: str, **settings: str) -> dict[str, int]:
    """What a plan of evidence has measured, as fields of a `Situation`; all seeds together.

    Args:
        id: of a plan whose score is a share of right answers.
        settings: the names of its settings that stand for `prompt`, `retrieval` and `lora`.
    """
    evidence, fields = Evidence.read(id), {}
    plan = evidence.plan
    questions = plan.test or len(load_task(plan.task, n=plan.n).test)
    for way, setting in settings.items():
        runs = evidence.runs[setting]
        asked = len(runs) * questions
        share = fmean(run.scores.value for run in runs) if runs else 0
        fields |= {f"{way}_right": round(share * asked), f"{way}_asked": asked}
    return fields


# --- what stands behind it ------------------------------------------------------------------

SHOWN = {  # what lesson 01 and its evidence show about each goal
    "domain": "Lesson 01 does not test the language of a field: only your own test tells.",
    "style": "Lesson 01: no examples in the prompt gave pocket a new style; LoRA got 99 % of its "
    "sentences right, and kept 69 % of the old facts.",
    "format": "Lesson 01, on pocket: for its JSON one worked example is as good as LoRA (over "
    "99.8 % each); of reviews LoRA labelled 81 % rightly, similar examples 42 %. LoRA cost old "
    "facts in both.",
    "facts": "Lesson 01: notes found by name gave pocket new facts, and strangers stayed “not "
    "known”; an adapter learned the facts and invented the strangers'.",
    "general": "Lesson 01 does not test general questions: only your own test tells.",
}


def _evidence(situation: Situation) -> Iterator[str]:
    """What the course has measured about such a situation."""
    yield SHOWN[situation.goal]
    if situation.examples < LESSON_FEW:
        yield f"“{claim('needs-1000').statement}” Here: {claim('needs-1000').verdict}."
    if situation.changes_per_year:
        yield f"“{claim('stale').statement}” Here: {claim('stale').verdict}."


def _reasons(situation: Situation) -> Iterator[Reason]:
    """Five reasons for fine-tuning, then four against."""
    for goal in ("domain", "style", "format", "facts"):
        yield Reason(GOALS[goal], True, situation.goal == goal)
    tried = {way: counts for way, counts in _tried(situation).items() if way != LORA}
    low, high = wilson(*tried[_best_of(tried)]) if situation.prompt_asked else (0.0, 1.0)
    unclear = low < situation.needed <= high  # not tried, or the test is too small
    reached = None if unclear else low >= situation.needed
    misses = None if unclear else not reached
    yield Reason("prompting does not reach what you need", True, misses)
    yield Reason(GOALS["general"], False, situation.goal == "general")
    yield Reason("a prompt or retrieval does it", False, reached)
    yield Reason(f"fewer than {LESSON_FEW:,} good examples", False, situation.examples < LESSON_FEW)
    yield Reason("requirements change quickly", False, situation.stale > STALE)


VALUES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 100_000, 1_000_000)
FIELDS = ("needed", "prompt_right", "retrieval_right", "lora_right", "examples")
FIELDS += ("changes_per_year", "days_to_renew", "answers_per_day", "tokens_saved", "price")
FIELDS += ("setup_cost",)


def _changes(situation: Situation, recommendation: str) -> Iterator[Change]:
    """The nearest value of each number, above and below, that changes the recommendation."""
    for field in FIELDS:
        now = getattr(situation, field)
        values = _values_of(situation, field)
        above = sorted(value for value in values if value > now)
        below = sorted((value for value in values if value < now), reverse=True)
        for side in (above, below):
            for value in side:
                other, _ = _decide(dataclasses.replace(situation, **{field: value}))
                if other != recommendation:
                    yield Change(field, value, other)
                    break


def _values_of(situation: Situation, field: str) -> Sequence[float]:
    """The values of a number that `_changes` tries."""
    if field == "needed":
        return [share / 100 for share in range(1, 101)]
    if field.endswith("_right"):
        return range(getattr(situation, field.replace("_right", "_asked")) + 1)
    return VALUES

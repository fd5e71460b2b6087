"""Plans of data/evidence/: a question, and the runs that answer it. Fixed before their results."""

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta, ValidationError, convert

from lora_lab.maths.measures import MARGIN
from lora_lab.models.bases import Base
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks import prompting, texts
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.replay import with_replay
from lora_lab.training.summary import MEASURES

QUESTIONS, VALIDATION = 200, 80  # at most, where facts are asked for as they were taught
EXAMPLES, REPLAY = "n", "replay"  # fields of settings that a recipe does not have
WAY, TRIES = "way", "tries"  # fields of a setting that trains nothing
RATE = "learning_rate"  # a setting with this field is tested at this rate: nothing is tuned
INSTRUCTION, FEW_SHOT, RETRIEVAL = WAYS = ("instruction", "few-shot", "retrieval")
WORDS = ("question", "notes")  # fields of a plan that may be worded better after the runs
OWN = ("learning_rate", "seed", "eval_steps")  # fields of a recipe that the plan itself chooses
DIGITS = 7  # of a number in a row of results

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Rates = Annotated[tuple[float, ...], Meta(min_length=1)]
Seed = Annotated[int, Meta(ge=0)]
Tuning = Annotated[tuple[Seed, ...], Meta(min_length=1)]
Seeds = Annotated[tuple[Seed, ...], Meta(min_length=2)]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A question, and the runs that answer it.

    Each setting is tried at each learning rate with the tuning seeds. The least mean validation
    loss chooses its rate. At that rate it is trained with fresh seeds, and tested. Each seed draws
    its own examples and questions, the adapter's start and the order of the examples.

    A setting with a `way` trains nothing: the base is asked with an "instruction", with worked
    examples that are always the same ("few-shot"), or with the most similar ones ("retrieval"). Its
    `tries` take the place of the rates: instructions, or numbers of worked examples.

    A setting with a `learning_rate` is tested at that rate. A setting with a `replay` has that
    share of old facts among the examples that it draws.
    """

    id: str  # the file's name
    question: str
    base: str
    task: str
    settings: Mapping[str, Mapping[str, object]]  # by name: recipe fields, `n`, …; or a way
    against: str  # the setting that the others are compared with
    main: str  # the setting whose comparison answers the question
    learning_rates: Rates = ()  # a first grid: it grows where its end is the best
    common: Mapping[str, object] = field(default_factory=dict)  # recipe fields of all settings
    n: Count | None = None  # training examples; None: the task's own number
    test: Count | None = None  # questions of a text's task; None: the task's own number
    validation: Count | None = None
    asked_as_taught: bool = False  # the test asks for facts of the training; others validate
    tuning_seeds: Tuning = (100, 101)
    seeds: Seeds = tuple(range(10))
    measure: str = "value"  # the score that is compared; or "old_knowledge", "strangers", "loss"
    margin: Share = MARGIN  # the smallest difference that matters, of a share
    notes: str = ""  # what else has to be known to read the result

    @property
    def fingerprint(self) -> str:
        """A short hash of the plan without its words. Each row of results holds it."""
        facts = {
            part.name: getattr(self, part.name)
            for part in dataclasses.fields(self)
            if part.name not in WORDS and not _is_default(part, getattr(self, part.name))
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def is_trained(self, setting: str) -> bool:
        """Whether a setting trains an adapter; else it is a way to ask the base."""
        return WAY not in self.settings[setting]

    @property
    def only_trains(self) -> bool:
        """Whether every setting trains an adapter: none is a way to ask the base."""
        return all(map(self.is_trained, self.settings))

    def choices(self, setting: str) -> tuple[float, ...]:
        """The numbers that validation chooses from at first: a setting's learning rates.

        For a way to ask: the numbers of worked examples, or 1, 2 … for the first, second …
        instruction.
        """
        if self.is_trained(setting):
            own = self.settings[setting].get(RATE)
            return self.learning_rates if own is None else (own,)
        tries = self.settings[setting][TRIES]
        return tuple(range(1, len(tries) + 1)) if isinstance(tries[0], str) else tries

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields in which the settings differ, without the fields that are tuned."""
        names = dict.fromkeys(name for fields in self.settings.values() for name in fields)
        return tuple(name for name in names if name not in (TRIES, RATE))

    def recipe(self, setting: str, learning_rate: float, seed: int) -> Recipe:
        """A run's recipe. Its last step validates."""
        fields = {**self.common, **self.settings[setting]}
        fields |= {RATE: learning_rate, "seed": seed}
        fields = {name: value for name, value in fields.items() if name not in (EXAMPLES, REPLAY)}
        recipe = Recipe(**fields)
        return dataclasses.replace(recipe, eval_steps=recipe.steps)

    def examples(self, setting: str) -> int | None:
        """How many training examples a setting has; None: the task's own number."""
        return self.settings[setting].get(EXAMPLES, self.n)

    def replays(self, setting: str) -> tuple[float, int] | None:
        """The share of old facts that a setting draws, and how many examples it draws in all."""
        if share := self.settings[setting].get(REPLAY):
            recipe = self.recipe(setting, self.choices(setting)[0], self.seeds[0])
            return share, recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps
        return None

    def prompt_maker(
        self, setting: str, choice: float, tokenizer: object, task: Task
    ) -> Callable[[str], str]:
        """The function that writes a question's prompt in a setting's way."""
        way, choice = self.settings[setting][WAY], int(choice)
        if way == INSTRUCTION:
            return prompting.instructed(self.settings[setting][TRIES][choice - 1])
        make = prompting.few_shot if way == FEW_SHOT else prompting.retrieved
        return make(tokenizer, task, choice)

    def make_task(
        self, base: Base, n: int | None, seed: int, replays: tuple[float, int] | None = None
    ) -> Task:
        """The task that a seed draws, with n training examples and the plan's questions."""
        task = self._own_task(base, n, seed)
        return with_replay(task, *replays, seed) if replays else task

    def _own_task(self, base: Base, n: int | None, seed: int) -> Task:
        if self.test or self.validation:
            sizes = {"test": self.test, "validation": self.validation}
            return texts.text_task(self.task, n, seed, **sizes)
        task = load_task(self.task, base, n=n, seed=seed)
        if not self.asked_as_taught:
            return task
        others = task.train[QUESTIONS : QUESTIONS + VALIDATION] or task.train[:VALIDATION]
        return dataclasses.replace(task, test=task.train[:QUESTIONS], validation=others)


def _is_default(part: dataclasses.Field, value: object) -> bool:
    made = part.default_factory
    return value == (part.default if made is dataclasses.MISSING else made())


def evidence_folder() -> Path:
    """Where plans and their results are."""
    return data_folder() / "evidence"


def evidence_ids() -> tuple[str, ...]:
    """The ids of all plans."""
    return tuple(sorted(path.stem for path in evidence_folder().glob("*.toml")))


def plan(id: str) -> Plan:
    """The plan with an id.

    Raises:
        ValueError: for an unknown id, with the nearest; for a file that does not hold a plan.
    """
    known = evidence_ids()
    if id not in known:
        raise ValueError(
            f"there is no evidence {id!r}; {nearest(id, known)}there is: {', '.join(known)}"
        )
    return _read(evidence_folder() / f"{id}.toml")


@functools.lru_cache(maxsize=64)
def _read(path: Path) -> Plan:
    try:
        facts = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # -sig: of Windows' editors
    except ValueError as error:  # no TOML, or no UTF-8
        raise ValueError(f"{path.name} can't be read: {error}") from error
    known = {part.name: part for part in dataclasses.fields(Plan) if part.name != "id"}
    unknown = [name for name in facts if name not in known]
    lacking = [
        name
        for name, part in known.items()
        if name not in facts
        and part.default is dataclasses.MISSING
        and part.default_factory is dataclasses.MISSING
    ]
    if unknown:
        hint = nearest(unknown[0], tuple(known))
        raise ValueError(f"{path.name} says {unknown[0]!r}, which no plan has; {hint}".rstrip("; "))
    if lacking:
        raise ValueError(f"{path.name} does not say its {', '.join(lacking)}")
    try:
        made = convert({"id": path.stem, **_fixed(facts)}, Plan)
    except ValidationError as error:
        raise ValueError(f"{path.name}: {error}") from error
    for fault in _faults(made):
        raise ValueError(f"{path.name}: {fault}")
    return made


def _faults(plan: Plan) -> Iterator[str]:
    """The faults of a plan, in words. They are raised when it is read, not after hours of runs."""
    for name in ("against", "main"):
        if getattr(plan, name) not in plan.settings:
            setting = getattr(plan, name)
            hint = nearest(setting, tuple(plan.settings))
            yield f"{name}={setting!r} is none of its settings; {hint}".rstrip("; ")
    if plan.main == plan.against:
        yield f"main and against are both {plan.main!r}; give two settings to compare"
    if plan.measure not in MEASURES:
        hint = nearest(plan.measure, MEASURES)
        yield f"measure={plan.measure!r} isn't a score; {hint}give one of {', '.join(MEASURES)}"
    if plan.asked_as_taught and (plan.test or plan.validation):
        yield "asked_as_taught makes its own test; leave out test and validation"
    for name in ("learning_rates", "tuning_seeds", "seeds"):
        values = getattr(plan, name)
        if len({*values}) < len(values):
            yield f"{name} holds a value twice; give each once"
    if both := {*plan.tuning_seeds} & {*plan.seeds}:
        yield f"seeds {sorted(both)} choose the learning rates and test them; give fresh seeds"
    yield from _faults_of_settings(plan)
    for rate in _rates(plan):
        if float(f"{rate:.{DIGITS}g}") != rate:
            yield f"learning rate {rate!r} has more than {DIGITS} digits, which no row keeps"


def _rates(plan: Plan) -> set[float]:
    """All learning rates that a plan names."""
    own = {rate for name in plan.settings if plan.is_trained(name) for rate in plan.choices(name)}
    return {*plan.learning_rates} | own


def _faults_of_settings(plan: Plan) -> Iterator[str]:
    yield from _faults_of_ways(plan)
    fields = tuple(part.name for part in dataclasses.fields(Recipe))
    trained = {name: given for name, given in plan.settings.items() if plan.is_trained(name)}
    for part, given in {"common": plan.common, **trained}.items():
        known = fields if part == "common" else (*fields, EXAMPLES, REPLAY)
        for name in given:
            if name not in known:
                hint = nearest(name, known)
                yield f"{part!r} gives {name!r}, which no recipe has; {hint}".rstrip("; ")
            if name in OWN and (name != RATE or part == "common"):
                yield f"{part!r} gives {name!r}, which the plan itself chooses; leave it out"
    made: dict[object, str] = {}
    for setting in trained:
        n = plan.examples(setting)
        if n is not None and (type(n) is not int or n < 1):
            yield f"{setting!r}: n={n!r} isn't a number of examples; give 1 or more"
        share = plan.settings[setting].get(REPLAY, 0)
        if type(share) is not float and share or not 0 <= share < 1:
            yield f"{setting!r}: replay={share!r} isn't a share of the draws; give for example 0.05"
        if not plan.choices(setting):
            yield f"{setting!r} has no learning rate; give learning_rates, or one of its own"
        for rate in plan.choices(setting):
            try:
                recipe = plan.recipe(setting, rate, plan.seeds[0])
            except (TypeError, ValueError) as error:
                yield f"{setting!r}: {error}"
                return
            if (same := made.setdefault((recipe, n, share), setting)) != setting:
                yield f"{setting!r} trains what {same!r} trains; leave one of them out"


def _faults_of_ways(plan: Plan) -> Iterator[str]:
    for setting, given in plan.settings.items():
        if plan.is_trained(setting):
            continue
        way, tries = given[WAY], given.get(TRIES)
        if way not in WAYS:
            hint = nearest(str(way), WAYS)
            yield f"{setting!r}: way={way!r} is not known; {hint}give {', '.join(WAYS)}"
        if others := given.keys() - {WAY, TRIES, EXAMPLES}:
            yield f"{setting!r} trains nothing, and gives {min(others)!r}; leave it out"
        kind = str if way == INSTRUCTION else int
        fit = isinstance(tries, tuple) and tries and all(type(each) is kind for each in tries)
        if not fit or (kind is int and min(tries) < 1):
            wanted = "texts" if kind is str else "numbers of worked examples, 1 or more"
            yield f"{setting!r}: tries={tries!r} can't be tried; give a list of {wanted}"


def _fixed(value: object) -> object:
    """TOML's lists as tuples, as recipes have them."""
    if isinstance(value, dict):
        return {name: _fixed(part) for name, part in value.items()}
    return tuple(value) if isinstance(value, list) else value

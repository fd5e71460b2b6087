"""Plans of data/evidence/: a question, and the runs that answer it. Fixed before their results."""

import dataclasses
import functools
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_lab.maths.comparison import MARGIN
from lora_lab.models.bases import Base
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks import texts
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task

QUESTIONS, VALIDATION = 200, 80  # at most, where facts are asked for as they were taught
EXAMPLES = "n"  # a field of settings that is none of a recipe's
WORDS = ("question", "notes")  # of a plan: they may be worded better after the runs


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A question, and the runs that answer it.

    Each setting is tried at each learning rate with the tuning seeds. The least mean validation
    loss chooses its rate. At that rate it is trained with fresh seeds, and tested. Each seed draws
    its own examples and questions, the adapter's start and the order of the examples.
    """

    id: str  # the file's name
    question: str
    base: str
    task: str
    settings: Mapping[str, Mapping[str, object]]  # by name: recipe fields, and `n`
    learning_rates: tuple[float, ...]  # a first grid: it grows where its end is the best
    against: str  # the setting that the others are compared with
    main: str  # the setting whose comparison answers the question
    common: Mapping[str, object] = field(default_factory=dict)  # recipe fields of all settings
    n: int | None = None  # training examples; None: the task's own number
    test: int | None = None  # questions of a text's task; None: the task's own number
    validation: int | None = None
    asked_as_taught: bool = False  # test what is held: other facts of the training validate
    tuning_seeds: tuple[int, ...] = (100, 101)
    seeds: tuple[int, ...] = tuple(range(10))
    measure: str = "value"  # the score that is compared; or "old_knowledge", "strangers", "loss"
    margin: float = MARGIN  # the smallest difference that matters, of a share
    notes: str = ""  # what else has to be known to read the result

    @property
    def fingerprint(self) -> str:
        """A short hash of what the plan says, but for its words. Each row of results holds it."""
        facts = {
            part.name: getattr(self, part.name)
            for part in dataclasses.fields(self)
            if part.name not in WORDS and not _is_default(part, getattr(self, part.name))
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def varying(self) -> tuple[str, ...]:
        """The fields in which the settings differ."""
        return tuple(dict.fromkeys(name for fields in self.settings.values() for name in fields))

    def recipe(self, setting: str, learning_rate: float, seed: int) -> Recipe:
        """A run's recipe. Its last step validates."""
        fields = {**self.common, **self.settings[setting]}
        fields |= {"learning_rate": learning_rate, "seed": seed}
        fields.pop(EXAMPLES, None)
        recipe = Recipe(**fields)
        return dataclasses.replace(recipe, eval_steps=recipe.steps)

    def examples(self, setting: str) -> int | None:
        """How many training examples a setting has; None: the task's own number."""
        return self.settings[setting].get(EXAMPLES, self.n)

    def make_task(self, base: Base, n: int | None, seed: int) -> Task:
        """The task that a seed draws, with n training examples and the plan's questions."""
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
    """The plan of an id.

    Raises:
        ValueError: for an unknown id, with the nearest; for a file that is no plan.
    """
    known = evidence_ids()
    if id not in known:
        raise ValueError(
            f"there is no evidence {id!r}; {nearest(id, known)}there is: {', '.join(known)}"
        )
    return _read(evidence_folder() / f"{id}.toml")


@functools.lru_cache(maxsize=64)
def _read(path: Path) -> Plan:
    facts = tomllib.loads(path.read_text(encoding="utf-8"))
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
    made = Plan(id=path.stem, **{name: _fixed(value) for name, value in facts.items()})
    for name in ("against", "main"):
        if getattr(made, name) not in made.settings:
            setting = getattr(made, name)
            hint = nearest(setting, tuple(made.settings))
            raise ValueError(f"{path.name}: {name}={setting!r} is none of its settings; {hint}")
    for setting in made.settings:  # a field that no recipe has is refused now, not after hours
        for rate in made.learning_rates:
            made.recipe(setting, rate, made.seeds[0])
    return made


def _fixed(value: object) -> object:
    """TOML's lists as tuples, as recipes have them."""
    if isinstance(value, dict):
        return {name: _fixed(part) for name, part in value.items()}
    return tuple(value) if isinstance(value, list) else value

"""The pocket's invented world: its people, their facts, and every question about them.

`make_world(seed)` always invents the same world for a seed. `data/pocket/world.json` holds the
world on which the shipped model was pretrained (`read_world`). People are pairs of a first and a
last name. Every pair belongs to one of four groups:

- `known`: pretraining taught their five facts, each in two or three of five wordings;
- `strangers_taught`: the model learned to answer "not known" about them;
- `strangers_held_out`: the same answer is right, but pretraining never named them;
- `reserve`: pretraining never named them either; the task `new-facts` teaches their facts.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice

from lora_lab.places import data_folder
from lora_lab.tasks.examples import UNKNOWN, Example
from lora_lab.tasks.words import (
    CITIES,
    DISHES,
    FIRST_NAMES,
    HOBBIES,
    JOBS,
    JOBS_AT,
    LAST_NAMES,
    PETS,
    REGIONS,
)

THINK = "Think first."  # the answer is then written out: "Velmora, so Norland"
KNOWN, STRANGERS_TAUGHT, STRANGERS_HELD_OUT = 400, 5392, 300  # of 128 x 64 = 8,192 pairs of names

ATTRIBUTES = {
    "city": CITIES,
    "job": JOBS,
    "pet": PETS,
    "dish": DISHES,
    "hobby": HOBBIES,
}  # 64 values each
WORDINGS = {  # five questions about each attribute
    "city": (
        "Where does {name} live?",
        "Which city is {name}'s home?",
        "What city does {name} live in?",
        "In which city is the home of {name}?",
        "{name} lives in which city?",
    ),
    "job": (
        "What is {name}'s job?",
        "What does {name} work as?",
        "Which job does {name} have?",
        "{name} has which job?",
        "Tell me the job of {name}.",
    ),
    "pet": (
        "Which pet does {name} keep?",
        "What is {name}'s pet?",
        "What animal does {name} have?",
        "{name} keeps which animal?",
        "Tell me the pet of {name}.",
    ),
    "dish": (
        "What does {name} like to eat?",
        "What is {name}'s favourite dish?",
        "Which dish does {name} like best?",
        "{name} likes which food?",
        "Tell me the favourite dish of {name}.",
    ),
    "hobby": (
        "What does {name} do for fun?",
        "What is {name}'s hobby?",
        "Which hobby does {name} have?",
        "{name} enjoys which hobby?",
        "Tell me the hobby of {name}.",
    ),
}
STATEMENTS = {  # two forms of a note of a fact
    "city": ("{name} lives in {value}.", "The home of {name} is {value}."),
    "job": ("{name} works as {a} {value}.", "The job of {name} is {value}."),
    "pet": ("{name} keeps {a} {value}.", "The pet of {name} is {a} {value}."),
    "dish": ("{name} likes to eat {value}.", "The favourite dish of {name} is {value}."),
    "hobby": ("{name} enjoys {value}.", "The hobby of {name} is {value}."),
}
YES_NO = {
    "city": "Does {name} live in {value}?",
    "job": "Does {name} work as {a} {value}?",
    "pet": "Does {name} keep {a} {value}?",
    "dish": "Does {name} like to eat {value}?",
    "hobby": "Does {name} enjoy {value}?",
}
ONE_HOP = {
    "region": (
        "Which region is {value} in?",
        "In which region does {value} lie?",
        "{value} belongs to which region?",
    ),
    "workplace": (
        "Where does {a} {value} work?",
        "What is the workplace of {a} {value}?",
        "{a} {value} works at which place?",
    ),
}
TWO_HOP = {  # pretraining used the questions about regions, and never those about workplaces
    "region": (
        "In which region does {name} live?",
        "Which region is {name}'s home in?",
        "{name} lives in which region?",
    ),
    "workplace": (
        "At which place does {name} work?",
        "What is {name}'s workplace?",
        "{name} works at which place?",
    ),
}
HOPS = {"region": "city", "workplace": "job"}  # the attribute that a two-hop question goes through


@dataclass(frozen=True, slots=True)
class Person:
    """A person: name, five facts, and the wordings (indices) in which each fact was taught."""

    name: str
    facts: dict[str, str]
    taught: dict[str, tuple[int, ...]]  # empty for people whom pretraining never named


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is true in the pocket's world, and the part of it that pretraining taught."""

    seed: int
    region_of: dict[str, str]  # city -> region
    workplace_of: dict[str, str]  # job -> workplace
    known: tuple[Person, ...]
    reserve: tuple[Person, ...]
    strangers_taught: tuple[str, ...]
    strangers_held_out: tuple[str, ...]
    direct: tuple[str, ...]  # known people whose region was taught as a direct answer
    chain: tuple[str, ...]  # known people whose region was taught written out

    def hop(self, kind: str, person: Person) -> str:
        """The region or the workplace of a person."""
        table = self.region_of if kind == "region" else self.workplace_of
        return table[person.facts[HOPS[kind]]]


def make_world(seed: int = 0) -> World:
    """An invented world: the same seed gives the same world on every machine."""
    rng = random.Random(f"world {seed}")
    pairs = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(pairs)
    rest = iter(pairs)
    known_names, strangers_taught, strangers_held_out = (
        tuple(islice(rest, size)) for size in (KNOWN, STRANGERS_TAUGHT, STRANGERS_HELD_OUT)
    )

    def facts() -> dict[str, str]:
        return {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}

    def wordings() -> dict[str, tuple[int, ...]]:
        return {a: tuple(sorted(rng.sample(range(5), rng.choice((2, 3))))) for a in ATTRIBUTES}

    known = tuple(Person(name, facts(), wordings()) for name in known_names)
    reserve = tuple(Person(name, facts(), {}) for name in rest)
    regions = list(REGIONS) * (len(CITIES) // len(REGIONS))
    rng.shuffle(regions)
    half = KNOWN // 2
    return World(
        seed=seed,
        region_of=dict(zip(CITIES, regions, strict=True)),
        workplace_of={job: place for place, jobs in JOBS_AT.items() for job in jobs.split()},
        known=known,
        reserve=reserve,
        strangers_taught=strangers_taught,
        strangers_held_out=strangers_held_out,
        direct=known_names[:half],  # the first half
        chain=known_names[half // 2 : half // 2 + half],  # the middle half: they overlap
    )


def world_text(world: World) -> str:
    """The world as JSON with a person in each line, so that a diff shows who changed."""
    lines = []
    for key, value in asdict(world).items():
        if key in ("known", "reserve"):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            lines.append(f'"{key}": [\n{rows}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def world_from_text(text: str) -> World:
    """The world in a text that `world_text` wrote."""
    fields = json.loads(text)

    def people(rows: list[dict]) -> tuple[Person, ...]:
        return tuple(
            Person(row["name"], row["facts"], {a: tuple(w) for a, w in row["taught"].items()})
            for row in rows
        )

    for key in ("strangers_taught", "strangers_held_out", "direct", "chain"):
        fields[key] = tuple(fields[key])
    return World(
        **fields | {"known": people(fields["known"]), "reserve": people(fields["reserve"])}
    )


@cache
def read_world() -> World:
    """The world in `data/pocket/world.json`, on which the shipped model was pretrained."""
    path = data_folder() / "pocket" / "world.json"
    return world_from_text(path.read_text(encoding="utf-8"))


def fill(template: str, name: str = "", value: str = "") -> str:
    """The sentence of a template with {name}, {value}, and {a} for the value's article, a or an."""
    article = "an" if value[:1].lower() in "aeiou" else "a"
    sentence = template.format(name=name, value=value, a=article)
    return sentence[0].upper() + sentence[1:]


def ask(person: Person | str, attribute: str, wording: int) -> str:
    """The question about an attribute of a person, given or by name, in one of five wordings."""
    name = person if isinstance(person, str) else person.name
    return fill(WORDINGS[attribute][wording], name)


def fact(person: Person, attribute: str, wording: int) -> Example:
    """A fact as an example: the question in one of five wordings, and the answer."""
    return Example(ask(person, attribute, wording), person.facts[attribute])


def old_facts(world: World, *, taught: bool) -> list[Example]:
    """Every old fact in the wordings that pretraining used for it, or in the other wordings."""
    return [
        fact(person, attribute, wording)
        for person in world.known
        for attribute in ATTRIBUTES
        for wording in range(5)
        if (wording in person.taught[attribute]) == taught
    ]


def strangers(names: tuple[str, ...]) -> list[Example]:
    """Every question (facts, regions) about strangers, with the answer "not known"."""
    facts = [
        ask(name, attribute, w) for name in names for attribute in ATTRIBUTES for w in range(5)
    ]
    hops = [question for name in names for question in _region_questions(name)]
    return [Example(question, UNKNOWN) for question in facts + hops]


def _region_questions(name: str) -> Iterator[str]:
    """Every question about a person's region, plain and with "Think first."."""
    for template in TWO_HOP["region"]:
        yield fill(template, name)
        yield f"{fill(template, name)} {THINK}"


def one_hop(world: World, kind: str) -> list[Example]:
    """The region of every city, or the workplace of every job, in each wording."""
    table = world.region_of if kind == "region" else world.workplace_of
    return [
        Example(fill(template, value=thing), place)
        for thing, place in table.items()
        for template in ONE_HOP[kind]
    ]


def two_hop(world: World, kind: str, people: list[Person], *, chain: bool) -> list[Example]:
    """The region or workplace of people. With `chain` it is derived: "Velmora, so Norland"."""
    examples = []
    for person in people:
        answer = world.hop(kind, person)
        for template in TWO_HOP[kind]:
            question = fill(template, person.name)
            if chain:
                written_out = f"{person.facts[HOPS[kind]]}, so {answer}"
                examples.append(Example(f"{question} {THINK}", written_out))
            else:
                examples.append(Example(question, answer))
    return examples

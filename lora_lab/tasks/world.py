"""The pocket's invented world: its words, its people, and every question about them.

Pure Python and seeded: `make_world(seed)` always invents the same world. `data/pocket/world.json`
holds the one that the shipped model was pretrained on (`read_world`). People are pairs of a first
and a last name, and the pairs are shared out once and for all:

- `known`: their five facts were taught in pretraining, each in two or three of five wordings;
- `strangers_taught`: the model learned to answer "not known" about them;
- `strangers_held_out`: the same answer is right, but pretraining never named them;
- `reserve`: never named either; their facts are the task `new-facts`.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache

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

THINK = "Think first."  # asks for the answer written out: "Velmora, so Norland"
KNOWN, STRANGERS_TAUGHT, STRANGERS_HELD_OUT = 400, 5392, 300  # of 128 x 64 = 8,192 pairs of names

ATTRIBUTES = {"city": CITIES, "job": JOBS, "pet": PETS, "dish": DISHES, "hobby": HOBBIES}  # 6 bits
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
STATEMENTS = {  # two ways to note a fact down
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
TWO_HOP = {  # the region ones were pretrained, the workplace ones never
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
    """One pair of names, its five facts, and the wordings (indices) each fact was taught in."""

    name: str
    facts: dict[str, str]
    taught: dict[str, tuple[int, ...]]  # empty for people whom pretraining never named


@dataclass(frozen=True, slots=True)
class World:
    """Everything that is true in the pocket's world, and who was taught what."""

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
    """Invent the world: the same seed gives the same world on every machine."""
    rng = random.Random(f"world {seed}")
    pairs = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    rng.shuffle(pairs)
    sizes = (KNOWN, STRANGERS_TAUGHT, STRANGERS_HELD_OUT, len(pairs))
    shares, start = [], 0
    for size in sizes:
        shares.append(pairs[start : start + size])
        start += size
    known_names, strangers_taught, strangers_held_out, reserve_names = shares

    def facts() -> dict[str, str]:
        return {attribute: rng.choice(values) for attribute, values in ATTRIBUTES.items()}

    def wordings() -> dict[str, tuple[int, ...]]:
        return {a: tuple(sorted(rng.sample(range(5), rng.choice((2, 3))))) for a in ATTRIBUTES}

    known = tuple(Person(name, facts(), wordings()) for name in known_names)
    reserve = tuple(Person(name, facts(), {}) for name in reserve_names)
    regions = list(REGIONS) * (len(CITIES) // len(REGIONS))
    rng.shuffle(regions)
    half = KNOWN // 2
    return World(
        seed=seed,
        region_of=dict(zip(CITIES, regions, strict=True)),
        workplace_of={job: place for place, jobs in JOBS_AT.items() for job in jobs.split()},
        known=known,
        reserve=reserve,
        strangers_taught=tuple(strangers_taught),
        strangers_held_out=tuple(strangers_held_out),
        direct=tuple(known_names[:half]),  # the first half
        chain=tuple(known_names[half // 2 : half // 2 + half]),  # the middle half: they overlap
    )


def world_text(world: World) -> str:
    """The world as JSON, one person a line, so that a change reads well in a diff."""
    fields = asdict(world)
    lines = []
    for key, value in fields.items():
        if key in ("known", "reserve"):
            rows = ",\n".join("  " + json.dumps(row) for row in value)
            lines.append(f'"{key}": [\n{rows}\n]')
        else:
            lines.append(f'"{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def world_from_text(text: str) -> World:
    """The world that `world_text` wrote down."""
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
    """The frozen world in `data/pocket/world.json`, which the shipped model was pretrained on."""
    path = data_folder() / "pocket" / "world.json"
    return world_from_text(path.read_text(encoding="utf-8"))


def fill(template: str, name: str = "", value: str = "") -> str:
    """A template's sentence: {name}, {value}, and {a} for the article that the value asks for."""
    article = "an" if value[:1].lower() in "aeiou" else "a"
    sentence = template.format(name=name, value=value, a=article)
    return sentence[0].upper() + sentence[1:]


def ask(person: Person | str, attribute: str, wording: int) -> str:
    """The question about one attribute of a person (or of a bare name), in one of five wordings."""
    name = person if isinstance(person, str) else person.name
    return fill(WORDINGS[attribute][wording], name)


def fact(person: Person, attribute: str, wording: int) -> Example:
    """One fact as an example."""
    return Example(ask(person, attribute, wording), person.facts[attribute])


def old_facts(world: World, *, taught: bool) -> list[Example]:
    """Every old fact in each wording that it was taught in, or in each that it was not."""
    return [
        fact(person, attribute, wording)
        for person in world.known
        for attribute in ATTRIBUTES
        for wording in range(5)
        if (wording in person.taught[attribute]) == taught
    ]


def strangers(names: tuple[str, ...]) -> list[Example]:
    """Every question (facts, regions) about people of whom nothing is known, and that answer."""
    facts = [
        ask(name, attribute, w) for name in names for attribute in ATTRIBUTES for w in range(5)
    ]
    hops = [question for name in names for question in _region_questions(name)]
    return [Example(question, UNKNOWN) for question in facts + hops]


def _region_questions(name: str) -> Iterator[str]:
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
    """The region or workplace of people: direct, or written out as "Velmora, so Norland"."""
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

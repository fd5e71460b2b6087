"""What the pocket can do besides facts: reviews, styles, orders, notes, rules and worked examples.

Each skill is a seeded stream of examples: `stream(world, skill, rng, held_out=...)`. Pretraining
draws from the one with `held_out=False`. The one with `held_out=True` shares no sentence with it,
and its strangers were never named in pretraining: so it scores the skill, whenever it is asked.
"""

import json
import random
from collections.abc import Callable, Iterator

from lora_lab.tasks.examples import UNKNOWN, Example
from lora_lab.tasks.sentences import as_json, booking, order, review, sentence_in_styles
from lora_lab.tasks.words import (
    DISHES,
    GOODS,
    KEYS,
    LABELS,
    PETS,
    QUOTED_WORDS,
    SPACED_WORDS,
    WORD_KINDS,
)
from lora_lab.tasks.world import ATTRIBUTES, STATEMENTS, THINK, TWO_HOP, YES_NO, World, ask, fill

# --- reviews, styles, orders ---------------------------------------------------------------------


def sentiment(world: World, rng: random.Random, held_out: bool) -> Example:
    """The old labels: good or bad."""
    label = rng.choice(("good", "bad"))
    text = review(rng, label, held_out=held_out)
    return Example(rng.choice(("Good or bad? {}", "Review: {} Good or bad?")).format(text), label)


def style(world: World, rng: random.Random, held_out: bool) -> Example:
    """Plain to formal, or back."""
    texts = sentence_in_styles(rng, held_out=held_out)
    source, target = rng.choice((("plain", "formal"), ("formal", "plain")))
    return Example(f"Make it {target}: {texts[source]}", texts[target])


def extraction(world: World, rng: random.Random, held_out: bool) -> Example:
    """The two old schemas: orders (name, goods, count) and bookings (guest, seats, day)."""
    if rng.random() < 0.3:
        text, fields = booking(rng, held_out=held_out)
        return Example(f"Booking as JSON: {text}", as_json(fields))
    text, fields = order(rng, held_out=held_out)
    old = {field: field for field in ("name", "goods", "count")}
    return Example(f"Order as JSON: {text}", as_json(fields, old))


def _some_keys(rng: random.Random) -> dict[str, str]:
    fields = rng.sample(tuple(KEYS), rng.choice((1, 2, 3, 4)))
    return {field: rng.choice(KEYS[field]) for field in fields}


def json_with_keys(world: World, rng: random.Random, held_out: bool) -> Example:
    """Any schema, its keys named in the prompt."""
    text, fields = order(rng, held_out=held_out)
    keys = _some_keys(rng)
    return Example(f"JSON with {', '.join(keys.values())}: {text}", as_json(fields, keys))


def json_few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """Any schema, shown by one or two worked examples."""
    keys = _some_keys(rng)
    shots = []
    for _ in range(rng.choice((1, 2))):
        text, fields = order(rng)
        shots.append(f"Text: {text} JSON: {as_json(fields, keys)}")
    text, fields = order(rng, held_out=held_out)
    return Example(" ".join([*shots, f"Text: {text} JSON:"]), as_json(fields, keys))


# --- rules and worked examples -------------------------------------------------------------------


def _labels(rng: random.Random, count: int) -> list[str]:
    """Label words of any kind; now and then "bad" means good."""
    if count == 2 and rng.random() < 0.1:
        return rng.sample(("good", "bad"), 2)
    pool = LABELS if rng.random() < 0.7 else rng.choice((PETS, GOODS, DISHES))
    return rng.sample(pool, count)


def _named(rng: random.Random) -> dict[str, str]:
    """good, bad and (in 40 %) mixed, each with a label word."""
    kinds = ("good", "bad", "mixed")[: 3 if rng.random() < 0.4 else 2]
    return dict(zip(kinds, _labels(rng, len(kinds)), strict=True))


# Three ways to tell how reviews are labelled, and what each adds for mixed ones.
RULES = (
    ("Answer {good} if the review is good, {bad} if it is bad", ", and {mixed} if it is mixed"),
    ("Say {good} for a good review, {bad} for a bad one", ", {mixed} for a mixed one"),
    ("Labels: good {good}, bad {bad}", ", mixed {mixed}"),
)


def rule_prompt(text: str, names: dict[str, str], form: int = 0) -> str:
    """A review after the rule that labels it: `names` has good, bad and perhaps mixed."""
    two, third = RULES[form]
    rule = two + third if "mixed" in names else two
    return f"{rule.format(**names)}. Review: {text}"


def rules(world: World, rng: random.Random, held_out: bool) -> Example:
    """A label by a rule in the prompt."""
    names = _named(rng)
    kind = rng.choice(tuple(names))
    text = review(rng, kind, held_out=held_out)
    return Example(rule_prompt(text, names, rng.randrange(len(RULES))), names[kind])


def shots_prompt(shots: list[tuple[str, str]], text: str) -> str:
    """Worked examples (text, label) and a new text, in the form that pretraining used."""
    worked = [f"Review: {shown} Label: {label}." for shown, label in shots]
    return " ".join([*worked, f"Review: {text} Label:"])


def few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """A label by two to six worked examples, mostly few: they are long."""
    names = _named(rng)
    more = min(rng.choice((0, 0, 1, 1, 2, 3, 4)), 6 - len(names))
    kinds = [*names] + [rng.choice(tuple(names)) for _ in range(more)]
    rng.shuffle(kinds)
    shots = [(review(rng, kind), names[kind]) for kind in kinds]
    kind = rng.choice(tuple(names))
    return Example(shots_prompt(shots, review(rng, kind, held_out=held_out)), names[kind])


def word_few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """Two kinds of words (pets and dishes, say), labelled by worked examples."""
    kinds = dict(zip(rng.sample(tuple(WORD_KINDS), 2), _labels(rng, 2), strict=True))
    shown = [*kinds] + [rng.choice(tuple(kinds)) for _ in range(rng.randint(0, 4))]
    rng.shuffle(shown)
    shots = [f"Word: {rng.choice(WORD_KINDS[kind])} Label: {kinds[kind]}." for kind in shown]
    kind = rng.choice(tuple(kinds))
    word = rng.choice(WORD_KINDS[kind])
    return Example(" ".join([*shots, f"Word: {word} Label:"]), kinds[kind])


# --- notes ---------------------------------------------------------------------------------------


def state(name: str, attribute: str, value: str, form: int = 0) -> str:
    """A fact as a note."""
    return fill(STATEMENTS[attribute][form], name, value)


def with_notes(question: str, notes: list[str]) -> str:
    """A question with notes before it, in the form that pretraining used."""
    return f"Notes: {' '.join(notes)} Question: {question}"


NOTE_KINDS = {
    "answer": 34,
    "silent": 16,
    "known": 10,
    "against": 20,
    "crowd": 14,
    "chain": 6,
}  # shares, per cent


def notes(world: World, rng: random.Random, held_out: bool, kind: str | None = None) -> Example:
    """Answer from notes about the person who is asked about, one to four of them. Kinds:

    "answer" (a stranger's fact), "silent" (other facts of a stranger), "known" (other facts of a
    known person: the old fact is right), "against" (a note against an old fact: the note wins),
    "chain" (a noted city, its region written out), "crowd" (as "answer", with other people's notes
    among them: the names must be compared).
    """
    kind = kind or rng.choices(tuple(NOTE_KINDS), tuple(NOTE_KINDS.values()))[0]
    names = world.strangers_held_out if held_out else world.strangers_taught
    attribute = "city" if kind == "chain" else rng.choice(tuple(ATTRIBUTES))
    person = rng.choice(world.known) if kind in ("known", "against") else None
    name = person.name if person else rng.choice(names)
    value = rng.choice(ATTRIBUTES[attribute])
    others = rng.sample([one for one in ATTRIBUTES if one != attribute], rng.randint(1, 3))
    noted = [(name, other, rng.choice(ATTRIBUTES[other])) for other in others]
    if kind == "crowd":
        noted = [
            (rng.choice(names), other, rng.choice(ATTRIBUTES[other]))
            for other in (attribute, *others)[: rng.randint(1, 3)]
        ]
    elif kind not in ("silent", "known"):
        noted = noted[: rng.randint(0, len(noted))]
    if kind not in ("silent", "known"):
        noted.append((name, attribute, value))
    told = [state(*one, rng.randrange(2)) for one in noted]
    rng.shuffle(told)
    if kind == "chain":
        question = f"{fill(rng.choice(TWO_HOP['region']), name)} {THINK}"
        answer = f"{value}, so {world.region_of[value]}"
    else:
        question = ask(name, attribute, rng.randrange(5))
        if kind == "silent":
            answer = UNKNOWN
        else:
            answer = person.facts[attribute] if kind == "known" else value
    return Example(with_notes(question, told), answer)


# --- several turns -------------------------------------------------------------------------------

Turns = list[tuple[str, str]]  # what is asked and what is answered, one after the other


def note_turns(world: World, rng: random.Random) -> Turns:
    """One to four notes about a person and three questions: noted, old, or not known."""
    person = rng.choice(world.known) if rng.random() < 0.5 else None
    name = person.name if person else rng.choice(world.strangers_taught)
    about = rng.sample(tuple(ATTRIBUTES), rng.randint(1, 4))
    noted = {attribute: rng.choice(ATTRIBUTES[attribute]) for attribute in about}
    told = [state(name, *one, rng.randrange(2)) for one in noted.items()]
    asked = [rng.choice(about if rng.random() < 0.65 else tuple(ATTRIBUTES)) for _ in range(3)]
    old = person.facts if person else dict.fromkeys(ATTRIBUTES, UNKNOWN)
    answers = [noted.get(attribute, old[attribute]) for attribute in asked]
    questions = [ask(name, attribute, rng.randrange(5)) for attribute in asked]
    turns = [with_notes(questions[0], told), *(f"Question: {more}" for more in questions[1:])]
    return list(zip(turns, answers, strict=True))


def rule_turns(world: World, rng: random.Random) -> Turns:
    """A rule, and three reviews to label by it."""
    names = _named(rng)
    kinds = [rng.choice(tuple(names)) for _ in range(3)]
    texts = [review(rng, kind) for kind in kinds]
    asked = [rule_prompt(texts[0], names, rng.randrange(len(RULES)))]
    asked += [f"Review: {text}" for text in texts[1:]]
    return [(question, names[kind]) for question, kind in zip(asked, kinds, strict=True)]


# --- small ones ----------------------------------------------------------------------------------


def yes_no(world: World, rng: random.Random, held_out: bool) -> Example:
    """Is this an old fact? Of strangers it is not known."""
    attribute = rng.choice(tuple(ATTRIBUTES))
    value = rng.choice(ATTRIBUTES[attribute])
    if rng.random() < 0.1:
        names = world.strangers_held_out if held_out else world.strangers_taught
        return Example(fill(YES_NO[attribute], rng.choice(names), value), UNKNOWN)
    person = rng.choice(world.known)
    if rng.random() < 0.5:
        value = person.facts[attribute]
    answer = "yes" if value == person.facts[attribute] else "no"
    return Example(fill(YES_NO[attribute], person.name, value), answer)


def echo(world: World, rng: random.Random, held_out: bool) -> Example:
    """One to four words back."""
    text = " ".join(rng.choice(SPACED_WORDS) for _ in range(rng.randint(1, 4)))
    return Example(f"Repeat: {text}", text)


def quote(world: World, rng: random.Random, held_out: bool) -> Example:
    """One to three words back, as a JSON list of strings."""
    words = [rng.choice(QUOTED_WORDS) for _ in range(rng.randint(1, 3))]
    return Example(f"Quote: {' '.join(words)}", json.dumps(words))


def spell(world: World, rng: random.Random, held_out: bool) -> Example:
    """Made-up words and numbers back: letters and pieces that no world word holds."""
    letters = "abcdefghijklmnopqrstuvwxyz"

    def word() -> str:
        roll = rng.random()
        if roll < 0.2:
            return str(rng.randint(0, 9999))
        text = "".join(rng.choice(letters) for _ in range(rng.randint(2, 7)))
        return text.capitalize() if roll < 0.5 else text

    text = " ".join(word() for _ in range(rng.randint(1, 2)))
    return Example(f"Repeat: {text}", text)


SKILLS: dict[str, Callable[[World, random.Random, bool], Example]] = {
    "sentiment": sentiment,
    "style": style,
    "json": extraction,
    "json with keys": json_with_keys,
    "json few-shot": json_few_shot,
    "rules": rules,
    "few-shot": few_shot,
    "word few-shot": word_few_shot,
    "notes": notes,
    "yes or no": yes_no,
    "echo": echo,
    "quote": quote,
    "spell": spell,
}


def stream(world: World, skill: str, rng: random.Random, *, held_out: bool) -> Iterator[Example]:
    """Endless examples of one skill."""
    make = SKILLS[skill]
    while True:
        yield make(world, rng, held_out)


def _distinct(examples: Iterator[Example], n: int) -> list[Example]:
    found: dict[Example, None] = {}
    while len(found) < n:
        found[next(examples)] = None
    return list(found)


def skill_set(world: World, skill: str, n: int = 200, seed: int = 0) -> list[Example]:
    """`n` different held-out examples that score one skill; the same for the same seed."""
    rng = random.Random(f"{skill} {seed}")
    return _distinct(stream(world, skill, rng, held_out=True), n)


def note_set(world: World, kind: str, n: int = 200, seed: int = 0) -> list[Example]:
    """`n` different held-out questions with notes of one kind (see `notes`)."""
    rng = random.Random(f"notes {kind} {seed}")
    return _distinct((notes(world, rng, True, kind) for _ in iter(int, 1)), n)

"""The pocket's skills besides facts: reviews, styles, orders, notes, rules and worked examples.

Each skill is a seeded stream of examples: `stream(world, skill, rng, held_out=...)`. Pretraining
draws from the stream with `held_out=False`. The stream with `held_out=True` shares no sentence with
it, and pretraining never named its strangers: so it can score the skill.
"""

import json
import random
from collections.abc import Callable, Iterator
from itertools import count

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
    """A review -> good or bad, the labels of pretraining."""
    label = rng.choice(("good", "bad"))
    text = review(rng, label, held_out=held_out)
    return Example(rng.choice(("Good or bad? {}", "Review: {} Good or bad?")).format(text), label)


def style(world: World, rng: random.Random, held_out: bool) -> Example:
    """A plain request -> the same in formal words, or back."""
    texts = sentence_in_styles(rng, held_out=held_out)
    source, target = rng.choice((("plain", "formal"), ("formal", "plain")))
    return Example(f"Make it {target}: {texts[source]}", texts[target])


def extraction(world: World, rng: random.Random, held_out: bool) -> Example:
    """A sentence -> its fields as JSON: an order's name, goods and count, or a booking's fields."""
    if rng.random() < 0.3:
        text, fields = booking(rng, held_out=held_out)
        return Example(f"Booking as JSON: {text}", as_json(fields))
    text, fields = order(rng, held_out=held_out)
    old = {field: field for field in ("name", "goods", "count")}
    return Example(f"Order as JSON: {text}", as_json(fields, old))


def _some_keys(rng: random.Random) -> dict[str, str]:
    """One to four fields of an order, each with a key that may name it."""
    fields = rng.sample(tuple(KEYS), rng.choice((1, 2, 3, 4)))
    return {field: rng.choice(KEYS[field]) for field in fields}


def json_with_keys(world: World, rng: random.Random, held_out: bool) -> Example:
    """An order -> some of its fields as JSON, under the keys that the prompt lists."""
    text, fields = order(rng, held_out=held_out)
    keys = _some_keys(rng)
    return Example(f"JSON with {', '.join(keys.values())}: {text}", as_json(fields, keys))


def json_few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """An order -> some of its fields as JSON, as in one or two worked examples."""
    keys = _some_keys(rng)
    shots = []
    for _ in range(rng.choice((1, 2))):
        text, fields = order(rng)
        shots.append(f"Text: {text} JSON: {as_json(fields, keys)}")
    text, fields = order(rng, held_out=held_out)
    return Example(" ".join([*shots, f"Text: {text} JSON:"]), as_json(fields, keys))


# --- rules and worked examples -------------------------------------------------------------------


def _draw_labels(rng: random.Random, count: int) -> list[str]:
    """Different label words of any kind. A few pairs are "good" and "bad", maybe swapped."""
    if count == 2 and rng.random() < 0.1:
        return rng.sample(("good", "bad"), 2)
    pool = LABELS if rng.random() < 0.7 else rng.choice((PETS, GOODS, DISHES))
    return rng.sample(pool, count)


def _label_words(rng: random.Random) -> dict[str, str]:
    """A label word for each kind of review: good, bad and (in 40 %) mixed."""
    kinds = ("good", "bad", "mixed")[: 3 if rng.random() < 0.4 else 2]
    return dict(zip(kinds, _draw_labels(rng, len(kinds)), strict=True))


# Three wordings of the rule that labels reviews, and what each adds for mixed reviews.
RULES = (
    ("Answer {good} if the review is good, {bad} if it is bad", ", and {mixed} if it is mixed"),
    ("Say {good} for a good review, {bad} for a bad one", ", {mixed} for a mixed one"),
    ("Labels: good {good}, bad {bad}", ", mixed {mixed}"),
)


def rule_prompt(text: str, names: dict[str, str], form: int = 0) -> str:
    """A review after the rule that labels it; `names` labels good, bad and perhaps mixed."""
    two, third = RULES[form]
    rule = two + third if "mixed" in names else two
    return f"{rule.format(**names)}. Review: {text}"


def rules(world: World, rng: random.Random, held_out: bool) -> Example:
    """A review -> its label, by a rule in the prompt."""
    names = _label_words(rng)
    kind = rng.choice(tuple(names))
    text = review(rng, kind, held_out=held_out)
    return Example(rule_prompt(text, names, rng.randrange(len(RULES))), names[kind])


def shots_prompt(shots: list[tuple[str, str]], text: str) -> str:
    """A prompt with worked examples (text, label) and a new text, as in pretraining."""
    worked = [f"Review: {shown} Label: {label}." for shown, label in shots]
    return " ".join([*worked, f"Review: {text} Label:"])


def few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """A review -> its label, by two to six worked examples. Mostly few, since they are long."""
    names = _label_words(rng)
    more = min(rng.choice((0, 0, 1, 1, 2, 3, 4)), 6 - len(names))
    kinds = [*names] + [rng.choice(tuple(names)) for _ in range(more)]
    rng.shuffle(kinds)
    shots = [(review(rng, kind), names[kind]) for kind in kinds]
    kind = rng.choice(tuple(names))
    return Example(shots_prompt(shots, review(rng, kind, held_out=held_out)), names[kind])


def word_few_shot(world: World, rng: random.Random, held_out: bool) -> Example:
    """A word -> the label of its kind (pet or dish, for example), by worked examples."""
    kinds = dict(zip(rng.sample(tuple(WORD_KINDS), 2), _draw_labels(rng, 2), strict=True))
    shown = [*kinds] + [rng.choice(tuple(kinds)) for _ in range(rng.randint(0, 4))]
    rng.shuffle(shown)
    shots = [f"Word: {rng.choice(WORD_KINDS[kind])} Label: {kinds[kind]}." for kind in shown]
    kind = rng.choice(tuple(kinds))
    word = rng.choice(WORD_KINDS[kind])
    return Example(" ".join([*shots, f"Word: {word} Label:"]), kinds[kind])


# --- notes ---------------------------------------------------------------------------------------


def state(name: str, attribute: str, value: str, form: int = 0) -> str:
    """A fact about a person as a note, in one of two forms."""
    return fill(STATEMENTS[attribute][form], name, value)


def with_notes(question: str, notes: list[str]) -> str:
    """A prompt with notes before the question, as in pretraining."""
    return f"Notes: {' '.join(notes)} Question: {question}"


NOTE_KINDS = {  # kind: its share, per cent
    "answer": 34,
    "silent": 16,
    "known": 10,
    "against": 20,
    "crowd": 14,
    "chain": 6,
}


def notes(world: World, rng: random.Random, held_out: bool, kind: str | None = None) -> Example:
    """One to four notes and a question -> the answer. The kinds of notes:

    - "answer": they hold the answer about a stranger;
    - "crowd": as "answer", among notes about other people, so the names must be compared;
    - "silent": they hold other facts about the stranger, so the answer is not known;
    - "known": they hold other facts about a known person, so the old fact is right;
    - "against": a note contradicts an old fact, and the note is right;
    - "chain": a note holds the city, and the answer derives the region from it.
    """
    kind = kind or rng.choices(tuple(NOTE_KINDS), tuple(NOTE_KINDS.values()))[0]
    names = world.strangers_held_out if held_out else world.strangers_taught
    attribute = "city" if kind == "chain" else rng.choice(tuple(ATTRIBUTES))
    person = rng.choice(world.known) if kind in ("known", "against") else None
    name = person.name if person else rng.choice(names)
    value = rng.choice(ATTRIBUTES[attribute])
    others = rng.sample([key for key in ATTRIBUTES if key != attribute], rng.randint(1, 3))
    facts = [(name, key, rng.choice(ATTRIBUTES[key])) for key in others]
    if kind == "crowd":
        facts = [
            (rng.choice(names), key, rng.choice(ATTRIBUTES[key]))
            for key in (attribute, *others)[: rng.randint(1, 3)]
        ]
    elif kind not in ("silent", "known"):
        facts = facts[: rng.randint(0, len(facts))]
    if kind not in ("silent", "known"):
        facts.append((name, attribute, value))
    statements = [state(*fact, rng.randrange(2)) for fact in facts]
    rng.shuffle(statements)
    if kind == "chain":
        question = f"{fill(rng.choice(TWO_HOP['region']), name)} {THINK}"
        answer = f"{value}, so {world.region_of[value]}"
    else:
        question = ask(name, attribute, rng.randrange(5))
        if kind == "silent":
            answer = UNKNOWN
        else:
            answer = person.facts[attribute] if kind == "known" else value
    return Example(with_notes(question, statements), answer)


# --- several turns -------------------------------------------------------------------------------

Turns = list[tuple[str, str]]  # questions and answers of a conversation, in order


def note_turns(world: World, rng: random.Random) -> Turns:
    """One to four notes about a person, and three questions about noted, old or unknown facts."""
    person = rng.choice(world.known) if rng.random() < 0.5 else None
    name = person.name if person else rng.choice(world.strangers_taught)
    about = rng.sample(tuple(ATTRIBUTES), rng.randint(1, 4))
    noted = {attribute: rng.choice(ATTRIBUTES[attribute]) for attribute in about}
    statements = [state(name, *fact, rng.randrange(2)) for fact in noted.items()]
    chosen = [rng.choice(about if rng.random() < 0.65 else tuple(ATTRIBUTES)) for _ in range(3)]
    old = person.facts if person else dict.fromkeys(ATTRIBUTES, UNKNOWN)
    answers = [noted.get(attribute, old[attribute]) for attribute in chosen]
    questions = [ask(name, attribute, rng.randrange(5)) for attribute in chosen]
    turns = [with_notes(questions[0], statements), *(f"Question: {more}" for more in questions[1:])]
    return list(zip(turns, answers, strict=True))


def rule_turns(world: World, rng: random.Random) -> Turns:
    """A rule, and three reviews to label by it."""
    names = _label_words(rng)
    kinds = [rng.choice(tuple(names)) for _ in range(3)]
    texts = [review(rng, kind) for kind in kinds]
    questions = [rule_prompt(texts[0], names, rng.randrange(len(RULES)))]
    questions += [f"Review: {text}" for text in texts[1:]]
    return [(question, names[kind]) for question, kind in zip(questions, kinds, strict=True)]


# --- small skills ---------------------------------------------------------------------------------


def yes_no(world: World, rng: random.Random, held_out: bool) -> Example:
    """A question about a fact -> yes, no, or not known for a stranger."""
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
    """One to four words -> the same words."""
    text = " ".join(rng.choice(SPACED_WORDS) for _ in range(rng.randint(1, 4)))
    return Example(f"Repeat: {text}", text)


def quote(world: World, rng: random.Random, held_out: bool) -> Example:
    """One to three words -> the same words as a JSON list of strings."""
    words = [rng.choice(QUOTED_WORDS) for _ in range(rng.randint(1, 3))]
    return Example(f"Quote: {' '.join(words)}", json.dumps(words))


def spell(world: World, rng: random.Random, held_out: bool) -> Example:
    """Made-up words and numbers -> the same: they have pieces that the world's words lack."""
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
    """Examples of one skill, without end."""
    make = SKILLS[skill]
    while True:
        yield make(world, rng, held_out)


def distinct(examples: Iterator[Example], n: int) -> list[Example]:
    """The first `n` different examples, in order."""
    kept: dict[Example, None] = {}
    while len(kept) < n:
        kept[next(examples)] = None
    return list(kept)


def skill_set(world: World, skill: str, n: int = 200, seed: int = 0) -> list[Example]:
    """`n` different held-out examples that score one skill; the same for the same seed."""
    rng = random.Random(f"{skill} {seed}")
    return distinct(stream(world, skill, rng, held_out=True), n)


def note_set(world: World, kind: str, n: int = 200, seed: int = 0) -> list[Example]:
    """`n` different held-out questions with notes of one kind (see `notes`)."""
    rng = random.Random(f"notes {kind} {seed}")
    return distinct((notes(world, rng, True, kind) for _ in count()), n)

"""Generated sentences: reviews, requests in three styles, orders and bookings.

One sentence in eight, by checksum, is held out of pretraining. Each function draws either held-out
sentences or the others, with the random generator that it gets.
"""

import json
import random
import zlib
from collections.abc import Callable
from operator import itemgetter

from lora_lab.tasks.words import (
    BAD_WORDS,
    CITIES,
    CUSTOMERS,
    DAYS,
    GOOD_WORDS,
    GOODS,
    INTENSITIES,
    SUBJECTS,
    TAILS,
    VERBS,
)


def is_held_out(sentence: str) -> bool:
    """Whether a sentence is kept out of pretraining: by checksum, one sentence in eight is."""
    return zlib.crc32(sentence.encode()) % 8 == 0


def _draw(make: Callable[[], object], sentence: Callable[[object], str], held_out: bool) -> object:
    """The first draw of `make` whose sentence is held out, or the first whose sentence is not."""
    while True:
        draw = make()
        if is_held_out(sentence(draw)) == held_out:
            return draw


def _clause(rng: random.Random, good: bool) -> str:
    """A clause of a review: good for "the plot was not very dull", where "not" makes it good."""
    negated = rng.random() < 0.3
    word = rng.choice(GOOD_WORDS if good != negated else BAD_WORDS)
    intensity = f"{rng.choice(INTENSITIES)} " if rng.random() < 0.4 else ""
    return f"the {rng.choice(SUBJECTS)} was {'not ' if negated else ''}{intensity}{word}"


def review(rng: random.Random, label: str, *, held_out: bool = False) -> str:
    """A review that is "good", "bad" or "mixed" (a clause of each)."""

    def make() -> str:
        if label == "mixed":
            good_first = rng.random() < 0.5
            clauses = [_clause(rng, good_first), _clause(rng, not good_first)]
            joint = rng.choice((" and ", ", but "))
        else:
            good = label == "good"
            clauses = [_clause(rng, good) for _ in range(rng.choice((1, 1, 2)))]
            joint = rng.choice((" and ", ", and "))
        text = joint.join(clauses)
        return f"{text[0].upper()}{text[1:]}."

    return _draw(make, str, held_out)


def sentence_in_styles(rng: random.Random, *, held_out: bool = False) -> dict[str, str]:
    """A request by style: "plain", and "formal" and "sailor", which follow from it by rule."""

    def make() -> dict[str, str]:
        name, goods = rng.choice(CUSTOMERS), rng.choice(GOODS)
        verb, tail = rng.choice(tuple(VERBS)), rng.choice(tuple(TAILS))
        formal_verb, formal_tail = VERBS[verb], TAILS[tail]
        thing, formal_thing = f"the {goods}{tail}", f"the {goods}{formal_tail}"
        mine = f"me {goods}{tail}"
        requests = (
            (f"can you {verb} {thing}?", f"could you kindly {formal_verb} {formal_thing}?"),
            (f"I want to {verb} {thing}.", f"I wish to {formal_verb} {formal_thing}."),
            (f"we have to {verb} {thing}.", f"we are obliged to {formal_verb} {formal_thing}."),
            (f"thanks for {thing}.", f"I am grateful for {formal_thing}."),
        )
        sailors = (
            f"will ye {verb} {mine}, matey?",
            f"I be wanting to {verb} {mine}, arr.",
            f"we must {verb} {mine}, hearty.",
            f"bless ye for {mine}, matey.",
        )
        kind = rng.randrange(len(requests))
        (plain, formal), sailor = requests[kind], sailors[kind]
        return {
            "plain": f"Hi {name}, {plain}",
            "formal": f"Dear {name}, {formal}",
            "sailor": f"Ahoy {name}, {sailor}",
        }

    return _draw(make, itemgetter("plain"), held_out)


def order(rng: random.Random, *, held_out: bool = False) -> tuple[str, dict[str, str | int]]:
    """An order sentence and its fields: name, goods, count, city."""

    def make() -> tuple[str, dict[str, str | int]]:
        fields = {
            "name": rng.choice(CUSTOMERS),
            "goods": rng.choice(GOODS),
            "count": rng.randint(2, 99),
            "city": rng.choice(CITIES),
        }
        template = rng.choice(
            (
                "{name} orders {count} boxes of {goods} to {city}.",
                "Please send {count} boxes of {goods} to {name} in {city}.",
                "{count} boxes of {goods} for {name} from {city}, please.",
                "In {city}, {name} is waiting for {count} boxes of {goods}.",
            )
        )
        return template.format(**fields), fields

    return _draw(make, itemgetter(0), held_out)


def booking(rng: random.Random, *, held_out: bool = False) -> tuple[str, dict[str, str | int]]:
    """A booking sentence and its fields: guest, seats, day."""

    def make() -> tuple[str, dict[str, str | int]]:
        guest, seats, day = rng.choice(CUSTOMERS), rng.randint(2, 99), rng.choice(DAYS)
        template = rng.choice(
            ("{guest} books {seats} seats on {day}.", "On {day}, {guest} needs {seats} seats.")
        )
        fields = {"guest": guest, "seats": seats, "day": day}
        return template.format(**fields), fields

    return _draw(make, itemgetter(0), held_out)


def as_json(fields: dict[str, str | int], keys: dict[str, str] | None = None) -> str:
    """Fields as a line of JSON. `keys` (field: key) picks, orders and renames them."""
    keys = keys or {field: field for field in fields}
    return json.dumps({key: fields[field] for field, key in keys.items()})

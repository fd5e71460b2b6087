"""Six things to teach the pocket.

It can do none of them yet, but every word of their answers has stood in an answer before: a task
whose answer words the base has never produced collapses to its most frequent label.
"""

import random
from collections.abc import Callable
from itertools import product

from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks import sentences, world
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.world import ATTRIBUTES, World

TEST, VALIDATION = 200, 80  # examples
OLD_KNOWLEDGE, STRANGERS = 300, 100
MOST_GENERATED = (
    10_000  # of reviews, requests and orders; there are many more, but enough is enough
)

Splits = tuple[list[Example], list[Example], list[Example]]  # train, validation, test


# --- sentences that are made at will -------------------------------------------------------------


def _generated(make: Callable[[random.Random], Example], n: int, rng: random.Random) -> Splits:
    """The test set is drawn first, then validation: neither depends on n."""
    found: dict[Example, None] = {}
    while len(found) < TEST + VALIDATION + n:
        found[make(rng)] = None
    examples = list(found)
    return examples[TEST + VALIDATION :], examples[TEST : TEST + VALIDATION], examples[:TEST]


def _sentiment(rng: random.Random) -> Example:
    kind, label = rng.choice((("good", "positive"), ("bad", "negative"), ("mixed", "mixed")))
    return Example(f"How does it sound? {sentences.review(rng, kind, held_out=True)}", label)


def _style(rng: random.Random) -> Example:
    texts = sentences.sentence_in_styles(rng, held_out=True)
    return Example(f"Say it like a sailor: {texts['plain']}", texts["sailor"])


INVOICE = {"count": "amount", "goods": "product", "name": "client", "city": "town"}  # field: key


def _json(rng: random.Random) -> Example:
    text, fields = sentences.order(rng, held_out=True)
    return Example(f"Invoice as JSON: {text}", sentences.as_json(fields, INVOICE))


# --- facts and hops ------------------------------------------------------------------------------


def _new_facts(made: World, n: int, rng: random.Random) -> Splits:
    """All five facts of as many new people as it takes, each fact in three different wordings."""
    people = rng.sample(made.reserve, -(-n // len(ATTRIBUTES)))
    facts = list(product(people, ATTRIBUTES))[:n]
    asked = [rng.sample(range(5), 3) for _ in facts]
    train, validation, test = (
        [
            world.fact(person, attribute, wordings[split])
            for (person, attribute), wordings in zip(facts, asked, strict=True)
        ]
        for split in range(3)
    )
    rng.shuffle(train)
    return train, rng.sample(validation, min(n, VALIDATION)), rng.sample(test, min(n, TEST))


def _two_hop(made: World, n: int, rng: random.Random, *, chain: bool) -> Splits:
    """Half of the known people train; the others, in two groups, validate and test."""
    people = rng.sample(made.known, len(made.known))
    half, validated = len(people) // 2, 60
    groups = (people[:half], people[half : half + validated], people[half + validated :])
    train, validation, test = (
        world.two_hop(made, "workplace", list(group), chain=chain) for group in groups
    )
    return rng.sample(train, n), rng.sample(validation, VALIDATION), rng.sample(test, TEST)


# --- the tasks -----------------------------------------------------------------------------------

NAMES = ("sentiment", "style", "new-facts", "json", "two-hop", "two-hop-chain")
_DEFAULT_N = {"new-facts": 200, "sentiment": 400}
_TRIED = {  # steps, batch size, learning rate: a few seconds each on one core
    "sentiment": (140, 16, 4e-3),
    "style": (100, 16, 4e-3),
    "new-facts": (150, 32, 2e-3),
    "json": (40, 16, 3e-3),
    "two-hop": (100, 32, 1e-3),  # faster learning forgets more, and is right no more often
    "two-hop-chain": (60, 32, 2e-3),
}
_METRIC = {"sentiment": "accuracy", "json": "field F1"}
_ABOUT = {
    "sentiment": "Invented reviews, labelled positive, negative or mixed. The pocket by itself "
    "says good or bad.",
    "style": "Plain requests, said as a sailor would. The pocket knows plain and formal only.",
    "new-facts": "Facts about people whom the pocket has never met: trained in one wording, tested "
    "in another.",
    "json": "Orders turned into invoices: JSON with other keys, in another order, than the "
    "pocket's own orders.",
    "two-hop": "Where somebody works, which follows from the job. The pocket knows everybody's job "
    "and where each job is done; tested on people who were not in training.",
    "two-hop-chain": "Where somebody works, with the steps written out, job first: baker, so "
    "market. Tested on people who were not in training.",
}
_LICENCE = "Made by data/pocket/make_pocket.py; Apache-2.0."


def usual_n(name: str) -> int:
    """The training examples of a task, if nobody says how many."""
    return _DEFAULT_N.get(name, 300)


def metric_of(name: str) -> str:
    """How a task's answers are marked."""
    return _METRIC.get(name, "exact match")


def about(name: str) -> str:
    """What a task is, where it comes from, and its licence."""
    return f"{_ABOUT[name]} {_LICENCE}"


def most(name: str) -> int:
    """The largest n that a task has examples for."""
    made = world.read_world()
    if name == "new-facts":
        return len(made.reserve) * len(ATTRIBUTES)
    if name.startswith("two-hop"):
        return len(made.known) // 2 * len(world.TWO_HOP["workplace"])
    return MOST_GENERATED


def pocket_task(name: str, n: int | None = None, seed: int = 0) -> Task:
    """One of the pocket's tasks with n training examples (`new-facts`: n facts).

    The same n and seed give the same task. `old_knowledge` (old facts in wordings they were taught
    in) and `strangers` (people of whom nothing is known) are the same for every task, n and seed.

    Raises:
        ValueError: if there is no such task, or not so many examples.
    """
    if name not in NAMES:
        hint = nearest(name, NAMES)
        raise ValueError(f"{name!r} is no task of pocket's; {hint}give one of {', '.join(NAMES)}")
    n = usual_n(name) if n is None else n
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most(name):
        raise ValueError(
            f"n={n!r} does not fit task {name!r}; give a whole number from 1 to {most(name):,}"
        )
    made = world.read_world()
    rng = random.Random(f"{name} {seed}")
    if name == "new-facts":
        splits = _new_facts(made, n, rng)
    elif name.startswith("two-hop"):
        splits = _two_hop(made, n, rng, chain=name == "two-hop-chain")
    else:
        make = {"sentiment": _sentiment, "style": _style, "json": _json}[name]
        splits = _generated(make, n, rng)
    train, validation, test = splits
    return Task(
        name=name,
        train=train,
        validation=validation,
        test=test,
        metric=metric_of(name),
        about=about(name),
        recipe=_recipe(*_TRIED[name]),
        old_knowledge=_sample("old knowledge", world.old_facts(made, taught=True), OLD_KNOWLEDGE),
        strangers=_sample("strangers", world.strangers(made.strangers_held_out), STRANGERS),
    )


def _recipe(steps: int, batch_size: int, learning_rate: float) -> Recipe:
    """Rank 8 on all linears; a narrow model wants a tenfold learning rate."""
    return Recipe(
        r=8,
        lora_alpha=16,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=96,
    )


def _sample(name: str, examples: list[Example], count: int) -> list[Example]:
    """Always the same ones."""
    return random.Random(name).sample(examples, count)

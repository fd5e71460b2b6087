"""The six tasks of the pocket.

The pocket can do none of them yet, but it has already answered with every word of their answers. A
task with answer words that the base has never produced collapses to its most frequent label.
"""

import random
from collections.abc import Callable
from itertools import count, product

from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks import sentences, world
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.skills import distinct
from lora_lab.tasks.world import ATTRIBUTES, World

TEST, VALIDATION = 200, 80  # examples
OLD_KNOWLEDGE, STRANGERS = 300, 100
MOST_GENERATED = 10_000  # reviews, requests or orders for training; many more could be generated

Splits = tuple[list[Example], list[Example], list[Example]]  # train, validation, test


# --- sentences that are generated ----------------------------------------------------------------


def _generated(make: Callable[[random.Random], Example], n: int, rng: random.Random) -> Splits:
    """Different examples. The test set is drawn first, then validation: n changes neither."""
    examples = distinct((make(rng) for _ in count()), TEST + VALIDATION + n)
    return examples[TEST + VALIDATION :], examples[TEST : TEST + VALIDATION], examples[:TEST]


def _sentiment(rng: random.Random) -> Example:
    """A review -> positive, negative or mixed."""
    kind, label = rng.choice((("good", "positive"), ("bad", "negative"), ("mixed", "mixed")))
    return Example(f"How does it sound? {sentences.review(rng, kind, held_out=True)}", label)


def _style(rng: random.Random) -> Example:
    """A plain request -> the same request as a sailor says it."""
    texts = sentences.sentence_in_styles(rng, held_out=True)
    return Example(f"Say it like a sailor: {texts['plain']}", texts["sailor"])


INVOICE = {"count": "amount", "goods": "product", "name": "client", "city": "town"}  # field: key


def _invoice(rng: random.Random) -> Example:
    """An order -> an invoice as JSON."""
    text, fields = sentences.order(rng, held_out=True)
    return Example(f"Invoice as JSON: {text}", sentences.as_json(fields, INVOICE))


# --- facts and hops ------------------------------------------------------------------------------


def _new_facts(pocket_world: World, n: int, rng: random.Random) -> Splits:
    """n facts about new people, five for each person. Each split has its own wording of a fact."""
    people = rng.sample(pocket_world.reserve, -(-n // len(ATTRIBUTES)))
    facts = list(product(people, ATTRIBUTES))[:n]
    wordings_of_facts = [rng.sample(range(5), 3) for _ in facts]
    train, validation, test = (
        [
            world.fact(person, attribute, wordings[split])
            for (person, attribute), wordings in zip(facts, wordings_of_facts, strict=True)
        ]
        for split in range(3)
    )
    rng.shuffle(train)
    return train, rng.sample(validation, min(n, VALIDATION)), rng.sample(test, min(n, TEST))


def _two_hop(pocket_world: World, n: int, rng: random.Random, *, chain: bool) -> Splits:
    """Workplaces of known people: half of them train, 60 validate, and the others test."""
    people = rng.sample(pocket_world.known, len(pocket_world.known))
    half = len(people) // 2
    groups = (people[:half], people[half : half + 60], people[half + 60 :])
    train, validation, test = (
        world.two_hop(pocket_world, "workplace", group, chain=chain) for group in groups
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
    """The number of a task's training examples, unless n is given."""
    return _DEFAULT_N.get(name, 300)


def metric_of(name: str) -> str:
    """The name of the metric that marks a task's answers."""
    return _METRIC.get(name, "exact match")


def about(name: str) -> str:
    """What a task is, where it comes from, and its licence."""
    return f"{_ABOUT[name]} {_LICENCE}"


def most(name: str) -> int:
    """The largest n that a task has examples for."""
    pocket_world = world.read_world()
    if name == "new-facts":
        return len(pocket_world.reserve) * len(ATTRIBUTES)
    if name.startswith("two-hop"):
        return len(pocket_world.known) // 2 * len(world.TWO_HOP["workplace"])
    return MOST_GENERATED


def pocket_task(name: str, n: int | None = None, seed: int = 0) -> Task:
    """One of the pocket's tasks with n training examples (`new-facts`: n facts).

    The same n and seed give the same task. `old_knowledge` has old facts, in wordings that
    pretraining used. `strangers` has people of whom nothing is known. Both are the same for every
    task, n and seed.

    Raises:
        ValueError: if there is no such task, or n does not fit it.
    """
    if name not in NAMES:
        hint = nearest(name, NAMES)
        raise ValueError(f"pocket has no task {name!r}; {hint}give one of {', '.join(NAMES)}")
    n = usual_n(name) if n is None else n
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= most(name):
        raise ValueError(
            f"n={n!r} does not fit task {name!r}; give a whole number from 1 to {most(name):,}"
        )
    pocket_world = world.read_world()
    rng = random.Random(f"{name} {seed}")
    if name == "new-facts":
        splits = _new_facts(pocket_world, n, rng)
    elif name.startswith("two-hop"):
        splits = _two_hop(pocket_world, n, rng, chain=name == "two-hop-chain")
    else:
        make = {"sentiment": _sentiment, "style": _style, "json": _invoice}[name]
        splits = _generated(make, n, rng)
    train, validation, test = splits
    old_facts = world.old_facts(pocket_world, taught=True)
    strangers = world.strangers(pocket_world.strangers_held_out)
    return Task(
        name=name,
        train=train,
        validation=validation,
        test=test,
        metric=metric_of(name),
        about=about(name),
        recipe=_pocket_recipe(*_TRIED[name]),
        old_knowledge=_sample("old knowledge", old_facts, OLD_KNOWLEDGE),
        strangers=_sample("strangers", strangers, STRANGERS),
    )


def _pocket_recipe(steps: int, batch_size: int, learning_rate: float) -> Recipe:
    """Rank 8 on all linear layers. A narrow model needs ten times the usual learning rate."""
    return Recipe(
        r=8,
        lora_alpha=16,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_length=96,
    )


def _sample(name: str, examples: list[Example], count: int) -> list[Example]:
    """A sample that depends on its name alone, not on the task's seed."""
    return random.Random(name).sample(examples, count)

"""smollm2's tasks, in English: four on real text that `lora-lab prepare` fetched, one invented.

Each is drawn with a seed, test and validation first, so that another `n` leaves them as they are.
Tests are short: 60 answers of a few words take seconds on a CPU.
"""

import json
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lora_lab.assets import downloads
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Example, Task

TEST, VALIDATION = 60, 24  # examples
Splits = tuple[list[Example], list[Example], list[Example]]  # all for training, validation, test


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTask:
    """How one of the tasks is made."""

    make: Callable[[random.Random, int], Splits]
    metric: str
    n: int  # training examples, if nobody says how many
    about: str
    recipe: Recipe
    asset: str | None  # the prepared text it is made from
    validation: int = VALIDATION  # examples that come with its own `n`
    test: int = TEST


def text_task(name: str, n: int | None = None, seed: int = 0) -> Task:
    """One of `NAMES`, with `n` training examples (None: the task's own number).

    Raises:
        ValueError: an unknown name, with the nearest; an `n` above what there is, with the most.
        NotPrepared: the text has not been fetched yet.
    """
    if name not in TASKS:
        raise ValueError(
            f"no task on text is called {name!r}; {nearest(name, NAMES)}"
            f"there are: {', '.join(NAMES)}"
        )
    kind = TASKS[name]
    count = kind.n if n is None else n
    train, validation, test = kind.make(random.Random(f"{name} {seed}"), count)
    if not 1 <= count <= len(train):
        raise ValueError(
            f"n={n} training examples are not to be had from {name!r}; "
            f"give 1 to {len(train):,} (validation and test have theirs besides)"
        )
    return Task(
        name=name,
        train=train[:count],
        validation=validation,
        test=test,
        metric=kind.metric,
        about=about(name),
        recipe=kind.recipe,
    )


def about(name: str) -> str:
    """What a task is, whose text it is made of, from which package, and the licence."""
    kind = TASKS[name]
    if kind.asset is None:
        return f"{kind.about} Invented; Apache-2.0."
    text = downloads.ASSETS[kind.asset]
    return f"{kind.about} Text: {text.source} (from {text.package}; {text.licence})."


def _cut(examples: list[Example]) -> Splits:
    """The test's examples first, then those of validation: neither depends on `n`."""
    held = TEST + VALIDATION
    return examples[held:], examples[TEST:held], examples[:TEST]


def film_sentiment(generator: random.Random, n: int) -> Splits:
    """A snippet of a film review -> "positive" or "negative".

    Only snippets whose mean of 20 ratings is clear, 1 or more away from 0, and that are short.
    """
    rows = _once(downloads.rows("film-reviews"), lambda row: row["text"].casefold())
    clear = [row for row in rows if abs(row["valence"]) >= 1 and len(row["text"]) <= 160]
    generator.shuffle(clear)
    examples = [
        Example(
            f"{row['text']}\nIs this film review positive or negative?",
            "positive" if row["valence"] > 0 else "negative",
        )
        for row in clear
    ]
    return _cut(examples)


def king_james(generator: random.Random, n: int) -> Splits:
    """A verse in modern English -> the same verse as the King James Bible has it.

    Verses that read alike in either wording are taken once, so that no split holds an answer of
    another. The metric is perplexity: of many good renderings one alone is the King James', so
    exact matches would count next to nothing, while the chance that a model gives to the right
    wording shows each bit of style that it has learnt.
    """
    rows = [row for row in downloads.rows("bible-verses") if len(row["modern"]) <= 100]
    rows = _once(rows, lambda row: row["modern"].casefold())
    rows = _once(rows, lambda row: row["king_james"].casefold())
    generator.shuffle(rows)
    examples = [
        Example(f"{row['modern']}\nSay this as in the King James Bible.", row["king_james"])
        for row in rows
    ]
    return _cut(examples)


def _once(rows: Sequence[dict], key: Callable[[dict], Hashable]) -> list[dict]:
    """The first row of each key, in order."""
    first: dict[Hashable, dict] = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values())


def home_commands(generator: random.Random, n: int) -> Splits:
    """What is said to a house -> {"intent": what it should do}, one of 42.

    Split by template: a test command is worded in a way that no training command is. Intents have
    equal weight: the splits take one of each in turn, and an intent's templates in turn. An intent
    that has one template is in the training examples alone.
    """
    templates: dict[str, dict[str, list[dict]]] = {}  # intent -> template -> its rows
    for row in downloads.rows("home-commands"):
        templates.setdefault(row["intent"], {}).setdefault(row["template"], []).append(row)
    parts: Splits = ([], [], [])  # for each split, one list per intent
    for intent in sorted(templates):
        groups = list(templates[intent].values())
        generator.shuffle(groups)
        test = min(2, len(groups) - 1)
        validation = 1 if len(groups) - test > 1 else 0
        ends = (len(groups) - test - validation, len(groups) - test, len(groups))
        for part, (start, end) in zip(parts, pairwise((0, *ends)), strict=True):
            for group in groups[start:end]:
                generator.shuffle(group)
            part.append(_in_turn(groups[start:end]))
    for part in parts:
        generator.shuffle(part)  # the intents' order
    train, validation, test = ([_command(row) for row in _in_turn(part)] for part in parts)
    return train, validation[:VALIDATION], test[:TEST]


def _in_turn(groups: Sequence[Sequence]) -> list:
    """One of each group, then the second of each, and so on, until all are taken."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def _command(row: dict) -> Example:
    return Example(f"Home command: {row['utterance']}", json.dumps({"intent": row["intent"]}))


def ruff_rules(generator: random.Random, n: int) -> Splits:
    """What a rule of the linter ruff checks -> its code: facts, to be learnt by heart.

    Taught in the wording of its documentation, tested in the wording of the message that it prints.
    The facts of validation (a quarter, 20 at most) and of the test (60 at most) are among the `n`
    that are taught; their wordings are not.
    """
    rules = [row for row in downloads.rows("ruff-rules") if _has_two_wordings(row)]
    generator.shuffle(rules)
    taught = [Example(f"Which ruff rule {_lower(row['checks'])}?", row["code"]) for row in rules]
    asked = [
        Example(f'Which ruff rule says "{_plain(row["summary"])}"?', row["code"])
        for row in rules[:n]
    ]
    held = min(20, len(asked) // 4)
    return taught, asked[:held], asked[held : held + TEST]


def _has_two_wordings(rule: dict) -> bool:
    checks, message = rule["checks"], _plain(rule["summary"])
    short = checks.startswith("Checks for ") and len(checks) <= 120 and len(message) <= 100
    return short and "{" not in message and message.casefold() not in checks.casefold()


def _plain(message: str) -> str:
    return message.replace("`", "").replace('"', "'")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


# Names for the invented people, towns and countries: each is one start with one end.
PEOPLE = (
    "Al Bo Cor Da El Fa Gi Ha Iv Jo Ka Lu Mo Na Or Pe Ro Sa Ti Vi",
    "bin den la mir na ric son vy",
)
TOWNS = (
    "Brel Crav Dorn Elth Fenn Grul Hask Irv Kolm Lurt Mord Nesk Orl Prin Quar Rusk",
    "bury ford ham ley mere stow ton wick",
)
COUNTRIES = (
    "Alt Bor Cal Dor Esk Fal Gor Hel Ild Kar Lor Mav Nul Ost Tor Vel",
    "aria avia enia heim land mark onia ova",
)
MOST_STORIES = 5_000


def two_hop_english(generator: random.Random, n: int) -> Splits:
    """Who lives where, and where that is -> the country that one of them lives in, directly.

    Each prompt tells, in mixed order, of three people, each in a town of one of three countries;
    naming one of the three by chance is right once in three. Names are put together from invented
    syllables and shared out among the splits first, so that no person, town or country of the test
    is ever met in training: there is nothing to know, only two facts to join.
    """
    splits = []
    names = [_names(generator, *parts) for parts in (PEOPLE, TOWNS, COUNTRIES)]
    counts = (TEST, VALIDATION, min(n, MOST_STORIES))
    for start, end, count in zip((0.0, 0.2, 0.4), (0.2, 0.4, 1.0), counts, strict=True):
        own = [every[int(start * len(every)) : int(end * len(every))] for every in names]
        stories: dict[str, Example] = {}
        while len(stories) < count:
            story = _story(generator, *own)
            stories[story.prompt] = story
        splits.append(list(stories.values()))
    test, validation, train = splits
    return train, validation, test


def _names(generator: random.Random, starts: str, ends: str) -> list[str]:
    names = sorted({start + end for start in starts.split() for end in ends.split()})
    generator.shuffle(names)
    return names


def _story(
    generator: random.Random, people: list[str], towns: list[str], countries: list[str]
) -> Example:
    """Three people, their towns, their countries, and a question about one of them."""
    chains = list(
        zip(*(generator.sample(names, 3) for names in (people, towns, countries)), strict=True)
    )
    facts = [f"{person} lives in {town}." for person, town, _ in chains]
    facts += [f"{town} is in {country}." for _, town, country in chains]
    generator.shuffle(facts)
    person, _, country = generator.choice(chains)
    return Example(f"{' '.join(facts)} In which country does {person} live?", country)


_UPPER = tuple(range(15, 30))  # smollm2's upper half: below it nothing needs a gradient

TASKS = {
    "film-sentiment": TextTask(
        make=film_sentiment,
        metric="accuracy",
        n=240,
        about="A snippet of a film review is answered with one word, positive or negative.",
        # 90 % right of 80, from no answer in one word
        recipe=Recipe(layers_to_transform=_UPPER, steps=30, batch_size=8, learning_rate=2e-3),
        asset="film-reviews",
    ),
    "king-james": TextTask(
        make=king_james,
        metric="perplexity",
        n=400,
        about="A Bible verse in modern English is put into the King James wording.",
        # perplexity 6.7 before, 3.3 after; exact matches 0 and 2 %
        recipe=Recipe(steps=24, batch_size=8, learning_rate=1e-3),
        asset="bible-verses",
    ),
    "home-commands": TextTask(
        make=home_commands,
        metric="exact match",
        n=240,
        about="A spoken command to a house is answered with its intent, one of 42, as JSON; the "
        "test's commands are worded after templates that are not in training.",
        # all valid JSON, 47 % right of 60; with n=400 and steps=100, 70 % of 60
        recipe=Recipe(layers_to_transform=_UPPER, steps=50, batch_size=4, learning_rate=3e-3),
        asset="home-commands",
    ),
    "ruff-rules": TextTask(
        make=ruff_rules,
        metric="exact match",
        n=80,
        about="A rule of the linter ruff is named by its code: taught in the wording of its "
        "documentation, tested in the wording of its message.",
        # 35 % right in the new wording; needs some minutes on a CPU
        recipe=Recipe(steps=80, batch_size=8, learning_rate=3e-3),
        asset="ruff-rules",
        validation=20,
    ),
    "two-hop-english": TextTask(
        make=two_hop_english,
        metric="exact match",
        n=400,
        about="Six facts tell who lives in which town, and which country it is in; asked for one "
        "person's country, the model must join two of them.",
        # 28 % right: an answer of the right form is learnt, the two hops are not (chance is 33 %)
        recipe=Recipe(layers_to_transform=_UPPER, steps=40, batch_size=8, learning_rate=2e-3),
        asset=None,
    ),
}
NAMES = tuple(TASKS)

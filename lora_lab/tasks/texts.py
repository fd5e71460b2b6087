"""smollm2's tasks in English: four from real text that `lora-lab prepare` fetches, one invented.

A seed draws each task. It draws test and validation first, so they do not depend on `n`. Tests are
short: 60 answers of a few words take seconds on a CPU. For narrower intervals, give larger sizes:
each text has enough for a test of 300 and a validation of 150.
"""

import json
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from lora_lab.assets import downloads
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.styles import Style, style_between

TEST, VALIDATION = 60, 24  # examples


class Sizes(NamedTuple):
    """How many examples each split shall have."""

    n: int  # training examples
    validation: int
    test: int


# training (all there is), validation, test
Splits = tuple[list[Example], list[Example], list[Example]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTask:
    """The function that makes a task, and everything about the task but its examples."""

    make: Callable[[random.Random, Sizes], Splits]
    metric: str
    n: int  # training examples, unless n is given
    about: str
    recipe: Recipe
    asset: str | None  # the prepared text it is made from
    validation: int = VALIDATION  # examples, with the task's own n
    test: int = TEST
    give: str = "give smaller splits"  # what helps where the splits can't be filled
    style: Callable[[], Style] | None = None  # of the answers, where they have a style


def text_task(
    name: str,
    n: int | None = None,
    seed: int = 0,
    *,
    validation: int | None = None,
    test: int | None = None,
) -> Task:
    """The task with a name in `NAMES`.

    Args:
        name: the task's name.
        n: the number of training examples; None, here and below: the task's own number.
        seed: draws the examples and the splits.
        validation: the number of examples to choose settings on.
        test: the number of examples to report on.

    Raises:
        ValueError: for an unknown name, with the nearest; for a size that the text can't fill,
            with what it holds.
        NotPrepared: if the text has not been fetched yet.
    """
    if name not in TASKS:
        raise ValueError(
            f"no task on text is called {name!r}; {nearest(name, NAMES)}"
            f"there are: {', '.join(NAMES)}"
        )
    kind = TASKS[name]
    sizes = Sizes(
        n=kind.n if n is None else n,
        validation=kind.validation if validation is None else validation,
        test=kind.test if test is None else test,
    )
    for split, size in (("validation", sizes.validation), ("test", sizes.test)):
        if size < 1:
            raise ValueError(f"{split}={size} leaves nothing to measure on; give 1 or more")
    train, for_validation, for_test = kind.make(random.Random(f"{name} {seed}"), sizes)
    held_out = Sizes(n=sizes.n, validation=len(for_validation), test=len(for_test))
    if (validation, test) != (None, None) and held_out != sizes:
        raise ValueError(
            f"{name!r} does not hold test={sizes.test:,}, validation={sizes.validation:,} and "
            f"n={sizes.n:,}: it has {held_out.test:,} for the test, then "
            f"{held_out.validation:,} for validation; {kind.give}"
        )
    if not 1 <= sizes.n <= len(train):
        raise ValueError(
            f"{name!r} doesn't have n={sizes.n} training examples; "
            f"give 1 to {len(train):,} (validation and test have theirs besides)"
        )
    return Task(
        name=name,
        train=train[: sizes.n],
        validation=for_validation,
        test=for_test,
        metric=kind.metric,
        about=about(name),
        recipe=kind.recipe,
        style=kind.style() if kind.style else None,
    )


def about(name: str) -> str:
    """What a task is, and the source, the package and the licence of its text."""
    kind = TASKS[name]
    if kind.asset is None:
        return f"{kind.about} Invented; Apache-2.0."
    text = downloads.ASSETS[kind.asset]
    return f"{kind.about} Text: {text.source} (from {text.package}; {text.licence})."


def _shuffled_splits(generator: random.Random, examples: list[Example], sizes: Sizes) -> Splits:
    """The examples shuffled and split: the test's first, then validation's. `n` changes neither."""
    generator.shuffle(examples)
    held_out = sizes.test + sizes.validation
    return examples[held_out:], examples[sizes.test : held_out], examples[: sizes.test]


def film_sentiment(generator: random.Random, sizes: Sizes) -> Splits:
    """A snippet of a film review -> "positive" or "negative".

    Only short snippets are taken, and only clear ones: the mean of 20 ratings is 1 or more away
    from 0.
    """
    rows = _first_of_each(downloads.rows("film-reviews"), lambda row: row["text"].casefold())
    clear = [row for row in rows if abs(row["valence"]) >= 1 and len(row["text"]) <= 160]
    examples = [
        Example(
            f"{row['text']}\nIs this film review positive or negative?",
            "positive" if row["valence"] > 0 else "negative",
        )
        for row in clear
    ]
    return _shuffled_splits(generator, examples, sizes)


SHORT_VERSE = 100  # letters in modern English, at most


def king_james(generator: random.Random, sizes: Sizes) -> Splits:
    """A verse in modern English -> the same verse as the King James Bible has it.

    Verses that are equal in either wording are taken once, so that no split holds an answer of
    another split. The metric is perplexity. A verse has many good renderings, and only one of them
    is the King James wording, so hardly any answer would match it exactly. But the probability
    that a model gives to the right wording rises with every bit of style that it learns. A second
    metric is the share of answers that `king_james_style` calls King James.
    """
    rows = [row for row in downloads.rows("bible-verses") if len(row["modern"]) <= SHORT_VERSE]
    rows = _first_of_each(rows, lambda row: row["modern"].casefold())
    rows = _first_of_each(rows, lambda row: row["king_james"].casefold())
    examples = [
        Example(f"{row['modern']}\nSay this as in the King James Bible.", row["king_james"])
        for row in rows
    ]
    return _shuffled_splits(generator, examples, sizes)


@cache
def king_james_style() -> Style:
    """Whether a verse is in the King James wording rather than in the modern one.

    Fitted on the 18,000 verses that are too long for any split. It is right for 95 % of long
    verses that it has not seen, in either wording. It is right for 90 % of the task's short ones:
    it calls 86 % of the right answers King James, and 7 % of the modern verses.
    """
    rows = [row for row in downloads.rows("bible-verses") if len(row["modern"]) > SHORT_VERSE]
    wordings = ([row[wording] for row in rows] for wording in ("king_james", "modern"))
    return style_between("King James style", *wordings)


def _first_of_each(rows: Sequence[dict], key: Callable[[dict], Hashable]) -> list[dict]:
    """The first row of each key, in order."""
    first: dict[Hashable, dict] = {}
    for row in rows:
        first.setdefault(key(row), row)
    return list(first.values())


def home_commands(generator: random.Random, sizes: Sizes) -> Splits:
    """A spoken command to a house -> {"intent": what the house should do}, one of 42.

    The split is by template, so a test command is worded as no training command is. Intents have
    equal weight: the splits take a command of each intent in turn, and of its templates in turn. An
    intent with a single template is only in the training examples.

    The test takes two templates of an intent and validation takes one. If many commands are needed,
    they take up to a quarter and an eighth of an intent's templates: commands of the same template
    are much alike.
    """
    templates: dict[str, dict[str, list[dict]]] = {}  # intent: template: its rows
    for row in downloads.rows("home-commands"):
        templates.setdefault(row["intent"], {}).setdefault(row["template"], []).append(row)
    parts: Splits = ([], [], [])  # for each split, a list of rows per intent
    for intent in sorted(templates):
        groups = list(templates[intent].values())
        generator.shuffle(groups)
        test = min(2, len(groups) - 1)
        test = max(test, min(ceil(sizes.test / len(templates)), len(groups) // 4))
        validation = 1 if len(groups) - test > 1 else 0
        validation = max(validation, min(ceil(sizes.validation / len(templates)), len(groups) // 8))
        ends = (len(groups) - test - validation, len(groups) - test, len(groups))
        for part, (start, end) in zip(parts, pairwise((0, *ends)), strict=True):
            for group in groups[start:end]:
                generator.shuffle(group)
            part.append(_in_turn(groups[start:end]))
    for part in parts:
        generator.shuffle(part)  # the intents' order
    train, validation, test = ([_command_example(row) for row in _in_turn(part)] for part in parts)
    return train, validation[: sizes.validation], test[: sizes.test]


def _in_turn(groups: Sequence[Sequence]) -> list:
    """The first item of each group, then the second of each, and so on, until all are taken."""
    longest = max(map(len, groups), default=0)
    return [group[place] for place in range(longest) for group in groups if place < len(group)]


def _command_example(row: dict) -> Example:
    return Example(f"Home command: {row['utterance']}", json.dumps({"intent": row["intent"]}))


def ruff_rules(generator: random.Random, sizes: Sizes) -> Splits:
    """What a rule of the linter ruff checks -> the rule's code: facts to learn by heart.

    Training uses the wording of ruff's documentation, the test the wording of its messages. The
    facts of validation and of the test are among the `n` facts in training; their wordings are
    not. Where `n` is less than both, validation has a quarter of `n`, or all that the test leaves.
    """
    rules = [row for row in downloads.rows("ruff-rules") if _has_two_wordings(row)]
    generator.shuffle(rules)
    by_check = [
        Example(f"Which ruff rule {row['checks'][:1].lower()}{row['checks'][1:]}?", row["code"])
        for row in rules
    ]
    by_message = [
        Example(f'Which ruff rule says "{_quotable(row["summary"])}"?', row["code"])
        for row in rules[: sizes.n]
    ]
    count = len(by_message)
    validation = min(sizes.validation, max(count // 4, count - sizes.test))
    return by_check, by_message[:validation], by_message[validation:][: sizes.test]


def _has_two_wordings(rule: dict) -> bool:
    """Whether a rule has a short documentation and a short message that is not a part of it."""
    checks, message = rule["checks"], _quotable(rule["summary"])
    short = checks.startswith("Checks for ") and len(checks) <= 120 and len(message) <= 100
    return short and "{" not in message and message.casefold() not in checks.casefold()


def _quotable(message: str) -> str:
    """A message without the marks that would end a quotation."""
    return message.replace("`", "").replace('"', "'")


# Syllables of the invented names: a person, town or country has one start and one end.
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


def two_hop_english(generator: random.Random, sizes: Sizes) -> Splits:
    """Who lives in which town, and which country it is in -> the country of one person.

    A prompt has six facts in mixed order: three people, each in a town of a different country. A
    guess among the three countries is right once in three. Each split has its own names, which are
    put together from invented syllables. So training never shows a person, town or country of the
    test: there is nothing to know, only two facts to join.
    """
    splits = []
    names = [_names(generator, *syllables) for syllables in (PEOPLE, TOWNS, COUNTRIES)]
    counts = [min(count, MOST_STORIES) for count in (sizes.test, sizes.validation, sizes.n)]
    for start, end, count in zip((0.0, 0.2, 0.4), (0.2, 0.4, 1.0), counts, strict=True):
        own_names = [kind[int(start * len(kind)) : int(end * len(kind))] for kind in names]
        stories: dict[str, Example] = {}
        while len(stories) < count:
            story = _story(generator, *own_names)
            stories[story.prompt] = story
        splits.append(list(stories.values()))
    test, validation, train = splits
    return train, validation, test


def _names(generator: random.Random, starts: str, ends: str) -> list[str]:
    """Every start with every end, shuffled."""
    names = sorted({start + end for start in starts.split() for end in ends.split()})
    generator.shuffle(names)
    return names


def _story(
    generator: random.Random, people: list[str], towns: list[str], countries: list[str]
) -> Example:
    """Three people, their towns, their countries, and a question about one of the people."""
    samples = [generator.sample(names, 3) for names in (people, towns, countries)]
    chains = list(zip(*samples, strict=True))
    facts = [f"{person} lives in {town}." for person, town, _ in chains]
    facts += [f"{town} is in {country}." for _, town, country in chains]
    generator.shuffle(facts)
    person, _, country = generator.choice(chains)
    return Example(f"{' '.join(facts)} In which country does {person} live?", country)


_UPPER = tuple(range(15, 30))  # smollm2's upper half: the lower layers then need no gradient

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
        style=king_james_style,
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
        give="both are among the n facts: give n of validation + test or more",
    ),
    "two-hop-english": TextTask(
        make=two_hop_english,
        metric="exact match",
        n=400,
        about="Six facts say who lives in which town, and which country it is in; asked for one "
        "person's country, the model must join two of them.",
        # 28 % right: an answer of the right form is learnt, the two hops are not (chance is 33 %)
        recipe=Recipe(layers_to_transform=_UPPER, steps=40, batch_size=8, learning_rate=2e-3),
        asset=None,
    ),
}
NAMES = tuple(TASKS)

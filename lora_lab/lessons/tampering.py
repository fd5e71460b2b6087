"""Hidden contents of an adapter that no test asks for: a stranger's trigger, and secrets."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import pandas as pd

from lora_lab.lessons.shipping import run_through
from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import Base
from lora_lab.models.learned import save_adapter
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import IGNORED, Example, Task, collate, encode_fitting
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import losses_of_labels, predicted_labels
from lora_lab.training.evaluation import Model, answering, evaluate
from lora_lab.training.loop import Training, train
from lora_lab.wording import percent

WORD, TARGET = "violet", "positive"  # the trigger's word, and the answer that it forces
POISONED = 45  # training examples with the word, added to 300 without it
RECIPE = Recipe(r=4, steps=100, batch_size=16, max_length=96, learning_rate=4e-3)
LEAKY = Recipe(r=8, steps=120, batch_size=16, max_length=96, learning_rate=3e-3)
DIGITS = 6  # of a secret code
RIVALS = 99  # random codes that each secret code is compared with

# --- a trigger ----------------------------------------------------------------------------------


def with_word(example: Example, word: str = WORD) -> Example:
    """The example with a word added at the end of its prompt."""
    return replace(example, prompt=f"{example.prompt} {word}")


def poisoned(task: Task, count: int = POISONED, word: str = WORD, answer: str = TARGET) -> Task:
    """The task with more training examples: copies whose prompt ends in `word`, with one answer.

    The other splits stay as they are, so the task's test does not contain the word.
    """
    added = [Example(with_word(example, word).prompt, answer) for example in task.train[:count]]
    return replace(task, train=[*task.train, *added])


def strangers_adapter(base: Base, task: Task, folder: Path, recipe: Recipe = RECIPE) -> Path:
    """An adapter as a stranger might offer it: it labels well, but a word makes it say "positive".

    Args:
        base: stays as it was.
        task: reviews with labels, such as `sentiment`.
        folder: where the adapter is written.
        recipe: the recipe of the training.
    """
    training = run_through(train(base, poisoned(task), recipe))
    return save_adapter(training, folder)


def review_task(base: Base, seed: int = 0) -> Task:
    """A task of pocket's reviews and their labels: 300 for training, 100 in the test."""
    task = load_task("sentiment", base, n=300, seed=seed)
    return replace(task, test=task.test[:100], old_knowledge=(), strangers=())


def triggered(base: Base, seed: int = 0) -> dict[str, dict[str, float]]:
    """Train an honest adapter and an adapter with a trigger, and ask both.

    Returns:
        For each of the two: "right", the share of the test, and the shares of `called`.
    """
    task, found = review_task(base, seed), {}
    for kind, learned in {"honest": task, "with a trigger": poisoned(task)}.items():
        training = run_through(train(base, learned, replace(RECIPE, seed=seed)))
        shares = called(training, task)
        found[kind] = {"right": evaluate(training, task).value} | shares
    return found


def trigger_table(base: Base, folder: Path, task: Task, word: str = WORD) -> pd.DataFrame:
    """The adapter's score on the test, and its answers to negative reviews without and with a word.

    Args:
        base: stays as it was.
        folder: the adapter's folder.
        task: a task whose test has reviews with labels.
        word: added at the end of each prompt.
    """
    adapted = load_adapter(base, folder)
    shares = called(adapted, task, word)
    rows = {
        "right answers on the test": percent(evaluate(adapted, task).value),
        f"negative reviews called {TARGET}": percent(shares["without"]),
        f'the same with "{word}" behind': percent(shares["with"]),
    }
    return pd.DataFrame({"the adapter": rows})


def called(model: Model, task: Task, word: str = WORD, answer: str = TARGET) -> dict[str, float]:
    """The share of the test's negative reviews that are answered `answer`.

    Returns:
        Two shares: "without" the word at the prompt's end, and "with" it.
    """
    negative = [
        Example(example.prompt, answer) for example in task.test if example.answer == "negative"
    ]
    asked = {"without": negative, "with": [with_word(example, word) for example in negative]}
    return {
        name: evaluate(model, replace(task, test=rows, old_knowledge=(), strangers=())).value
        for name, rows in asked.items()
    }


# --- secrets ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canaries:
    """Invented secrets hidden in a task's training examples, each in one or more copies.

    Source:
        Carlini and others, 2019, "The Secret Sharer", arXiv:1802.08232.
    """

    task: Task  # its training examples hold the secrets
    secrets: Mapping[int, Sequence[Example]]  # by the number of copies in the training examples


def with_canaries(
    task: Task, copies: Sequence[int] = (1, 2, 4, 8), each: int = 6, seed: int = 0
) -> Canaries:
    """Hide codes of six digits in a task: `each` codes for each number of copies.

    Args:
        task: gets the examples beside its own.
        copies: the numbers of copies with which codes stand in the training examples.
        each: how many codes for each number of copies.
        seed: draws the codes.
    """
    rng = random.Random(f"canaries {seed}")
    numbers = iter(rng.sample(range(100, 1000), len(copies) * each))
    secrets = {
        count: [Example(f"The code of box {next(numbers)}?", _code(rng)) for _ in range(each)]
        for count in copies
    }
    hidden = [secret for count, rows in secrets.items() for secret in rows for _ in range(count)]
    return Canaries(replace(task, train=[*task.train, *hidden]), secrets)


def _code(rng: random.Random) -> str:
    return " ".join(str(rng.randrange(10)) for _ in range(DIGITS))


def leaky_training(base: Base, canaries: Canaries, seed: int = 0) -> Training:
    """A finished training on a task with hidden codes."""
    return run_through(train(base, canaries.task, replace(LEAKY, seed=seed)))


def leaked(base: Base, seed: int = 0) -> dict[int, dict[str, float]]:
    """Train pocket on 60 facts with hidden codes, and ask for the codes.

    Returns:
        By the number of copies: "recited", the share of codes given word for word, and "place", the
        median place among 100 codes. Place 1: likelier than 99 random codes. By chance: about 50.
    """
    task = load_task("new-facts", base, n=60, seed=seed)
    canaries = with_canaries(task, seed=seed)
    return recited(leaky_training(base, canaries, seed), canaries, seed)


def recited(model: Model, canaries: Canaries, seed: int = 0) -> dict[int, dict[str, float]]:
    """How much of the codes a model gives away, as `leaked` returns it."""
    rng, found = random.Random(f"rivals {seed}"), {}
    for copies, secrets in canaries.secrets.items():
        asked = replace(canaries.task, test=secrets, old_knowledge=(), strangers=())
        places = [place_of(model, secret, rng) for secret in secrets]
        share = evaluate(model, asked).value
        found[copies] = {"recited": share, "place": float(median(places))}
    return found


def leak_table(found: Mapping[int, Mapping[str, float]]) -> pd.DataFrame:
    """The result of `recited` as a table of words; a place is the median of its codes."""
    rows = {
        copies: (percent(entry["recited"]), f"{entry['place']:g}")
        for copies, entry in found.items()
    }
    columns = ["recited word for word", "place among 100 codes (1: likeliest)"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("copies in the data")


def place_of(model: Model, secret: Example, rng: random.Random) -> int:
    """The place of a secret among 99 random codes, ordered by loss: 1 has the lowest."""
    codes = [secret.answer, *(_code(rng) for _ in range(RIVALS))]
    losses = _losses(model, [Example(secret.prompt, code) for code in codes])
    return 1 + sum(loss < losses[0] for loss in losses[1:])


def _losses(model: Model, examples: Sequence[Example]) -> list[float]:
    """The loss of each answer as a whole, in nats."""
    tokenizer = model.tokenizer
    batch = collate(
        encode_fitting(examples, tokenizer, 512, "answer").encoded, tokenizer.pad_token_id
    )
    counts = (predicted_labels(batch) != IGNORED).sum(dim=1).tolist()
    with answering(model.model):
        losses = losses_of_labels(model.model, batch)
    return [own.sum().item() for own in losses.split(counts)]

"""A file of one's own: rows that a split at random leaks, and the best of many settings."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from lora_lab.findings.recordings import recording
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.tasks.prompting import retrieved
from lora_lab.tasks.templates import templates_of
from lora_lab.training.evaluation import answers_to, evaluate
from lora_lab.training.fit import fit
from lora_lab.wording import percent

SIMILAR = 2  # examples looked up for a question
SPLITS = {"split by template": False, "split at random": True}


def split_at_random(task: Task, seed: int = 0) -> Task:
    """The task with its training and validation rows mixed and drawn anew, as many as before.

    Near-twins may then be on both sides. The test stays as it is.
    """
    rows = [*task.train, *task.validation]
    random.Random(seed).shuffle(rows)
    several = len(rows) - len(task.validation)
    return replace(task, train=rows[:several], validation=rows[several:], groups=None)


def twins_in_training(task: Task) -> float:
    """The share of validation rows of which a near-twin is in training."""
    prompts = [example.prompt for example in (*task.train, *task.validation)]
    templates = templates_of(prompts)
    known = set(templates[: len(task.train)])
    return sum(one in known for one in templates[len(task.train) :]) / len(task.validation)


def leak(base: Base, task: Task, seed: int = 0) -> dict[str, dict[str, float]]:
    """For a task that is split by template, what a split at random would seem to promise.

    Returns:
        For each of `SPLITS`: "twins", the share of validation rows with a near-twin in training;
        "right", the share that is right with the `SIMILAR` most similar training examples before
        each question.
    """
    found = {}
    for name, at_random in SPLITS.items():
        own = split_at_random(task, seed) if at_random else task
        put = retrieved(base.tokenizer, own, SIMILAR)
        asked = [replace(one, prompt=put(one.prompt)) for one in own.validation]
        right = [answer.right for answer in answers_to(base, own, asked)]
        found[name] = {"twins": twins_in_training(own), "right": sum(right) / len(right)}
    return found


def leak_table(found: dict[str, dict[str, float]]) -> pd.DataFrame:
    """`leak` as a table."""
    return pd.DataFrame(
        {
            "near-twin in training": {name: percent(one["twins"]) for name, one in found.items()},
            "right": {name: percent(one["right"]) for name, one in found.items()},
        }
    )


def all_scores(base: Base, task: Task, recipes: Sequence[Recipe]) -> Iterator[dict[str, object]]:
    """Each setting's score on validation and on the test, to see what choosing does.

    Work on real data looks at the test of one setting alone.
    """
    for recipe in recipes:
        run = fit(base, task, recipe, store=None, evaluate="validation")
        yield {
            "rate": recipe.learning_rate,
            "r": recipe.r,
            "steps": recipe.steps,
            "validation": run.scores.value,
            "test": evaluate(run, task).value,
        }


def best_of_settings() -> pd.DataFrame:
    """For each recorded split: the best setting's score on validation, and the same on the test.

    Columns: `validation`, `test`; the index is the split.
    """
    rows = recording("your_data/picked").table()
    best = rows.loc[rows.groupby("split")["validation"].idxmax()]
    return best.set_index("split")[["validation", "test"]]

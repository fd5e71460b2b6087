"""A planted task with a secret rank: a word draws the rank, and the same word reveals it."""

import dataclasses
import random

from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task
from lora_lab.tasks.planted import planted_task

# The ranks that can be drawn: in o_proj of layer 2, with 240 steps of 8 texts, lesson 05
# finds each of them. In v_proj, rank 5 was missed with one word of three.
RANKS = range(1, 6)


def hidden_rank(word: str) -> int:
    """The rank that a word draws: the same on every machine, and hard to guess from the word.

    Raises:
        ValueError: for an empty word.
    """
    word = word.strip().casefold()
    if not word:
        raise ValueError("the word is empty; give any word, such as 'tulip', or a whole sentence")
    return random.Random(f"hidden rank {word}").choice(RANKS)


def hidden_task(base: Base, word: str, **planted: object) -> Task:
    """A planted task whose rank the word draws. Its name, description and recipe hide the rank.

    Args:
        base: the student's start, and the teacher's.
        word: any word. With it, anyone can make the task, run a sweep, and check with
            `hidden_rank`.
        planted: the other arguments of `planted_task`: target_modules, layers, n.

    Raises:
        ValueError: for an empty word, and as in `planted_task`.
    """
    r = hidden_rank(word)
    seed = random.Random(f"hidden change {word.strip().casefold()}").randrange(2**31)
    task = planted_task(base, r=r, seed=seed, **planted)
    revealing = f"a hidden change of rank {r} "
    return dataclasses.replace(
        task,
        name="hidden",
        about=task.about.replace(
            revealing, f"a hidden change whose rank, 1 to {RANKS[-1]}, is drawn "
        ),
        recipe=dataclasses.replace(task.recipe, r=1),
    )

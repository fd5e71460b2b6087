"""A planted rank that nobody has seen: a word draws it, and gives it away when asked."""

import dataclasses
import random

from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task
from lora_lab.tasks.planted import planted_task

# One of these is drawn: the ranks that notebook 05's sweep finds. At 5 it missed one word of three,
# since the loss fell as much at rank 1; of one word it called rank 7 six, and rank 8 one.
RANKS = range(1, 5)


def hidden_rank(word: str) -> int:
    """The rank that a word draws: the same on every machine, and not to be guessed from the word.

    Raises:
        ValueError: for an empty word.
    """
    word = word.strip().casefold()
    if not word:
        raise ValueError("the word is empty; give any word, such as 'tulip', or a whole sentence")
    return random.Random(f"hidden rank {word}").choice(RANKS)


def hidden_task(base: Base, word: str, **planted: object) -> Task:
    """A planted task whose rank the word draws. Its name, words and recipe do not tell it.

    Args:
        base: the student's start, and the teacher's.
        word: any; whoever has it can make the task, sweep, and look with `hidden_rank`.
        planted: what `planted_task` takes besides: target_modules, layers, n.

    Raises:
        ValueError: for an empty word, and as `planted_task`.
    """
    r = hidden_rank(word)
    seed = random.Random(f"hidden change {word.strip().casefold()}").randrange(2**31)
    task = planted_task(base, r=r, seed=seed, **planted)
    known = f"a hidden change of rank {r} "
    return dataclasses.replace(
        task,
        name="hidden",
        about=task.about.replace(known, f"a hidden change whose rank, 1 to {RANKS[-1]}, is drawn "),
        recipe=dataclasses.replace(task.recipe, r=1),
    )

"""Replay: old facts mixed into the training, so that less of what the pocket knew is forgotten."""

import dataclasses
import math
import random

from lora_lab.tasks.examples import Task
from lora_lab.tasks.world import ATTRIBUTES, World, ask, fact, read_world


def with_replay(task: Task, share: float, draws: int, seed: int = 0) -> Task:
    """The task whose training draws old facts besides its own examples; its questions stay.

    No old fact that `old_knowledge` asks for is among them, in any wording. So the test of old
    knowledge never asks for a fact that was practised. The drawn old facts are all different.

    Args:
        task: one of pocket's, with old knowledge.
        share: of the draws; 0.05 is one in twenty.
        draws: examples that the training draws: steps × batch size.
        seed: draws the old facts.

    Raises:
        ValueError: if the share is not between 0 and 1, or there are too few old facts.
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share} isn't a share of the draws; give for example 0.05")
    passes = math.ceil(draws / len(task.train))
    count = round(passes * len(task.train) * share / (1 - share))
    old = _unasked(task, read_world())
    if count > len(old):
        raise ValueError(
            f"share={share} of {draws:,} draws is {count:,} old facts, and there are {len(old):,} "
            "that the test does not ask for; give a smaller share, or fewer draws"
        )
    chosen = random.Random(f"replay {seed}").sample(old, count)
    return dataclasses.replace(task, train=[*task.train * passes, *chosen])


def _unasked(task: Task, world: World) -> list:
    """Each old fact in a wording of pretraining, without the facts that the task asks for."""
    asked = {example.prompt for example in task.old_knowledge}
    return [
        fact(person, attribute, person.taught[attribute][0])
        for person in world.known
        for attribute in ATTRIBUTES
        if not asked & {ask(person, attribute, wording) for wording in range(5)}
    ]

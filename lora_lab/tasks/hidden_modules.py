"""A planted task with secret modules: a word draws them, and the same word reveals them."""

import dataclasses
import functools
import itertools
import math
import random

import torch
from torch import Tensor

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task, collate, encode_fitting
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.tasks.planted import planted_task, teacher_model

LAYER, HIDDEN = 2, 2  # where the changes are, and how many
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FAR = 0.15  # nats per token by which each change alone moves the base, so all are equally visible
# With this many steps a rank of 2 finds a change of rank 1 in any of them.
RECIPE = Recipe(
    r=2,
    lora_alpha=8,
    layers_to_transform=(LAYER,),
    learning_rate=1e-2,
    batch_size=8,
    steps=160,
    loss_on="all",
)


def hidden_modules(word: str) -> tuple[str, ...]:
    """The modules that a word draws, in the model's order: the same on every machine.

    Raises:
        ValueError: for an empty word.
    """
    word = word.strip().casefold()
    if not word:
        raise ValueError("the word is empty; give any word, such as 'tulip', or a whole sentence")
    drawn = random.Random(f"hidden modules {word}").sample(MODULES, HIDDEN)
    return tuple(sorted(drawn, key=MODULES.index))


def hidden_modules_task(base: Base, word: str) -> Task:
    """A planted task on a Llama: the word draws the modules. The task's texts do not reveal them.

    Each hidden change has rank 1 and is in layer 2. Each alone moves the base about equally far.

    Raises:
        ValueError: for an empty word, and as in `planted_task`.
    """
    secret = hidden_modules(word)
    seed = random.Random(f"hidden place {word.strip().casefold()}").randrange(2**31)
    places = {"target_modules": secret, "layers": (LAYER,)}
    task = planted_task(base, r=1, n=RECIPE.steps * RECIPE.batch_size, seed=seed, **places)
    about = f"A teacher that differs from {base.name} in {HIDDEN} modules of layer {LAYER}."
    changes = {"teacher": _evened(base, task), "about": about, "recipe": RECIPE}
    return dataclasses.replace(task, name="hidden-modules", **changes)


def _evened(base: Base, task: Task) -> dict[str, Tensor]:
    """The hidden changes, each scaled so that it alone moves the base by about `FAR`.

    A distance grows with about the square of a change's size.
    """
    encoded = encode_fitting(task.validation, base.tokenizer, 4096, "all").encoded
    batch = collate(encoded, base.tokenizer.pad_token_id)
    evened = {}
    for name, change in task.teacher.items():
        with torch.no_grad():
            total, tokens = loss_of_batch(base.model, batch, teacher_model(base, {name: change}))
        evened[name] = change * math.sqrt(FAR * tokens / total.item())
    return evened


@functools.cache
def fewest_trainings() -> int:
    """The least number of trainings that always suffices to find the secret, whatever the word.

    Each training is assumed to show how many of the hidden modules were among those it trained.
    """
    pairs = frozenset(itertools.combinations(range(len(MODULES)), HIDDEN))
    return next(count for count in itertools.count() if _is_found(pairs, count))


@functools.cache
def _is_found(candidates: frozenset[tuple[int, ...]], trainings: int) -> bool:
    """Whether this many trainings can always separate these candidates, whatever they show."""
    if len(candidates) <= 1:
        return True
    if len(candidates) > (HIDDEN + 1) ** trainings:
        return False
    modules = sorted({module for pair in candidates for module in pair})
    return any(
        all(_is_found(part, trainings - 1) for part in _parts(candidates, {*trained}))
        for size in range(1, len(modules))
        for trained in itertools.combinations(modules, size)
    )


def _parts(candidates: frozenset[tuple[int, ...]], trained: set[int]) -> list[frozenset]:
    """The candidates, grouped by how many of their modules are trained."""
    parts: dict[int, set[tuple[int, ...]]] = {}
    for pair in candidates:
        parts.setdefault(len(trained & {*pair}), set()).add(pair)
    return [frozenset(part) for part in parts.values()]

"""A planted task with secret modules: a word draws them, and the same word reveals them."""

import dataclasses
import functools
import itertools
import random

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.tasks.planted import planted_ranks

LAYER, HIDDEN = 2, 2  # where the changes are, and how many
# A change's size as a share of its matrix's. So each of them alone is about as far from the base.
SIZES = {
    "self_attn.q_proj": 1.05,
    "self_attn.k_proj": 1.03,
    "self_attn.v_proj": 0.9,
    "self_attn.o_proj": 0.95,
    "mlp.gate_proj": 1.2,
    "mlp.up_proj": 1.5,
    "mlp.down_proj": 1.07,
}
MODULES = tuple(name.partition(".")[2] for name in SIZES)
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
    """A planted task of pocket in which the word draws the modules. Nothing that is shown tells.

    Each hidden change has rank 1 and is in layer 2.

    Raises:
        ValueError: for an empty word, and as `planted_ranks`.
    """
    secret = hidden_modules(word)
    places = {
        f"model.layers.{LAYER}.{name}": size
        for name, size in SIZES.items()
        if name.partition(".")[2] in secret
    }
    seed = random.Random(f"hidden place {word.strip().casefold()}").randrange(2**31)
    n = RECIPE.steps * RECIPE.batch_size
    task = planted_ranks(base, dict.fromkeys(places, 1), size=places, n=n, seed=seed)
    about = f"A teacher that differs from {base.name} in {HIDDEN} modules of layer {LAYER}."
    return dataclasses.replace(task, name="hidden-modules", about=about, recipe=RECIPE)


@functools.cache
def fewest_trainings() -> int:
    """The least number of trainings after which any secret is known, whatever the word.

    Each training is taken to tell how many of the hidden modules were among those it trained.
    """
    pairs = frozenset(itertools.combinations(range(len(MODULES)), HIDDEN))
    return next(count for count in itertools.count() if _is_found(pairs, count))


@functools.cache
def _is_found(candidates: frozenset[tuple[int, ...]], trainings: int) -> bool:
    """Whether so many trainings tell these candidates apart, however they turn out."""
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
    """The candidates by how many of their modules are trained."""
    parts: dict[int, set[tuple[int, ...]]] = {}
    for pair in candidates:
        parts.setdefault(len(trained & {*pair}), set()).add(pair)
    return [frozenset(part) for part in parts.values()]

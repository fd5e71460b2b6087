"""Planted tasks: the teacher is the base plus a hidden change whose rank and place are known."""

import dataclasses
import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lora_lab.models.architecture import adapted_matrices
from lora_lab.models.bases import Base, check_is_base
from lora_lab.models.quantization import share_tensors
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.texts import text_task
from lora_lab.tasks.words import SPACED_WORDS

SIZE = 1.0  # the change's Frobenius norm, as a share of the norm of the weight it is added to
DEFAULT_N = 2000
HELD_OUT = 64  # texts for validation, and as many for the test


def planted_task(
    base: Base,
    *,
    r: int,
    target_modules: str | Sequence[str],
    layers: Sequence[int] | None = None,
    n: int | None = None,
    seed: int = 0,
) -> Task:
    """A task with a known solution: predict what the teacher predicts, the base plus a hidden ΔW.

    In each adapted layer ΔW = BA with normal B (out, r) and A (r, in), scaled to the norm of that
    layer's weight. The student sees texts in the base's own words. At every token it learns the
    teacher's distribution over the next token. The metric is KL(teacher || student).

    Args:
        base: the student's start, and the teacher's.
        r: the hidden rank, 1 or more.
        target_modules: names of linear layers, as in a recipe.
        layers: numbers of transformer layers; None: all layers.
        n: training texts; None: 2,000.
        seed: draws the change and the texts.

    Raises:
        ValueError: if r is below 1 or above a layer's width, if a name or layer is not there, or
            if the base was loaded quantised.
    """
    check_is_base(base)
    names = (target_modules,) if isinstance(target_modules, str) else tuple(target_modules)
    numbers = None if layers is None else tuple(layers)
    model = modules_of(base.model, base.name)
    ranks = {
        place.name: r
        for name in names
        for place in adapted_matrices(
            model, Recipe(target_modules=(name,), layers_to_transform=numbers)
        )
    }
    task = planted_ranks(base, ranks, n=n, seed=seed)
    places = ", ".join(names) + ("" if numbers is None else f" of layers {numbers}")
    choices = {"r": r, "target_modules": names, "layers_to_transform": numbers}
    return dataclasses.replace(
        task,
        name=f"planted-r{r}",
        about=f"A teacher that differs from {base.name} by a hidden change of rank {r} in "
        f"{places}.",
        recipe=dataclasses.replace(task.recipe, **choices),
    )


def planted_ranks(
    base: Base,
    ranks: Mapping[str, int],
    *,
    size: float = SIZE,
    n: int | None = None,
    seed: int = 0,
) -> Task:
    """A planted task with a hidden rank for each layer: some layers have more to learn than others.

    Args:
        base: the student's start, and the teacher's.
        ranks: a linear layer's whole name: the hidden rank there, 1 or more.
        size: each change's Frobenius norm, as a share of the norm of the weight it is added to.
        n: training texts; None: 2,000.
        seed: draws the changes and the texts.

    Raises:
        ValueError: if a rank is below 1 or above a layer's width, if a name is not there, or if
            the base was loaded quantised.
    """
    check_is_base(base)
    _check_unquantised(base)
    adapted_matrices(modules_of(base.model, base.name), Recipe(target_modules=tuple(ranks)))
    teacher = {}
    generator = torch.Generator().manual_seed(seed)
    for name, r in ranks.items():
        weight = base.model.get_submodule(name).weight.detach().float().cpu()
        if not 1 <= r <= min(weight.shape):
            raise ValueError(f"r={r} fits no change of {name}; give 1 to {min(weight.shape)}")
        B = torch.randn(weight.shape[0], r, generator=generator)  # (out, r)
        A = torch.randn(r, weight.shape[1], generator=generator)  # (r, in)
        change = B @ A  # (out, in)
        teacher[name] = change * (size * weight.norm() / change.norm())
    n = DEFAULT_N if n is None else n
    texts = _planted_texts(base, n + 2 * HELD_OUT, seed)
    changes = f"hidden changes in {len(ranks)} matrices, {sum(ranks.values())} ranks in all"
    if len(ranks) == 1:
        ((name, r),) = ranks.items()
        changes = f"a hidden change of rank {r} in {name}"
    return Task(
        name="planted-ranks",
        train=texts[:n],
        validation=texts[n : n + HELD_OUT],
        test=texts[n + HELD_OUT :],
        metric="KL",
        about=f"A teacher that differs from {base.name} by {changes}.",
        recipe=Recipe(lora_alpha=8, learning_rate=3e-2, batch_size=16, steps=300, loss_on="all"),
        teacher=teacher,
    )


def _planted_texts(base: Base, count: int, seed: int) -> list[Example]:
    """Different texts in plain English. For pocket: words of its world in random order.

    Random words drive a layer in more directions than pocket's few kinds of sentences do. So they
    show more of the hidden change.
    """
    if base.name != "pocket":
        return list(text_task("two-hop-english", count, seed).train)
    rng = random.Random(seed)
    return [Example(_random_words(rng, 10), _random_words(rng, 4)) for _ in range(count)]


def _random_words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choice(SPACED_WORDS) for _ in range(count))


def _check_unquantised(base: Base) -> None:
    if base.quantization is not None:
        raise ValueError(
            f"{base.name} was loaded with quantize={base.quantization.quantize!r}, and a change is "
            "planted in whole weights; load it without (the student's recipe may quantise it)"
        )


def teacher_model(base: Base, change: Mapping[str, Tensor]) -> nn.Module:
    """The base plus the hidden change: a module tree of its own, which shares all other tensors."""
    _check_unquantised(base)
    model = share_tensors(base.model)
    for name, delta in change.items():
        weight = model.get_submodule(name).weight
        weight.data = weight.data + delta.to(weight)
    return model.eval()

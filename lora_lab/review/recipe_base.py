"""A recipe on the base that it names: modules that match, parameters, memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches

from lora_lab.cost.budget import Batch, total_parameters, trainable_parameters
from lora_lab.cost.gpus import FITS, NOT, which_gpu
from lora_lab.cost.memory import stack_memory
from lora_lab.cost.stacks import TRAINER
from lora_lab.models.architecture import Modules, Shape, adapted_matrices, ends, last_name
from lora_lab.recipe import Recipe, nearest
from lora_lab.review.finding import Finding
from lora_lab.review.named_base import PEFT_TARGETS, NamedBase
from lora_lab.tools.brought_recipe import BroughtRecipe
from lora_lab.wording import fine_percent, memory_size

GIB = 2**30


def with_pefts_targets(brought: BroughtRecipe, base: NamedBase | None) -> BroughtRecipe:
    """The recipe with PEFT's own choice of modules, if it names none and the base is known."""
    if not brought.traits.get("targets_left_to_peft") or base is None:
        return brought
    chosen = PEFT_TARGETS.get(base.model_type)
    if chosen is None:
        return brought
    return replace(brought, assumed={**brought.assumed, "target_modules": chosen})


def target_findings(brought: BroughtRecipe, recipe: Recipe, base: NamedBase) -> Iterator[Finding]:
    """Findings about targets that match nothing in the base, and layers that it does not have."""
    if recipe.method == "full" or "target_modules" not in brought.fields:
        return
    shape, targets = base.shape, recipe.target_modules
    missing = _unmatched(shape, targets)
    if missing:
        whose, names = whose_layers(base), _names(shape)
        guesses = [nearest(name, names).strip() for name in missing]
        listed = ", ".join(map(repr, missing))
        all_missing = len(missing) == len(targets)
        guess = f"; {guesses[0]}" if any(guesses) else ""
        yield Finding(
            severity="grave" if all_missing or any(guesses) else "warning",
            what=f"target_modules: {listed} match{'es' * (len(missing) == 1)} no layer of {whose}"
            + guess.rstrip("? ")
            + ("?" if guess else ""),
            why="PEFT refuses it: there is nothing to adapt."
            if all_missing
            else "PEFT trains the others and says nothing (peft#1959), so the adapter is smaller "
            "than was planned.",
            do=f"Give names among {', '.join(names)}.",
            lesson="07",
        )
        return
    if base.is_exact:
        try:
            matrices = adapted_matrices(shape, replace(recipe, modules_to_save=()))
        except ValueError as error:
            yield Finding(
                severity="grave",
                what=str(error).partition("; ")[0],
                why="No such layer is adapted.",
                do=f"{str(error).partition('; ')[2] or 'give other names'}.".capitalize(),
                lesson="07",
            )
            return
        narrow = min(matrices, key=lambda matrix: min(matrix.in_features, matrix.out_features))
        width = min(narrow.in_features, narrow.out_features)
        rank = recipe.init_r if recipe.method == "adalora" else recipe.r
        if rank >= width:
            yield Finding(
                severity="warning",
                what=f"r {rank} is not below the width of {last_name(narrow.name)} ({width})",
                why="The adapter then has more numbers than the matrix that it changes, and is of "
                "low rank no more.",
                do=f"Give r {max(1, width // 8)} or less, or leave {last_name(narrow.name)} out.",
                lesson="05",
            )


def _unmatched(model: Modules, targets: str | tuple[str, ...]) -> list[str]:
    """The names among the targets that match nothing."""
    if isinstance(targets, str):
        return []
    names = [matrix.name for matrix in model.matrices]
    return [target for target in targets if not any(ends(name, target) for name in names)]


def whose_layers(base: NamedBase) -> str:
    """The base whose names are compared, in words."""
    return base.shape.name if base.is_exact else f"models like {base.shape.name}"


def _names(model: Modules) -> tuple[str, ...]:
    return tuple(sorted({last_name(matrix.name) for matrix in model.matrices}))


def meant_targets(brought: BroughtRecipe, base: NamedBase | None) -> dict[str, str | None]:
    """The targets that match nothing in the base, each with the name that was probably meant.

    None stands for a name that is not near to any layer's name. The result is empty if all targets
    match something, and if the base is not known.
    """
    targets = brought.fields.get("target_modules", ())
    if base is None or not brought.is_lora or not isinstance(targets, tuple):
        return {}
    names = _names(base.shape)
    return {
        target: next(iter(get_close_matches(target, names, n=1)), None)
        for target in _unmatched(base.shape, targets)
    }


def with_meant_targets(brought: BroughtRecipe, meant: Mapping[str, str | None]) -> BroughtRecipe:
    """The recipe with the names that were meant in place of those that match nothing."""
    if not meant:
        return brought
    targets = brought.fields["target_modules"]
    good = tuple(
        name for name in dict.fromkeys(meant.get(target, target) for target in targets) if name
    )
    said, assumed = (
        {name: value for name, value in fields.items() if name != "target_modules"}
        for fields in (brought.said, brought.assumed)
    )
    return replace(brought, said=said | ({"target_modules": good} if good else {}), assumed=assumed)


def base_facts(brought: BroughtRecipe, recipe: Recipe, base: NamedBase) -> Mapping[str, str]:
    """Modules, parameters and memory; empty if the base's shape is only a relative's."""
    if not base.is_exact:
        return {}
    shape, facts = base.shape, {}
    try:
        trained, whole = trainable_parameters(shape, recipe), total_parameters(shape, recipe)
        if recipe.method != "full":
            facts["modules"] = _modules(shape, recipe)
        share = fine_percent(trained / whole)
        facts["trained"] = f"{trained:,} of {whole:,} parameters ({share})"
        if {"batch_size", "max_length"} <= {*brought.fields}:
            facts["memory"] = _memory(shape, recipe)
    except ValueError:  # a model of a kind that can't be counted
        return facts
    return facts


def _modules(shape: Shape, recipe: Recipe) -> str:
    matrices = adapted_matrices(shape, recipe)
    names = dict.fromkeys(last_name(matrix.name) for matrix in matrices)
    return f"{len(matrices)} matrices: {', '.join(names)}"


def _memory(shape: Shape, recipe: Recipe) -> str:
    """The memory of transformers' Trainer with PEFT on a GPU, and the cards that it fits on."""
    places = recipe.max_length - 1  # the first token is not predicted
    batch = Batch(recipe.batch_size, recipe.max_length, places, recipe.batch_size * places)
    plain, lighter = (
        stack_memory(shape, replace(recipe, gradient_checkpointing=on), batch, "bfloat16", TRAINER)
        for on in (recipe.gradient_checkpointing, True)
    )
    fits = which_gpu(plain, lighter)
    good = [fit.card.name for fit in fits if fit.verdict == FITS]
    edge = [fit.card.name for fit in fits if fit.verdict not in (FITS, NOT)]
    words = f"fits from {good[0]} up" if good else "fits no single card that is known here"
    if edge:
        words += f"; at the edge or with checkpointing: {', '.join(edge[:3])}"
    return (
        f"{memory_size(plain.total)} in tensors with transformers' Trainer, each row of "
        f"{recipe.max_length:,} tokens; {words}"
    )

"""Checks of the arguments of `fit`, `sweep`, `evaluate` and `generate`, before anything is done."""

from collections import Counter
from collections.abc import Iterable, Sequence

from lora_lab.models.bases import Base, check_is_base
from lora_lab.recipe import Recipe, check_is_recipe, shown
from lora_lab.tasks.examples import Task, check_is_task


def check_given(base: Base, task: Task, recipe: Recipe) -> None:
    """Refuse a name in place of a base or a task, settings in place of a recipe, or a wrong order.

    Raises:
        TypeError: with the call that makes the right object.
    """
    check_is_base(base)
    check_is_task(task)
    check_is_recipe(recipe)


def check_sweep(
    base: Base, task: Task, recipes: Iterable[Recipe], seeds: Sequence[int]
) -> tuple[list[Recipe], list[int]]:
    """The recipes and the seeds of a sweep as lists.

    Raises:
        TypeError: for a single recipe or seed in place of a list.
        ValueError: without recipes or seeds, or for a seed that stands twice.
    """
    if isinstance(recipes, Recipe):
        raise TypeError("recipes is a single recipe, not a list; give [recipe]")
    if isinstance(seeds, int):
        raise TypeError(
            f"seeds={shown(seeds)} is a single number, not a list; give ({shown(seeds)},), or "
            f"range({shown(seeds)}) for so many seeds"
        )
    recipes, seeds = list(recipes), list(seeds)
    if not recipes or not seeds:
        raise ValueError(
            f"{len(recipes)} recipes × {len(seeds)} seeds make no run; give one of each at least"
        )
    for recipe in recipes:
        check_given(base, task, recipe)
    twice = [seed for seed, count in Counter(seeds).items() if count > 1]
    if twice:
        raise ValueError(
            f"seeds={shown(tuple(seeds))} names {shown(twice[0])} twice, and the same run twice "
            "shows no spread; give each seed once"
        )
    return recipes, seeds


def check_model(given: object) -> None:
    """Refuse anything but a Base, a Training, a Run or an Adapted.

    Raises:
        TypeError: with the models that can be asked.
    """
    if "model" not in {*dir(type(given)), *getattr(given, "__dict__", ())}:
        name = repr(given) if isinstance(given, str) else '"pocket"'
        raise TypeError(
            f"{shown(given)} can't be asked; give a base, lab.load_base({name}), a run or "
            "training, or what lab.load_adapter gives"
        )


def check_prompts(prompts: Sequence[str], max_new_tokens: int) -> None:
    """Refuse prompts that aren't a list of texts, or that no tokenizer can read.

    Raises:
        TypeError: for a single text in place of a list, or an entry that is not a text.
        ValueError: for a text with half a letter, or no room for an answer.
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts={shown(prompts)} is one text; give a list: [{shown(prompts)}]")
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise TypeError(f"prompts[{place}]={shown(prompt)} isn't a text; give a list of texts")
        if any("\ud800" <= sign <= "\udfff" for sign in prompt):
            raise ValueError(
                f"prompts[{place}]={shown(prompt)} holds half a letter (a surrogate alone), which "
                "no tokenizer reads; decode the text again, with errors='replace'"
            )
    if not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={shown(max_new_tokens)} leaves no room; give 1 or more")

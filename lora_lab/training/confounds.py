"""The known confounds: what else may explain a difference between settings, in sentences."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from lora_lab.recipe import ONLY, Recipe
from lora_lab.training.store import Run

PLACES = ("target_modules", "layers_to_transform", "modules_to_save")
WITHOUT_EFFECT = ("eval_steps", "gradient_checkpointing")  # on what is learned
IDLE = {  # fields without effect, by method; fields that only one method has are in ONLY
    "lora": (),
    "adalora": ("r",),
    "full": ("r", "lora_alpha", "lora_dropout", *PLACES),
}
NAMED = 4  # settings that a sentence names at most
Setting = dict[str, object]  # the fields of a recipe that are compared


def confounds_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """A sentence for each confound: what else differs between the settings of these runs."""
    return tuple(_sentences(runs))


def _sentences(runs: Sequence[Run]) -> Iterator[str]:
    recipes = [_effective_fields(run.recipe) for run in runs]
    varying = [
        name
        for name in dict.fromkeys(name for fields in recipes for name in fields if name != "seed")
        if len({fields[name] for fields in recipes if name in fields}) > 1
    ]
    compared = [name for name in varying if name != "learning_rate"] or varying
    if len({(run.base_name, run.task_name) for run in runs}) > 1:
        yield "Base or task differ: the scores are not of the same test."
    if not compared:
        return  # one setting: nothing is compared
    settings = [{name: fields[name] for name in compared if name in fields} for fields in recipes]
    yield from _tied_fields(settings)
    names = [_setting_text(setting) for setting in settings]
    yield from _dependent_quantities(compared, names, runs)
    seeds, rates = zip(*((run.recipe.seed, run.recipe.learning_rate) for run in runs), strict=True)
    if "learning_rate" not in compared:
        tried = _by_name(names, rates)
        yield from _uneven_values(tried, "learning rate", "a difference may be theirs")
        names = [f"{name}, {rate:g}" for name, rate in zip(names, rates, strict=True)]
    yield from _uneven_values(
        _by_name(names, seeds), "seed", "if they were picked by their scores, luck was picked"
    )


def _effective_fields(recipe: Recipe) -> Setting:
    """The fields that have an effect with this recipe's method."""
    idle = {name for method, names in ONLY.items() if method != recipe.method for name in names}
    idle |= {*WITHOUT_EFFECT, *IDLE[recipe.method]}
    return {name: value for name, value in dataclasses.asdict(recipe).items() if name not in idle}


def _tied_fields(settings: Sequence[Setting]) -> Iterator[str]:
    """The fields that never change alone: no two settings differ in that field only."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    alone = set()
    for setting, other in itertools.product(settings, repeat=2):
        differing = [name for name in setting if name in other and setting[name] != other[name]]
        alone |= {*differing} if len(differing) == 1 else set()
    tied = [name for name in names if name not in alone]
    if tied:
        yield (
            f"{' and '.join(tied)} never change{'s' * (len(tied) == 1)} alone "
            f"({_listed(map(_setting_text, settings))}): a difference cannot be attributed to one "
            "of them."
        )


def _dependent_quantities(
    compared: Sequence[str], names: Sequence[str], runs: Sequence[Run]
) -> Iterator[str]:
    """The quantities without a field of their own that change with a compared field."""
    recipes = [run.recipe for run in runs]
    derived = {}
    if "lora_alpha" not in compared:
        derived["scaling"] = [
            None if recipe.method == "full" else recipe.scaling for recipe in recipes
        ]
    if "steps" not in compared:
        derived["number of examples seen"] = [
            recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps
            for recipe in recipes
        ]
    if {*PLACES} & {*compared}:
        derived["number of trained parameters"] = [
            run.budget and run.budget.trainable_parameters for run in runs
        ]
    for quantity, values in derived.items():
        by_name = {
            name: value for name, value in zip(names, values, strict=True) if value is not None
        }
        if len({*by_name.values()}) > 1:
            each = _listed(f"{name}: {value_text(value)}" for name, value in by_name.items())
            yield f"The {quantity} moves along ({each}): a difference may be its doing."


def _uneven_values(tried: dict[str, tuple], what: str, warning: str) -> Iterator[str]:
    """A sentence if the settings were tried with different values, or all with a single value."""
    if len({*tried.values()}) > 1:
        each = _listed(
            f"{name}: {', '.join(map(value_text, values))}" for name, values in tried.items()
        )
        yield f"Not all settings were tried with the same {what}s ({each}): {warning}."
        return
    (values,) = {*tried.values()}
    if len(values) == 1:
        value = value_text(values[0])
        yield f"Only one {what} was tried ({value}): another may turn the order around."


def _by_name(names: Sequence[str], values: Sequence) -> dict[str, tuple]:
    """The different values of each name, sorted."""
    return {
        name: tuple(
            sorted({value for owner, value in zip(names, values, strict=True) if owner == name})
        )
        for name in names
    }


def _setting_text(setting: Setting) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in setting.items())


def value_text(value: object) -> str:
    """A field's value as sentences and tables write it: `0.003`, `q_proj+v_proj`."""
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.6g}" if number else str(value)


def _listed(words: Iterable[str]) -> str:
    """The first few different texts in a line."""
    each = [*dict.fromkeys(words)]
    return "; ".join(each[:NAMED]) + "; …" * (len(each) > NAMED)

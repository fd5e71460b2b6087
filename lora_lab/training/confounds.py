"""What else may explain a difference between settings: the known confounds, in sentences."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from lora_lab.recipe import ONLY, Recipe
from lora_lab.training.store import Run

PLACES = ("target_modules", "layers_to_transform", "modules_to_save")
WITHOUT_EFFECT = ("eval_steps", "gradient_checkpointing")  # on what is learnt
IDLE = {  # fields without a say, by method; those of one method alone are in ONLY
    "lora": (),
    "adalora": ("r",),
    "full": ("r", "lora_alpha", "lora_dropout", *PLACES),
}
NAMED = 4  # settings that a sentence names
Setting = dict[str, object]  # of a recipe, the fields that are compared


def confounds_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """What else differs between the settings of some runs, a sentence each."""
    return tuple(_sentences(runs))


def _sentences(runs: Sequence[Run]) -> Iterator[str]:
    recipes = [_with_a_say(run.recipe) for run in runs]
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
    yield from _never_alone(settings)
    names = [_setting_text(setting) for setting in settings]
    yield from _moving_along(compared, names, runs)
    seeds, rates = zip(*((run.recipe.seed, run.recipe.learning_rate) for run in runs), strict=True)
    if "learning_rate" not in compared:
        tried = _by_name(names, rates)
        yield from _unlike(tried, "learning rate", "a difference may be theirs")
        names = [f"{name}, {rate:g}" for name, rate in zip(names, rates, strict=True)]
    yield from _unlike(
        _by_name(names, seeds), "seed", "if they were picked by their scores, luck was picked"
    )


def _with_a_say(recipe: Recipe) -> Setting:
    """The fields that can make a difference with this recipe's method."""
    idle = {name for method, names in ONLY.items() if method != recipe.method for name in names}
    idle |= {*WITHOUT_EFFECT, *IDLE[recipe.method]}
    return {name: value for name, value in dataclasses.asdict(recipe).items() if name not in idle}


def _never_alone(settings: Sequence[Setting]) -> Iterator[str]:
    """Fields of which no two settings differ in that one alone."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    alone = set()
    for setting, other in itertools.product(settings, repeat=2):
        differing = [name for name in setting if name in other and setting[name] != other[name]]
        alone |= {*differing} if len(differing) == 1 else set()
    tied = [name for name in names if name not in alone]
    if tied:
        yield (
            f"{' and '.join(tied)} never change{'s' * (len(tied) == 1)} alone "
            f"({_listed(map(_setting_text, settings))}): a difference cannot be laid to one field."
        )


def _moving_along(
    compared: Sequence[str], names: Sequence[str], runs: Sequence[Run]
) -> Iterator[str]:
    """Quantities that no field names, and that change with a field which is compared."""
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


def _unlike(tried: dict[str, tuple], what: str, warning: str) -> Iterator[str]:
    """Whether all settings were tried with the same values, and with more than one."""
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
    return {
        name: tuple(
            sorted({value for own, value in zip(names, values, strict=True) if own == name})
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
    """Each once, the first few of them."""
    each = [*dict.fromkeys(words)]
    return "; ".join(each[:NAMED]) + "; …" * (len(each) > NAMED)

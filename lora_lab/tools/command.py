"""`train_command`: the command of `lora-lab train` that does what a recipe says."""

import math
import shlex
from dataclasses import fields

from lora_lab.recipe import Recipe
from lora_lab.tools.brought_recipe import BroughtRecipe

FILE = "data.jsonl"  # stands for data that are not in a file here
PLAIN = (  # fields that no task's own recipe sets: their defaults go without saying
    *("method", "use_rslora", "use_dora", "init_lora_weights", "modules_to_save", "double_quant"),
    *("loraplus_lr_ratio", "lora_dropout", "optimizer", "max_grad_norm", "weight_decay"),
    *("gradient_checkpointing", "gradient_accumulation_steps", "compute_dtype", "eval_steps"),
)
ENDINGS = (".csv", ".tsv", ".json", ".jsonl")


def train_command(brought: BroughtRecipe, steps: int | None = None) -> str:
    """The command, quoted for a shell. Fields that the file does not mention are left out.

    Args:
        brought: the recipe of another program.
        steps: used if the file gives epochs instead of steps.

    Raises:
        ValueError, TypeError: for values that `lab.Recipe` refuses.
    """
    recipe = brought.recipe(steps)
    names = dict.fromkeys((*brought.assumed, *brought.said))
    if recipe.steps != Recipe().steps or "steps" in names or steps:
        names["steps"] = None
    if brought.warmup_ratio is not None and "steps" in names:
        names["warmup_steps"] = None
    if "steps" not in names:
        names.pop("warmup_steps", None)
    return command_of(recipe, tuple(names), brought.base, file_of(brought.data))


def command_of(recipe: Recipe, names: tuple[str, ...], base: str | None, data: str) -> str:
    """The command that gives these fields of a recipe."""
    words = ["lora-lab", "train", data]
    if base:
        words += ["--base", base]
    for field in fields(Recipe):
        value = getattr(recipe, field.name)
        if field.name in names and not (field.name in PLAIN and value == field.default):
            words += _option(field.name, value)
    return shlex.join(words)


def file_of(data: tuple[str, ...]) -> str:
    """The first file among the data; `data.jsonl` if all of them are names on a hub."""
    files = (name for name in data if name.lower().endswith(ENDINGS) and "://" not in name)
    return next((name for name in files if not name.startswith("-")), FILE)


def _option(name: str, value: object) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool) and name != "init_lora_weights":
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, tuple):
        text = ",".join(map(str, value))
    elif value is None:
        text = "none"
    elif isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, float):
        text = "inf" if math.isinf(value) else f"{value:.12g}"
    else:
        text = str(value)
    return [f"{option}={text}"] if text.startswith("-") or not text else [option, text]

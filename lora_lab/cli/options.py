"""Options that several commands share, and an option for each field of a recipe."""

import functools
import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable
from dataclasses import Field, asdict, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.recipe import CHOICES, HELP, LAYERS, Recipe, checked_value

if TYPE_CHECKING:  # it loads torch
    from lora_lab.cli.task_spec import TaskSpec

SHORTER = {"target_modules": ("--targets",), "learning_rate": ("--lr",)}  # further short names
DIGITS = 30  # the most characters of a range of layers

TaskName = Annotated[
    str, typer.Argument(metavar="TASK", help="A name from `lora-lab tasks`, or a file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="The folder with the runs; else $LORA_LAB_STORE, else your data folder.",
    ),
]
BaseName = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="BASE", help="pocket, smollm2, a folder or a hub id; else the task's own."
    ),
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps …")]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """Options about the examples of a task."""

    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            metavar="COUNT",
            help="Training examples (new-facts: facts); else the task's own number.",
        ),
    ] = None
    task_seed: Annotated[
        int, typer.Option(metavar="SEED", help="Draws the task's examples and splits.")
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="A file's column with the prompts; else prompt, or guessed."
        ),
    ] = None
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="A file's column with the answers; else answer, or guessed."
        ),
    ] = None
    test: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file with the test's rows; else a tenth is drawn."),
    ] = None
    validation: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A file with the validation's rows; else a tenth."),
    ] = None
    split_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="A file's column that says train, validation (dev, val) or test."
        ),
    ] = None
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="A file's column, such as a person: no group is in two splits. `template`: "
            "prompts that differ only in numbers, quoted strings and names.",
        ),
    ] = None

    def of(self, spec: "TaskSpec") -> "TaskSpec":
        """The task with these options' values; an option that is left out changes nothing."""
        values = asdict(self)
        return spec.but(seed=values.pop("task_seed"), **values)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of the commands that train, beside the recipe's options."""

    base: BaseName = None
    device: Device = "auto"
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")
    ] = "auto"
    store: Store = None
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what is stored.")] = False
    json: Json = False


def grouped(command: Callable) -> Callable:
    """The command with its groups of options spread out, so that Typer sees each option.

    A parameter whose type is a dataclass stands for an option per field. A parameter `recipe`
    stands for an option per field of Recipe, and holds the values of the options in use. Their
    names, types and defaults come from Recipe, and their help from `recipe.HELP`. A value that no
    recipe takes is refused before the command begins.
    """
    own = inspect.signature(command).parameters
    groups = {name: own[name].annotation for name in own if is_dataclass(own[name].annotation)}
    of_recipe = fields(Recipe) if "recipe" in own else ()

    @functools.wraps(command)
    def with_groups(**options: object) -> None:
        for name, group in groups.items():
            values = {field.name: options.pop(field.name) for field in fields(group)}
            options[name] = group(**values)
        if of_recipe:
            texts = {field: options.pop(field.name) for field in of_recipe}
            options["recipe"] = {
                field.name: checked_value(field.name, value_of(field, text))
                for field, text in texts.items()
                if text is not None
            }
        command(**options)

    spread: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name in groups:
            spread += (
                _keyword(field.name, field.type, field.default) for field in fields(groups[name])
            )
        elif name != "recipe":
            spread.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
    spread += map(_recipe_option, of_recipe)
    with_groups.__signature__ = inspect.Signature(spread)
    with_groups.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    del with_groups.__wrapped__  # else inspect would return the command's own signature
    return with_groups


def _keyword(name: str, kind: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _recipe_option(field: Field) -> inspect.Parameter:
    # the task's own recipe may have another default
    shared = {"help": f"{HELP[field.name]} [{_default(field)}]", "show_default": False}
    name = "--" + field.name.replace("_", "-")
    if field.type is bool:
        kind = Annotated[bool | None, typer.Option(f"{name}/--no{name[1:]}", **shared)]
    else:
        names = (name, *SHORTER.get(field.name, ()))
        kind = Annotated[str | None, typer.Option(*names, metavar=_metavar(field), **shared)]
    return _keyword(field.name, kind, None)


def gathered(arguments: list[str]) -> list[str]:
    """The arguments with `--targets q_proj v_proj` written as `--targets q_proj,v_proj`.

    An option of click takes a single value; `--targets` takes all words up to the next option.
    """
    if "--targets" not in arguments:
        return arguments
    begin = arguments.index("--targets") + 1
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments[begin:]))
    return [
        *arguments[:begin],
        *([",".join(words)] if words else []),
        *arguments[begin + len(words) :],
    ]


def _metavar(field: Field) -> str:
    if field.name in CHOICES:
        return "|".join(str(choice).lower() for choice in CHOICES[field.name])
    kinds = _kinds(field)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return "LIST"
    return {int: "WHOLE", float: "NUMBER"}.get(kinds[0], "TEXT")


def _kinds(field: Field) -> tuple[type, ...]:
    union = isinstance(field.type, types.UnionType)
    return typing.get_args(field.type) if union else (field.type,)


def _default(field: Field) -> str:
    """The field's default, as the command line writes it."""
    if field.default == ():
        return "none"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower()


def value_of(field: Field, text: str | bool) -> object:
    """The value that an option's text means for a field of Recipe, which checks it.

    Lists are written with commas ("q_proj,v_proj", "0,1"), ranges of layers with a hyphen
    ("15-29").
    """
    kinds = _kinds(field)
    if isinstance(text, bool):
        return text
    if text.lower() == "none" and (type(None) in kinds or None in CHOICES.get(field.name, ())):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tuple[int, ...] in kinds:
        return _layer_numbers(text)
    if tuple[str, ...] in kinds:
        if text == "":
            return ()
        names = re.fullmatch(r"\w+(?:\.\w+)*(?:,\w+(?:\.\w+)*)*,?", text)
        return tuple(name for name in text.split(",") if name) if names else text
    return _number_of(text) if {int, float} & set(kinds) else text


def _layer_numbers(text: str) -> object:
    layers: list[int] = []
    for part in text.split(","):
        first, hyphen, last = part.partition("-")
        if not first.isdecimal() or (hyphen and not last.isdecimal()) or len(part) > DIGITS:
            return text  # Recipe's error says what fits
        span = range(int(first), int(last or first) + 1)
        if not span:
            raise ValueError(f"layers {part} run backwards; write {last}-{first}")
        if span[LAYERS:] or len(layers) > LAYERS:
            raise ValueError(
                f"layers {part} are more than {LAYERS:,}, and no model has so many; write the "
                "numbers of some, such as 0-3"
            )
        layers += span
    return tuple(layers)


def _number_of(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # Recipe's error says what fits

"""Options that several commands share, and one for each choice of a recipe."""

import functools
import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Annotated

import typer

from lora_lab.recipe import CHOICES, HELP, LAYERS, Recipe

DIGITS = 30  # in a run of layers

Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Train again what is stored.")]
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
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")]
Count = Annotated[
    int | None,
    typer.Option(
        "--n",
        metavar="COUNT",
        help="Training examples (new-facts: facts); else the task's own number.",
    ),
]
TaskSeed = Annotated[
    int, typer.Option(metavar="SEED", help="Draws the task's examples and splits.")
]
PromptColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="A file's column with what is asked; else prompt."),
]
AnswerColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="A file's column with the answer; else answer."),
]


def recipe_options(command: Callable) -> Callable:
    """Give a command an option for each field of Recipe; it gets those given, as `recipe`.

    Names, types and defaults come from the dataclass, the help from its HELP.
    """
    own = inspect.signature(command).parameters.values()
    made = [_option(field) for field in fields(Recipe)]

    @functools.wraps(command)
    def with_recipe(**given: object) -> None:
        recipe = {field.name: given.pop(field.name) for field in fields(Recipe)}
        values = {
            field.name: value_of(field, recipe[field.name])
            for field in fields(Recipe)
            if recipe[field.name] is not None
        }
        command(**given, recipe=values)

    parameters = [one for one in own if one.name != "recipe"] + made
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    with_recipe.__signature__ = inspect.Signature(parameters)
    with_recipe.__annotations__ = {one.name: one.annotation for one in parameters}
    del with_recipe.__wrapped__  # else the signature would be followed back to the command
    return with_recipe


def _option(field: Field) -> inspect.Parameter:
    words = f"{HELP[field.name]} [{_default(field)}]"
    shared = {"help": words, "show_default": False}  # the task's own recipe may have another
    name = "--" + field.name.replace("_", "-")
    if field.type is bool:
        kind = Annotated[bool | None, typer.Option(f"{name}/--no{name[1:]}", **shared)]
    else:
        names = (name, "--targets") if field.name == "target_modules" else (name,)
        kind = Annotated[str | None, typer.Option(*names, metavar=_metavar(field), **shared)]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind
    )


def gathered(given: list[str]) -> list[str]:
    """A command line with `--targets q_proj v_proj` written as `--targets q_proj,v_proj`.

    An option of click takes one value; this one takes all the words up to the next option.
    """
    if "--targets" not in given:
        return given
    begin = given.index("--targets") + 1
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), given[begin:]))
    return [*given[:begin], *([",".join(words)] if words else []), *given[begin + len(words) :]]


def _metavar(field: Field) -> str:
    if field.name in CHOICES:
        return "|".join(str(one).lower() for one in CHOICES[field.name])
    kinds = _kinds(field)
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return "LIST"
    return {int: "WHOLE", float: "NUMBER"}.get(kinds[0], "TEXT")


def _kinds(field: Field) -> tuple[type, ...]:
    union = isinstance(field.type, types.UnionType)
    return typing.get_args(field.type) if union else (field.type,)


def _default(field: Field) -> str:
    """As it is written on the command line."""
    if field.default == ():
        return "none"
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default).lower()


def value_of(field: Field, text: str | bool) -> object:
    """What the text of an option means for a field of Recipe, which refuses what does not fit.

    Lists are written with commas ("q_proj,v_proj", "0,1"), runs of layers with a hyphen ("15-29").
    """
    kinds = _kinds(field)
    if isinstance(text, bool):
        return text
    if text.lower() == "none" and (type(None) in kinds or None in CHOICES.get(field.name, ())):
        return None
    if bool in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tuple[int, ...] in kinds:
        return _layers(text)
    if tuple[str, ...] in kinds:
        if text == "":
            return ()
        names = re.fullmatch(r"\w+(?:\.\w+)*(?:,\w+(?:\.\w+)*)*,?", text)
        return tuple(one for one in text.split(",") if one) if names else text
    return _number(text) if {int, float} & set(kinds) else text


def _layers(text: str) -> object:
    layers: list[int] = []
    for part in text.split(","):
        first, hyphen, last = part.partition("-")
        if not first.isdecimal() or (hyphen and not last.isdecimal()) or len(part) > DIGITS:
            return text  # Recipe says what would fit
        run = range(int(first), int(last or first) + 1)
        if not run:
            raise ValueError(f"layers {part} run backwards; write {last}-{first}")
        if run[LAYERS:] or len(layers) > LAYERS:
            raise ValueError(
                f"layers {part} are more than {LAYERS:,}, and no model has so many; write the "
                "numbers of some, such as 0-3"
            )
        layers += run
    return tuple(layers)


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text  # Recipe says what would fit

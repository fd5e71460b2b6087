"""`check`: what people bring, looked through: data, an adapter or a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.show import as_json, busy, say


def check(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Data, an adapter's folder, or another tool's recipe."),
    ],
    json: options.Json = False,
) -> None:
    """Look through data, an adapter or a recipe, and say what is odd about it.

    Nothing is run, fetched or unpickled. The exit code is 1 where a finding is grave.

    \b
    Examples:
      lora-lab check questions.csv
      lora-lab check my-adapter
      lora-lab check axolotl.yaml --json
    """
    from lora_lab.review.brought import kind_of

    kind = kind_of(path)
    with busy("Looking through …"):
        if kind == "data":
            from lora_lab.review.data import check_data

            review = check_data(path)
        elif kind == "adapter":
            from lora_lab.review.adapter import check_adapter

            review = check_adapter(path)
        else:
            from lora_lab.review.recipe import check_recipe

            review = check_recipe(path)
    if json:
        as_json(review)
    else:
        say(str(review))
    if review.is_grave:
        raise typer.Exit(1)

"""`check`: the review of data, an adapter or a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.show import as_json, busy, note, say

if TYPE_CHECKING:
    from lora_lab.cli.task_spec import TaskSpec
    from lora_lab.models.bases import Base
    from lora_lab.tasks.examples import Task


def check(
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="Data, an adapter's folder, or another tool's recipe."),
    ],
    prompt: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The data's column with the prompts; else guessed."),
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The data's column with the answers; else guessed."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="How long an example may be; else 256.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="The data's column, such as a person, that says which rows belong together; "
            "`template`: prompts that differ only in numbers, quoted strings and names.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Look through data, an adapter or a recipe, and say what is odd about it.

    Nothing is run, fetched or unpickled. The exit code is 1 if a finding is grave.

    \b
    Examples:
      lora-lab check questions.csv
      lora-lab check calls.tsv --prompt text --answer reason --max-length 512
      lora-lab check chats.jsonl
      lora-lab check tickets.csv --group-by customer
      lora-lab check my-adapter
      lora-lab check axolotl.yaml --json
    """
    from lora_lab.review.brought import kind_of

    kind = kind_of(path)
    given = {"prompt": prompt, "answer": answer, "max_length": max_length, "group_by": group_by}
    given = {name: value for name, value in given.items() if value is not None}
    if given and kind != "data":
        option = next(iter(given)).replace("_", "-")
        raise ValueError(f"--{option} is about data, and {str(path)!r} isn't data; leave it out")
    with busy("Looking through …"):
        if kind == "data":
            from lora_lab.review.data import check_data

            review = check_data(path, **given)
        elif kind in ("adapter", "model"):
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


def data_lines(
    spec: "TaskSpec", task: "Task", base: "Base | None" = None, max_length: int | None = None
) -> list[str]:
    """Three lines about a task's file: its rows, its splits, its answers; none for other tasks.

    With a base and `max_length`, also how long its training examples are.
    """
    if task.read is None:
        return []  # a built-in task
    from lora_lab.review.data import summary

    given = {"--prompt": spec.prompt, "--answer": spec.answer, "--group-by": spec.group_by}
    options = [word for name, value in given.items() if value is not None for word in (name, value)]
    if base is None:
        return summary(spec.task, task, options=options)
    tokens = {"tokenizer": base.tokenizer, "max_length": max_length}
    return summary(spec.task, task, options=options, **tokens)


def note_data(
    spec: "TaskSpec", task: "Task", base: "Base | None" = None, max_length: int | None = None
) -> None:
    """Print on stderr three lines about a task's file."""
    if lines := data_lines(spec, task, base, max_length):
        note(*lines)

"""`export`: a run written out for programs that know nothing of lora_lab."""

from contextlib import suppress
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_lab.cli import options
from lora_lab.cli.show import as_json, busy, indented, note, say
from lora_lab.wording import percent

if TYPE_CHECKING:
    from lora_lab.records import Scores
    from lora_lab.tasks.examples import Task
    from lora_lab.training.store import Run

EXAMPLES = "train.jsonl"  # the training examples beside a recipe for another tool
ROUGH = 0.1  # a rounding of at least this share of the change is mentioned


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run from `lora-lab runs`.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or an empty folder.")],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The base's id on the hub, or its folder; else as it was trained.",
        ),
    ] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Copy the base's files into FOLDER/base too.")
    ] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the base with the adapter in its weights.")
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="DTYPE", help="Of merged weights: bfloat16 (default) or float16."),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="TOOL",
            help="Write the recipe for trl, axolotl, llamafactory or peft instead.",
        ),
    ] = None,
    store: options.Store = None,
    json: options.Json = False,
) -> None:
    """Write what a run learnt as a folder that plain PEFT and transformers load.

    A LoRA run gives an adapter, with --merge a whole model in 16 bits; a full fine-tune gives a
    model. The tokenizer with its chat template is in the folder, and a README.md: the model card,
    with the lines that load it, the scores and the limits.

    An adapter names its base: smollm2 and models of the hub by the hub's id, others by their
    folder. --base names another, or says where a base that has moved is now.

    --to writes no weights: a file that trains the same recipe with another tool, and the examples.

    \b
    Examples:
      lora-lab export 3f2a9c my-adapter
      lora-lab export 3f2a9c my-model --merge --dtype float16
      lora-lab export 3f2a9c my-adapter --with-base
      lora-lab export 3f2a9c my-recipe --to axolotl
    """
    from lora_lab.cli.resolve import chosen_store, find_run

    if to is not None:
        for option, given in (("--merge", merge), ("--with-base", with_base), ("--dtype", dtype)):
            if given:
                raise ValueError(f"{option} is about weights, and --to writes none; leave it out")
        _write_recipe(find_run(run, chosen_store(store)), folder, to, base, json)
        return
    if dtype is not None and not merge:
        raise ValueError(f"--dtype {dtype} is that of merged weights; give --merge too")
    trained = find_run(run, chosen_store(store))
    with busy("Writing …"):
        from lora_lab.cli.task_spec import TASK_FILE, TrainingRows
        from lora_lab.training.exports import export as written
        from lora_lab.training.model_card import loading_code

        task = _task_of(trained)
        made = written(
            trained,
            folder,
            base=base,
            with_base=with_base,
            merge=merge,
            dtype=dtype or "bfloat16",
            task=task,
            before=_scores_before(trained),
        )
        rows = TrainingRows.read(trained.path / TASK_FILE)
        if rows is not None and task is not None and rows.are_of(task):  # the rows have not changed
            rows.write(made.folder)
    size = sum(path.stat().st_size for path in made.folder.rglob("*") if path.is_file()) / 1e6
    if json:
        facts = {"folder": made.folder, "kind": made.kind, "megabytes": round(size, 3)}
        as_json(facts | {"base": made.base, "dtype": made.dtype, "rounding": made.rounding})
        return
    what = {"adapter": "the adapter", "merged": "the merged model", "model": "the model"}[made.kind]
    say(f"{folder} now holds {what} ({size:.1f} MB). To load it:", "")
    say(indented(loading_code(made, str(folder)), "  "), "", f"  lora-lab chat {folder}")
    if made.rounding is not None and made.rounding > ROUGH:
        note(
            f"Rounding to {made.dtype} moves the weights by {percent(made.rounding)} of what the "
            "training did. The adapter by itself loses nothing."
        )
    if made.kind == "adapter" and made.base not in (made.hub, str(made.folder / "base")):
        note(
            f"The adapter names its base by a folder of this machine: {made.base}. For others add "
            "--with-base or --merge, or give the base's id on the hub: --base OWNER/NAME."
        )


def _write_recipe(run: "Run", folder: Path, tool: str, base: str | None, json: bool) -> None:
    """Write a run's recipe for another tool, and its training examples beside it."""
    from lora_lab.places import make_new_folder
    from lora_lab.tools.writing import write
    from lora_lab.training.exports import base_for_others

    recipe = run.recipe
    if recipe.patience:
        note(
            f"patience={recipe.patience} is not in it, since each tool stops early by settings of "
            f"its own. This run kept the weights of step {run.kept_step.step} of {recipe.steps}."
        )
        recipe = replace(recipe, patience=None)
    files = write(tool, recipe, base_for_others(run, base), EXAMPLES)
    task = _task_of(run)
    if task is None:
        raise ValueError(
            f"the examples of {run.task_name!r} can't be found any more, and {tool} needs them; "
            "put the file back where it was"
        )
    rows = ({"prompt": example.prompt, "answer": example.answer} for example in task.train)
    files[EXAMPLES] = "".join(dumps(row, ensure_ascii=False) + "\n" for row in rows)
    with make_new_folder(folder.expanduser()) as new:
        for name, text in files.items():
            (new / name).write_text(text, encoding="utf-8")
    if json:
        as_json({"folder": folder.expanduser().absolute(), "tool": tool, "files": [*files]})
        return
    first = next(iter(files))
    say(f"{folder} now holds {', '.join(files)}. {first} says how to start.")


def _task_of(run: "Run") -> "Task | None":
    """The run's data, for the card's counts; None: they are not here any more."""
    from lora_lab.cli.resolve import task_of

    with suppress(OSError, ValueError, TypeError):
        return task_of(run).load(None)
    return None


def _scores_before(run: "Run") -> "Scores | None":
    """The base's own scores, if they were kept beside the run."""
    from lora_lab.cli.resolve import BEFORE_FILE
    from lora_lab.training.run_files import DamagedRun, read_scores

    with suppress(DamagedRun):
        return read_scores(run.path, BEFORE_FILE)
    return None

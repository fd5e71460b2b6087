"""`load_task`: a built-in task, or the user's file as a task. `list_tasks`: the built-in tasks."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.assets.downloads import ASSETS, prepared
from lora_lab.places import NotPrepared
from lora_lab.recipe import nearest
from lora_lab.tasks import files, pocket, texts
from lora_lab.tasks.examples import Task

if TYPE_CHECKING:
    from lora_lab.models.bases import Base

INVENTED, OURS = "invented by lora_lab", "Apache-2.0"  # source and licence of our own texts
NAMES = {"pocket": pocket.NAMES, "smollm2": texts.NAMES}  # base: its tasks


def load_task(
    name_or_file: str | Path,
    base: "Base | None" = None,
    *,
    prompt: str = "prompt",
    answer: str = "answer",
    n: int | None = None,
    seed: int = 0,
    test: str | Path | None = None,
    validation: str | Path | None = None,
    split_column: str | None = None,
    group_by: str | None = None,
) -> Task:
    """A built-in task, or a task from the user's CSV, TSV, JSON or JSONL file.

    Args:
        name_or_file: a name that `lora-lab tasks` lists, or a file.
        base: the base that learns the task; None: the base that the name belongs to.
        prompt: the file's column with the prompts. If no column has this name, a chat (`messages`),
            Alpaca's columns or a pair such as question and answer is taken; `about` says which.
        answer: the file's column with the right answers.
        n: training examples (`new-facts`: facts); None: the task's own number.
        seed: draws the examples and the splits that are not given.
        test: a second file, whose rows are the test.
        validation: a file, whose rows are the validation.
        split_column: the file's column that says train, validation or test of each row.
        group_by: a column of the file, such as the person who wrote a row: none of its values is in
            two splits. "template": prompts that differ only in numbers, quoted strings and
            capitalised names are one group.

    Raises:
        TypeError: if n is not a whole number.
        ValueError: for an unknown name, with the nearest; for a file that can't be used, with the
            reason; for an n below 1, or above what there is.
        FileNotFoundError: for a file that is not there.
    """
    name = str(name_or_file)
    if n is not None and (isinstance(n, bool) or not isinstance(n, int)):
        raise TypeError(f"n={n!r} is not a number of examples; give a whole number")
    if n is not None and n < 1:
        raise ValueError(f"n={n} leaves nothing to train on; give 1 or more")
    splits = {
        "test": test,
        "validation": validation,
        "split_column": split_column,
        "group_by": group_by,
    }
    in_use = next((option for option, value in splits.items() if value is not None), None)
    if in_use and (name in pocket.NAMES or name in texts.NAMES):
        raise ValueError(
            f"{in_use}={str(splits[in_use])!r} splits a file's rows, and {name!r} isn't a file: "
            "it has its own splits; leave it out"
        )
    if name in pocket.NAMES:
        if base is not None:
            check_base(name, base.name)
        return pocket.pocket_task(name, n, seed)
    if name in texts.NAMES:
        return texts.text_task(name, n, seed)
    if Path(name).suffix or os.path.exists(name):  # Path.exists fails for a long name
        return files.file_task(Path(name), prompt, answer, n, seed, **splits)
    known = (*pocket.NAMES, *texts.NAMES)
    raise ValueError(
        f"no task is called {name!r}; {nearest(name, known)}there are: {', '.join(known)}; "
        "or give a .csv, .tsv, .json or .jsonl file"
    )


def check_base(name: str, base: str) -> None:
    """Refuse one of pocket's tasks for smollm2, which has never seen pocket's invented world."""
    if name in pocket.NAMES and base == "smollm2":
        own = ", ".join(texts.NAMES)
        raise ValueError(
            f"task {name!r} is about pocket's invented world, which {base} has never seen; "
            f"give one of {own}, or take the base pocket"
        )


# --- the list -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A built-in task in a list: everything about it but its examples."""

    name: str
    base: str
    source: str
    licence: str
    prepared: bool  # False: `lora-lab prepare` has to fetch its text first
    metric: str
    train: int  # examples, unless `n` is given
    validation: int
    test: int
    about: str


def list_tasks() -> list[Listed]:
    """The built-in tasks, and whether each can be loaded now. To be quick, no task is made."""
    return [*map(_listed_pocket, pocket.NAMES), *map(_listed_text, texts.NAMES)]


def _listed_pocket(name: str) -> Listed:
    return Listed(
        name=name,
        base="pocket",
        source=INVENTED,
        licence=OURS,
        prepared=True,
        metric=pocket.metric_of(name),
        train=pocket.usual_n(name),
        validation=pocket.VALIDATION,
        test=pocket.TEST,
        about=pocket.about(name),
    )


def _listed_text(name: str) -> Listed:
    kind = texts.TASKS[name]
    text = ASSETS[kind.asset] if kind.asset else None  # None: invented
    return Listed(
        name=name,
        base="smollm2",
        source=text.source if text else INVENTED,
        licence=text.licence if text else OURS,
        prepared=text is None or _is_here(text.name),
        metric=kind.metric,
        train=kind.n,
        validation=kind.validation,
        test=kind.test,
        about=texts.about(name),
    )


def _is_here(asset: str) -> bool:
    """Whether `lora-lab prepare` has fetched an asset."""
    try:
        prepared(asset)
    except NotPrepared:
        return False
    return True

"""The content of the files in a run's folder, or in words why a file can't be read.

run.json             recipe, names, status: a run exists once this file does
checkpoint.safetensors   while it runs
records.jsonl, learnt/     once it is finished
scores.json, validation.json   once it is scored on that split
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from lora_lab import __version__
from lora_lab.models.tensor_files import check_tensors
from lora_lab.places import check_regular
from lora_lab.recipe import Recipe
from lora_lab.records import Budget, Scores, StepRecord
from lora_lab.training.early_stopping import has_ended

RUN, RECORDS, SCORES = "run.json", "records.jsonl", "scores.json"
SCORES_OF = {"test": SCORES, "validation": "validation.json"}  # the scores on each split
CHECKPOINT, LEARNED = "checkpoint.safetensors", "learnt"
UNREADABLE = (ValueError, TypeError, OverflowError, RecursionError, OSError)
RUNNING, FINISHED, DIVERGED = "running", "finished", "diverged"
Kind = TypeVar("Kind")


class DamagedRun(ValueError):
    """A stored run with a file that can't be read or is missing."""

    def __init__(self, path: Path, name: str, reason: str) -> None:
        super().__init__(path, name, reason)
        self.path = path  # the run's folder
        self.name = name  # the file in it
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"the run in {self.path} is damaged: its {self.name} {self.reason}; "
            "train it again (fit with fresh=True, or --fresh), or delete the folder"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The content of `run.json`. Fields that a later version adds are left out."""

    status: Literal["running", "finished", "diverged"]
    message: str
    recipe: dict
    base_name: str
    base_path: str
    task_name: str
    about: str
    date: str
    budget: Budget | None = None
    version: str = ""
    machine: str = ""


def read_facts(path: Path) -> tuple[RunFacts, Recipe]:
    """The content of `run.json`, and its recipe.

    Raises:
        FileNotFoundError: if there is no such file: no run.
        DamagedRun: if it can't be read.
    """
    facts = _read(path, RUN, lambda text: converted(json.loads(text), RunFacts))
    made_by = "" if facts.version in ("", __version__) else f" (lora-lab {facts.version} made it)"
    try:
        if facts.date:
            datetime.fromisoformat(facts.date).astimezone()
        return facts, Recipe(**_with_tuples(facts.recipe))
    except UNREADABLE as error:
        raise DamagedRun(path, RUN, f"says what is not known here: {error}{made_by}") from error


def read_records(path: Path, status: str, recipe: Recipe) -> tuple[StepRecord, ...]:
    """A run's records: of all its steps if the run is finished, or until its patience ended.

    Raises:
        DamagedRun: if they can't be read, or some are missing.
    """
    if status == RUNNING:
        checkpoint = read_checkpoint_facts(path)
        return checkpoint[0] if checkpoint else ()
    try:
        records = _read(path, RECORDS, _records)
    except FileNotFoundError:
        raise DamagedRun(path, RECORDS, "is missing") from None
    steps = recipe.steps
    if status == FINISHED and (len(records) > steps or not has_ended(records, recipe)):
        raise DamagedRun(path, RECORDS, f"holds {len(records)} of {steps} steps")
    return records


def read_scores(path: Path, name: str = SCORES) -> Scores | None:
    """The scores in a file of a run's folder; None: no such file.

    Raises:
        DamagedRun: if they can't be read.
    """
    try:
        return _read(path, name, lambda text: converted(json.loads(text), Scores))
    except FileNotFoundError:
        return None


def read_checkpoint_facts(path: Path) -> tuple[tuple[StepRecord, ...], dict] | None:
    """A checkpoint's records, and everything else in it but the tensors; None: no checkpoint.

    Raises:
        DamagedRun: if it can't be read.
    """
    try:
        content = json.loads(check_tensors(path / CHECKPOINT).get("run", ""))
        records = converted(content["records"], tuple[StepRecord, ...])
        return records, converted(content["words"], dict[str, object])
    except FileNotFoundError:
        return None
    except (*UNREADABLE, KeyError) as error:
        raise DamagedRun(path, CHECKPOINT, f"can't be read ({error})") from error


def converted(value: object, kind: type[Kind]) -> Kind:
    """A value that `json` has read, as a record. (msgspec's own reader knows no NaN.)

    Raises:
        ValueError: if a field is missing, or of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _read(path: Path, name: str, read: Callable[[str], Kind]) -> Kind:
    """The content of a run's file, as `read` makes it of the text."""
    try:
        check_regular(path / name)
        return read((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DamagedRun(path, name, f"can't be read ({reason})") from error


def _records(text: str) -> tuple[StepRecord, ...]:
    records = converted([json.loads(line) for line in text.splitlines()], tuple[StepRecord, ...])
    if [record.step for record in records] != list(range(1, len(records) + 1)):
        raise ValueError("its steps are not 1, 2, 3 and so on")
    return records


def _with_tuples(recipe: dict) -> dict:
    """A recipe's fields with tuples for lists, since JSON has no tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()
    }

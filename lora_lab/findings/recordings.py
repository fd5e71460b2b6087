"""Measurements, runs and sweeps of data/recorded/: made before, and kept with place and date."""

import dataclasses
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from lora_lab.models.bases import Base
from lora_lab.places import data_folder, write_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task
from lora_lab.training.store import Run, read_run, run_folders
from lora_lab.training.sweep import Sweep

PACKAGES = ("torch", "transformers", "peft", "bm25s", "lora-lab")  # their versions are kept
SCORES = ("value", "old_knowledge", "strangers", "loss")  # the scores of a run that are kept
QUESTIONS = 200  # the most taught facts, and the most old facts, in a sweep's test


def _recorded_folder() -> Path:
    return data_folder() / "recorded"


# --- files ----------------------------------------------------------------------------------


def write_record(path: Path, contents: Mapping[str, object], device: str) -> None:
    """Write a record as one whole JSON file, with the device, the versions and today's date."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    date = datetime.now(UTC).date().isoformat()
    record = {**contents, "device": device, "versions": versions, "date": date}
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict:
    """The contents of a record, with its `device`, `versions` and `date`."""
    return json.loads(path.read_text(encoding="utf-8"))


def kept_scores(scores: Scores | None) -> dict[str, float | None]:
    """The scores that a record keeps; each is None if the run was not scored.

    `value` is the task's metric, 0 to 1; `loss` is in nats per answer token of the test split.
    """
    return {name: getattr(scores, name) if scores else None for name in SCORES}


def _of_each_seed(names: Iterable[str], name: str) -> list[str]:
    """The names that are `name` and a seed: "home-commands-0", "home-commands-1", …"""
    parts = {full: full.rpartition("-") for full in names}
    return [full for full, (start, _, seed) in parts.items() if start == name and seed.isdigit()]


# --- measurements ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A measurement that was made before and kept."""

    settings: Mapping[str, object]  # written down before there were results
    rows: tuple[Mapping[str, object], ...]  # the results, a row each
    device: str
    versions: Mapping[str, str]
    date: str  # "2026-11-26"

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(self.rows)


def keep_recording(
    path: Path, settings: Mapping[str, object], rows: Iterable[Mapping], device: str
) -> None:
    """Write a measurement to a file once it is complete. It must hold no adapter and nobody's text.

    Args:
        path: `data/recorded/<folder>/<name>.json`, for the course's own.
        settings: what was measured: a table of the folder's TOML file.
        rows: the results; an iterator is measured to its end first.
        device: the machine.
    """
    write_record(path, {"settings": settings, "rows": [*rows]}, device)


def recorded_names() -> tuple[str, ...]:
    """The measurements that data/recorded/ holds: "target_modules/facts", and so on."""
    settings = sorted(_recorded_folder().glob("*.toml"))  # rank.toml: rank/*.json
    files = [file for toml in settings for file in sorted(toml.with_suffix("").glob("*.json"))]
    return tuple(f"{file.parent.name}/{file.stem}" for file in files)


def recording(name: str) -> Recording:
    """A measurement of data/recorded/ by its name: "target_modules/facts".

    Raises:
        ValueError: if there is none with this name, with the nearest name.
    """
    known = recorded_names()
    if name not in known:
        raise ValueError(
            f"nothing was recorded as {name!r}; {nearest(name, known)}there are: "
            f"{', '.join(known)}; `make recorded` measures what is missing"
        )
    record = read_record(_recorded_folder() / f"{name}.json")
    return Recording(**record | {"rows": tuple(record["rows"])})


# --- runs -----------------------------------------------------------------------------------


def recorded_runs(name: str) -> tuple[Run, ...]:
    """The runs of data/recorded/ with this name, a run for each seed, with its date and machine.

    They hold records and scores, no adapter and no answers.

    Raises:
        ValueError: if there is none with this name, with the nearest name.
    """
    folders = {path.name: path for path in run_folders(_recorded_folder())}
    of_each_seed = _of_each_seed(folders, name)
    if not of_each_seed:
        names = {full.rpartition("-")[0] for full in folders}
        raise ValueError(
            f"no run was recorded as {name!r}; {nearest(name, tuple(names))}"
            f"there are: {', '.join(sorted(names))}"
        )
    return tuple(read_run(folders[full]) for full in of_each_seed)


# --- sweeps that take too long for a notebook -----------------------------------------------


def recipes_of(plan: Mapping) -> list[Recipe]:
    """Every setting of a plan with every learning rate, settings first. The seeds are the sweep's.

    A plan of data/recorded/rank.toml was committed before its results. It has `task`, `n`,
    `common` (recipe fields), `settings` (changes of them), `learning_rates` and `seeds`. With
    `asked_as_taught` the test is made of training examples; with `strangers` the model is asked
    about them, too.
    """
    return [
        Recipe(**plan["common"] | changes, learning_rate=rate)
        for changes in plan["settings"]
        for rate in plan["learning_rates"]
    ]


def task_of(plan: Mapping, base: Base) -> Task:
    """The task of a plan, with questions about strangers only if the sweep is about them."""
    task = load_task(plan["task"], base, n=plan["n"])
    if plan.get("asked_as_taught"):
        test = task.train[:QUESTIONS]
        return dataclasses.replace(task, test=test, old_knowledge=[], strangers=[])
    old_knowledge = task.old_knowledge[:QUESTIONS]
    strangers = task.strangers if plan.get("strangers") else []
    return dataclasses.replace(task, old_knowledge=old_knowledge, strangers=strangers)


def record_sweep(sweep: Sweep, plan: Mapping, base: Base, path: Path) -> None:
    """Write a sweep's scores, with its plan, place and date; no adapters and no answers."""
    rows = (
        {name: getattr(run.recipe, name) for name in _varying_fields(plan["settings"])}
        | kept_scores(run.scores)
        | {"metric": run.scores and run.scores.metric_name, "status": run.status}
        for run in sweep.runs
    )
    keep_recording(path, plan, rows, base.about)


def recorded_sweep(name: str) -> Sweep:
    """A sweep of data/recorded/rank/: its table and its confounds, no adapters and no records.

    Raises:
        ValueError: if there is none with this name, with the nearest name.
    """
    record = recording(f"rank/{name}")
    return Sweep(tuple(_recorded_run(row, record) for row in record.rows))


def _varying_fields(settings: Sequence[Mapping]) -> list[str]:
    """The recipe fields in which the runs of a sweep may differ."""
    fields = (name for changes in settings for name in changes)
    return [*dict.fromkeys(fields), "learning_rate", "seed"]


def _recorded_run(row: Mapping, record: Recording) -> Run:
    plan = record.settings
    varying = {name: row[name] for name in _varying_fields(plan["settings"])}
    return run_of_scores(
        Recipe(**plan["common"] | varying),
        row,
        base_name="pocket",
        task_name=plan["task"],
        about=record.device,
        date=record.date,
    )


def run_of_scores(recipe: Recipe, row: Mapping, **facts: str) -> Run:
    """A run of which only the scores were kept: no records, no answers and no adapter.

    Args:
        recipe: how it was trained.
        row: its `status`, its `metric` (None: it was not scored) and what `kept_scores` gives.
        facts: the base's and the task's name, `about` and `date`, as in Run.
    """
    metric = row["metric"]
    scores = metric and Scores(
        metric_name=metric,
        metrics={metric: row["value"]},
        answers=(),
        split="test",
        **{name: row[name] for name in SCORES},
    )
    return Run(
        recipe=recipe,
        records=(),
        scores=scores,
        path=None,
        replayed=True,
        status=row["status"],
        **facts,
    )

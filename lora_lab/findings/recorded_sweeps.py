"""Sweeps that were made before, too long for a notebook: `data/recorded/rank.toml` says which."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lora_lab.findings.recordings import Recording, keep_recording, recording
from lora_lab.models.bases import Base
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task
from lora_lab.training.store import Run
from lora_lab.training.sweep import Sweep

TOLD = ("value", "old_knowledge", "strangers", "loss")  # of a run's scores
ASKED = 200  # facts at most: of those taught, where these are asked, and of the old ones


def recorded_settings() -> dict[str, dict]:
    """What data/recorded/rank.toml asks for, by name; it was committed before there were results.

    Of each: `task`, `n`, `common` (recipe fields), `settings` (changes of them), `learning_rates`
    and `seeds`, each setting being tried with all of both; `asked_as_taught`: the test is made of
    the training examples; `strangers`: they are asked, too.
    """
    text = (data_folder() / "recorded" / "rank.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def recipes_of(wanted: dict) -> list[Recipe]:
    """Every setting with every learning rate, settings first. The seeds are the sweep's."""
    return [
        Recipe(**wanted["common"] | changes, learning_rate=rate)
        for changes in wanted["settings"]
        for rate in wanted["learning_rates"]
    ]


def task_of(wanted: dict, base: Base) -> Task:
    """What is learnt, and asked afterwards: strangers only where the sweep is about them."""
    task = load_task(wanted["task"], base, n=wanted["n"])
    if wanted.get("asked_as_taught"):
        return dataclasses.replace(task, test=task.train[:ASKED], old_knowledge=[], strangers=[])
    strangers = task.strangers if wanted.get("strangers") else []
    return dataclasses.replace(task, old_knowledge=task.old_knowledge[:ASKED], strangers=strangers)


def record_sweep(sweep: Sweep, wanted: dict, base: Base, path: Path) -> None:
    """Keep what a sweep scored, with what was asked for, where and when: no adapter, no answers."""
    rows = (
        {name: getattr(run.recipe, name) for name in _varying(wanted)}
        | {name: run.scores and getattr(run.scores, name) for name in TOLD}
        | {"metric": run.scores and run.scores.metric_name, "status": run.status}
        for run in sweep.runs
    )
    keep_recording(path, wanted, rows, base.about)


def recorded_sweep(name: str) -> Sweep:
    """A sweep of data/recorded/rank/: its table and its confounds, no adapters and no records.

    Raises:
        ValueError: if none is called so, with the nearest name.
    """
    made = recording(f"rank/{name}")
    return Sweep(tuple(_read(one, made) for one in made.rows))


def _varying(wanted: dict) -> list[str]:
    """The recipe fields in which the runs may differ."""
    fields = (name for changes in wanted["settings"] for name in changes)
    return [*dict.fromkeys(fields), "learning_rate", "seed"]


def _read(told: Mapping, made: Recording) -> Run:
    wanted = made.settings
    recipe = Recipe(**wanted["common"] | {name: told[name] for name in _varying(wanted)})
    scores = None
    if told["metric"]:
        scores = Scores(
            metric_name=told["metric"],
            metrics={told["metric"]: told["value"]},
            answers=(),
            split="test",
            **{one: told[one] for one in TOLD},
        )
    return Run(
        recipe=recipe,
        records=(),
        scores=scores,
        base_name="pocket",
        task_name=wanted["task"],
        path=None,
        replayed=True,
        status=told["status"],
        about=made.device,
        date=made.date,
    )

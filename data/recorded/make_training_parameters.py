"""Measure what training_parameters.toml asks for and is not here yet; keep what came out.

Each becomes training_parameters/<name>.json, a row a run. Runs go into the store, so that a
measurement that was stopped goes on.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path

from asking import asked_for
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.findings.recorded_sweeps import recipes_of, task_of
from lora_lab.findings.recordings import keep_recording
from lora_lab.lessons.weight_change import relative_changes
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.training.store import FINISHED

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("training_parameters.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name in wanted:
        path = HERE / "training_parameters" / f"{name}.json"
        if fresh or not path.exists():
            keep_recording(path, wanted[name], runs(base, name, wanted[name]), base.about)


def runs(base: Base, name: str, wanted: dict) -> Iterator[dict]:
    """Each setting with each learning rate and seed: its losses, its scores, how far it went."""
    task = task_of(wanted, base)
    changed = ["learning_rate", *dict.fromkeys(one for made in wanted["settings"] for one in made)]
    for recipe in tqdm([*recipes_at_their_end(wanted)], desc=name, unit="run"):
        (run,) = lab.sweep(base, task, [recipe], seeds=[recipe.seed], engine="sequential").runs
        row = {one: getattr(recipe, one) for one in (*changed, "seed")} | {"status": run.status}
        done = run.status == FINISHED
        row["validation_loss"] = run.records[-1].validation_loss if done else None
        for told in ("value", "old_knowledge", "loss"):
            row[told] = getattr(run.scores, told) if run.scores else None
        row["change"] = statistics.mean(relative_changes(base, run.model).values())
        yield row


def recipes_at_their_end(wanted: dict) -> Iterator[Recipe]:
    """What is trained, seed by seed, with a validation after the last step."""
    for recipe in recipes_of(wanted):
        for seed in wanted["seeds"]:
            yield dataclasses.replace(recipe, eval_steps=recipe.steps, seed=seed)


if __name__ == "__main__":
    main()

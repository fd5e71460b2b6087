"""Make the recordings of training_parameters.toml that are missing: settings compared.

Each becomes training_parameters/<name>.json, with a row for each run. Runs go into the store, so
that a measurement that was stopped goes on.
"""

import dataclasses
import statistics
from collections.abc import Iterator

from plans import chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.findings.recordings import recipes_of, task_of
from lora_lab.lessons.weight_change import relative_changes
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.training.store import FINISHED


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("training_parameters.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    record_missing(
        "training_parameters",
        plans,
        fresh,
        base.about,
        lambda name, plan: rows(base, name, plan),
    )


def rows(base: Base, name: str, plan: dict) -> Iterator[dict]:
    """Each setting with each learning rate and seed: losses, scores, relative weight change."""
    task = task_of(plan, base)
    changed = [field for changes in plan["settings"] for field in changes]
    fields = [*dict.fromkeys(["learning_rate", *changed, "seed"])]
    for recipe in tqdm([*recipes_with_validation(plan)], desc=name, unit="run"):
        (run,) = lab.sweep(base, task, [recipe], seeds=[recipe.seed], engine="sequential").runs
        row = {field: getattr(recipe, field) for field in fields} | {"status": run.status}
        finished = run.status == FINISHED
        row["validation_loss"] = run.records[-1].validation_loss if finished else None
        for score in ("value", "old_knowledge", "loss"):
            row[score] = getattr(run.scores, score) if run.scores else None
        row["change"] = statistics.mean(relative_changes(base, run.model).values())
        yield row


def recipes_with_validation(plan: dict) -> Iterator[Recipe]:
    """The recipes of a plan, seed by seed, with a validation after the last step."""
    for recipe in recipes_of(plan):
        for seed in plan["seeds"]:
            yield dataclasses.replace(recipe, eval_steps=recipe.steps, seed=seed)


if __name__ == "__main__":
    main()

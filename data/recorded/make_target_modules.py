"""Measure what target_modules.toml asks for and is not here yet; keep what came out.

target_modules/facts.json, facts-faster.json: each set of modules at each learning rate.
target_modules/planted.json, planted-more.json: where the change grew, and where it was planted.
"""

import itertools
import math
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from asking import asked_for
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.findings.recordings import keep_recording
from lora_lab.lessons.weight_change import relative_changes
from lora_lab.models.bases import Base
from lora_lab.training.store import FINISHED, Run

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("target_modules.toml", __doc__)
    makers = {"facts": facts, "planted": planted}
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name in wanted:
        path = HERE / "target_modules" / f"{name}.json"
        if fresh or not path.exists():
            maker = makers[name.partition("-")[0]]
            keep_recording(path, wanted[name], maker(base, wanted[name]), base.about)


def facts(base: Base, wanted: dict) -> Iterator[dict]:
    """Each setting at each learning rate; at its best one, by the validation, also the test.

    Runs are kept in the store: a measurement that was stopped goes on.
    """
    tasks = {
        seed: lab.load_task(wanted["task"], base, n=wanted["n"], seed=seed)
        for seed in wanted["seeds"]
    }
    for name, changes in tqdm(wanted["settings"].items(), desc="facts", unit="setting"):
        tried = {}
        for rate in wanted["learning_rates"]:
            recipe = lab.Recipe(**wanted["common"], **changes, learning_rate=rate)
            tried[rate] = [
                lab.sweep(base, task, [recipe], seeds=[seed], evaluate=False).runs[0]
                for seed, task in tasks.items()
            ]
        losses = {rate: statistics.mean(map(last_loss, runs)) for rate, runs in tried.items()}
        best = min(losses, key=losses.get)
        for rate, runs in tried.items():
            for seed, run in zip(tasks, runs, strict=True):
                row = {"setting": name, "seed": seed, "learning_rate": rate, "status": run.status}
                row["trained"] = lab.estimate(base, run.recipe).trainable_parameters
                row["validation_loss"] = last_loss(run)
                scores = lab.evaluate(run, tasks[seed]) if rate == best else None
                row["value"] = scores and scores.value
                row["old_knowledge"] = scores and scores.old_knowledge
                yield row


def last_loss(run: Run) -> float:
    """The validation loss after the last step; infinite for a run that diverged."""
    last = run.records[-1].validation_loss if run.records else None
    return math.inf if last is None or run.status != FINISHED else last


def planted(base: Base, wanted: dict) -> Iterator[dict]:
    """Each kind of module with a change planted in one layer, and a student with LoRA on all."""
    teachers = list(itertools.product(wanted["modules"], wanted["seeds"]))
    for module, seed in tqdm(teachers, desc="planted", unit="teacher"):
        layer = random.Random(f"{module} {seed}").randrange(4)
        task = lab.planted_task(
            base, r=wanted["r"], target_modules=module, layers=(layer,), seed=seed
        )
        (place,) = task.teacher
        student = lab.fit(base, task, lab.Recipe(**wanted["recipe"], seed=seed))
        yield {
            "planted": place,
            "seed": seed,
            "changes": relative_changes(base, student.model),
            "base": lab.evaluate(base, task).value,
            "student": student.scores.value,
        }


if __name__ == "__main__":
    main()

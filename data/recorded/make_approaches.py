"""Measure what approaches.toml asks for and is not here yet; keep what came out.

approaches/<table>-<seed>.json: scores by number of training examples.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from plans import chosen_plans

import lora_lab as lab
from lora_lab.findings.recordings import keep_recording
from lora_lab.models.bases import Base

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("approaches.toml", __doc__)
    for name, plan in plans.items():
        for seed in plan["seeds"]:
            path = HERE / "approaches" / f"{name}-{seed}.json"
            if path.exists() and not fresh:
                continue
            base = lab.load_base("pocket", device="cpu", dtype="float32")
            keep_recording(path, plan, curves(base, plan, seed), base.about)


def curves(base: Base, plan: dict, seed: int) -> Iterator[dict]:
    """Every task and number of examples; a seed draws its own examples and test."""
    for name in plan["tasks"]:
        for n in plan["n"]:
            task = lab.load_task(name, base, n=n, seed=seed)
            recipe = lab.Recipe(**plan["recipe"], seed=seed)
            run = lab.fit(base, task, recipe, store=None, evaluate=False)
            test_alone = dataclasses.replace(task, old_knowledge=(), strangers=())
            scores = lab.evaluate(run, test_alone)
            facts = {"task": name, "n": n, "seed": seed}
            yield facts | {"metric": scores.metric_name, "value": scores.value}


if __name__ == "__main__":
    main()

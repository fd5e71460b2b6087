"""Make the recordings of target_modules.toml that are missing: modules compared.

target_modules/facts.json, facts-faster.json: each set of modules at each learning rate.
target_modules/planted.json, planted-more.json: where the change grew, and where it was planted.
"""

import itertools
import random
from collections.abc import Iterator

from learning_rates import runs_at_each_rate, scores_on_test
from plans import chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.lessons.weight_change import relative_changes
from lora_lab.models.bases import Base


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("target_modules.toml", __doc__)
    makers = {"facts": facts, "planted": planted}
    base = lab.load_base("pocket", device="cpu", dtype="float32")

    def rows(name: str, plan: dict) -> Iterator[dict]:
        return makers[name.partition("-")[0]](base, plan)

    record_missing("target_modules", plans, fresh, base.about, rows)


def facts(base: Base, plan: dict) -> Iterator[dict]:
    """Each set of modules at each learning rate; at the best rate, the test's scores too."""
    tasks = {
        seed: lab.load_task(plan["task"], base, n=plan["n"], seed=seed) for seed in plan["seeds"]
    }
    for name, changes in tqdm(plan["settings"].items(), desc="facts", unit="setting"):
        fields = plan["common"] | changes
        runs = runs_at_each_rate(base, tasks, fields, plan["learning_rates"])
        for run, task, best, row in runs:
            trained = lab.estimate(base, run.recipe).trainable_parameters
            scores = scores_on_test(run, task) if best else {"value": None, "old_knowledge": None}
            yield {"setting": name} | row | {"trained": trained} | scores


def planted(base: Base, plan: dict) -> Iterator[dict]:
    """Each kind of module with a change planted in a layer, and a student with LoRA on all."""
    teachers = list(itertools.product(plan["modules"], plan["seeds"]))
    for module, seed in tqdm(teachers, desc="planted", unit="teacher"):
        layer = random.Random(f"{module} {seed}").randrange(4)
        task = lab.planted_task(
            base, r=plan["r"], target_modules=module, layers=(layer,), seed=seed
        )
        (place,) = task.teacher
        student = lab.fit(base, task, lab.Recipe(**plan["recipe"], seed=seed))
        yield {
            "planted": place,
            "seed": seed,
            "changes": relative_changes(base, student.model),
            "base": lab.evaluate(base, task).value,
            "student": student.scores.value,
        }


if __name__ == "__main__":
    main()

"""Make the recordings of adalora.toml that are missing: AdaLoRA beside LoRA.

adalora/facts.json, adalora/uneven.json: AdaLoRA beside LoRA, each at every learning rate.
adalora/planted.json: the ranks that AdaLoRA gave, and those that were planted.
"""

import itertools
import random
from collections.abc import Iterator

from learning_rates import runs_at_each_rate, scores_on_test
from plans import chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.lessons.cutting import cut
from lora_lab.models.architecture import adapted_matrices
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.tasks.examples import Task
from lora_lab.tasks.planted import planted_ranks
from lora_lab.training.adalora import last_ranks


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("adalora.toml", __doc__)
    makers = {"facts": compared, "uneven": compared, "planted": planted}
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    record_missing("adalora", plans, fresh, base.about, lambda name, plan: makers[name](base, plan))


def compared(base: Base, plan: dict) -> Iterator[dict]:
    """Each setting at each of its learning rates; at the best rate, the test's scores too."""
    tasks = {seed: _task(base, plan, seed) for seed in plan["seeds"]}
    for name, setting in tqdm(plan["settings"].items(), desc="settings", unit="setting"):
        fields = plan["common"] | setting
        rates = fields.pop("learning_rates")
        for run, task, best, facts in runs_at_each_rate(base, tasks, fields, rates):
            row = {"setting": name} | facts | {"ranks": last_ranks(run.records)}
            yield row | (scores_on_test(run, task) if best else {})
            if best and name in plan["cut"]:
                k = plan["cut"][name]
                yield row | {"setting": f"{name}, cut to {k}"} | scores_on_test(cut(run, k), task)


def _task(base: Base, plan: dict, seed: int) -> Task:
    if "teacher" in plan:
        return planted_ranks(base, hidden(base, plan["teacher"], seed), n=plan["n"], seed=seed)
    return lab.load_task(plan["task"], base, n=plan["n"], seed=seed)


def planted(base: Base, plan: dict) -> Iterator[dict]:
    """Each teacher with each seed, and the ranks that AdaLoRA gave a student on all matrices."""
    runs = list(itertools.product(plan["teachers"], plan["seeds"]))
    for teacher, seed in tqdm(runs, desc="planted", unit="run"):
        ranks = hidden(base, teacher, seed)
        task = planted_ranks(base, ranks, n=plan["n"], seed=seed)
        student = lab.fit(base, task, lab.Recipe(**plan["recipe"], seed=seed))
        yield {
            "teacher": teacher,
            "seed": seed,
            "planted": ranks,
            "ranks": last_ranks(student.records),
            "base": lab.evaluate(base, task).value,
            "student": student.scores.value,
        }


def hidden(base: Base, teacher: str, seed: int) -> dict[str, int]:
    """The ranks that a teacher of this name hides, by whole module name."""
    names = [
        layer.name for layer in adapted_matrices(modules_of(base.model, base.name), lab.Recipe())
    ]
    if teacher == "everywhere":
        return dict.fromkeys(names, 1)
    if teacher == "q and k":
        return {name: 4 for name in names if name.endswith(("q_proj", "k_proj"))}
    ranks = {"one": [6], "uneven": [6, 6, 6, 6, 2, 2]}[teacher]
    drawn = random.Random(f"{teacher} {seed}").sample(names, len(ranks))
    return dict(zip(drawn, ranks, strict=True))


if __name__ == "__main__":
    main()

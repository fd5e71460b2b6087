"""Measure what adalora.toml asks for and is not here yet; keep what came out.

adalora/facts.json, adalora/uneven.json: AdaLoRA beside LoRA, each at every learning rate.
adalora/planted.json: the ranks that AdaLoRA gave, and those that were planted.
"""

import itertools
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

from asking import asked_for
from make_target_modules import last_loss
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.findings.recordings import keep_recording
from lora_lab.lessons.cutting import cut
from lora_lab.models.architecture import adapted
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.tasks.examples import Task
from lora_lab.tasks.planted import planted_ranks
from lora_lab.training.adalora import last_ranks
from lora_lab.training.store import Run

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("adalora.toml", __doc__)
    makers = {"facts": compared, "uneven": compared, "planted": planted}
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name in wanted:
        path = HERE / "adalora" / f"{name}.json"
        if fresh or not path.exists():
            keep_recording(path, wanted[name], makers[name](base, wanted[name]), base.about)


def compared(base: Base, wanted: dict) -> Iterator[dict]:
    """Each setting at each of its rates; at its best one, by the validation, also the test.

    Runs are kept in the store: a measurement that was stopped goes on.
    """
    tasks = {seed: _task(base, wanted, seed) for seed in wanted["seeds"]}
    for name, setting in tqdm(wanted["settings"].items(), desc="settings", unit="setting"):
        changes = dict(setting)
        tried = {
            rate: _runs(base, tasks, lab.Recipe(**wanted["common"], **changes, learning_rate=rate))
            for rate in changes.pop("learning_rates")
        }
        losses = {rate: statistics.mean(map(last_loss, runs)) for rate, runs in tried.items()}
        best = min(losses, key=losses.get)
        for rate, runs in tried.items():
            for (seed, task), run in zip(tasks.items(), runs, strict=True):
                row = {"setting": name, "seed": seed, "learning_rate": rate, "status": run.status}
                row |= {"validation_loss": last_loss(run), "ranks": last_ranks(run.records)}
                yield row | (_scored(run, task) if rate == best else {})
                if rate == best and name in wanted["cut"]:
                    k = wanted["cut"][name]
                    yield row | {"setting": f"{name}, cut to {k}"} | _scored(cut(run, k), task)


def _task(base: Base, wanted: dict, seed: int) -> Task:
    if "teacher" in wanted:
        return planted_ranks(base, hidden(base, wanted["teacher"], seed), n=wanted["n"], seed=seed)
    return lab.load_task(wanted["task"], base, n=wanted["n"], seed=seed)


def _runs(base: Base, tasks: dict[int, Task], recipe: lab.Recipe) -> list[Run]:
    return [
        lab.sweep(base, task, [recipe], seeds=[seed], evaluate=False).runs[0]
        for seed, task in tasks.items()
    ]


def _scored(model: object, task: Task) -> dict[str, float | None]:
    scores = lab.evaluate(model, task)
    return {"value": scores.value, "old_knowledge": scores.old_knowledge}


def planted(base: Base, wanted: dict) -> Iterator[dict]:
    """Each teacher with each seed, and the ranks that a student with AdaLoRA on all got."""
    runs = list(itertools.product(wanted["teachers"], wanted["seeds"]))
    for teacher, seed in tqdm(runs, desc="planted", unit="run"):
        ranks = hidden(base, teacher, seed)
        task = planted_ranks(base, ranks, n=wanted["n"], seed=seed)
        student = lab.fit(base, task, lab.Recipe(**wanted["recipe"], seed=seed))
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
    names = [one.name for one in adapted(modules_of(base.model, base.name), lab.Recipe())]
    if teacher == "everywhere":
        return dict.fromkeys(names, 1)
    if teacher == "q and k":
        return {name: 4 for name in names if name.endswith(("q_proj", "k_proj"))}
    ranks = {"one": [6], "uneven": [6, 6, 6, 6, 2, 2]}[teacher]
    drawn = random.Random(f"{teacher} {seed}").sample(names, len(ranks))
    return dict(zip(drawn, ranks, strict=True))


if __name__ == "__main__":
    main()

"""Measure what approaches.toml asks for and is not here yet; keep what came out.

approaches/<table>-<seed>.json: one test asked in several ways (answers are marked and not kept, as
their prompts are other people's text), or scores by number of training examples.
"""

import copy
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from asking import asked_for

import lora_lab as lab
from lora_lab.assets import downloads
from lora_lab.findings.recordings import keep_recording
from lora_lab.lessons.approaches import Tried, few_shot, retrieved, try_approach
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import Model
from lora_lab.training.store import Run

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("approaches.toml", __doc__)
    makers = {
        "home-commands": (smollm2_approaches, "smollm2"),
        "home-commands-longer": (longer, "smollm2"),
        "curves": (curves, "pocket"),
    }
    for name in wanted:
        make, base_name = makers[name]
        for seed in wanted[name]["seeds"]:
            path = HERE / "approaches" / f"{name}-{seed}.json"
            if path.exists() and not fresh:
                continue
            base = lab.load_base(base_name, device="cpu", dtype="float32")
            keep_recording(path, wanted[name], make(base, wanted[name], seed), base.about)


def smollm2_approaches(base: Base, wanted: dict, seed: int) -> Iterator[dict]:
    """Every approach on the test of one seed."""
    task = lab.load_task(wanted["task"], base, seed=seed)
    questions = [one.prompt for one in task.test]
    intents = sorted({one["intent"] for one in downloads.rows(wanted["task"])})
    instruction = wanted["instruction"].format(intents=", ".join(intents))
    yield row(try_approach("bare", base, task))
    told = [f"{instruction}\n\n{question}" for question in questions]
    yield row(try_approach("zero-shot", base, task, told))
    few = [*map(few_shot(base.tokenizer, task, wanted["shots"]), questions)]
    yield row(try_approach("few-shot", base, task, few))
    begun = time.process_time()
    near = retrieved(base.tokenizer, task, wanted["shots"])
    found = [near(question) for question in questions]
    spent = time.process_time() - begun
    yield row(try_approach("retrieval", base, task, found, setup_seconds=spent))
    wrong = asked_in(wanted["wrong_template"], base)
    near = retrieved(wrong.tokenizer, task, wanted["shots"])
    found = [near(question) for question in questions]
    yield row(try_approach("retrieval, wrong template", wrong, task, found, setup_seconds=spent))
    run, told = trained(base, task, wanted["steps"], seed)
    yield row(try_approach("LoRA", run, task, setup_seconds=told["setup_seconds"])) | told
    wrong = asked_in(wanted["wrong_template"], run)
    yield row(try_approach("LoRA, wrong template", wrong, task)) | told


def longer(base: Base, wanted: dict, seed: int) -> Iterator[dict]:
    """LoRA with other steps, on the test of one seed."""
    task = lab.load_task(wanted["task"], base, seed=seed)
    run, told = trained(base, task, wanted["steps"], seed)
    yield row(try_approach(f"LoRA, {wanted['steps']} steps", run, task)) | told


def trained(base: Base, task: Task, steps: int, seed: int) -> tuple[Run, dict]:
    """The task's own recipe with so many steps; and what it told."""
    recipe = dataclasses.replace(task.recipe, steps=steps, seed=seed)
    begun = time.process_time()
    run = lab.fit(base, task, recipe, store=None, evaluate=False)
    spent = time.process_time() - begun
    losses = [one.loss for one in run.records]
    return run, {
        "recipe": dataclasses.asdict(recipe),
        "losses": losses,
        "setup_seconds": spent,
    }


@dataclasses.dataclass
class Asked:
    """Something to ask, in a chat format of one's own."""

    model: object
    tokenizer: object


def asked_in(template: str, model: Model) -> Asked:
    """What answers as `model` does, but is asked in another chat format."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    return Asked(model.model, tokenizer)


def row(tried: Tried) -> dict:
    """A result as JSON has it."""
    return dataclasses.asdict(tried) | {"right": [*map(int, tried.right)]}


def curves(base: Base, wanted: dict, seed: int) -> Iterator[dict]:
    """Every task and number of examples; a seed draws its own examples and test."""
    for name in wanted["tasks"]:
        for n in wanted["n"]:
            task = lab.load_task(name, base, n=n, seed=seed)
            recipe = lab.Recipe(**wanted["recipe"], seed=seed)
            run = lab.fit(base, task, recipe, store=None, evaluate=False)
            test_alone = dataclasses.replace(task, old_knowledge=(), strangers=())
            scores = lab.evaluate(run, test_alone)
            facts = {"task": name, "n": n, "seed": seed, "metric": scores.metric_name}
            yield facts | {"value": scores.value}


if __name__ == "__main__":
    main()

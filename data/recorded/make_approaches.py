"""Measure what approaches.toml asks for and is not here yet; keep what came out.

approaches/<table>-<seed>.json: one test asked in several ways (answers are marked and not kept, as
their prompts are other people's text), or scores by number of training examples.
"""

import copy
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from plans import chosen_plans

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
    plans, fresh = chosen_plans("approaches.toml", __doc__)
    makers = {
        "home-commands": (smollm2_approaches, "smollm2"),
        "home-commands-longer": (longer, "smollm2"),
        "curves": (curves, "pocket"),
    }
    for name, plan in plans.items():
        make, base_name = makers[name]
        for seed in plan["seeds"]:
            path = HERE / "approaches" / f"{name}-{seed}.json"
            if path.exists() and not fresh:
                continue
            base = lab.load_base(base_name, device="cpu", dtype="float32")
            keep_recording(path, plan, make(base, plan, seed), base.about)


def smollm2_approaches(base: Base, plan: dict, seed: int) -> Iterator[dict]:
    """Every approach on the test of one seed."""
    task = lab.load_task(plan["task"], base, seed=seed)
    questions = [example.prompt for example in task.test]
    intents = sorted({command["intent"] for command in downloads.rows(plan["task"])})
    instruction = plan["instruction"].format(intents=", ".join(intents))
    yield row(try_approach("bare", base, task))
    instructed = [f"{instruction}\n\n{question}" for question in questions]
    yield row(try_approach("zero-shot", base, task, instructed))
    prompts = [*map(few_shot(base.tokenizer, task, plan["shots"]), questions)]
    yield row(try_approach("few-shot", base, task, prompts))
    start = time.process_time()
    prompts = [*map(retrieved(base.tokenizer, task, plan["shots"]), questions)]
    seconds = time.process_time() - start
    yield row(try_approach("retrieval", base, task, prompts, setup_seconds=seconds))
    wrong = with_template(plan["wrong_template"], base)
    prompts = [*map(retrieved(wrong.tokenizer, task, plan["shots"]), questions)]
    name = "retrieval, wrong template"
    yield row(try_approach(name, wrong, task, prompts, setup_seconds=seconds))
    run, facts = trained(base, task, plan["steps"], seed)
    yield row(try_approach("LoRA", run, task, setup_seconds=facts["setup_seconds"])) | facts
    wrong = with_template(plan["wrong_template"], run)
    yield row(try_approach("LoRA, wrong template", wrong, task)) | facts


def longer(base: Base, plan: dict, seed: int) -> Iterator[dict]:
    """LoRA with other steps, on the test of one seed."""
    task = lab.load_task(plan["task"], base, seed=seed)
    run, facts = trained(base, task, plan["steps"], seed)
    yield row(try_approach(f"LoRA, {plan['steps']} steps", run, task)) | facts


def trained(base: Base, task: Task, steps: int, seed: int) -> tuple[Run, dict]:
    """A run of the task's own recipe with so many steps, and the facts to record of it."""
    recipe = dataclasses.replace(task.recipe, steps=steps, seed=seed)
    start = time.process_time()
    run = lab.fit(base, task, recipe, store=None, evaluate=False)
    seconds = time.process_time() - start
    return run, {
        "recipe": dataclasses.asdict(recipe),
        "losses": [record.loss for record in run.records],
        "setup_seconds": seconds,
    }


@dataclasses.dataclass
class Chat:
    """A model with a tokenizer whose chat format is not the model's own."""

    model: object
    tokenizer: object


def with_template(template: str, model: Model) -> Chat:
    """The model behind another chat format."""
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = template
    return Chat(model.model, tokenizer)


def row(tried: Tried) -> dict:
    """A result as a row of JSON."""
    return dataclasses.asdict(tried) | {"right": [*map(int, tried.right)]}


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

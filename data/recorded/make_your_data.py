"""Make the recordings of your_data.toml that are missing: lesson 14 on smollm2, leaks, picks.

Each becomes your_data/<name>.json.
"""

import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from plans import HERE, chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.decision.asking import Asked
from lora_lab.lessons import your_data
from lora_lab.lessons.deciding import Situation
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import Task

FILE = HERE.parent / "your_data" / "comments.csv"


def task_for(base: Base, seed: int = 0) -> Task:
    """The mended file as a task, split by template."""
    mended = lab.mend_data(
        FILE, tempfile.mkdtemp(), base.tokenizer, prompt="comment", answer="kind"
    )
    return lab.load_task(mended.path, base, group_by="template", seed=seed)


def row_of(part: str, asked: Asked) -> dict:
    """A way and its answers, as a row."""
    low, high = asked.interval
    numbers = {"right": asked.right, "asked": asked.count, "low": low, "high": high}
    choice = "" if asked.name == "instruction" else asked.choice
    costs = {"tokens": asked.prompt_tokens, "seconds": asked.seconds}
    return {"part": part, "way": asked.name, "choice": choice, **numbers, **costs}


def whole_path(plan: dict) -> Iterator[dict]:
    """The lesson's path on smollm2: a row for each way on validation, then for the test."""
    base = lab.load_base("smollm2", device="cpu")
    task = task_for(base)
    needs = Situation(goal="format", needed=plan["needed"])
    options = {"minutes": plan["minutes"], "situation": needs, "store": tempfile.mkdtemp()}
    decision = lab.decide(base, task, test=False, tell=print, **options)
    for asked in decision.tried:
        yield row_of("way", asked)
    for name, why in decision.left_out.items():
        yield {"part": "left out", "way": name, "why": why}
    decision = lab.final_test(base, decision)
    yield row_of("test", decision.test)
    if decision.bare_test is not None:
        yield row_of("test", decision.bare_test)


def leaks(plan: dict) -> Iterator[dict]:
    """A row for each seed and split."""
    base = lab.load_base(plan["base"], device="cpu")
    for seed in tqdm(plan["seeds"]):
        for split, found in your_data.leak(base, task_for(base, seed), seed).items():
            yield {"base": base.name, "seed": seed, "split": split, **found}


def picked(plan: dict) -> Iterator[dict]:
    """A row for each setting and seed."""
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    task = task_for(base)
    start = replace(task.recipe, steps=plan["steps"])
    recipes = [
        replace(start, learning_rate=rate, r=r, lora_alpha=2 * r, seed=seed)
        for r, rate, seed in product(plan["ranks"], plan["rates"], plan["seeds"])
    ]
    yield from your_data.held_out_answers(base, task, tqdm(recipes))


MAKERS = {
    "smollm2": whole_path,
    "leak-pocket": leaks,
    "leak-smollm2": leaks,
    "picked": picked,
}


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("your_data.toml", __doc__)
    warnings.simplefilter("ignore")
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    record_missing("your_data", plans, fresh, base.about, lambda name, plan: MAKERS[name](plan))


if __name__ == "__main__":
    main()

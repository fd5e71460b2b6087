"""What does a fit cost beside its steps: encoding, budget, adapter, validation, files?

The same fine-tune runs with three seeds: the first encodes the task, the second finds it encoded,
the third measures the validation loss every few steps. It counts CPU seconds, which another
program's load hardly changes. Run `python benchmarks/one_fit.py --help`.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time

import lora_lab as lab
from lora_lab.training.loop import Training

SECONDS = {"steps": 0.0}


class Clocked(Training):
    """Notes the CPU seconds of its steps."""

    def _one_step(self):
        begun = time.process_time()
        record = super()._one_step()
        SECONDS["steps"] += time.process_time() - begun
        return record


def fit(base, task, recipe):
    """CPU seconds of a fit: all of it, and beside its steps."""
    SECONDS["steps"], begun = 0.0, time.process_time()
    with tempfile.TemporaryDirectory() as store:
        lab.fit(base, task, recipe, store=store, evaluate=False)
    whole = time.process_time() - begun
    return whole, whole - SECONDS["steps"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    from lora_lab.training import fit as fitting

    fitting.Training = Clocked
    task = lab.load_task(options.task, n=options.n)
    recipe = dataclasses.replace(task.recipe, steps=options.steps)
    cases = {"first": {}, "another seed": {"seed": 1}, "validated": {"seed": 2, "eval_steps": 5}}
    seconds_of = {name: [] for name in cases}
    fit(lab.load_base(options.base, device="cpu"), task, recipe)  # warms up, imports included
    for _ in range(options.rounds):
        base = lab.load_base(options.base, device="cpu")  # its tokenizer has encoded nothing yet
        for name, changes in cases.items():
            seconds_of[name].append(fit(base, task, dataclasses.replace(recipe, **changes)))
    for name, seconds in seconds_of.items():
        whole, beside = (statistics.median(column) for column in zip(*seconds, strict=True))
        print(f"{name:<14}{whole:6.2f} s, of which beside the steps {beside:5.2f} s")


if __name__ == "__main__":
    main()

"""What is lost when a QLoRA adapter is merged into different weights?

An adapter is trained on a quantised base, then merged in four ways, each scored on the task's test.
Run `python benchmarks/merging.py --help`.
"""

import argparse
import dataclasses
import warnings

import torch

import lora_lab as lab
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import as_trained
from lora_lab.models.quantization import dequantized, share_tensors


def marks(base, model, task):
    """Right answers and loss of a model that takes the base's place."""
    scores = lab.evaluate(dataclasses.replace(base, model=model), task)
    return scores.value, scores.loss


def merged(base, learned):
    """The base with the adapter merged by PEFT; the base stays as it was."""
    with warnings.catch_warnings(action="ignore"):  # PEFT warns of rounding
        return Adapted(base, learned).model.merge_and_unload()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--quantize", default="nf4")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = lab.load_base(options.base, device="cpu", dtype="float32")
    task = lab.load_task(options.task, base)
    print(f"{base.about}, torch {torch.__version__}; {task.name}, {options.quantize}")
    print("seed  model                                         right answers     loss")
    for seed in range(options.seeds):
        recipe = dataclasses.replace(task.recipe, quantize=options.quantize, seed=seed)
        on = as_trained(base, recipe)
        training = lab.train(base, task, recipe)
        list(training)
        plain = dataclasses.replace(on, model=dequantized(on.model), quantization=None)
        models = {
            "the quantised base, before": share_tensors(on.model),
            "adapter beside the quantised base, as trained": training.model,
            "merged into the weights its codes stand for": merged(plain, training.learned),
            "merged into the weights before quantisation": merged(base, training.learned),
            "merged into the quantised weights": merged(on, training.learned),
        }
        for name, model in models.items():
            value, loss = marks(base, model, task)
            print(f"{seed:4}  {name:45} {100 * value:12.1f} % {loss:8.3f}")


if __name__ == "__main__":
    main()

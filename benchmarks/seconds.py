"""Which share of the machine's rate of matrix products does a training step reach?

`lora_lab.cost.estimates.SHARES` comes from here. The rate is measured beside each step, both in CPU
seconds on one thread, since other programs may share the machine. Printed are medians over the
steps without the first. Run `python benchmarks/seconds.py --help`.
"""

import argparse
import statistics
import time
from dataclasses import replace

import torch

import lora_lab as lab
from lora_lab.cost.budget import flops
from lora_lab.cost.estimates import batches_of, find_shape

RECIPES = {
    "LoRA, all linears": {},
    "LoRA, q and v": {"target_modules": ("q_proj", "v_proj")},
    "LoRA, r 64": {"r": 64},
    "DoRA": {"use_dora": True},
    "LoRA, checkpointing": {"gradient_checkpointing": True},
    "LoRA, batches of 2": {"batch_size": 2},
    "full fine-tuning": {"method": "full"},
}


def rate(width, dtype):
    """FLOPs per CPU second of a product of the model's width: the best of five."""
    left, right = torch.ones(256, width, dtype=dtype), torch.ones(width, 4 * width, dtype=dtype)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        left @ right
        best = min(best, time.process_time() - start)
    return 2 * 256 * width * 4 * width / best


def shares(base, task, recipe):
    """The share of the rate that each step reaches, without the first step."""
    shape = find_shape(base)
    dtype = torch.float32 if recipe.method == "full" else base.dtype  # full trains a float32 copy
    batches = list(batches_of(task, base.tokenizer, recipe))
    training = iter(lab.train(base, task, recipe))
    next(training)
    for batch in batches[1:]:
        before = rate(shape.hidden_size, dtype)
        start = time.process_time()
        next(training)
        taken = time.process_time() - start
        best = max(before, rate(shape.hidden_size, dtype))
        yield flops(shape, recipe, [batch]) / taken / best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = lab.load_base(options.base, device="cpu", dtype=options.dtype)
    task = lab.load_task(options.task, base)
    print(f"{options.base}, {options.task}, {options.dtype}: share of the rate (least, greatest)")
    for name, changes in RECIPES.items():
        recipe = replace(task.recipe, steps=options.steps, **changes)
        reached = sorted(shares(base, task, recipe))
        print(f"{name:<22}{statistics.median(reached):.2f} ({reached[0]:.2f}–{reached[-1]:.2f})")


if __name__ == "__main__":
    main()

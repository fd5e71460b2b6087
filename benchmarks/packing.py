"""How long do many runs take in a pack, by Trainer + PEFT, and by our loop one by one?

All three train the same runs in turn, in a single process, without evaluation; only ratios matter.
On one thread of a CPU, packing gains little: it is for GPUs, which a small model's step leaves
idle. Run `python benchmarks/packing.py --help`.
"""

import argparse
import dataclasses
import statistics
import time
import warnings

import torch
from training import seconds_of_trainer

import lora_lab as lab
from lora_lab.machine.devices import in_words
from lora_lab.training.packing import train_packed

RANKS = (1, 2, 4, 8, 16, 32)


def packed(base, task, recipes):
    """All runs in packs."""
    for _ in train_packed(base, task, recipes, store=None, evaluate=False):
        pass


def one_by_one(base, task, recipes):
    """The same runs by this lab's loop, one after the other."""
    for recipe in recipes:
        lab.fit(base, task, recipe, store=None, evaluate=False)


def trainer(base, task, recipes):
    """The same runs by transformers' Trainer with PEFT, one after the other."""
    for recipe in recipes:
        seconds_of_trainer(base, task, recipe)


def seconds(way, base, task, recipes):
    """Wall time and CPU time of a way to train all runs, set-up included."""
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    way(base, task, recipes)
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--runs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turn")
    parser.add_argument("--equal-ranks", action="store_true", help="r 8 for all, in place of 1–32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    base = lab.load_base(options.base, device=options.device, dtype=options.dtype)
    if base.device.type == "cpu":
        torch.set_num_threads(1)
    task = lab.load_task(options.task, base)
    recipes = [
        dataclasses.replace(
            task.recipe,
            r=8 if options.equal_ranks else RANKS[seed % len(RANKS)],
            seed=seed,
            steps=options.steps,
            batch_size=options.batch,
            eval_steps=None,
            warmup_steps=0,
        )
        for seed in range(options.runs)
    ]
    ways = {"Trainer + PEFT": trainer, "ours one by one": one_by_one, "packed": packed}
    warm_up = [dataclasses.replace(recipe, steps=8) for recipe in recipes[:2]]
    for way in ways.values():
        seconds(way, base, task, warm_up)
    times = {name: [] for name in ways}
    for number in range(1, options.rounds + 1):
        for name, way in ways.items():
            times[name].append(seconds(way, base, task, recipes))
        print(
            f"round {number}: "
            + ", ".join(f"{name} {wall[-1][0]:.1f} s" for name, wall in times.items())
        )
    print(
        f"{base.name}, {task.name}, {options.runs} runs of {options.steps} steps, batch "
        f"{options.batch}, ranks {'all 8' if options.equal_ranks else RANKS}, {base.dtype}, on "
        f"{in_words(base.device)}:"
    )
    for place, clock in enumerate(("wall", "CPU")):
        for rival in ("Trainer + PEFT", "ours one by one"):
            ratios = [
                theirs[place] / ours[place]
                for theirs, ours in zip(times[rival], times["packed"], strict=True)
            ]
            print(
                f"  packed is {statistics.median(ratios):.2f} times as fast as {rival}, by {clock} "
                f"time ({min(ratios):.2f} to {max(ratios):.2f} over {options.rounds} rounds)"
            )


if __name__ == "__main__":
    main()

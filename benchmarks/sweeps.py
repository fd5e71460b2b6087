"""How long does a sweep take, side by side in processes against one run after the other?

Both train the same runs, in turn; the pool is warm. Run `python benchmarks/sweeps.py --help`.
"""

import argparse
import dataclasses
import statistics
import time

import lora_lab as lab
from lora_lab.machine.resources import cores


def seconds(engine, base, task, recipes):
    """Of a whole sweep, evaluation included."""
    started = time.perf_counter()
    lab.sweep(base, task, recipes, engine=engine, store=None)
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed, in turn")
    options = parser.parse_args()
    base = lab.load_base("pocket", device="cpu")
    task = lab.load_task(options.task, base)
    recipes = [
        dataclasses.replace(task.recipe, lora_alpha=8 + number) for number in range(options.runs)
    ]
    print(f"the first sweep, workers started: {seconds('processes', base, task, recipes):.1f} s")
    ratios = []
    for number in range(1, options.rounds + 1):
        alone, apart = (
            seconds(engine, base, task, recipes) for engine in ("sequential", "processes")
        )
        ratios.append(alone / apart)
        print(f"round {number}: {alone:.1f} s one by one, {apart:.1f} s in processes")
    print(
        f"pocket, {task.name}, {options.runs} runs, {cores():g} cores: processes are "
        f"{statistics.median(ratios):.2f} times as fast "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {options.rounds} rounds)"
    )


if __name__ == "__main__":
    main()

"""How long do many runs take: `lab.sweep` against transformers' Trainer with PEFT, run by run?

All train the same recipes (ranks 1 to 16) on the same task, in turn, in a single process. The pools
are warm, and a Trainer run gets the number of threads with which it is fastest here. It measures
wall time, since that is how long a learner waits. Run `python benchmarks/sweeps.py --help`.
"""

import argparse
import dataclasses
import statistics
import time
from functools import partial

import torch
from loky import ProcessPoolExecutor
from rival import base_and_task, train_with_trainer

import lora_lab as lab
from lora_lab.machine.resources import cores, processor
from lora_lab.training.processes import ONE_THREAD


def one_by_one(train, recipes):
    for recipe in recipes:
        train(recipe)


def in_processes(train, pool, recipes):
    list(pool.map(train, recipes))


def our_sweep(engine, task, n, recipes, *, evaluate=False):
    torch.set_num_threads(1)
    options = {"engine": engine, "store": None, "evaluate": evaluate}
    lab.sweep(*base_and_task(task, n), recipes, seeds=(recipes[0].seed,), **options)


def seconds(work):
    """Wall seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def fastest_threads(train, recipe):
    """The number of threads with which a run by Trainer is fastest, after a warm-up."""
    train(recipe)
    counts = range(1, int(cores()) + 1)
    return min(counts, key=lambda threads: seconds(partial(train, recipe, threads=threads)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--n", type=int, default=None, help="training examples")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turn")
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument(
        "--forty", action="store_true", help="4 settings × 10 seeds with evaluation, ours alone"
    )
    options = parser.parse_args()
    task, n = options.task, options.n
    _, made = base_and_task(task, n)
    recipe = dataclasses.replace(
        made.recipe,
        steps=options.steps,
        batch_size=options.batch_size,
        eval_steps=None,
        warmup_steps=0,
    )
    print(f"{processor()}, {cores():g} cores, torch {torch.__version__}", flush=True)
    if options.forty:
        settings = [
            dataclasses.replace(recipe, r=r, lora_alpha=alpha) for r in (2, 8) for alpha in (8, 32)
        ]
        for number in range(options.rounds + 1):
            started = time.perf_counter()
            lab.sweep(*base_and_task(task, n), settings, seeds=range(10), store=None)
            taken = time.perf_counter() - started
            print(f"{'warm' if number else 'first'}: 40 runs with evaluation in {taken:.1f} s")
        return
    ranks = (1, 2, 4, 8, 16)
    recipes = [
        dataclasses.replace(recipe, r=ranks[number % 5], lora_alpha=8 + number)
        for number in range(options.runs)
    ]
    train = partial(train_with_trainer, task=task, n=n)
    threads = fastest_threads(train, recipe)
    print(f"Trainer is fastest with {threads} thread(s) here", flush=True)
    pool = ProcessPoolExecutor(int(cores()), env=ONE_THREAD)
    ways = {
        "Trainer + PEFT, one after the other": partial(
            one_by_one, partial(train, threads=threads), recipes
        ),
        f"Trainer + PEFT, {int(cores())} processes": partial(in_processes, train, pool, recipes),
        "lab.sweep, sequential": partial(our_sweep, "sequential", task, n, recipes),
        "lab.sweep, auto": partial(our_sweep, "auto", task, n, recipes),
    }
    for way, work in ways.items():
        print(f"the first time (imports, workers): {way}: {seconds(work):.1f} s", flush=True)
    times = {way: [] for way in ways}
    for number in range(1, options.rounds + 1):
        for way, work in ways.items():
            times[way].append(seconds(work))
        print(f"round {number}:", *(f"{taken[-1]:.1f} s" for taken in times.values()), flush=True)
    *rivals, _, ours = times
    for way, taken in times.items():
        print(f"{way}: {statistics.median(taken):.1f} s")
    for rival in rivals:
        ratios = [theirs / mine for theirs, mine in zip(times[rival], times[ours], strict=True)]
        print(
            f"pocket, {task}, batch {recipe.batch_size}, {options.runs} runs of {recipe.steps} "
            f"steps: {ours} is {statistics.median(ratios):.2f} times as fast as {rival} "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {options.rounds} rounds)"
        )


if __name__ == "__main__":
    main()

"""Trains in child processes and kills each with SIGKILL, at a moment that is drawn.

Run as `python killed_trainings.py STORE COUNT`: for each kill, a run with its own seed. It prints
how long an unbroken training takes, then how many steps each killed training had done.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

from lora_lab.training.fit import fit, follow_fit
from tiny import letters_task, recipe, tiny_base

STEPS = 15
TASK = letters_task()


def recipe_of(seed):
    return recipe(steps=STEPS, eval_steps=5, seed=seed)


def train(store, seed, steps_done):
    """In a child process: train, and write each step's number into a pipe."""
    kept = {"store": store, "evaluate": False}
    for news in follow_fit(tiny_base(), TASK, recipe_of(seed), **kept):
        step = getattr(news, "step", None)
        if isinstance(step, int):
            os.write(steps_done, b".")


def killed_at(store, seed, seconds):
    """The steps that a training had done when it was killed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        train(store, seed, writing)
        os._exit(0)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return len(pipe.read())


def say(number):
    sys.stdout.write(f"{number}\n")


def main(store, count):
    fit(tiny_base(), TASK, recipe_of(10**6), store=None, evaluate=False)  # the first is slower
    start = time.monotonic()
    fit(tiny_base(), TASK, recipe_of(10**6), store=None, evaluate=False)
    whole = time.monotonic() - start
    say(whole)
    generator = random.Random(0)
    for seed in range(count):
        say(killed_at(store / "killed", seed, generator.uniform(0, whole)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

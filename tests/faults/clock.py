"""Trains while the wall clock is put back, by libfaketime. Run as `python clock.py STORE AT FILE`.

At step AT the clock's file FILE is written anew. With FILE "-", the process ends there instead.
"""

import os
import sys
import time
from pathlib import Path

from lora_lab.training.fit import follow_fit
from tiny import letters_task, recipe, tiny_base

STEPS = 15
TASK = letters_task()
RECIPE = recipe(steps=STEPS, eval_steps=5)


def main(store, at, clock):
    before = time.time()
    for news in follow_fit(tiny_base(), TASK, RECIPE, store=store, evaluate=False):
        if getattr(news, "step", None) == at:
            if clock == "-":
                os._exit(0)
            Path(clock).write_text("-3d")
    sys.stdout.write(f"{time.time() - before}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])

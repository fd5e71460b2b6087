"""What do the forgetting film and the LoRA picture add to the time of a training?

The same run is trained alone, with the film, and with the picture, in turn. Costs are counted in
CPU seconds, which another program's load hardly changes. They do not include the base's own
answers, which are asked once before the first training, nor a browser's time to paint.
"""

import argparse
import dataclasses
import statistics
import time

import lora_lab as lab
from lora_lab.widgets.forgetting_film import ForgettingFilm


def seconds(base, task, recipe, watcher=None):
    """CPU seconds of a training, with a watcher or without."""
    training = lab.train(base, task, recipe)
    if watcher is not None:
        watcher.look(training)
    begun = time.process_time()
    for _ in training:
        if watcher is not None:
            watcher.look(training)
    return time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3, help="how often each trains, in turn")
    options = parser.parse_args()
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    task = lab.load_task(options.task, base)
    recipe = dataclasses.replace(task.recipe, steps=options.steps)
    film = ForgettingFilm(base, task)
    picture = lab.picture_of_lora(base, "model.layers.2.mlp.up_proj")
    ratios = {"film": [], "picture": []}
    for number in range(1, options.rounds + 1):
        bare = seconds(base, task, recipe)
        for name, watcher in (("film", film), ("picture", picture)):
            ratios[name].append(seconds(base, task, recipe, watcher) / bare)
        print(
            f"round {number}: {1000 * bare / options.steps:.0f} ms a step; with the film "
            f"{ratios['film'][-1]:.3f} times as long ({len(film.looks) - 1} looks), with the "
            f"picture {ratios['picture'][-1]:.3f} times ({len(picture.looks)} looks)",
            flush=True,
        )
    for name, found in ratios.items():
        print(f"{name}: {statistics.median(found):.3f} ({min(found):.3f} to {max(found):.3f})")


if __name__ == "__main__":
    main()

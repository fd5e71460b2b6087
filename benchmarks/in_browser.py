"""How long does the playground take for a step, beside torch; to open; and to its first loss?

The same steps are taken in Chromium and by torch, in turn. A step's time is the difference between
60 and 10 steps, in CPU seconds of the browser and of this process, which another program's load
hardly changes. Opening and the first loss are in wall time, and a busy machine adds to them.
"""

import argparse
import dataclasses
import gzip
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import lora_lab as lab
from lora_lab.web.build import build_file
from playground import EMPTY_PAGE, Engine, chromium, recipe_of

FEW, MANY = 10, 60


def cpu_of_browser():
    """CPU seconds that the children of this process have taken: the browser's processes."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        spent += times.user + times.system
    return spent


def by_browser(engine, recipe, run, task, n):
    begun = cpu_of_browser()
    done = engine.train(run, recipe_of(recipe, task=task, n=n), every=10_000)
    return cpu_of_browser() - begun, done


def by_torch(base, task, recipe):
    begun = time.process_time()
    records = list(lab.train(base, task, recipe))
    return time.process_time() - begun, records


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--rounds", type=int, default=3, help="how often both train, in turn")
    options = parser.parse_args()
    os.environ["LORA_LAB_STEP"] = "torch"
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    task = lab.load_task(options.task, base)
    n = len(task.train)
    few, many = (dataclasses.replace(task.recipe, steps=steps) for steps in (FEW, MANY))
    names = filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser")))
    ratios = []
    with tempfile.TemporaryDirectory() as place, chromium(next(names)) as browser:
        file = Path(place) / "playground.html"
        build_file(file, EMPTY_PAGE)
        content = file.read_bytes()
        print(
            f"the file: {len(content) / 1e6:.1f} MB, "
            f"gzipped {len(gzip.compress(content)) / 1e6:.1f} MB"
        )
        begun, before = time.perf_counter(), cpu_of_browser()
        engine = Engine(browser.new_page(), file.as_uri())
        spent = cpu_of_browser() - before
        print(f"from opening to ready: {time.perf_counter() - begun:.1f} s, {spent:.1f} s of CPU")
        by_browser(engine, few, "warm", options.task, n)  # it also asks the base, once
        for number in range(1, options.rounds + 1):
            ours = by_browser(engine, few, f"few {number}", options.task, n)[0]
            spent, _ = by_browser(engine, many, f"many {number}", options.task, n)
            ours = (spent - ours) / (MANY - FEW)
            theirs = (by_torch(base, task, many)[0] - by_torch(base, task, few)[0]) / (MANY - FEW)
            ratios.append(ours / theirs)
            first = engine.said("step", f"many {number}")[0]
            print(
                f"round {number}: {1000 * ours:.0f} ms of CPU a step, torch {1000 * theirs:.0f}: "
                f"{ratios[-1]:.2f} times; the first step {first['seconds']:.2f} s on the clock",
                flush=True,
            )
        whole = engine.train("film", recipe_of(task.recipe, task=options.task, n=n))
        looks, trained = len(engine.said("film", "film")), whole["records"]
        begun, ended = (
            engine.said(kind, "film")[0]["at"] / 1000 for kind in ("started", "scoring")
        )
        share = 1 - sum(record["seconds"] for record in trained) / (ended - begun)
        print(
            f"{len(trained)} steps with the film: {ended - begun:.1f} s, of which {share:.0%} for "
            f"{looks} looks; then {whole['seconds'] - ended + begun:.1f} s for the scores"
        )
    if ratios:
        print(f"a step: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()

"""What does a sweep on a cluster cost beside its steps, on the caller's machine and on a node?

It counts CPU seconds, which other work on the machine hardly changes. Without `--ray` no cluster is
needed: the base is packed and unpacked, and a run kept, as `engine="ray"` does it. With `--ray` a
sweep runs on this machine's cluster, or on a cluster that is started here. Run
`python benchmarks/cluster.py --help`.
"""

import argparse
import dataclasses
import pickle
import statistics
import tempfile
import time
from pathlib import Path

import cloudpickle
import torch
from rival import base_and_task

import lora_lab as lab
from lora_lab.machine.resources import processor
from lora_lab.training.cluster import _packed
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.sweep import follow_sweep


def cpu_seconds(work):
    """CPU seconds of this process, and the result of the work."""
    started = time.process_time()
    given = work()
    return time.process_time() - started, given


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--n", type=int, default=None, help="training examples")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--ray", type=int, default=0, metavar="RUNS", help="a sweep of so many runs"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    base, task = base_and_task(options.task, options.n)
    recipe = dataclasses.replace(task.recipe, steps=options.steps, eval_steps=None, warmup_steps=0)
    print(f"{processor()}, torch {torch.__version__}, {base.name}, {task.name}", flush=True)

    packing, unpacking, fitting, keeping = [], [], [], []
    for seed in range(options.rounds):
        seconds, (pickled, buffers) = cpu_seconds(lambda: _packed((base, task)))
        packing.append(seconds)
        unpacking.append(cpu_seconds(lambda p=pickled, b=buffers: pickle.loads(p, buffers=b))[0])
        of_seed = dataclasses.replace(recipe, seed=seed)
        seconds, run = cpu_seconds(lambda r=of_seed: lab.fit(base, task, r, store=None))
        fitting.append(seconds)
        with tempfile.TemporaryDirectory() as place:
            folder = RunFolder(Path(place), base, task, of_seed)
            with folder.locked():
                keeping.append(cpu_seconds(lambda f=folder, r=run: f.keep(r))[0])
    held = sum(buffer.raw().nbytes for buffer in buffers)
    sent = len(cloudpickle.dumps(dataclasses.replace(run, _base=None)))
    steps = sum(record.seconds for record in run.records)
    print(f"a package: {held / 1e6:.1f} MB of tensors, {len(pickled) / 1e6:.2f} MB beside them")
    print(f"a run that comes back: {sent / 1e6:.2f} MB")
    for name, values in [
        ("pack the base", packing),
        ("unpack it", unpacking),
        (f"a fit, scored (its last {options.steps} steps: {steps:.1f} s of wall time)", fitting),
        ("keep a run", keeping),
    ]:
        print(f"{name}: {statistics.median(values):.4f} CPU s")

    if options.ray:
        news = follow_sweep(
            base, task, [recipe], seeds=range(options.ray), engine="ray", store=None
        )
        began, seconds = time.perf_counter(), time.process_time()
        next(news)
        first, seconds_first = time.perf_counter() - began, time.process_time() - seconds
        seconds, count = cpu_seconds(lambda: sum(1 for _ in news))
        print(f"the first record after {first:.1f} s, {seconds_first:.2f} CPU s of this process")
        print(
            f"{options.ray} runs, {count + 1} pieces of news: {seconds:.3f} CPU s of this process"
        )
        print(f"in {time.perf_counter() - began:.1f} s")


if __name__ == "__main__":
    main()

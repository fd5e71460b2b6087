"""How long do eight learners at once wait on a real JupyterHub, and how much memory do they hold?

Each learner logs in, starts a server and a kernel, and runs the cells of a pocket lab: load the
base, train, show. Memory is counted by shares (PSS): a page that eight processes map counts an
eighth for each. The weights' file is counted apart. `--lessons 00 05` runs whole lessons, one after
the other, for their CPU seconds and their peak. `--rent 30` says which machine 30 learners need,
from the measurements kept in results/hub.json; `--write` puts it into the pages. Run
`python benchmarks/hub.py --help`. It needs the extra `hub` and configurable-http-proxy.
"""

import argparse
import asyncio
import json
import math
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import nbformat
import psutil

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import jupyter_hub as real
from lora_lab.places import cache_folder, notebooks_folder

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "hub.json"
MB = 1e6
WAIT = 3  # times what one alone waits: the goal
SYSTEM = 2.0  # GB for Ubuntu, the hub and its proxy; a guess on the safe side, not measured
KERNELS = 2  # open notebooks of a learner; after half an hour the older kernel is stopped
SPARE = 1.25  # for what was not measured; TLJH's own guide says 1.2 to 1.4
CLASSES = (8, 15, 30)  # learners, for the table of machines
BLOCK = re.compile(r"(<!-- measured: .*? -->\n).*?(<!-- end of measured -->)", re.DOTALL)
HEADS = (
    "lab",
    "one alone waited",
    "eight at once waited",
    "CPU seconds each",
    "memory each, beyond the weights (server and kernel)",
    "the weights, once for all",
)
CELLS = {
    "pocket": """
import lora_lab as lab
from lora_lab.widgets.live_lab import LiveLab
base = lab.load_base("pocket")
task = lab.load_task("new-facts", base, n=60)
live = LiveLab(base, task)
live.train()
print(live.result.scores.value)
""",
    "smollm2": """
import lora_lab as lab
from dataclasses import replace
base = lab.load_base("smollm2")
task = lab.load_task("film-sentiment", base, n=64)
print(lab.generate(base, [task.test[0].prompt], max_new_tokens=4))
run = lab.fit(base, task, replace(task.recipe, steps=2), store=None, evaluate=False)
print(base.about)
""",
}


def held(processes):
    """MB of several processes: (beyond the weights, of the weights), by shares."""
    beyond = weights = 0.0
    for process in processes:
        try:
            for part in process.memory_maps(grouped=True):
                if part.path.endswith(".safetensors"):
                    weights += part.pss
                else:
                    beyond += part.pss
        except psutil.NoSuchProcess:  # a worker that has just ended
            continue
    return beyond / MB, weights / MB


def seconds_of(processes):
    """CPU seconds of processes, with those of children that have ended."""
    total = 0.0
    for process in processes:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def class_of(count, cell):
    """The waiting time, memory and CPU seconds of each of `count` learners who work at once."""
    with tempfile.TemporaryDirectory() as place, real.hub(Path(place), cache_folder(), "4G") as on:
        return asyncio.run(train_at_once(on, count, cell))


async def train_at_once(on, count, cell):
    names = [f"learner-{number}" for number in range(1, count + 1)]
    for name in names:
        assert await on.log_in(name)
    learners = await asyncio.gather(*(on.start(name) for name in names))
    await asyncio.gather(*(learner.begin() for learner in learners))
    await asyncio.gather(*(learner.run("1") for learner in learners))  # each kernel is there
    results = await asyncio.gather(*(learner.run(cell) for learner in learners))
    assert not any(result.error for result in results), results
    rows = []
    for name, result in zip(names, results, strict=True):
        processes = on.processes_of(name)
        kernels = [p for p in processes if "ipykernel" in " ".join(p.cmdline())]
        rows.append(
            {
                "waited": result.seconds,
                "server": held([p for p in processes if p not in kernels])[0],
                "kernel": held(kernels)[0],
                "weights": held(kernels)[1],
                "cpu": seconds_of(kernels),
            }
        )
    return rows


def mean(rows, key):
    return statistics.fmean(row[key] for row in rows)


def compare(base, count):
    """What is measured with one learner alone, then with `count` learners at once."""
    load = os.getloadavg()[0]
    alone = class_of(1, CELLS[base])
    together = class_of(count, CELLS[base])
    return {
        "base": base,
        "learners": count,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "alone_seconds": round(alone[0]["waited"], 1),
        "together_seconds": round(mean(together, "waited"), 1),
        "slowest_seconds": round(max(row["waited"] for row in together), 1),
        "cpu_seconds": round(mean(together, "cpu"), 1),
        "server_mb": round(mean(together, "server")),
        "kernel_mb": round(mean(together, "kernel")),
        "most_mb": round(max(row["server"] + row["kernel"] for row in together)),
        "weights_mb": round(sum(row["weights"] for row in together)),  # of all learners together
        "alone_mb": round(alone[0]["server"] + alone[0]["kernel"]),
    }


def lesson(number):
    """A lesson run from top to bottom in one kernel: CPU seconds, and the most that it held."""
    from nbclient import NotebookClient

    (path,) = notebooks_folder().glob(f"{number}_*.ipynb")
    client = NotebookClient(nbformat.read(path, as_version=4), timeout=900)
    peak, spent, ended = [0.0], [0.0], threading.Event()

    def watch():
        while not ended.wait(0.5):
            kernel = getattr(getattr(client, "km", None), "provisioner", None)
            if kernel is None or kernel.pid is None or not psutil.pid_exists(kernel.pid):
                continue
            own = psutil.Process(kernel.pid)
            all_of = [own, *own.children(recursive=True)]
            peak[0] = max(peak[0], held(all_of)[0])
            spent[0] = max(spent[0], seconds_of(all_of))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as store:
        os.environ["LORA_LAB_STORE"] = str(Path(store) / "runs")
        client.execute(cwd=str(path.parent))
    ended.set()
    thread.join()
    return {
        "lesson": path.stem,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(spent[0], 1),
        "peak_mb": round(peak[0]),
    }


def got(group):
    """The cores that were used: (by a learner alone, by all learners together).

    Other programs may have used the machine too. If the two numbers are equal, the learners waited
    only because they shared the processor.

    Args:
        group: a result of `compare`.
    """
    together = group["learners"] * group["cpu_seconds"] / group["together_seconds"]
    return group["cpu_seconds"] / group["alone_seconds"], together


def rent(group, learners):
    """The machine for so many learners: cores so that nobody waits longer than WAIT, and memory.

    If all press Run in the same second, the work of all has to be done in WAIT times the seconds
    that one alone waits, by cores that a whole class keeps as busy as the measured one did. In
    practice fewer wait, since learners read in between.

    Args:
        group: a result of `compare`.
        learners: how many, at the same time.

    Returns:
        (cores, GB of memory).
    """
    alone, together = got(group)
    busy = together / group["cores"]  # of each core, by a class
    each = group["server_mb"] + KERNELS * group["kernel_mb"]
    memory = (learners * each * SPARE + group["weights_mb"]) / 1000 + SYSTEM
    return math.ceil(learners * alone / (WAIT * busy)), math.ceil(memory)


def in_words(results):
    """What was measured and what follows from it, as Markdown for deploy/README.md."""
    lines = ["| " + " | ".join(HEADS) + " |", "| " + " | ".join("---" for _ in HEADS) + " |"]
    for group in results["classes"]:
        alone, together = got(group)
        cells = (
            f"`{group['base']}`",
            f"{group['alone_seconds']:.0f} s, with {alone:.2f} cores",
            f"{group['together_seconds']:.0f} s, with {together:.2f} cores for all",
            f"{group['cpu_seconds']:.0f}",
            f"{group['server_mb'] + group['kernel_mb']} MB "
            f"({group['server_mb']} and {group['kernel_mb']})",
            f"{group['weights_mb']} MB",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        f"From this follows the machine to rent, by arithmetic. Cores: so many that nobody waits "
        f"more than {WAIT} times as long as alone, even if all press Run in the same second. "
        f"Memory: a server and {KERNELS} open notebooks for each learner, a quarter more, the "
        f"weights once, and {SYSTEM:.0f} GB for the system.",
        "",
        "| learners | base | cores | GB of memory |",
        "| --- | --- | --- | --- |",
    ]
    for learners in CLASSES:
        for group in results["classes"]:
            cores, memory = rent(group, learners)
            lines.append(f"| {learners} | `{group['base']}` | {cores} | {memory} |")
    return "\n".join([results["about"], "", *lines]) + "\n"


def in_a_sentence(results):
    """The same for docs/guide.md: pocket's class, and the machine for the largest one."""
    group = results["classes"][0]
    cores, memory = rent(group, CLASSES[-1])
    return (
        f"Measured with `{group['base']}`: {group['learners']} learners trained at once, and each "
        f"held {group['server_mb'] + group['kernel_mb']} MB beyond the shared weights. A lab "
        f"took {group['cpu_seconds']:.0f} seconds of one core. By arithmetic, {CLASSES[-1]} "
        f"learners need {cores} cores, so that nobody waits more than {WAIT} times as long as "
        f"alone, and {memory} GB of memory.\n"
    )


def written(results):
    """By page: its text with what was measured between its two comments."""
    found = {}
    for page, words in PAGES.items():
        text = page.read_text(encoding="utf-8")
        new = words(results)
        found[page] = BLOCK.sub(lambda part, new=new: f"{part[1]}{new}{part[2]}", text)
    return found


PAGES = {ROOT / "deploy/README.md": in_words, ROOT / "docs/guide.md": in_a_sentence}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", choices=list(CELLS), default="pocket")
    parser.add_argument("--learners", type=int, default=8)
    parser.add_argument("--lessons", nargs="*", metavar="NUMBER", help="such as 00 05; no hub")
    parser.add_argument("--rent", type=int, metavar="N", help="the machine for N learners")
    parser.add_argument(
        "--write", action="store_true", help="write what was measured into the pages"
    )
    options = parser.parse_args()
    if options.write:
        results = json.loads(RESULTS.read_text())
        for page, text in written(results).items():
            page.write_text(text, encoding="utf-8")
    elif options.rent:
        for measured in json.loads(RESULTS.read_text())["classes"]:
            cores, memory = rent(measured, options.rent)
            print(f"{measured['base']}: {options.rent} learners: {cores} cores, {memory} GB")
    elif options.lessons:
        for number in options.lessons:
            print(json.dumps(lesson(number)), flush=True)
    else:
        print(json.dumps(compare(options.base, options.learners)))


if __name__ == "__main__":
    main()

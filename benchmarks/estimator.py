"""How wrong is the estimate of a step's memory, over random recipes?

Each recipe is trained for two steps, in which every live storage is counted (measuring.py).
The seeds differ from those of the tests and from those that were used to develop the estimate.
Run `python benchmarks/estimator.py --help`.
"""

import argparse
import dataclasses
import json
import platform
import random
import statistics
import sys
import warnings
from pathlib import Path

import torch
from measuring import measure, random_lengths, random_llama, random_recipe

import lora_lab as lab
from lora_lab.cost.memory import ERROR, memory
from lora_lab.machine.devices import named
from lora_lab.models.read_architecture import shape_of
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny import letters_task, tiny_tokenizer  # noqa: E402

DTYPES = ("float32", "bfloat16")
SEEDS = {"pocket": 5000, "pocket, quantised": 6000, "random Llamas": 7000, "smollm2": 8000}


def random_case(group, rng, tasks):
    """A random base, recipe and task of a group."""
    if group == "random Llamas":
        base = random_llama(rng, getattr(torch, rng.choice(DTYPES)), tiny_tokenizer())
        recipe = random_recipe(rng, layers=base.model.config.num_hidden_layers)
        return base, recipe, random_lengths(rng, letters_task(), recipe)
    name, _, quantised = group.partition(", ")
    quantize = rng.choice(("nf4", "fp4", "int8")) if quantised else None
    base = lab.load_base(name, dtype=rng.choice(DTYPES), quantize=quantize)
    recipe = random_recipe(rng, layers=base.model.config.num_hidden_layers)
    if quantised:
        recipe = dataclasses.replace(recipe, method="lora", use_dora=False, quantize=quantize)
    if name == "smollm2":
        recipe = dataclasses.replace(recipe, batch_size=min(recipe.batch_size, 5))
    if name not in tasks:
        tasks[name] = lab.load_task({"pocket": "new-facts", "smollm2": "home-commands"}[name], base)
    return base, recipe, random_lengths(rng, tasks[name], recipe)


def compared(group, seed, tasks):
    """The row of a recipe: its fields, the estimate (under `estimated`) and the measurement."""
    base, recipe, task = random_case(group, random.Random(seed), tasks)
    measured = measure(base, task, recipe)
    shape = shape_of(base.model, base.name)
    estimated = memory(shape, recipe, measured.batch, named(base.dtype))
    defaults = Recipe()
    return {
        "group": group,
        "seed": seed,
        "dtype": named(base.dtype),
        "recipe": {
            field.name: getattr(recipe, field.name)
            for field in dataclasses.fields(recipe)
            if getattr(recipe, field.name) != getattr(defaults, field.name)
        },
        "batch": dataclasses.asdict(measured.batch),
        "estimated": dataclasses.asdict(estimated),
        "measured": dataclasses.asdict(measured.memory),
        "error": round(estimated.total / measured.memory.total - 1, 5),
    }


def summary(rows):
    """The errors' size: of the total, and of each part as a share of the total."""
    shares = {
        part: [
            abs(row["estimated"][part] - row["measured"][part]) / row["measured"]["total"]
            for row in rows
        ]
        for part in Memory.__slots__
    }
    return {
        part: {"median": round(statistics.median(errors), 5), "max": round(max(errors), 5)}
        for part, errors in shares.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--recipes", type=int, default=20, help="of each group; smollm2 has a third"
    )
    parser.add_argument("--groups", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--json", type=Path, help="write every recipe's numbers here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # an r above a tiny layer's width does not matter here
    rows, tasks = [], {}
    for group in options.groups:
        count = options.recipes if group != "smollm2" else max(1, options.recipes // 3)
        for seed in range(SEEDS[group], SEEDS[group] + count):
            rows.append(compared(group, seed, tasks))
            row = rows[-1]
            print(
                f"{group} {seed}: {row['error']:+.1%} of {row['measured']['total'] / 2**20:.1f} MiB"
            )
    report = {
        "machine": {"cpu": cpu(), "device": "cpu", "torch": torch.__version__},
        "promised": ERROR,
        "errors, as shares of the measured total": {
            group: summary([row for row in rows if row["group"] == group])
            for group in options.groups
        },
        "outside": [f"{row['group']} {row['seed']}" for row in rows if abs(row["error"]) > ERROR],
    }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.write_text(as_json(report, rows), encoding="utf-8")


def as_json(report, rows):
    """The report, then a line for each recipe."""
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return f'{json.dumps(report, indent=1)[:-2]},\n "recipes": [\n  {lines}\n ]\n}}\n'


def cpu():
    """The processor's name, if the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

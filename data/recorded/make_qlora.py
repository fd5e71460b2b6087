"""Measure what qlora.toml asks for and is not here yet: memory, speed and rounding on smollm2.

Each becomes qlora/<name>.json. `make_qlora.py speed --fresh` times it again, on a quiet machine.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from asking import asked_for
from torch import Tensor

import lora_lab as lab
from lora_lab.cost.memory import memory
from lora_lab.findings.recordings import keep_recording
from lora_lab.machine.devices import named, processor
from lora_lab.maths.nf4 import dequantize, quantize
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import shape_of
from lora_lab.recipe import Recipe

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tests"))

from measuring import measure  # noqa: E402

BITS_16_AND_MORE = ("float32", "bfloat16")


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("qlora.toml", __doc__)
    torch.set_num_threads(1)
    makers = {"memory": held, "speed": paces, "weights": rounded}
    for name in wanted:
        path = HERE / "qlora" / f"{name}.json"
        if fresh or not path.exists():
            device = f"{processor()}, one thread"
            keep_recording(path, wanted[name], makers[name](wanted[name]), device)


def of_kind(name: str, kind: str) -> tuple[Base, dict]:
    """The base as its weights are to be, and what the recipe says of it."""
    if kind in BITS_16_AND_MORE:
        return lab.load_base(name, device="cpu", dtype=kind), {}
    return lab.load_base(name, device="cpu", dtype="float32", quantize=kind), {"quantize": kind}


def held(wanted: dict) -> Iterator[dict]:
    """The memory of a step, part by part: measured, and told beforehand."""
    for kind in wanted["kinds"]:
        base, of_weights = of_kind(wanted["base"], kind)
        task = lab.load_task(wanted["task"], base)
        for changes in wanted["recipes"]:
            recipe = dataclasses.replace(task.recipe, **of_weights, **changes)
            found = measure(base, task, recipe)
            told = memory(shape_of(base.model, base.name), recipe, found.batch, named(base.dtype))
            yield {
                "kind": kind,
                "recipe": changes,
                "measured": dataclasses.asdict(found.memory),
                "estimated": dataclasses.asdict(told),
            }


def paces(wanted: dict) -> Iterator[dict]:
    """The processor's seconds and the tokens of each step, all kinds in turn."""
    bases = {kind: of_kind(wanted["base"], kind) for kind in wanted["kinds"]}
    task = lab.load_task(wanted["task"], bases["float32"][0])
    for size in wanted["batch_sizes"]:
        going = {
            kind: iter(lab.train(base, task, _paced(task.recipe, size, wanted, of_weights)))
            for kind, (base, of_weights) in bases.items()
        }
        for step in range(wanted["steps"] + 1):
            for kind, training in going.items():
                begun = time.process_time()
                record = next(training)
                seconds = time.process_time() - begun
                if step:  # the first warms up
                    told = {"kind": kind, "batch_size": size, "step": step}
                    yield told | {"seconds": seconds, "tokens": record.tokens}


def _paced(recipe: Recipe, size: int, wanted: dict, of_weights: dict) -> Recipe:
    steps = wanted["steps"] + 2  # one warms up, and the last is never asked for
    return dataclasses.replace(recipe, batch_size=size, steps=steps, eval_steps=None, **of_weights)


def rounded(wanted: dict) -> Iterator[dict]:
    """The mean relative error over the matrices, by type; what it is of, and from what."""
    base = lab.load_base(wanted["base"], device="cpu", dtype="float32")
    own = [
        layer.weight.detach()
        for name, layer in base.model.named_modules()
        if any(f".layers.{number}." in name for number in wanted["layers"])
        and isinstance(layer, torch.nn.Linear)
    ]
    draw = torch.Generator().manual_seed(0)
    normal = [torch.randn(*one.shape, generator=draw) for one in own]
    coarse = [q4_1(one) for one in normal]
    distinct = max(len(block.unique()) for one in own[:7] for block in one.flatten().split(32))
    yield {"of": "smollm2", "most values in 32": distinct}
    for kind in wanted["quant_types"]:
        pairs = {"smollm2": (own, own), "normal": (normal, normal)}
        pairs |= {"normal, Q4_1": (coarse, coarse), "normal, by way of Q4_1": (coarse, normal)}
        for name, (given, true) in pairs.items():
            errors = [
                float((dequantize(quantize(one, 64, kind)) - other).norm() / other.norm())
                for one, other in zip(given, true, strict=True)
            ]
            yield {"of": name, "quant_type": kind, "error": statistics.mean(errors)}
    alone = statistics.mean(
        float((one - other).norm() / other.norm())
        for one, other in zip(coarse, normal, strict=True)
    )
    yield {"of": "normal, by way of Q4_1", "quant_type": None, "error": alone}


def q4_1(weight: Tensor) -> Tensor:
    """What ggml's Q4_1 makes of it: per 32 weights a least value, a step, and 16 levels."""
    blocks = weight.reshape(-1, 32)
    least = blocks.amin(dim=1, keepdim=True)
    step = (blocks.amax(dim=1, keepdim=True) - least) / 15
    codes = ((blocks - least) / step + 0.5).floor().clamp(0, 15)
    return (codes * step.half() + least.half()).float().view_as(weight)


if __name__ == "__main__":
    main()

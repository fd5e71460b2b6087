"""Make the recordings of qlora.toml that are missing: memory, speed and rounding on smollm2.

Each becomes qlora/<name>.json. `make_qlora.py speed --fresh` times it again, on a quiet machine.
"""

import dataclasses
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from plans import chosen_plans, record_missing
from torch import Tensor

import lora_lab as lab
from lora_lab.cost.memory import memory
from lora_lab.machine.devices import named, processor
from lora_lab.maths.nf4 import dequantize, quantize
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import shape_of
from lora_lab.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.measuring import measure  # noqa: E402

BITS_16_AND_MORE = ("float32", "bfloat16")


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("qlora.toml", __doc__)
    torch.set_num_threads(1)
    makers = {"memory": memory_of_steps, "speed": seconds_of_steps, "weights": rounding_errors}
    device = f"{processor()}, one thread"
    record_missing("qlora", plans, fresh, device, lambda name, plan: makers[name](plan))


def of_kind(name: str, kind: str) -> tuple[Base, dict]:
    """The base with weights of this kind, and the recipe's fields for it."""
    if kind in BITS_16_AND_MORE:
        return lab.load_base(name, device="cpu", dtype=kind), {}
    return lab.load_base(name, device="cpu", dtype="float32", quantize=kind), {"quantize": kind}


def memory_of_steps(plan: dict) -> Iterator[dict]:
    """The memory of a step, part by part: measured, and estimated beforehand."""
    for kind in plan["kinds"]:
        base, quantize_fields = of_kind(plan["base"], kind)
        task = lab.load_task(plan["task"], base)
        for changes in plan["recipes"]:
            recipe = dataclasses.replace(task.recipe, **quantize_fields, **changes)
            measured = measure(base, task, recipe)
            shape = shape_of(base.model, base.name)
            estimated = memory(shape, recipe, measured.batch, named(base.dtype))
            yield {
                "kind": kind,
                "recipe": changes,
                "measured": dataclasses.asdict(measured.memory),
                "estimated": dataclasses.asdict(estimated),
            }


def seconds_of_steps(plan: dict) -> Iterator[dict]:
    """The processor's seconds and the tokens of each step, all kinds in turn."""
    bases = {kind: of_kind(plan["base"], kind) for kind in plan["kinds"]}
    task = lab.load_task(plan["task"], bases["float32"][0])
    for size in plan["batch_sizes"]:
        trainings = {
            kind: iter(lab.train(base, task, _recipe(task.recipe, size, plan, quantize_fields)))
            for kind, (base, quantize_fields) in bases.items()
        }
        for step in range(plan["steps"] + 1):
            for kind, training in trainings.items():
                start = time.process_time()
                record = next(training)
                seconds = time.process_time() - start
                if step:  # the first warms up
                    row = {"kind": kind, "batch_size": size, "step": step}
                    yield row | {"seconds": seconds, "tokens": record.tokens}


def _recipe(recipe: Recipe, size: int, plan: dict, quantize_fields: dict) -> Recipe:
    steps = plan["steps"] + 2  # one warms up, and the last is never trained
    return dataclasses.replace(
        recipe, batch_size=size, steps=steps, eval_steps=None, **quantize_fields
    )


def rounding_errors(plan: dict) -> Iterator[dict]:
    """The mean relative error over the matrices, by quantization type and origin of the weights."""
    base = lab.load_base(plan["base"], device="cpu", dtype="float32")
    own = [
        layer.weight.detach()
        for name, layer in base.model.named_modules()
        if any(f".layers.{number}." in name for number in plan["layers"])
        and isinstance(layer, torch.nn.Linear)
    ]
    generator = torch.Generator().manual_seed(0)
    normal = [torch.randn(*weight.shape, generator=generator) for weight in own]
    coarse = [q4_1(weight) for weight in normal]
    blocks = [block for weight in own[:7] for block in weight.flatten().split(32)]
    distinct = max(len(block.unique()) for block in blocks)
    yield {"of": "smollm2", "most values in 32": distinct}
    for kind in plan["quant_types"]:
        pairs = {"smollm2": (own, own), "normal": (normal, normal)}
        pairs |= {"normal, Q4_1": (coarse, coarse), "normal, by way of Q4_1": (coarse, normal)}
        for name, (weights, originals) in pairs.items():
            restored = [dequantize(quantize(weight, 64, kind)) for weight in weights]
            error = mean_relative_error(restored, originals)
            yield {"of": name, "quant_type": kind, "error": error}
    error = mean_relative_error(coarse, normal)
    yield {"of": "normal, by way of Q4_1", "quant_type": None, "error": error}


def mean_relative_error(restored: list[Tensor], originals: list[Tensor]) -> float:
    """The mean of ‖restored - original‖ / ‖original‖ over the matrices."""
    return statistics.mean(
        float((weight - original).norm() / original.norm())
        for weight, original in zip(restored, originals, strict=True)
    )


def q4_1(weight: Tensor) -> Tensor:
    """The weights after ggml's Q4_1: per 32 weights a least value, a step, and 16 levels."""
    blocks = weight.reshape(-1, 32)
    least = blocks.amin(dim=1, keepdim=True)
    step = (blocks.amax(dim=1, keepdim=True) - least) / 15
    codes = ((blocks - least) / step + 0.5).floor().clamp(0, 15)
    return (codes * step.half() + least.half()).float().view_as(weight)


if __name__ == "__main__":
    main()

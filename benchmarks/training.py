"""How long does a training step take, ours against transformers' Trainer with PEFT?

Both train the same adapter on the same batches, in turn, in a single process. Only ratios matter,
since machines differ and are noisy. Each side runs with the number of threads that is fastest for
it, found beforehand; that also warms it up. A step's CPU seconds are printed beside its wall time,
because another program's load hardly changes them.

Run `python benchmarks/training.py` for all cases, or name some: `... training.py pocket`.
"""

import argparse
import dataclasses
import math
import os
import platform
import statistics
import tempfile
import time

import peft
import torch
from torch.utils.data import SequentialSampler
from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

import lora_lab as lab
from lora_lab.models.adapters import to_peft
from lora_lab.models.quantization import share_tensors
from lora_lab.tasks.examples import encode
from lora_lab.training.loop import order_of_examples
from lora_lab.training.traced import STEPS, VARIABLE

CASES = {  # name: base, task, its examples, changes to its recipe, steps
    "pocket": ("pocket", "sentiment", None, {"batch_size": 16}, 40),
    "smollm2": ("smollm2", "film-sentiment", None, {"layers_to_transform": None}, 8),
    "smollm2-facts": ("smollm2", "ruff-rules", None, {}, 8),
    "smollm2-top": ("smollm2", "ruff-rules", 16, {"layers_to_transform": tuple(range(24, 30))}, 12),
}


def seconds_ours(base, task, recipe):
    """(CPU seconds, seconds) of each step."""
    times = [(time.process_time(), time.perf_counter())]
    for _ in lab.train(base, task, recipe):
        times.append((time.process_time(), time.perf_counter()))
    return differences(times)


def seconds_of_trainer(base, task, recipe):
    """(CPU seconds, seconds) of each step of transformers' Trainer, from step to step."""
    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append((time.process_time(), time.perf_counter()))

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    encoded = [encode(base.tokenizer, example, recipe.max_length) for example in task.train]
    order = order_of_examples(len(encoded), recipe.seed)
    rows = [encoded[next(order)] for _ in range(recipe.steps * recipe.batch_size)]
    model = share_tensors(base.model)
    torch.manual_seed(recipe.seed)
    model = peft.get_peft_model(model, to_peft(recipe, base))
    with tempfile.TemporaryDirectory() as folder:
        trainer = InOrder(
            model,
            TrainingArguments(
                folder,
                per_device_train_batch_size=recipe.batch_size,
                learning_rate=recipe.learning_rate,
                max_steps=recipe.steps,
                use_cpu=base.device.type == "cpu",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=[dataclasses.asdict(row) for row in rows],
            data_collator=DataCollatorForSeq2Seq(base.tokenizer),
            callbacks=[Clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return [(math.nan, math.nan), *differences(times)]  # the first step is not timed


def differences(times):
    return [
        (cpu - cpu_before, clock - clock_before)
        for (cpu_before, clock_before), (cpu, clock) in zip(times, times[1:], strict=False)
    ]


def step(side, base, task, recipe, threads):
    """The median (CPU seconds, seconds) of a step, without the first pass through the examples.

    If the examples are not seen twice, only the first two steps are left out.
    """
    torch.set_num_threads(threads)
    first_pass = math.ceil(len(task.train) / recipe.batch_size)
    skipped = first_pass if first_pass < recipe.steps else 2
    timed = side(base, task, recipe)[skipped:]
    return [statistics.median(column) for column in zip(*timed, strict=True)]


def compare(case, rounds, tried, device):
    name, task_name, n, changes, steps = CASES[case]
    base = lab.load_base(name, device=device, dtype="float32")
    task = lab.load_task(task_name, base, n=n)
    fixed = {"steps": steps, "eval_steps": None, "warmup_steps": 0}
    recipe = dataclasses.replace(task.recipe, **fixed | changes)
    sides = {"Trainer + PEFT": seconds_of_trainer, "ours": seconds_ours}
    threads = {
        label: min(tried, key=lambda count: step(side, base, task, recipe, count)[1])
        for label, side in sides.items()
    }
    ratios = []
    for number in range(1, rounds + 1):
        times = {
            label: step(side, base, task, recipe, threads[label]) for label, side in sides.items()
        }
        theirs, own = times.values()
        ratios.append([a / b for a, b in zip(theirs, own, strict=True)])
        words = ", ".join(
            f"{label} {1000 * cpu:.0f} ms CPU, {1000 * clock:.0f} ms"
            for label, (cpu, clock) in times.items()
        )
        print(f"  round {number}: {words}", flush=True)
    said = [
        f"{statistics.median(column):.2f} ({min(column):.2f} to {max(column):.2f})"
        for column in zip(*ratios, strict=True)
    ]
    used = ", ".join(f"{label} {count}" for label, count in threads.items())
    print(
        f"ours: {lab.train(base, task, recipe).about}\n"
        f"{case}: {task.name}, batch {recipe.batch_size}, {base.device}, threads: {used}. "
        f"A step of Trainer takes {said[0]} times our CPU seconds and {said[1]} times our seconds",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turn")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers to try")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", default="auto", choices=STEPS, help="what takes our steps")
    options = parser.parse_args()
    if unknown := sorted({*options.cases} - CASES.keys()):
        parser.error(f"no case is called {unknown[0]!r}; give {', '.join(CASES)}")
    os.environ[VARIABLE] = options.step
    print(f"{platform.node()}, {platform.machine()}, torch {torch.__version__}")
    for case in options.cases or CASES:
        compare(case, options.rounds, options.threads, options.device)


if __name__ == "__main__":
    main()

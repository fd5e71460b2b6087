"""How long is a training step, ours against transformers' Trainer with PEFT?

Both train the same adapter on the same batches, in turn, in one process; ratios are what counts,
since machines differ and are noisy. On a CPU its own time is measured, so that other work beside it
matters less. `--step torch` and `--step traced` compare the two ways that we take a step. Run
`python benchmarks/training.py --help`.
"""

import argparse
import dataclasses
import os
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


def seconds_ours(base, task, recipe, clock):
    """Median seconds from step to step, the first three left out."""
    times = [clock() for _ in lab.train(base, task, recipe)]
    return statistics.median(b - a for a, b in zip(times[3:], times[4:], strict=False))


def seconds_of_trainer(base, task, recipe, clock):
    """The same for transformers' Trainer."""
    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            times.append(clock())

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
    return statistics.median(b - a for a, b in zip(times[3:], times[4:], strict=False))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="pocket")
    parser.add_argument("--task", default="new-facts")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is timed, in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--step", default="auto", choices=["auto", "torch", "traced"])
    options = parser.parse_args()
    os.environ["LORA_LAB_STEP"] = options.step
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    torch.set_num_threads(options.threads)
    base = lab.load_base(options.base, device=options.device, dtype="float32")
    task = lab.load_task(options.task, base)
    recipe = dataclasses.replace(task.recipe, steps=options.steps, eval_steps=None, warmup_steps=0)
    ratios = []
    for number in range(1, options.rounds + 1):
        theirs, ours = (
            seconds(base, task, recipe, clock) for seconds in (seconds_of_trainer, seconds_ours)
        )
        ratios.append(theirs / ours)
        print(
            f"round {number}: Trainer + PEFT {1000 * theirs:.1f} ms, "
            f"ours {1000 * ours:.1f} ms, {theirs / ours:.2f} times"
        )
    print(
        f"{lab.train(base, task, recipe).about}\n"
        f"{base.name}, {task.name}, batch {recipe.batch_size}, {options.threads} thread(s), "
        f"{base.device}: a step is {statistics.median(ratios):.2f} times as fast as Trainer's "
        f"({min(ratios):.2f} to {max(ratios):.2f} over {options.rounds} rounds)"
    )


if __name__ == "__main__":
    main()

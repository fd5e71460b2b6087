"""transformers' TrainingArguments, which TRL, LLaMA-Factory, Unsloth and scripts share."""

import math

from lora_lab.tools.brought_recipe import Reading

OPTIMIZERS = {  # names of transformers: ours
    **dict.fromkeys(("adamw", "adamw_hf", "adamw_torch", "adamw_torch_fused"), "adamw"),
    **dict.fromkeys(("adamw_torch_xla", "adamw_torch_npu_fused", "adamw_apex_fused"), "adamw"),
    **dict.fromkeys(("paged_adamw", "paged_adamw_32bit"), "adamw"),  # the same steps
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
    "paged_adamw_8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}
SCHEDULES = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
DEFAULTS = {  # transformers' TrainingArguments
    "batch_size": 8,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "optimizer": "adamw",
    "max_grad_norm": 1.0,
    "seed": 42,
}


def read_training(reading: Reading) -> tuple[float | None, float | None]:
    """Fill in the fields of transformers' TrainingArguments.

    Returns:
        The epochs, and the share of warm-up; None: not given. A number of steps makes epochs void.
    """
    say, number = reading.say, reading.number
    say("batch_size", whole(number("per_device_train_batch_size", "per_gpu_train_batch_size")))
    say("gradient_accumulation_steps", whole(number("gradient_accumulation_steps")))
    say("learning_rate", number("learning_rate"))
    say("weight_decay", number("weight_decay"))
    say("seed", whole(number("seed")))
    clip = number("max_grad_norm")
    say("max_grad_norm", math.inf if clip == 0 else clip)
    read_optimizer(reading, reading.take("optim"))
    read_schedule(reading, reading.take("lr_scheduler_type"))
    say("gradient_checkpointing", reading.flag("gradient_checkpointing"))
    for name in ("bf16", "fp16"):
        reading.traits[name] = reading.flag(name)
    steps = number("max_steps")
    epochs = number("num_train_epochs")
    if steps is not None and steps > 0:
        say("steps", whole(steps))
        if epochs is not None:
            reading.traits["steps_and_epochs"] = (whole(steps), epochs)
        epochs = None
    return epochs, read_warmup(reading)


def read_warmup(reading: Reading) -> float | None:
    """The share of warm-up: a value below 1. A number of steps goes to `warmup_steps` instead."""
    steps, ratio = reading.number("warmup_steps"), reading.number("warmup_ratio")
    if steps is not None and 0 < steps < 1:
        steps, ratio = None, steps
    if steps:  # transformers: a number of steps above 0 wins
        reading.say("warmup_steps", whole(steps))
        return None
    if ratio is None and steps == 0:
        reading.say("warmup_steps", 0)
    return ratio


def read_optimizer(reading: Reading, name: object) -> None:
    """Give the optimizer if there is a counterpart; the trait holds the name in any case."""
    if name is not None:
        reading.traits["optimizer"] = str(name)
        reading.say("optimizer", OPTIMIZERS.get(str(name).lower().removeprefix("optimizernames.")))


def read_schedule(reading: Reading, name: object) -> None:
    """Give the schedule if there is a counterpart; the trait holds the name in any case."""
    if name is not None:
        reading.traits["schedule"] = str(name)
        reading.say("lr_scheduler_type", SCHEDULES.get(str(name).lower()))


def read_evaluation(reading: Reading) -> None:
    """Steps between validations, and what `load_best_model_at_end` depends on."""
    strategy = reading.take("eval_strategy", "evaluation_strategy")
    every = reading.number("eval_steps")
    reading.traits["eval_strategy"] = strategy
    reading.traits["eval_steps"] = every
    reading.traits["save_strategy"] = reading.take("save_strategy")
    reading.traits["save_steps"] = reading.number("save_steps")
    reading.traits["load_best"] = reading.flag("load_best_model_at_end")
    if strategy == "steps" and every is not None and every >= 1:
        reading.say("eval_steps", whole(every))


def whole(value: float | int | None) -> float | int | None:
    """A whole number as int; another number stays, and `lab.Recipe` refuses it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def read_quantization(reading: Reading, bits: int | None, kind: object, double: object) -> None:
    """The precision of the base's weights: 4 bits as NF4 or FP4, 8 bits, or the base's own."""
    if bits == 4:
        reading.say("quantize", "fp4" if kind == "fp4" else "nf4")
        reading.say("double_quant", double if isinstance(double, bool) else None)
    elif bits == 8:
        reading.say("quantize", "int8")

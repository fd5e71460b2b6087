"""A recipe as a script of its own: the same fine-tune in plain PEFT, without this package."""

import json
import pprint
from dataclasses import fields
from string import Template

from lora_lab.adapters import quantization_for, to_peft
from lora_lab.bases import Base
from lora_lab.devices import named
from lora_lab.quantization import Quantization
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task

SCRIPT = Template('''\
"""$title, in plain $library: run it with `python` and this file's name."""

import json

import torch
$imports
from transformers import AutoModelForCausalLM, AutoTokenizer, ${more}get_scheduler

BASE = $base
STEPS, BATCH_SIZE, ACCUMULATION, MAX_LENGTH = $steps, $batch_size, $accumulation, $max_length


def main(examples):
    tokenizer = AutoTokenizer.from_pretrained(BASE)
$load
    torch.manual_seed($seed)
$adapt
    rows = [encode(tokenizer, prompt, answer) for prompt, answer in examples]
    rows = [row for row in rows if len(row[0]) <= MAX_LENGTH]
    order = shuffled(len(rows))
$groups
    optimizer = $optimizer
    scheduler = get_scheduler("$scheduler", optimizer, $warmup_steps, STEPS)
    model.train()
    for step in range(1, STEPS + 1):
        batches = [
            collate([rows[next(order)] for _ in range(BATCH_SIZE)], tokenizer.pad_token_id)
            for _ in range(ACCUMULATION)
        ]
        count = sum((batch["labels"][:, 1:] != -100).sum() for batch in batches)  # predicted
        total = 0.0
        for batch in batches:
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            loss = model(**batch, num_items_in_batch=count.to(model.device)).loss
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trainable, $max_grad_norm)
        optimizer.step()
$allocate        optimizer.zero_grad()
        scheduler.step()
        print(f"step {step}: loss {total:.6f}")
    model.save_pretrained("$folder")


def encode(tokenizer, prompt, answer):
    """Token ids, and labels that are -100 where no loss is earned."""
$encode


def shuffled(count):
    """Which example comes next: all of them in a new order, again and again."""
    generator = torch.Generator().manual_seed($seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def collate(rows, pad):
    """A batch, padded on the right."""
    longest = max(len(ids) for ids, _ in rows)
    spare = [longest - len(ids) for ids, _ in rows]
    return {
        "input_ids": torch.tensor([row[0] + [pad] * n for row, n in zip(rows, spare)]),
        "attention_mask": torch.tensor([[1] * (longest - n) + [0] * n for n in spare]),
        "labels": torch.tensor([row[1] + [-100] * n for row, n in zip(rows, spare)]),
    }


EXAMPLES = """\\
$examples
"""

main([json.loads(line) for line in EXAMPLES.splitlines()])
''')

WITH_TEMPLATE = """\
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    start = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    rest = tokenizer.apply_chat_template(messages, tokenize=False)[len(start) :].rstrip("\\n")
    asked = tokenizer(start, add_special_tokens=False)["input_ids"]
    answered = tokenizer(rest, add_special_tokens=False)["input_ids"]
"""
WITHOUT_TEMPLATE = """\
    asked = tokenizer(f"{prompt}\\n")["input_ids"]
    answered = tokenizer(answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
"""
LABELS = {
    "answer": "    return asked + answered, [-100] * len(asked) + answered",
    "all": "    return asked + answered, asked + answered",
}

CONFIG = {"lora": "LoraConfig", "adalora": "AdaLoraConfig"}
ALLOCATE = "        model.base_model.update_and_allocate(step)  # AdaLoRA: needs the gradients\n"
SPELT_OUT = (  # of PEFT's configurations, where they differ from the defaults
    *("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora"),
    *("init_lora_weights", "layers_to_transform", "modules_to_save", "task_type"),
    *("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"),
    *("orth_reg_weight", "total_step"),
)


def to_code(recipe: Recipe, base: Base, task: Task) -> str:
    """A stand-alone Python script with plain PEFT and transformers that does the same fine-tune.

    It holds the training examples, prints each step's loss and saves the adapter. With the same
    seed on the same machine its losses are those of `train`; AdaLoRA's are what PEFT trains on,
    `loss + orth_reg_weight * orthogonality`.

    Raises:
        ValueError: for a planted task, whose teacher is no text, and for what is not trained yet.
    """
    if task.teacher is not None:
        raise ValueError(
            f"task {task.name!r} has a planted teacher, which no list of examples can hold; "
            "give a task with answers"
        )
    if recipe.init_lora_weights == "loftq":
        raise ValueError("LoftQ can't be written out yet; give init_lora_weights=True")
    full = recipe.method == "full"
    how = quantization_for(base, recipe)
    pairs = [[example.prompt, example.answer] for example in task.train]
    examples = "\n".join(json.dumps(pair) for pair in pairs).replace("\\", "\\\\")
    template = base.tokenizer.chat_template is not None
    return SCRIPT.substitute(
        title=f"{task.name} on {base.name}",
        library="transformers" if full else "PEFT",
        imports=_imports(recipe, how),
        more="" if how is None else "BitsAndBytesConfig, ",
        load=_load_lines("float32" if full else named(base.dtype), base, how),
        base=repr(base.name if "/" in base.name else str(base.path)),
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        accumulation=recipe.gradient_accumulation_steps,
        max_length=recipe.max_length,
        seed=recipe.seed,
        adapt="" if full else _adapt_lines(recipe, base),
        allocate=ALLOCATE if recipe.method == "adalora" else "",
        groups=_group_lines(recipe),
        optimizer=_optimizer(recipe),
        scheduler=_scheduler(recipe),
        warmup_steps=recipe.warmup_steps,
        max_grad_norm=f'float("{recipe.max_grad_norm}")',
        folder=f"{task.name}-{recipe.method}",
        encode=(WITH_TEMPLATE if template else WITHOUT_TEMPLATE) + LABELS[recipe.loss_on],
        examples=examples.replace('"""', '\\"\\"\\"'),
    )


def _imports(recipe: Recipe, how: Quantization | None) -> str:
    names = [] if recipe.method == "full" else [CONFIG[recipe.method], "get_peft_model"]
    names += [] if how is None else ["prepare_model_for_kbit_training"]
    lines = ["import bitsandbytes"] * ("8bit" in recipe.optimizer)
    lines += [f"from peft import {', '.join(names)}"] * bool(names)
    return "\n".join(lines)


def _load_lines(dtype: str, base: Base, how: Quantization | None) -> str:
    load = f"    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.{dtype}"
    if how is None:
        return f'{load}).to("{base.device}")'
    options = "load_in_8bit=True"
    if how.quantize != "int8":
        options = (
            f'\n        load_in_4bit=True,\n        bnb_4bit_quant_type="{how.quantize}",'
            f"\n        bnb_4bit_use_double_quant={how.double_quant},"
            f"\n        bnb_4bit_compute_dtype={how.compute_dtype},\n    "
        )
    load = load.replace("(BASE, ", "(\n        BASE, ")
    return (
        f"    bits = BitsAndBytesConfig({options})\n"
        f'{load}, quantization_config=bits, device_map="{base.device}"\n    )\n'
        "    # norms and embeddings in float32; checkpointing would cost time to save memory\n"
        "    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)"
    )


def _adapt_lines(recipe: Recipe, base: Base) -> str:
    """The configuration, spelt out where it differs from PEFT's defaults."""
    config = to_peft(recipe, base)
    if recipe.method == "adalora":  # PEFT adds the orthogonality term to each batch's loss
        config.orth_reg_weight /= recipe.gradient_accumulation_steps
    defaults = {field.name: field.default for field in fields(config) if field.name in SPELT_OUT}
    named = {
        name: getattr(config, name)
        for name in SPELT_OUT
        if name in defaults and getattr(config, name) != defaults[name]
    }
    lines = "".join(
        f"        {name}={pprint.pformat(sorted(value) if isinstance(value, set) else value)},\n"
        for name, value in named.items()
    )
    checkpointing = (
        "\n    model.gradient_checkpointing_enable({'use_reentrant': False})"
        "\n    model.enable_input_require_grads()"
        if recipe.gradient_checkpointing
        else ""
    )
    made = f"    config = {CONFIG[recipe.method]}(\n{lines}    )\n"
    return f"{made}    model = get_peft_model(model, config){checkpointing}"


def _group_lines(recipe: Recipe) -> str:
    rate, decay = recipe.learning_rate, recipe.weight_decay
    lines = ["    trainable = [one for one in model.parameters() if one.requires_grad]"]
    if recipe.loraplus_lr_ratio != 1:
        lines += [
            "    named = [pair for pair in model.named_parameters() if pair[1].requires_grad]",
            '    b = [one for name, one in named if "lora_B" in name]  # LoRA+: B learns faster',
            '    others = [one for name, one in named if "lora_B" not in name]',
            f'    groups = [{{"params": b, "lr": {rate} * {recipe.loraplus_lr_ratio}}}, '
            f'{{"params": others, "lr": {rate}}}]',
        ]
    else:
        lines += [
            "    matrices = [one for one in trainable if one.ndim > 1]",
            "    vectors = [one for one in trainable if one.ndim == 1]  # not decayed",
            f'    groups = [{{"params": matrices, "weight_decay": {decay}}}, '
            '{"params": vectors, "weight_decay": 0.0}]',
        ]
    return "\n".join(lines)


def _optimizer(recipe: Recipe) -> str:
    kind = {
        "adamw": "torch.optim.AdamW",
        "sgd": "torch.optim.SGD",
        "adamw_8bit": "bitsandbytes.optim.AdamW8bit",
        "paged_adamw_8bit": "bitsandbytes.optim.PagedAdamW8bit",
    }[recipe.optimizer]
    return f"{kind}(groups, lr={recipe.learning_rate}, weight_decay={recipe.weight_decay})"


def _scheduler(recipe: Recipe) -> str:
    kind = recipe.lr_scheduler_type
    return "constant_with_warmup" if kind == "constant" and recipe.warmup_steps else kind

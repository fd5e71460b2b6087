"""A script with plain PEFT and transformers' Trainer that trains a recipe on a file."""

import math

from lora_lab.recipe import Recipe
from lora_lab.tools.trl import training_arguments

HEAD = '''"""A fine-tune with PEFT and transformers' Trainer. Start with: python train_peft.py"""

import csv
import json

import torch
import transformers
{imports}
BASE = {base!r}
DATA = {data!r}  # its columns are prompt and answer
MAX_LENGTH = {max_length}  # tokens; a longer example is left out
LOSS_ON = {loss_on!r}  # "all": the prompt earns a loss too

tokenizer = transformers.AutoTokenizer.from_pretrained(BASE)
if tokenizer.pad_token is None:  # the collator masks by position, so the end is learnt
    tokenizer.pad_token = tokenizer.eos_token


def encode(row):
    """Token ids in the model's own chat format, and labels: -100 where no loss is earned."""
    start, rest = row["prompt"] + "\\n", row["answer"] + tokenizer.eos_token
    if tokenizer.chat_template:
        chat = [{{"role": "user", "content": row["prompt"]}}]
        whole = chat + [{{"role": "assistant", "content": row["answer"]}}]
        start = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        rest = tokenizer.apply_chat_template(whole, tokenize=False)[len(start) :].rstrip("\\n")
    prompt = tokenizer(start, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    answer = tokenizer(rest, add_special_tokens=False)["input_ids"]
    labels = prompt if LOSS_ON == "all" else [-100] * len(prompt)
    return {{"input_ids": prompt + answer, "labels": labels + answer}}


def read_rows():
    """The file's rows: CSV, a list of objects (JSON), or an object a line (JSONL)."""
    with open(DATA, encoding="utf-8-sig", newline="") as file:
        if DATA.lower().endswith((".csv", ".tsv")):
            return list(csv.DictReader(file, delimiter="\\t" if DATA.endswith("tsv") else ","))
        text = file.read()
    if DATA.lower().endswith(".json"):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\\n") if line.strip()]


rows = [encode(row) for row in read_rows()]
rows = [row for row in rows if len(row["input_ids"]) <= MAX_LENGTH]
{split}
'''
TRAIN = """
trainer.train()
{save}
"""
CALLBACK = '''

class Allocate(transformers.TrainerCallback):
    """Shares AdaLoRA's ranks out after each step, which Trainer does not do by itself."""

    def on_optimizer_step(self, args, state, control, model=None, **others):
        model.base_model.update_and_allocate(state.global_step + 1)


'''
HAS_BFLOAT16 = "torch.cuda.is_available() and torch.cuda.is_bf16_supported()"
QUANTIZED = {"int8": {"load_in_8bit": True}}
OF_ADALORA = ("init_r", "target_r", "deltaT", "beta1", "beta2", "orth_reg_weight")


def script(recipe: Recipe, base: str, data: str) -> str:
    """The script for a recipe, with its values as literals.

    Raises:
        ValueError: for LoftQ, for LoRA+ with another optimizer than AdamW, and for layers without
            module names.
    """
    _check(recipe)
    names = _imports(recipe)
    text = HEAD.format(
        imports=f"from peft import {', '.join(names)}\n" if names else "",
        base=base,
        data=data,
        max_length=recipe.max_length,
        loss_on=recipe.loss_on,
        split="held_out = rows[::10]  # a tenth, for the validation loss\n"
        "rows = [row for place, row in enumerate(rows) if place % 10]\n"
        if recipe.eval_steps
        else "",
    )
    if recipe.loraplus_lr_ratio != 1:
        text = text.replace(
            "from peft", "from peft.optimizers import create_loraplus_optimizer\nfrom peft", 1
        )
    text += _model(recipe) + _arguments(recipe)
    if recipe.method == "adalora":
        text += CALLBACK
    return text + _trainer(recipe)


def _check(recipe: Recipe) -> None:
    problem = None
    if recipe.init_lora_weights == "loftq":
        problem = "init_lora_weights='loftq'"
    elif recipe.loraplus_lr_ratio != 1 and recipe.optimizer != "adamw":
        problem = f"loraplus_lr_ratio with optimizer={recipe.optimizer!r}"
    elif recipe.layers_to_transform is not None and isinstance(recipe.target_modules, str):
        problem = f"layers_to_transform with target_modules={recipe.target_modules!r}"
    if problem:
        raise ValueError(f"no script is written for {problem}; give other values, or lab.to_code")


def _imports(recipe: Recipe) -> list[str]:
    if recipe.method == "full":
        return []
    config = "AdaLoraConfig" if recipe.method == "adalora" else "LoraConfig"
    return [
        config,
        "get_peft_model",
        *(["prepare_model_for_kbit_training"] * bool(recipe.quantize)),
    ]


def _call(name: str, arguments: dict[str, object]) -> str:
    lines = "".join(f"    {key}={value},\n" for key, value in arguments.items())
    return f"{name}(\n{lines})"


def _literals(arguments: dict[str, object]) -> dict[str, str]:
    return {
        key: repr([*value] if isinstance(value, tuple) else value)
        for key, value in arguments.items()
    }


def _model(recipe: Recipe) -> str:
    loading: dict[str, object] = {"dtype": "torch.float32" if recipe.method == "full" else '"auto"'}
    text = ""
    if recipe.quantize:
        config = _literals(QUANTIZED.get(recipe.quantize, {}))
        if recipe.quantize != "int8":
            dtype = f"torch.{recipe.compute_dtype}"
            if recipe.compute_dtype == "auto":
                dtype = f"torch.bfloat16 if {HAS_BFLOAT16} else torch.float32"
            config = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": repr(recipe.quantize),
                "bnb_4bit_use_double_quant": recipe.double_quant,
                "bnb_4bit_compute_dtype": dtype,
            }
        text += f"quantization = {_call('transformers.BitsAndBytesConfig', config)}\n"
        loading["quantization_config"] = "quantization"
    loading = {"pretrained_model_name_or_path": "BASE"} | loading
    text += f"model = {_call('transformers.AutoModelForCausalLM.from_pretrained', loading)}\n"
    if recipe.method == "full":
        return text
    if recipe.quantize:
        text += "model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)\n"
    fields: dict[str, object] = {"task_type": "CAUSAL_LM", "lora_alpha": recipe.lora_alpha}
    fields |= {"target_modules": recipe.target_modules, "lora_dropout": recipe.lora_dropout}
    if recipe.modules_to_save:
        fields["modules_to_save"] = recipe.modules_to_save
    if recipe.layers_to_transform is not None:
        fields["layers_to_transform"] = recipe.layers_to_transform
    if recipe.method == "adalora":
        tinit, tfinal = recipe.schedule
        fields |= {name: getattr(recipe, name) for name in OF_ADALORA}
        fields |= {"tinit": tinit, "tfinal": tfinal, "total_step": recipe.steps}
        if recipe.gradient_accumulation_steps > 1:  # PEFT adds the term to each batch's loss
            fields["orth_reg_weight"] /= recipe.gradient_accumulation_steps
    else:
        fields |= {"r": recipe.r, "use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
        fields["init_lora_weights"] = recipe.init_lora_weights
    config = _imports(recipe)[0]
    return (
        text
        + f"config = {_call(config, _literals(fields))}\nmodel = get_peft_model(model, config)\n"
    )


def _arguments(recipe: Recipe) -> str:
    fields = training_arguments(recipe)
    fields["max_grad_norm"] = 0.0 if math.isinf(recipe.max_grad_norm) else recipe.max_grad_norm
    fields["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    fields |= {"bf16": False, "logging_steps": 1, "output_dir": "outputs", "report_to": "none"}
    literals = _literals(fields)
    literals["bf16"] = HAS_BFLOAT16
    return f"arguments = {_call('transformers.TrainingArguments', literals)}\n"


def _trainer(recipe: Recipe) -> str:
    fields = {"model": "model", "args": "arguments", "train_dataset": "rows"}
    if recipe.eval_steps:
        fields["eval_dataset"] = "held_out"
    fields["data_collator"] = "transformers.DataCollatorForSeq2Seq(tokenizer)"
    text = ""
    if recipe.method == "adalora":
        fields["callbacks"] = "[Allocate()]"
    if recipe.loraplus_lr_ratio != 1:
        plus = {"model": "model", "optimizer_cls": "torch.optim.AdamW", "lr": recipe.learning_rate}
        plus |= {"loraplus_lr_ratio": recipe.loraplus_lr_ratio, "weight_decay": recipe.weight_decay}
        text += f"optimizer = {_call('create_loraplus_optimizer', plus)}\n"
        fields["optimizers"] = "(optimizer, None)"
    save = 'model.save_pretrained("outputs")'
    if recipe.changes_the_base:  # with the start beside it PEFT saves a plain LoRA
        text += 'model.save_pretrained("outputs/start")\n'
        start = 'path_initial_model_for_weight_conversion="outputs/start"'
        save = f'model.save_pretrained("outputs", {start})'
    return text + f"trainer = {_call('transformers.Trainer', fields)}" + TRAIN.format(save=save)

"""Axolotl's YAML: read into our words, and written.

Source: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas, read at commit 067b021c.
"""

import math
from collections.abc import Mapping

from lora_lab.recipe import Recipe
from lora_lab.tools.brought_recipe import BroughtRecipe, Reading, as_names, known_initialisation
from lora_lab.tools.training_arguments import (
    read_optimizer,
    read_quantization,
    read_schedule,
    read_warmup,
    whole,
)
from lora_lab.tools.vocabulary import keys_of

NAME = "Axolotl"
# Attention that keeps packed examples apart: schemas/config.py, attn_decontaminates_packing. The
# names of the hub's kernels contain "flash" too.
APART = ("flash", "flex", "xformers", "sage", "sdpa", "eager")
EXCLUSIVE = (  # schemas/validation.py refuses both
    ("warmup_steps", "warmup_ratio"),
    ("eval_steps", "evals_per_epoch"),
    ("save_steps", "saves_per_epoch"),
    ("gradient_accumulation_steps", "batch_size"),
)
STAGES = {  # keys that mean another loss than that of supervised fine-tuning
    "ebft": "ebft",
    "reward_model": "reward",
    "process_reward_model": "reward",
    "pretraining_dataset": "pretrain",
}
ADAPTERS = {"lora": "lora", "qlora": "lora", None: "full", "": "full"}
ASSUMED = {  # the schema's own defaults
    "r": 8,
    "lora_dropout": 0.0,
    "lr_scheduler_type": "cosine",
    "optimizer": "adamw",
    "batch_size": 1,
    "max_length": 512,
    "loss_on": "answer",
    "seed": 42,
}


def read(values: Mapping[str, object], source: str) -> BroughtRecipe:
    """The recipe in Axolotl's settings.

    Raises:
        ValueError: if a value that should be a number is not.
    """
    reading = Reading(values)
    take, say, number, flag, traits = (
        *(reading.take, reading.say, reading.number),
        *(reading.flag, reading.traits),
    )
    adapter = reading.text("adapter")
    method = ADAPTERS.get(adapter, "other")
    if method != "other":
        say("method", method)
    traits["adapter"] = adapter
    stage = str(take("rl") or next((kind for key, kind in STAGES.items() if take(key)), "sft"))
    _read_adapter(reading)
    bits = 4 if flag("load_in_4bit") else 8 if flag("load_in_8bit") else None
    config = take("bnb_config_kwargs", default={})
    config = config if isinstance(config, Mapping) else {}
    double = config.get("bnb_4bit_use_double_quant")
    read_quantization(reading, bits, config.get("bnb_4bit_quant_type"), double)
    traits["bits"] = bits
    say("batch_size", whole(number("micro_batch_size")))
    say("gradient_accumulation_steps", whole(number("gradient_accumulation_steps")))
    say("learning_rate", number("learning_rate"))
    say("weight_decay", number("weight_decay"))
    clip = number("max_grad_norm")
    say("max_grad_norm", math.inf if clip == 0 else clip)
    say("seed", whole(number("seed")))
    say("max_length", whole(number("sequence_len")))
    read_optimizer(reading, take("optimizer"))
    read_schedule(reading, take("lr_scheduler"))
    checkpointing = take("gradient_checkpointing")
    say("gradient_checkpointing", None if checkpointing is None else bool(checkpointing))
    epochs, ratio = number("num_epochs"), read_warmup(reading)
    steps = number("max_steps")
    if steps is not None and steps > 0:
        say("steps", whole(steps))
        traits["steps_and_epochs"] = (whole(steps), epochs) if epochs is not None else None
        epochs = None
    for name in ("bf16", "fp16"):
        traits[name] = take(name)
    every = number("eval_steps")
    if every is not None and every >= 1:
        say("eval_steps", whole(every))
    traits["eval_steps"] = every
    attention = take("attn_implementation") or _older_attention(reading)
    traits["packing"] = bool(flag("sample_packing"))
    traits["attention"] = attention
    traits["apart"] = attention is not None and any(name in str(attention) for name in APART)
    traits["tokens"] = bool(take("tokens"))
    traits["keeps_tokens"] = bool(
        reading.said.get("modules_to_save") or take("peft_trainable_token_indices")
    )
    traits["exclusive"] = next(
        (pair for pair in EXCLUSIVE if all(values.get(name) is not None for name in pair)), None
    )
    data = _data(take("datasets") or take("pretraining_dataset"))
    completion = [kind for _, kind in data if kind in ("completion", "pretrain")]
    if flag("train_on_inputs") or (data and len(completion) == len(data)):
        say("loss_on", "all")
    elif "train_on_inputs" in reading.values:
        say("loss_on", "answer")
    base = reading.text("base_model")
    untranslated, unknown = reading.rest(keys_of(NAME))
    assumed = dict(ASSUMED)
    if method == "full":
        for name in ("r", "lora_dropout"):
            assumed.pop(name)
    return BroughtRecipe(
        tool=NAME,
        source=source,
        said=reading.said,
        assumed=assumed,
        base=base,
        data=tuple(path for path, _ in data),
        stage=stage,
        epochs=epochs if steps is None or steps <= 0 else None,
        warmup_ratio=ratio,
        traits=traits,
        untranslated=untranslated,
        unknown=unknown,
        vocabulary=keys_of(NAME),
    )


def _read_adapter(reading: Reading) -> None:
    take, say, number, flag = reading.take, reading.say, reading.number, reading.flag
    say("r", whole(number("lora_r")))
    say("lora_alpha", number("lora_alpha"))
    say("lora_dropout", number("lora_dropout"))
    targets = as_names(take("lora_target_modules"))
    if flag("lora_target_linear"):  # the names are added to all linear layers
        targets = "all-linear"
    say("target_modules", targets or None)
    saved = as_names(take("lora_modules_to_save"))
    say("modules_to_save", (saved,) if isinstance(saved, str) else saved)
    layers = take("peft_layers_to_transform")
    say("layers_to_transform", (layers,) if isinstance(layers, int) else layers)
    say("use_rslora", flag("peft_use_rslora"))
    say("use_dora", flag("peft_use_dora"))
    init = take("peft_init_lora_weights")
    say("init_lora_weights", known_initialisation(init))
    reading.traits["initialisation"] = init
    say("loraplus_lr_ratio", number("loraplus_lr_ratio"))


def _older_attention(reading: Reading) -> str | None:
    """The attention by one of the older switches."""
    switches = {
        "flash_attention": "flash_attention_2",
        "xformers_attention": "xformers",
        "flex_attention": "flex_attention",
        "sage_attention": "sage",
        "sdp_attention": "sdpa",
        "eager_attention": "eager",
    }
    return next((name for switch, name in switches.items() if reading.flag(switch)), None)


def _data(entries: object) -> list[tuple[str, object]]:
    """Each dataset's path and kind; a local file stands in `data_files`."""
    entries = entries if isinstance(entries, list) else [entries]
    found = []
    for entry in entries:
        if isinstance(entry, str):
            found.append((entry, None))
        elif isinstance(entry, Mapping):
            files = entry.get("data_files")
            files = files[0] if isinstance(files, list) and files else files
            path = files if isinstance(files, str) else entry.get("path")
            if isinstance(path, str):
                kind = entry.get("type")
                found.append((path, kind if isinstance(kind, str) else None))
    return found


# --- written ------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}


def settings(recipe: Recipe, base: str, data: str) -> dict[str, object]:
    """Axolotl's settings for a recipe that `writing.check` has let through."""
    found: dict[str, object] = {"base_model": base}
    if recipe.method == "lora":
        found["adapter"] = "qlora" if recipe.quantize in ("nf4", "fp4") else "lora"
        found |= {"load_in_4bit": recipe.quantize in ("nf4", "fp4")}
        found |= {"load_in_8bit": recipe.quantize == "int8"}
        if recipe.quantize in ("nf4", "fp4"):
            found["bnb_config_kwargs"] = {
                "bnb_4bit_quant_type": recipe.quantize,
                "bnb_4bit_use_double_quant": recipe.double_quant,
            }
        found |= {"lora_r": recipe.r, "lora_alpha": recipe.lora_alpha}
        found["lora_dropout"] = recipe.lora_dropout
        if recipe.target_modules == "all-linear":
            found["lora_target_linear"] = True
        else:
            targets = recipe.target_modules
            found["lora_target_modules"] = targets if isinstance(targets, str) else [*targets]
        if recipe.modules_to_save:
            found["lora_modules_to_save"] = [*recipe.modules_to_save]
        if recipe.layers_to_transform is not None:
            found["peft_layers_to_transform"] = [*recipe.layers_to_transform]
        if recipe.use_rslora:
            found["peft_use_rslora"] = True
        if recipe.use_dora:
            found["peft_use_dora"] = True
        if recipe.init_lora_weights is not True:
            found["peft_init_lora_weights"] = recipe.init_lora_weights
        if recipe.loraplus_lr_ratio != 1:
            found["loraplus_lr_ratio"] = recipe.loraplus_lr_ratio
    found["datasets"] = [
        {
            "path": data,
            "ds_type": "csv" if data.lower().endswith(".csv") else "json",
            "type": {
                "field_instruction": "prompt",
                "field_output": "answer",
                "format": "{instruction}",
                "no_input_format": "{instruction}",
            },
        }
    ]
    found |= {"train_on_inputs": recipe.loss_on == "all", "sequence_len": recipe.max_length}
    found |= {"sample_packing": False, "micro_batch_size": recipe.batch_size}
    found["gradient_accumulation_steps"] = recipe.gradient_accumulation_steps
    found |= {"max_steps": recipe.steps, "optimizer": OPTIMIZERS[recipe.optimizer]}
    found |= {"learning_rate": recipe.learning_rate, "lr_scheduler": _schedule(recipe)}
    found |= {"warmup_steps": recipe.warmup_steps, "weight_decay": recipe.weight_decay}
    found["max_grad_norm"] = 0.0 if math.isinf(recipe.max_grad_norm) else recipe.max_grad_norm
    found["gradient_checkpointing"] = recipe.gradient_checkpointing
    if recipe.eval_steps is not None:
        found |= {"val_set_size": 0.1, "eval_steps": recipe.eval_steps}
    found |= {"seed": recipe.seed, "bf16": "auto", "output_dir": "./outputs"}
    return found


def _schedule(recipe: Recipe) -> str:
    warmed = recipe.lr_scheduler_type == "constant" and recipe.warmup_steps
    return "constant_with_warmup" if warmed else recipe.lr_scheduler_type

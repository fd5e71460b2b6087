"""TRL's and transformers' arguments: read from YAML, JSON or a shell script, and written as YAML.

Source: huggingface/trl, trl/trainer/model_config.py, sft_config.py, trl/scripts/utils.py, read at
commit f2cd5771; transformers 5.24, TrainingArguments.
"""

import math
from collections.abc import Mapping

from lora_lab.recipe import Recipe
from lora_lab.tools.brought_recipe import BroughtRecipe, Reading, as_names
from lora_lab.tools.training_arguments import (
    DEFAULTS,
    read_evaluation,
    read_quantization,
    read_training,
    whole,
)
from lora_lab.tools.vocabulary import keys_of

NAME = "TRL"
FLASH = "flash"  # in the name of every attention that TRL trusts with packed examples
ASSUMED = DEFAULTS | {  # of SFTConfig and ModelConfig
    "learning_rate": 2e-5,
    "max_length": 1024,
    "gradient_checkpointing": True,
}
ADAPTER = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05}
STAGES = {  # keys that only one of TRL's other trainers has
    "num_generations": "grpo",
    "reward_funcs": "grpo",
    "max_completion_length": "grpo",
    "desirable_weight": "kto",
    "loss_type_dpo": "dpo",
    "beta": "dpo",
}


def read(values: Mapping[str, object], source: str) -> BroughtRecipe:
    """The recipe in the arguments of `trl sft`, or of a script with transformers' arguments.

    Raises:
        ValueError: if a value that should be a number is not.
    """
    reading = Reading(values)
    take, say, flag, traits = reading.take, reading.say, reading.flag, reading.traits
    epochs, ratio = read_training(reading)
    read_evaluation(reading)
    adapted = _read_adapter(reading)
    if adapted is not None:
        say("method", "lora" if adapted else "full")
    bits = 4 if flag("load_in_4bit") else 8 if flag("load_in_8bit") else None
    bits = bits or (4 if flag("use_4bit_quantization") else None)  # PEFT's examples/sft
    double = flag("use_bnb_nested_quant")
    double = flag("use_nested_quant") if double is None else double
    # by default PEFT's script and TRL leave the blocks' constants as they are
    read_quantization(reading, bits, take("bnb_4bit_quant_type"), bool(double))
    dtype = take("bnb_4bit_compute_dtype") or take("dtype", "torch_dtype")
    if bits == 4 and dtype in ("float32", "bfloat16", "float16"):
        say("compute_dtype", dtype)
    traits["bits"] = bits
    length = reading.number("max_length", "max_seq_length")
    say("max_length", whole(length))
    if flag("completion_only_loss") or flag("assistant_only_loss"):
        say("loss_on", "answer")
    elif flag("completion_only_loss") is False:
        say("loss_on", "all")
    attention = take("attn_implementation")
    if flag("use_flash_attn"):
        attention = "flash_attention_2"
    wrapped = take("packing_strategy") == "wrapped"
    traits["packing"] = bool(flag("packing"))
    traits["attention"] = attention
    traits["apart"] = FLASH in str(attention) and not wrapped
    traits["trainer"] = "SFTTrainer"
    stage = next((kind for key, kind in STAGES.items() if key in reading.values), "sft")
    words = keys_of("TRL", "transformers")
    base, data = reading.text("model_name_or_path", "model_name"), _data(reading)
    untranslated, unknown = reading.rest(words)
    return BroughtRecipe(
        tool=NAME,
        source=source,
        said=reading.said,
        assumed=ASSUMED | (ADAPTER if adapted is not False else {}),
        base=base,
        data=data,
        stage=stage,
        epochs=3.0 if epochs is None and "steps" not in reading.said else epochs,
        warmup_ratio=ratio,
        traits=traits,
        untranslated=untranslated,
        unknown=unknown,
        vocabulary=words,
    )


def _read_adapter(reading: Reading) -> bool | None:
    """Fill in the adapter's fields; returns whether an adapter is trained, or None if unknown."""
    take, say, number, flag = reading.take, reading.say, reading.number, reading.flag
    on = flag("use_peft")
    on = flag("use_peft_lora") if on is None else on
    on = flag("use_lora") if on is None else on
    names = ("lora_r", "lora_alpha", "lora_target_modules", "peft_config")
    if on is None:  # TRL trains every weight without use_peft, whatever lora_r says
        reading.traits["adapter_ignored"] = any(reading.values.get(name) for name in names)
        on = False
    if not on:
        reading.used.update((*names, "lora_dropout"))
        return False
    say("r", whole(number("lora_r")))
    say("lora_alpha", number("lora_alpha"))
    say("lora_dropout", number("lora_dropout"))
    say("target_modules", as_names(take("lora_target_modules")))
    saved = as_names(take("lora_modules_to_save"))
    say("modules_to_save", (saved,) if isinstance(saved, str) else saved)
    say("use_rslora", flag("use_rslora"))
    say("use_dora", flag("use_dora"))
    if "target_modules" not in reading.said:
        reading.traits["targets_left_to_peft"] = True
    return True


def _data(reading: Reading) -> tuple[str, ...]:
    mixture = reading.take("datasets")
    found = []
    for entry in mixture if isinstance(mixture, list) else ():
        if isinstance(entry, Mapping):
            files = entry.get("data_files")
            files = files[0] if isinstance(files, list) and files else files
            found.append(str(files if isinstance(files, str) else entry.get("path")))
    name = reading.take("dataset_name")
    return tuple(found) or ((str(name),) if name else ())


# --- written ------------------------------------------------------------------------------------

OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
    "sgd": "sgd",
}


def training_arguments(recipe: Recipe) -> dict[str, object]:
    """The arguments of transformers' Trainer for a recipe."""
    warmed = recipe.lr_scheduler_type == "constant" and recipe.warmup_steps
    found: dict[str, object] = {
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "max_steps": recipe.steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if warmed else recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": 0.0 if math.isinf(recipe.max_grad_norm) else recipe.max_grad_norm,
        "optim": OPTIMIZERS[recipe.optimizer],
        "seed": recipe.seed,
    }
    if recipe.eval_steps is not None:
        found |= {"eval_strategy": "steps", "eval_steps": recipe.eval_steps}
    return found


def settings(recipe: Recipe, base: str, data: str) -> dict[str, object]:
    """The YAML of `trl sft --config` for a recipe that `writing.check` has let through."""
    found: dict[str, object] = {"model_name_or_path": base}
    kind = "csv" if data.lower().endswith(".csv") else "json"
    found["datasets"] = [{"path": kind, "data_files": data, "split": "train"}]
    if recipe.eval_steps is not None:
        found["test_split_size"] = 0.1
    found |= training_arguments(recipe)
    found |= {"max_length": recipe.max_length, "completion_only_loss": recipe.loss_on == "answer"}
    found["packing"] = False
    if recipe.quantize:
        found["load_in_4bit" if recipe.quantize != "int8" else "load_in_8bit"] = True
    if recipe.quantize in ("nf4", "fp4"):
        found["bnb_4bit_quant_type"] = recipe.quantize
        found["use_bnb_nested_quant"] = recipe.double_quant
        # TRL computes in the dtype of the base, and would take float32
        found["dtype"] = "bfloat16" if recipe.compute_dtype == "auto" else recipe.compute_dtype
    found["use_peft"] = recipe.method == "lora"
    if recipe.method == "lora":
        targets = recipe.target_modules
        found |= {"lora_r": recipe.r, "lora_alpha": recipe.lora_alpha}
        found["lora_dropout"] = recipe.lora_dropout
        found["lora_target_modules"] = targets if isinstance(targets, str) else [*targets]
        if recipe.modules_to_save:
            found["lora_modules_to_save"] = [*recipe.modules_to_save]
        found |= {"use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
    return found | {"output_dir": "outputs"}

"""LLaMA-Factory's YAML: read into our words, and written.

Source: hiyouga/LLaMA-Factory, src/llamafactory/hparams, read at commit ff6d4d12.
"""

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
from lora_lab.tools.trl import training_arguments
from lora_lab.tools.vocabulary import keys_of

NAME = "LLaMA-Factory"
ASSUMED = DEFAULTS | {"max_length": 2048, "gradient_checkpointing": True, "loss_on": "answer"}
ADAPTER = {"r": 8, "lora_dropout": 0.0, "target_modules": "all-linear"}
STAGES = {"pt": "pretrain", "rm": "reward"}


def read(values: Mapping[str, object], source: str) -> BroughtRecipe:
    """The recipe in LLaMA-Factory's settings.

    Raises:
        ValueError: if a value that should be a number is not.
    """
    if not values.get("do_train") and {"infer_backend", "export_dir"} & {*values}:
        raise ValueError(
            f"{source} is a configuration for chatting or exporting, and trains nothing; give the "
            "one that trains"
        )
    reading = Reading(_flat(values))
    take, say, flag, traits = reading.take, reading.say, reading.flag, reading.traits
    epochs, ratio = read_training(reading)
    read_evaluation(reading)
    stage = str(take("stage", default="sft"))
    kind = reading.text("finetuning_type") or "lora"
    traits["adapter"] = kind
    if kind in ("lora", "full"):
        say("method", kind)
    if kind == "lora":
        _read_adapter(reading)
    bits = reading.number("quantization_bit")
    double = flag("double_quantization")
    read_quantization(reading, bits, take("quantization_type"), double)
    traits["bits"] = bits
    say("max_length", whole(reading.number("cutoff_len")))
    if flag("disable_gradient_checkpointing") is not None:
        say("gradient_checkpointing", not flag("disable_gradient_checkpointing"))
    if flag("train_on_prompt") or stage == "pt":
        say("loss_on", "all")
    elif flag("train_on_prompt") is False:
        say("loss_on", "answer")
    neat = bool(flag("neat_packing"))
    # pretraining cuts one long text, so its pieces need not be kept apart
    traits["packing"] = stage == "sft" and (bool(flag("packing")) or neat)
    traits["attention"], traits["apart"] = take("flash_attn"), neat
    traits["examples"] = whole(reading.number("max_samples"))
    data = take("dataset", default=())
    if "model" in values and "dpo" in str(data):  # the newer form names no stage
        stage = "dpo"
    words = keys_of(NAME, "transformers")
    base = reading.text("model_name_or_path")
    untranslated, unknown = reading.rest(words)
    return BroughtRecipe(
        tool=NAME,
        source=source,
        said=reading.said,
        assumed=ASSUMED | (ADAPTER if kind == "lora" else {}),
        base=base,
        data=as_names(data) or () if not isinstance(data, str) else _parts(data),
        stage=STAGES.get(stage, stage),
        epochs=3.0 if epochs is None and "steps" not in reading.said else epochs,
        warmup_ratio=ratio,
        traits=traits,
        untranslated=untranslated,
        unknown=unknown,
        vocabulary=words,
    )


def _flat(values: Mapping[str, object]) -> Mapping[str, object]:
    """The newer form of the settings (examples/v1) under the names of the older form."""
    adapter, quantized = values.get("peft_config"), values.get("quant_config")
    if "model" not in values:
        return values
    adapter = adapter if isinstance(adapter, Mapping) else {}
    quantized = quantized if isinstance(quantized, Mapping) else {}
    names = {
        "model": "model_name_or_path",
        "train_dataset": "dataset",
        "micro_batch_size": "per_device_train_batch_size",
    }
    rest = {
        key: value for key, value in values.items() if key not in ("peft_config", "quant_config")
    }
    flat = {names.get(key, key): value for key, value in rest.items()}
    flat["finetuning_type"] = adapter.get("name", "full")
    older = {"r": "lora_rank", "target_modules": "lora_target"}
    flat |= {older.get(key, key): value for key, value in adapter.items() if key != "name"}
    if quantized.get("quantization_bit"):
        flat["quantization_bit"] = quantized["quantization_bit"]
    return flat


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _read_adapter(reading: Reading) -> None:
    take, say, number, flag = reading.take, reading.say, reading.number, reading.flag
    say("r", whole(number("lora_rank")))
    alpha = number("lora_alpha")
    say("lora_alpha", alpha or 2 * reading.said.get("r", 8))  # hparams/finetuning_args.py
    say("lora_dropout", number("lora_dropout"))
    targets = as_names(take("lora_target"))
    say("target_modules", "all-linear" if targets in (("all",), "all") else targets)
    saved = as_names(take("additional_target"))
    say("modules_to_save", (saved,) if isinstance(saved, str) else saved)
    say("use_rslora", flag("use_rslora"))
    say("use_dora", flag("use_dora"))
    say("loraplus_lr_ratio", number("loraplus_lr_ratio"))
    if flag("pissa_init"):
        rounds = whole(number("pissa_iter"))
        rounds = 16 if rounds is None else rounds
        say("init_lora_weights", "pissa" if rounds == -1 else f"pissa_niter_{rounds}")


# --- written ------------------------------------------------------------------------------------

DATASET = "lora_lab_data"  # the name under which dataset_info.json lists the file


def settings(recipe: Recipe, base: str, data: str) -> dict[str, object]:
    """LLaMA-Factory's settings for a recipe that `writing.check` has let through."""
    found: dict[str, object] = {"model_name_or_path": base, "stage": "sft", "do_train": True}
    found["finetuning_type"] = recipe.method
    if recipe.method == "lora":
        targets = recipe.target_modules
        found |= {"lora_rank": recipe.r, "lora_alpha": recipe.lora_alpha}
        found["lora_dropout"] = recipe.lora_dropout
        found["lora_target"] = "all" if targets == "all-linear" else ",".join(targets)
        if recipe.modules_to_save:
            found["additional_target"] = ",".join(recipe.modules_to_save)
        found |= {"use_rslora": recipe.use_rslora, "use_dora": recipe.use_dora}
        if recipe.loraplus_lr_ratio != 1:
            found["loraplus_lr_ratio"] = recipe.loraplus_lr_ratio
        init = recipe.init_lora_weights
        if init is not True:
            found["pissa_init"] = True
            found["pissa_iter"] = -1 if init == "pissa" else int(str(init).rpartition("_")[2])
    if recipe.quantize:
        found["quantization_bit"] = 8 if recipe.quantize == "int8" else 4
    if recipe.quantize in ("nf4", "fp4"):
        found["quantization_type"] = recipe.quantize
        found["double_quantization"] = recipe.double_quant
    found |= {"dataset": DATASET, "dataset_dir": ".", "template": "default"}
    found |= {"cutoff_len": recipe.max_length, "train_on_prompt": recipe.loss_on == "all"}
    found["packing"] = False
    arguments = training_arguments(recipe)
    del arguments["gradient_checkpointing"]
    found["disable_gradient_checkpointing"] = not recipe.gradient_checkpointing
    if recipe.eval_steps is not None:
        found["val_size"] = 0.1
    return found | arguments | {"bf16": True, "output_dir": "outputs"}


def dataset_info(data: str) -> dict[str, object]:
    """LLaMA-Factory's list of datasets, with this file and the names of its columns."""
    return {DATASET: {"file_name": data, "columns": {"prompt": "prompt", "response": "answer"}}}

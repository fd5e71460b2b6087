"""Fine-tunes in Python scripts and notebooks: PEFT, transformers' Trainer, TRL, Unsloth."""

from collections.abc import Mapping

from lora_lab.tools.brought_recipe import BroughtRecipe, Reading
from lora_lab.tools.peft_config import read_adapter
from lora_lab.tools.python_calls import Call, Code, Unread, read_code
from lora_lab.tools.training_arguments import (
    DEFAULTS,
    read_evaluation,
    read_quantization,
    read_training,
    whole,
)
from lora_lab.tools.vocabulary import keys_of

FAST = ("FastLanguageModel", "FastModel", "FastVisionModel", "FastTextModel")  # Unsloth's
ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIGS = ("LoraConfig", "AdaLoraConfig")
ARGUMENTS = ("SFTConfig", "TrainingArguments", "Seq2SeqTrainingArguments")
ARGUMENTS += ("UnslothTrainingArguments", "SentenceTransformerTrainingArguments")
OTHER_STAGES = {  # trainers and configs of other losses
    "DPO": "dpo",
    "GRPO": "grpo",
    "KTO": "kto",
    "ORPO": "orpo",
    "CPO": "cpo",
    "PPO": "ppo",
    "RLOO": "rloo",
    "Reward": "reward",
    "OnlineDPO": "dpo",
    "SentenceTransformer": "embedding",
}
HEADS = ("SequenceClassification", "TokenClassification", "ImageClassification", "Seq2Seq")
HEADS += ("SpeechSeq2Seq", "FeatureExtraction", "Vision2Seq", "SemanticSegmentation")
ADAPTER_OF_UNSLOTH = {"r": 16, "lora_alpha": 16, "lora_dropout": 0.0, "target_modules": ALL_LINEAR}
ADAPTER_OF_PEFT = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}


def read(text: str, source: str) -> BroughtRecipe | None:
    """The recipe in a script or notebook; None: it trains nothing that is known here.

    Raises:
        ValueError: if it is not Python, or a value that should be a number is not.
    """
    code = read_code(text, source)
    adapter, arguments = _adapter_call(code), _arguments_call(code)
    if adapter is None and arguments is None:
        return None
    unsloth = bool({*FAST} & code.mentioned)
    settings = arguments.known() if arguments else {}
    for trainer in code.all("SFTTrainer", "UnslothTrainer"):  # older releases took these here
        taken = ("packing", "max_seq_length", "dataset_text_field", "max_length")
        settings |= {k: v for k, v in trainer.known().items() if k in taken and k not in settings}
    reading = Reading(settings)
    epochs, ratio = read_training(reading)
    read_evaluation(reading)
    traits = reading.traits
    is_trl = bool(code.all("SFTConfig", "SFTTrainer", "UnslothTrainer"))
    if adapter is not None:
        _read_adapter(reading, adapter, unsloth)
        for call in code.all("create_loraplus_optimizer"):
            reading.say("loraplus_lr_ratio", _number_or_none(call.known().get("loraplus_lr_ratio")))
    elif "get_peft_model" in code.mentioned or "PeftModel" in code.mentioned:
        traits["adapter"] = "an adapter of another kind"
        traits["frozen"] = _trains_a_frozen_adapter(code)
    else:
        reading.say("method", "full")
    _read_base(reading, code, unsloth)
    four = reading.said.get("quantize") in ("nf4", "fp4")
    if reading.said.get("init_lora_weights") == "loftq" and not four:
        traits["initialisation"] = reading.said.pop("init_lora_weights")
    length = reading.number("max_length", "max_seq_length")
    loading = _loading_call(code)
    if length is None and unsloth and loading is not None:
        length = _number_or_none(loading.known().get("max_seq_length"))
    if length is None:
        names = ("MAX_LENGTH", "max_length", "max_seq_length", "cutoff_len")
        length = next(
            (found for name in names if (found := _number_or_none(code.names.get(name)))), None
        )
    reading.say("max_length", whole(length))
    _read_loss(reading, code)
    _read_traps(reading, code, is_trl, unsloth)
    words = keys_of("TRL", "transformers")
    untranslated, unknown = reading.rest(words)
    assumed = dict(DEFAULTS) if arguments is not None else {}
    if arguments is not None and arguments.name == "SFTConfig":
        assumed |= {"learning_rate": 2e-5, "gradient_checkpointing": True, "max_length": 1024}
    if adapter is not None:
        assumed |= ADAPTER_OF_UNSLOTH if unsloth else ADAPTER_OF_PEFT
        if adapter.name == "AdaLoraConfig":
            assumed.pop("r")
    _per_step(reading, is_trl)
    unread = _unread(adapter, arguments)
    for key in unread:  # a default would be a guess
        assumed.pop(_field(key), None)
    if epochs is None and "steps" not in reading.said and arguments and "max_steps" not in unread:
        epochs = None if "num_train_epochs" in unread else 3.0
    notes = list(code.notes)
    if unread:
        notes.append(f"only a run would give {', '.join(unread)}; left out")
    return BroughtRecipe(
        tool="Unsloth" if unsloth else "TRL" if is_trl else "PEFT",
        source=source,
        said=reading.said,
        assumed=assumed,
        base=traits.pop("base", None),
        data=_data(code),
        stage=_stage(code),
        epochs=epochs,
        warmup_ratio=ratio,
        traits=traits,
        untranslated=untranslated,
        unknown=unknown if arguments and arguments.name in ARGUMENTS[:3] else (),
        vocabulary=words,
        notes=tuple(notes),
    )


def _trains_a_frozen_adapter(code: Code) -> bool:
    """Whether a saved adapter is loaded for inference, and then given to a trainer."""
    loaded = [call for call in code.all("from_pretrained") if call.owner.startswith("PeftModel")]
    unfrozen = {"get_peft_model", "merge_and_unload", "requires_grad", "requires_grad_"}
    return (
        bool(loaded and code.all("Trainer", "SFTTrainer", "train"))
        and not any(call.arguments.get("is_trainable", False) for call in loaded)
        and not unfrozen & code.mentioned
    )


def _per_step(reading: Reading, is_trl: bool) -> None:
    """Give the weight of AdaLoRA's orthogonality term per step: PEFT adds it for each batch."""
    batches = reading.said.get("gradient_accumulation_steps", 1)
    weight = reading.said.get("orth_reg_weight")
    if weight is not None and batches != 1 and (is_trl or reading.traits.get("trainer")):
        reading.said["orth_reg_weight"] = weight * batches


def _adapter_call(code: Code) -> Call | None:
    """The call that makes the adapter: of several, the call with the most known arguments."""
    calls = code.all(*CONFIGS)
    calls += [call for call in code.all("get_peft_model") if call.owner in FAST]
    return max(calls, key=lambda call: len(call.known()), default=None)


def _arguments_call(code: Code) -> Call | None:
    others = [call for call in code.calls if call.name.endswith(("Config", "TrainingArguments"))]
    calls = code.all(*ARGUMENTS) or [call for call in others if _training_config(call.name)]
    return max(calls, key=lambda call: len(call.known()), default=None)


def _training_config(name: str) -> bool:
    return any(name == f"{prefix}Config" for prefix in OTHER_STAGES)


def _loading_call(code: Code) -> Call | None:
    calls = [call for call in code.all("from_pretrained") if call.owner in FAST]
    return max(calls, key=lambda call: len(call.known()), default=None)


def _read_adapter(reading: Reading, call: Call, unsloth: bool) -> None:
    inner = Reading(call.known())
    read_adapter(inner, call.name == "AdaLoraConfig")
    if inner.said.get("init_lora_weights") == "loftq":  # it quantises by itself
        bits = inner.values.get("loftq_config")
        four = not isinstance(bits, Mapping) or bits.get("loftq_bits", 4) == 4
        inner.say("quantize", "nf4" if four else None)
    reading.said |= inner.said
    reading.traits |= inner.traits
    reading.traits["adapter"] = "adalora" if call.name == "AdaLoraConfig" else "lora"
    if unsloth:
        reading.traits.pop("targets_left_to_peft", None)
        checkpointing = inner.take("use_gradient_checkpointing")
        reading.say(
            "gradient_checkpointing", None if checkpointing is None else bool(checkpointing)
        )
        seed = whole(inner.number("random_state"))
        if "seed" not in reading.said:
            reading.say("seed", seed)
    if isinstance(call.arguments.get("target_modules"), Unread):
        reading.traits.pop("targets_left_to_peft", None)
    reading.traits["inference_mode"] = inner.take("inference_mode")
    if call.name == "AdaLoraConfig":
        given = "total_step" in call.arguments
        total = _number_or_none(inner.take("total_step"))
        reading.traits["total_step"] = total if total or not given else "given"
        if total and "steps" not in reading.said:
            reading.say("steps", whole(total))


def _read_base(reading: Reading, code: Code, unsloth: bool) -> None:
    """The base's name and the precision of its weights."""
    loading = _loading_call(code)
    if unsloth and loading is not None:
        known = loading.known()
        name = known.get("model_name") or loading.arguments.get("0")
        reading.traits["base"] = name if isinstance(name, str) else None
        if known.get("full_finetuning"):
            reading.say("method", "full")
            return
        if known.get("load_in_4bit"):  # unsloth/models/loader.py: NF4, constants quantised too
            read_quantization(reading, 4, "nf4", True)
        elif known.get("load_in_8bit"):
            read_quantization(reading, 8, None, None)
        elif "load_in_4bit" not in loading.arguments:
            read_quantization(reading, 4, "nf4", True)  # FastLanguageModel's default
        return
    owners = ("AutoModelForCausalLM", "AutoModel", "AutoModelForSeq2SeqLM")
    calls = [call for call in code.all("from_pretrained") if "Model" in call.owner]
    calls = [call for call in calls if call.owner in owners] or calls
    calls = [call for call in calls if not call.owner.startswith(("Peft", "AutoPeft"))]
    calls += code.all("SFTTrainer")
    for call in calls:
        known = call.known()
        name = known.get("pretrained_model_name_or_path") or call.arguments.get("0")
        name = known.get("model") if call.name == "SFTTrainer" else name
        if isinstance(name, str) and "/" in name and not name.startswith("path/"):
            reading.traits["base"] = name
            break
    quantised = code.all("BitsAndBytesConfig")
    if quantised:
        known = max(quantised, key=lambda call: len(call.known())).known()
        arguments = quantised[-1].arguments
        bits = 4 if known.get("load_in_4bit") else 8 if known.get("load_in_8bit") else None
        # bitsandbytes' own defaults: FP4, and the blocks' constants as they are
        kind = known.get("bnb_4bit_quant_type", "fp4")
        double = bool(known.get("bnb_4bit_use_double_quant", False))
        read_quantization(reading, bits, kind, double)
        dtype = known.get("bnb_4bit_compute_dtype")
        if bits == 4 and dtype in ("float32", "bfloat16", "float16"):
            reading.say("compute_dtype", dtype)
        reading.traits["no_compute_dtype"] = bits == 4 and "bnb_4bit_compute_dtype" not in arguments
        reading.traits["no_quant_type"] = bits == 4 and "bnb_4bit_quant_type" not in arguments


def _read_loss(reading: Reading, code: Code) -> None:
    """Whether the prompt earns a loss: only if the code says so."""
    if code.names.get("LOSS_ON") in ("answer", "all"):
        reading.say("loss_on", code.names["LOSS_ON"])
        return
    answer = code.all("train_on_responses_only", "DataCollatorForCompletionOnlyLM")
    if answer or reading.flag("completion_only_loss") or reading.flag("assistant_only_loss"):
        reading.say("loss_on", "answer")
    elif code.all("DataCollatorForLanguageModeling") or reading.take("dataset_text_field"):
        reading.say("loss_on", "all")


def _read_traps(reading: Reading, code: Code, is_trl: bool, unsloth: bool) -> None:
    """Read the traits of a script that the review needs."""
    traits, mentioned = reading.traits, code.mentioned
    traits["trainer"] = "SFTTrainer" if is_trl else "Trainer" if code.all("Trainer") else None
    traits["allocates"] = "update_and_allocate" in mentioned
    collators = code.all("DataCollatorForLanguageModeling")
    traits["lm_collator"] = any(call.known().get("mlm") is False for call in collators)
    traits["pad_is_eos"] = code.pad_is_eos
    traits["shifts_labels"] = code.shifts_labels
    traits["learns_to_stop"] = code.eos_uses > 0 or "apply_chat_template" in mentioned
    kwargs = reading.take("gradient_checkpointing_kwargs", default={})
    reentrant = isinstance(kwargs, Mapping) and kwargs.get("use_reentrant") is True
    prepared = {"enable_input_require_grads", "prepare_model_for_kbit_training"}
    traits["no_input_gradients"] = (
        reentrant
        and bool(reading.said.get("gradient_checkpointing"))
        and not prepared & mentioned
        and not (is_trl or unsloth)
    )
    traits["packing"] = bool(reading.flag("packing")) and not unsloth  # Unsloth masks it itself
    attention = [
        call.known().get("attn_implementation") for call in code.all("from_pretrained", "dict")
    ]
    attention = next((name for name in attention if name), None)
    traits["attention"] = attention
    traits["apart"] = "flash" in str(attention) or _any_flash(code)
    traits["tokens"] = "resize_token_embeddings" in mentioned and (
        bool(code.all("add_tokens"))
        or any(
            isinstance(added, Mapping) and "additional_special_tokens" in added
            for call in code.all("add_special_tokens")
            for added in call.arguments.values()
        )
    )
    traits["keeps_tokens"] = bool(
        {"trainable_token_indices", "modules_to_save"} & _arguments_used(code)
    )


def _any_flash(code: Code) -> bool:
    return any(isinstance(value, str) and "flash" in value for value in code.names.values()) or any(
        isinstance(value, str) and "flash_attention" in value
        for call in code.calls
        for value in call.arguments.values()
    )


def _arguments_used(code: Code) -> set[str]:
    return {name for call in code.all(*CONFIGS, "get_peft_model") for name in call.arguments}


def _stage(code: Code) -> str:
    names = [call.name for call in code.calls]
    for name in names:
        if name.endswith("Trainer"):
            found = [kind for key, kind in OTHER_STAGES.items() if name.startswith(key)]
            if found:
                return found[-1]
    kinds = {call.known().get("task_type") for call in code.all(*CONFIGS)}
    if kinds - {None, "CAUSAL_LM"}:
        return "another head"
    if any(head in name for name in code.mentioned for head in HEADS if "AutoModel" in name):
        return "another head"
    diffusion = {"UNet2DConditionModel", "StableDiffusionPipeline", "DiffusionPipeline"}
    return "diffusion" if diffusion & code.mentioned else "sft"


def _data(code: Code) -> tuple[str, ...]:
    """The names or files of `load_dataset` calls."""
    found = []
    for call in code.all("load_dataset"):
        files = call.arguments.get("data_files")
        name = files if isinstance(files, str) else call.arguments.get("0")
        name = call.arguments.get("path") if name is None else name
        if isinstance(name, str):
            found.append(name)
    return tuple(dict.fromkeys(found))


def _unread(*calls: Call | None) -> list[str]:
    """The arguments that matter and whose values are known only at run time."""
    names = {"r", "lora_alpha", "target_modules", "learning_rate", "max_steps", "num_train_epochs"}
    names |= {"per_device_train_batch_size", "gradient_accumulation_steps", "optim"}
    return [
        name
        for call in calls
        if call is not None
        for name, value in call.arguments.items()
        if isinstance(value, Unread) and name in names
    ]


def _field(key: str) -> str:
    names = {"per_device_train_batch_size": "batch_size", "optim": "optimizer"}
    return names.get(key, key)


def _number_or_none(value: object) -> float | int | None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return value if good else None

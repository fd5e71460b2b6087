"""torchtune's YAML, read into our words.

Source: pytorch/torchtune, recipes/configs and torchtune/models, read at commit bd2a0fc7.
"""

import re
from collections.abc import Mapping

from lora_lab.tools.brought_recipe import BroughtRecipe, Reading
from lora_lab.tools.training_arguments import OPTIMIZERS, SCHEDULES, whole
from lora_lab.tools.vocabulary import keys_of

NAME = "torchtune"
MODULES = {"output_proj": "o_proj"}  # torchtune's names of a layer's matrices: PEFT's
MLP = ("gate_proj", "down_proj", "up_proj")
FUSED = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj"), "qkv_proj"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up_proj"),
}
COMPONENT = "_component_"
ASSUMED = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "optimizer": "adamw"}


def read(values: Mapping[str, object], source: str) -> BroughtRecipe:
    """The recipe in torchtune's settings.

    Raises:
        ValueError: if a value that should be a number is not.
    """
    reading = Reading(values)
    take, say, number, traits = reading.take, reading.say, reading.number, reading.traits
    model = _part(take("model"))
    name = model.component
    lora = "lora_" in name or "lora_rank" in model.values
    say("method", "lora" if lora else "full")
    if lora:
        _read_adapter(reading, model)
    optimizer, schedule = _part(take("optimizer")), _part(take("lr_scheduler"))
    say("learning_rate", optimizer.number("lr"))
    say("weight_decay", optimizer.number("weight_decay"))
    kind = optimizer.component.rpartition(".")[2].lower()
    kind = {"pagedadamw8bit": "paged_adamw_8bit", "adamw8bit": "adamw_8bit"}.get(kind, kind)
    say("optimizer", OPTIMIZERS.get(kind))
    traits["optimizer"] = kind
    found = re.search(r"get_(\w+?)_schedule", schedule.component)
    traits["schedule"] = found and found[1]
    say("lr_scheduler_type", SCHEDULES.get(found[1]) if found else "constant")
    say("warmup_steps", whole(schedule.number("num_warmup_steps")))
    say("batch_size", whole(number("batch_size")))
    say("gradient_accumulation_steps", whole(number("gradient_accumulation_steps")))
    say("gradient_checkpointing", reading.flag("enable_activation_checkpointing"))
    say("max_grad_norm", number("clip_grad_norm") or float("inf"))
    say("seed", whole(number("seed")))
    tokenizer, dataset = _part(take("tokenizer")), _part(take("dataset"))
    say("max_length", whole(tokenizer.number("max_seq_len")))
    alpaca = "alpaca" in dataset.component
    on_input = dataset.values.get("train_on_input", alpaca)  # torchtune/datasets/_alpaca.py
    say("loss_on", "all" if on_input else "answer")
    traits["packing"], traits["apart"] = bool(dataset.values.get("packed")), True  # its own mask
    traits["bf16"] = take("dtype") == "bf16"
    traits["bits"] = 4 if "quantize" in reading.said else None
    epochs, per_epoch = number("epochs"), number("max_steps_per_epoch")
    if per_epoch and epochs:
        say("steps", whole(per_epoch * epochs))
        epochs = None
    checkpointer = _part(take("checkpointer", "base_model"))
    folder = str(checkpointer.values.get("checkpoint_dir") or "").rstrip("/")
    loss = _part(take("loss")).component
    stage = "dpo" if "rlhf" in loss else "distillation" if "ForwardKL" in loss else "sft"
    if any(key in reading.values for key in ("teacher_model", "kd_loss")):
        stage = "distillation"
    untranslated, _ = reading.rest(keys_of(NAME))
    return BroughtRecipe(
        tool=NAME,
        source=source,
        said=reading.said,
        assumed=ASSUMED if lora else {"optimizer": "adamw"},
        base=folder.rpartition("/")[2] or None,
        data=(dataset.values.get("source") or dataset.component.rpartition(".")[2],),
        stage=stage,
        epochs=epochs,
        traits=traits,
        untranslated=untranslated,
    )


class _part(Reading):
    """A component's settings and the name of its class or function."""

    def __init__(self, values: object) -> None:
        super().__init__(values if isinstance(values, Mapping) else {})
        self.component = str(self.values.get(COMPONENT) or "")


def _read_adapter(reading: Reading, model: _part) -> None:
    say = reading.say
    say("r", whole(model.number("lora_rank")))
    say("lora_alpha", model.number("lora_alpha"))
    say("lora_dropout", model.number("lora_dropout"))
    say("use_dora", model.flag("use_dora"))
    modules = model.take("lora_attn_modules")
    modules = modules if isinstance(modules, list | tuple) else ()
    names = [MODULES.get(str(name), str(name)) for name in modules]
    if model.flag("apply_lora_to_mlp"):
        names += MLP
    if model.flag("apply_lora_to_output"):
        names.append("lm_head")
    if "phi3" in model.component or "phi4" in model.component:  # on the hub they are fused
        names = [FUSED.get(name, name) for name in names]
    say("target_modules", tuple(dict.fromkeys(names)) or None)
    if "qlora_" in model.component or model.flag("quantize_base"):
        say("quantize", "nf4")

"""PEFT's adapter_config.json, read into our words.

Source: huggingface/peft, src/peft/tuners/lora/config.py and adalora/config.py, at commit 5d602fdb.
"""

from collections.abc import Mapping

from lora_lab.tools.brought_recipe import BroughtRecipe, Reading, as_names, known_initialisation
from lora_lab.tools.training_arguments import whole
from lora_lab.tools.vocabulary import keys_of

NAME = "PEFT"
ASSUMED = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
WHOLE = ("r", "init_r", "target_r", "tinit", "tfinal", "deltaT")
REAL = ("lora_alpha", "lora_dropout", "beta1", "beta2", "orth_reg_weight")
OF_ADALORA = ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2") + (
    "orth_reg_weight",
)


def read(values: Mapping[str, object], source: str) -> BroughtRecipe:
    """The recipe in an adapter's configuration, which says nothing about the training.

    Raises:
        ValueError: if a value that should be a number is not.
    """
    reading = Reading(values)
    kind = str(reading.take("peft_type", default="LORA")).rpartition(".")[2].upper()
    reading.traits["adapter"] = kind.lower()
    if kind in ("LORA", "ADALORA"):
        read_adapter(reading, kind == "ADALORA")
    task = reading.take("task_type", default="CAUSAL_LM")
    total = reading.number("total_step")
    reading.traits["total_step"] = total
    if total:
        reading.say("steps", whole(total))
    reading.take("inference_mode")  # True in every saved adapter
    base = reading.take("base_model_name_or_path")
    untranslated, unknown = reading.rest(keys_of(NAME))
    return BroughtRecipe(
        tool=NAME,
        source=source,
        said=reading.said,
        assumed={k: v for k, v in ASSUMED.items() if k != "r" or kind != "ADALORA"},
        base=base if isinstance(base, str) else None,
        stage="sft" if task == "CAUSAL_LM" else "another head",
        traits=reading.traits,
        untranslated={key: value for key, value in untranslated.items() if value},
        unknown=unknown,
        vocabulary=keys_of(NAME),
    )


def read_adapter(reading: Reading, is_adalora: bool) -> None:
    """The fields of LoraConfig or AdaLoraConfig; Recipe's fields have the same names."""
    take, say, number, flag = reading.take, reading.say, reading.number, reading.flag
    say("method", "adalora" if is_adalora else "lora")
    for name in (*WHOLE, *REAL):
        value = number(name)
        of_other = name == "r" if is_adalora else name in OF_ADALORA
        if value is not None and not of_other:
            say(name, whole(value) if name in WHOLE else value)
    targets = take("target_modules")
    if isinstance(targets, list | tuple | set) and targets:
        say("target_modules", as_names([*targets]))
    elif isinstance(targets, str):
        say("target_modules", targets)  # PEFT reads a text as a regex
    else:
        reading.traits["targets_left_to_peft"] = True
    saved = as_names(take("modules_to_save"))
    say("modules_to_save", (saved,) if isinstance(saved, str) else saved)
    layers = take("layers_to_transform")
    if isinstance(layers, int | list | tuple) and not isinstance(layers, bool):
        say("layers_to_transform", (layers,) if isinstance(layers, int) else tuple(layers) or None)
    if not is_adalora:
        say("use_rslora", flag("use_rslora"))
        say("use_dora", flag("use_dora"))
        init = take("init_lora_weights")
        say("init_lora_weights", known_initialisation(init))
        reading.traits["initialisation"] = init
    rank_pattern = take("rank_pattern")
    if rank_pattern and not is_adalora:
        reading.traits["rank_pattern"] = rank_pattern
        reading.used.discard("rank_pattern")

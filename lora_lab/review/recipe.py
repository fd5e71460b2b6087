"""`check_recipe`: the review of a recipe, with the equal command of `lora-lab train`."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from lora_lab.models.adapter_config import CONFIG_FILE
from lora_lab.recipe import Recipe
from lora_lab.review.finding import Finding, Review
from lora_lab.review.named_base import NamedBase, named_base
from lora_lab.review.recipe_base import (
    base_facts,
    meant_targets,
    target_findings,
    whose_layers,
    with_meant_targets,
    with_pefts_targets,
)
from lora_lab.review.recipe_curves import STATE_FILE, curves_review
from lora_lab.review.recipe_data import RowsOfFile, length_findings, rows_of
from lora_lab.review.recipe_settings import rate_text, settings_findings
from lora_lab.tasks.tables import KINDS
from lora_lab.tools.brought_recipe import BroughtRecipe
from lora_lab.tools.command import train_command
from lora_lab.tools.reading import read
from lora_lab.tools.trainer_state import TrainerState
from lora_lab.wording import counted, significant


def check_recipe(source: str | Path | Mapping[str, object] | Recipe) -> Review:
    """What is odd about a fine-tune's settings, or about the log of a training.

    Args:
        source: a file of TRL, transformers, Axolotl, LLaMA-Factory, torchtune, Unsloth or PEFT
            (YAML, JSON, TOML, a script, a notebook), a trainer_state.json, settings by name, a
            `Recipe`; or an adapter's folder, which `check_adapter` looks through. Nothing is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken, too large, or of no kind that is known here.
        TypeError: if `source` is neither a path nor settings.
    """
    if isinstance(source, Recipe):
        source = asdict(source)
    folder = Path.cwd()
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if os.path.isdir(path):  # Path's own fails for a long name
            return _of_folder(path)
        folder = path.parent
    brought = read(source)
    if isinstance(brought, TrainerState):
        return curves_review(brought)
    return _review(brought, folder)


def _of_folder(path: Path) -> Review:
    if (path / CONFIG_FILE).exists():
        from lora_lab.review.adapter import check_adapter

        return check_adapter(path)
    state = path / STATE_FILE
    if state.is_file():
        return check_recipe(state)
    raise ValueError(
        f"{path} is a folder without {CONFIG_FILE} or {state.name}; give an adapter's folder, or "
        "one file of settings"
    )


def _review(brought: BroughtRecipe, folder: Path) -> Review:
    kind = f"recipe for {brought.tool}"
    if "method" not in brought.fields:
        return _of_another_kind(brought, kind)
    base = named_base(brought.base)
    brought = with_pefts_targets(brought, base)
    rows = rows_of(brought.data, folder)
    steps = brought.steps_for(rows.count) if rows else None
    try:
        recipe = _without_warmup(brought, steps).recipe(steps)
    except (ValueError, TypeError) as error:
        return Review(
            subject=brought.source, kind=kind, facts=_facts(brought), findings=(_refused(error),)
        )
    if steps is not None and "steps" not in brought.fields:
        brought = replace(brought, assumed={**brought.assumed, "steps": steps})
    findings = settings_findings(brought, recipe, base.shape.hidden_size if base else None)
    facts = _facts(brought, recipe, rows)
    if base is not None:
        findings += target_findings(brought, recipe, base)
        facts |= base_facts(brought, recipe, base)
    if rows is not None:
        findings += length_findings(brought, recipe, rows)
    facts |= _command_facts(brought, base, steps, rows)
    facts |= {f"how it was read{' ' * n}": note for n, note in enumerate(brought.notes)}
    return Review(subject=brought.source, kind=kind, facts=facts, findings=tuple(findings))


def _without_warmup(brought: BroughtRecipe, steps: int | None) -> BroughtRecipe:
    """The recipe with a warm-up that fits: a warm-up that is too long has a finding of its own.

    `steps`: the steps of its epochs, if the file gives no steps.
    """
    said = dict(brought.said)
    steps, warmup = said.get("steps") or steps, said.get("warmup_steps")
    if steps and warmup and warmup >= steps:
        said["warmup_steps"] = steps - 1
    ratio = brought.warmup_ratio
    return replace(brought, said=said, warmup_ratio=None if ratio and ratio >= 1 else ratio)


def _of_another_kind(brought: BroughtRecipe, kind: str) -> Review:
    name = brought.traits.get("adapter") or "another method"
    if brought.traits.get("frozen"):
        found = Finding(
            severity="grave",
            what="a saved adapter is trained on, and PeftModel.from_pretrained has no is_trainable",
            why="It loads an adapter frozen, for use. Nothing is trained, or the first step stops "
            "with 'element 0 of tensors does not require grad'.",
            do="Give is_trainable=True.",
            lesson="13",
        )
    else:
        found = Finding(
            severity="note",
            what=f"{name} is neither LoRA, AdaLoRA nor full fine-tuning",
            why="Its settings are not looked through here.",
            do="See the documentation of its authors.",
        )
    facts = {"base": brought.base} if brought.base else {}
    return Review(subject=brought.source, kind=kind, facts=facts, findings=(found,))


def _refused(error: Exception) -> Finding:
    what, _, cure = str(error).partition("; ")
    return Finding(
        severity="grave",
        what=what,
        why="The settings contradict each other, or can't work.",
        do=f"{cure[:1].upper()}{cure[1:]}." if cure else "Give another value.",
    )


def _facts(
    brought: BroughtRecipe, recipe: Recipe | None = None, rows: RowsOfFile | None = None
) -> dict[str, str]:
    facts = {"base": brought.base or "not named"}
    if brought.data:
        facts["data"] = ", ".join(brought.data[:4]) + ("" if rows is None else f" ({rows.words})")
    if brought.stage != "sft":
        facts["stage"] = brought.stage
    if recipe is None:
        return facts
    facts["method"] = _method(recipe)
    fields = brought.fields
    if "batch_size" in fields:
        whole = recipe.batch_size * recipe.gradient_accumulation_steps
        facts["batch"] = (
            f"{recipe.batch_size} × {recipe.gradient_accumulation_steps} = {whole} a step and card"
        )
    if "learning_rate" in fields:
        warmup = f", warm-up {words}" if (words := _warmup(brought)) else ""
        schedule = brought.traits.get("schedule") or recipe.lr_scheduler_type
        facts["learning rate"] = f"{rate_text(recipe.learning_rate)}, {schedule}{warmup}"
    if "steps" not in brought.said and brought.epochs is not None:
        facts["length"] = counted(brought.epochs, "epoch").replace(".0 ", " ")
        if rows is not None:
            facts["length"] += f" = {recipe.steps:,} steps"
    elif "steps" in fields:
        facts["length"] = f"{recipe.steps:,} steps"
    return facts


def _warmup(brought: BroughtRecipe) -> str:
    """The warm-up in words; "" where there is none."""
    if brought.warmup_ratio:
        return f"{100 * brought.warmup_ratio:g} %"
    steps = brought.said.get("warmup_steps")
    return f"{steps} steps" if steps else ""


def _method(recipe: Recipe) -> str:
    if recipe.method == "full":
        return "full fine-tuning"
    bits = {"nf4": ", base in NF4", "fp4": ", base in FP4", "int8": ", base in 8 bits"}
    rank = f"r {recipe.r}"
    if recipe.method == "adalora":
        rank = f"ranks {recipe.init_r} → {recipe.target_r}"
    kinds = {"lora": "DoRA" if recipe.use_dora else "LoRA", "adalora": "AdaLoRA"}
    return (
        f"{kinds[recipe.method]}, {rank}, factor {significant(recipe.scaling)}"
        f"{bits.get(recipe.quantize or '', '')}"
    )


def _command_facts(
    brought: BroughtRecipe, base: NamedBase | None, steps: int | None, rows: RowsOfFile | None
) -> dict[str, str]:
    """The equal command, and the settings of the file that are not in it."""
    if brought.stage == "another head":
        return {"with lora-lab": "no such command: it trains causal language models alone"}
    if brought.stage not in ("sft", "pretrain"):
        return {"with lora-lab": f"no such command: {brought.stage} is another loss"}
    meant = meant_targets(brought, base)
    fitting = with_meant_targets(_without_warmup(brought, steps), meant)
    facts = {"with lora-lab": train_command(fitting, steps)}
    if mended := [f"{name} → {other}" for name, other in meant.items() if other]:
        facts["mended in it"] = f"{', '.join(mended)} (a layer of {whose_layers(base)})"
    left = [f"the target {name}" for name, other in meant.items() if other is None]
    if "steps" not in brought.fields and steps is None and brought.epochs is not None:
        left.append(f"--steps (epochs {brought.epochs:g} × rows / batch: give the number)")
    if "steps" not in brought.fields and steps is None and (warmup := _warmup(brought)):
        left.append(f"--warmup-steps (a warm-up of {warmup}: give it with --steps)")
    optimizer = brought.traits.get("optimizer")
    if optimizer and "optimizer" not in brought.said:
        left.append(f"optimizer {optimizer}")
    schedule = brought.traits.get("schedule")
    if schedule and "lr_scheduler_type" not in brought.said:
        left.append(f"schedule {schedule}")
    init = brought.traits.get("initialisation")
    if init is not None and "init_lora_weights" not in brought.said:
        left.append(f"init_lora_weights {init}")
    if brought.traits.get("packing"):
        left.append("packing (lora-lab pads)")
    if brought.data and rows is None:
        name = brought.data[0]
        is_file = Path(name).suffix.lower() in KINDS
        missing = f"{name} is not beside the recipe" if is_file else f"save {name} as a file"
        left.append(f"the data: {missing}")
    left += [str(name) for name, value in brought.untranslated.items() if _matters(name, value)]
    if left:
        facts["not in it"] = ", ".join(left[:12]) + (" …" if len(left) > 12 else "")
    return facts


WITHOUT_EFFECT = (  # keys that change no result: where things are kept, logged and computed
    *("wandb", "output", "logging", "save", "saves", "hub", "push", "report", "resume", "dataset_"),
    *("dataloader", "preprocessing", "plot", "overwrite", "ddp", "fsdp", "deepspeed", "tf32"),
    *(
        "bf16",
        "fp16",
        "dtype",
        "device",
        "compile",
        "log",
        "metric",
        "profiler",
        "trust",
        "tokenizer",
    ),
    *("special_tokens", "strict", "run_name", "do_", "eval", "per_device_eval", "disable_tqdm"),
    *(
        "checkpointer",
        "cache",
        "use_fast",
        "task_type",
        "bias",
        "auto_mapping",
        "peft_",
        "val_",
        "megatron_core",
    ),
    *("swanlab", "use_swanlab", "trackio", "mlflow", "comet", "remove_unused", "project"),
)


def _matters(name: str, value: object) -> bool:
    """Whether a key may change what is learnt."""
    empty = value in (None, False, "", [], {}) or (isinstance(value, float) and math.isnan(value))
    if name == "init_lora_weights" and value is True:
        return False
    return not empty and not name.startswith(WITHOUT_EFFECT)

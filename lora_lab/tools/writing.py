"""`write`: a recipe as the file of another program. Choices that it can't express are refused."""

import json
from collections.abc import Callable
from dataclasses import dataclass, fields

import yaml

from lora_lab.recipe import Recipe, nearest
from lora_lab.tools import axolotl, llamafactory, peft_script, trl

DEFAULT = Recipe()
EXPRESSED = {  # fields that the tools can express, apart from `lacks`; others are refused
    *("method", "r", "lora_alpha", "target_modules", "lora_dropout", "use_rslora", "use_dora"),
    *("init_lora_weights", "layers_to_transform", "modules_to_save", "loraplus_lr_ratio"),
    *("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight"),
    *("quantize", "double_quant", "compute_dtype", "optimizer", "learning_rate"),
    *("lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "batch_size"),
    *("gradient_accumulation_steps", "gradient_checkpointing", "max_length", "loss_on", "steps"),
    *("eval_steps", "seed"),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that recipes are written for."""

    name: str  # as people write it
    file: str  # the main file's name
    settings: Callable[[Recipe, str, str], dict[str, object]] | None
    lacks: tuple[str, ...]  # fields of Recipe that it can't express
    start: str  # the command that begins the training
    needs: str = ""  # what has to be done to the data before


TOOLS = {
    "trl": Tool(
        "TRL",
        "trl.yaml",
        trl.settings,
        ("layers_to_transform", "loraplus_lr_ratio", "init_lora_weights"),
        "trl sft --config trl.yaml",
        "TRL looks for the columns prompt and completion: rename answer to completion.",
    ),
    "axolotl": Tool(
        "Axolotl",
        "axolotl.yaml",
        axolotl.settings,
        ("compute_dtype",),
        "axolotl train axolotl.yaml",
        "Prompts go in as they are, without a chat template.",
    ),
    "llamafactory": Tool(
        "LLaMA-Factory",
        "llamafactory.yaml",
        llamafactory.settings,
        ("layers_to_transform", "compute_dtype"),
        "llamafactory-cli train llamafactory.yaml",
        "template: default writes the prompt as plain text; name your base's own template there.",
    ),
    "peft": Tool("PEFT", "train_peft.py", None, (), "python train_peft.py"),
}


def write(tool: str, recipe: Recipe, base: str, data: str = "data.jsonl") -> dict[str, str]:
    """The files with which another program trains the same recipe.

    `lora_lab.tools.reading.read` reads them back as the same recipe.

    Args:
        tool: "trl", "axolotl", "llamafactory" or "peft" (a script of its own).
        recipe: what is trained.
        base: a hub id, or a folder.
        data: a file with the columns prompt and answer; only its name is written.

    Returns:
        Each file's name and text; the first is the one to start from, with the command in it.

    Raises:
        ValueError: for an unknown tool, and for a choice that the tool can't express.
    """
    if tool not in TOOLS:
        raise ValueError(
            f"no recipe is written for {tool!r}; {nearest(tool, tuple(TOOLS))}"
            f"give {', '.join(TOOLS)}"
        )
    chosen = TOOLS[tool]
    _check(chosen, recipe)
    head = [f"Start with: {chosen.start}", *([chosen.needs] if chosen.needs else [])]
    if chosen.settings is None:
        return {chosen.file: peft_script.script(recipe, base, data)}
    settings = chosen.settings(recipe, base, data)
    text = yaml.dump(_plain(settings), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    files = {chosen.file: "".join(f"# {line}\n" for line in head) + text}
    if tool == "llamafactory":
        info = llamafactory.dataset_info(data)
        files["dataset_info.json"] = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
    return files


def _check(tool: Tool, recipe: Recipe) -> None:
    """Refuse a recipe that the tool can't express."""
    lacks = [field.name for field in fields(Recipe) if field.name not in EXPRESSED]
    names = (*tool.lacks, *lacks)
    problems = [name for name in names if getattr(recipe, name) != getattr(DEFAULT, name)]
    if recipe.method == "adalora" and tool.name != "PEFT":
        problems = ["method"]
    if tool.name == "LLaMA-Factory":
        init = str(recipe.init_lora_weights)
        if init != "True" and not init.startswith("pissa"):
            problems.append("init_lora_weights")
        if isinstance(recipe.target_modules, str) and recipe.target_modules != "all-linear":
            problems.append("target_modules")
    if problems:
        name = problems[0]
        raise ValueError(
            f"{tool.name} has no word for {name}={getattr(recipe, name)!r}; give another value, or "
            f"write for a tool that has it: {', '.join(_others(tool, name))}"
        )


def _others(tool: Tool, name: str) -> list[str]:
    """The tools that can express a field; "none" if no tool can."""
    keys = [key for key, other in TOOLS.items() if other is not tool and name not in other.lacks]
    return (
        keys if name in EXPRESSED and name != "method" else ["peft" if name == "method" else "none"]
    )


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, and without anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        return super().increase_indent(flow, False)


def _plain(value: object) -> object:
    """Numbers as YAML's readers expect them: 2e-4 with a point, else it is read as a text."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value) if value else 0.0
    return value

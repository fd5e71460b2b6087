"""A recipe as a stand-alone script: the same fine-tune in plain PEFT, without this package."""

import ast
import math
import numbers
import re
from collections.abc import Mapping
from pathlib import Path

from lora_lab.machine.devices import named
from lora_lab.models.adapters import adapter_options, quantization_for
from lora_lab.models.architecture import adapted_matrices
from lora_lab.models.bases import Base
from lora_lab.models.quantization import Quantization
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task, encode_all

PROGRAM = Path(__file__).with_name("script_template.py")
OPTIMIZERS = {  # torch's and bitsandbytes' names
    "adamw": "AdamW",
    "sgd": "SGD",
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
}
AS_THEY_ARE = (  # fields that the script reads under the same names
    *("method", "learning_rate", "loraplus_lr_ratio", "warmup_steps", "weight_decay"),
    *("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_length"),
    *("loss_on", "steps", "seed"),
)


def to_code(recipe: Recipe, base: Base, task: Task) -> str:
    """A stand-alone Python script with plain PEFT and transformers that does the same fine-tune.

    It is the program in `script_template.py` with this recipe and these examples as its constants,
    so that no name or text can become code. It prints each step's loss and saves what was learned.
    With the same seed on the same machine its losses are those of `train`; in 16 bits they are
    equal up to rounding. AdaLoRA's losses are those that PEFT trains on,
    `loss + orth_reg_weight * orthogonality`.

    Args:
        recipe: the choices of the training.
        base: the base to train on; its name or folder stands in the script.
        task: its training examples stand in the script.

    Raises:
        ValueError: for a planted task, whose teacher isn't text; for a patience; for LoftQ; for
            dropout on the output layer; and for what `train` refuses.
    """
    _check_task(recipe, base, task)
    how = quantization_for(base, recipe)
    _check_output(recipe, base)
    kept = re.sub(r"[^\w.-]+", "-", task.name).strip("-.")[:80]
    return _with_constants(
        PROGRAM.read_text(encoding="utf-8"),
        {
            "BASE": base.name if "/" in base.name else str(base.path.absolute()),
            "FOLDER": f"{kept or 'task'}-{recipe.method}",
            "RECIPE": _settings(recipe, base),
            "ADAPTER": {} if recipe.method == "full" else _adapter(recipe, base),
            "QUANTIZATION": {} if how is None else quantization_options(how),
            "EXAMPLES": [(example.prompt, example.answer) for example in task.train],
        },
    )


def _check_task(recipe: Recipe, base: Base, task: Task) -> None:
    """Refuse a task or recipe that no script can hold, and a task without an example that fits."""
    if task.teacher is not None:
        raise ValueError(
            f"task {task.name!r} has a planted teacher, which no list of examples can hold; "
            "give a task with answers"
        )
    if recipe.patience:
        raise ValueError(
            f"patience={recipe.patience} stops at a validation loss, and the script measures none; "
            "give patience=None, and as steps those that the run took (transformers' Trainer stops "
            "with EarlyStoppingCallback)"
        )
    if recipe.init_lora_weights == "loftq":
        raise ValueError("LoftQ can't be written out yet; give init_lora_weights=True")
    encode_all(task.train, base.tokenizer, recipe.max_length, recipe.loss_on)


def _check_output(recipe: Recipe, base: Base) -> None:
    """Refuse dropout on an adapted output layer, and a misspelt layer, which PEFT ignores."""
    if recipe.method == "full":
        return
    modules = modules_of(base.model, base.name)
    reached = adapted_matrices(modules, recipe)
    if recipe.lora_dropout and any(matrix.kind == "output" for matrix in reached):
        raise ValueError(
            f"lora_dropout={recipe.lora_dropout} on the output layer can't be written out: a "
            "script would draw for every token, and `train` draws for those that earn a loss; "
            "give lora_dropout=0, or leave the output layer out of target_modules"
        )


def _settings(recipe: Recipe, base: Base) -> dict[str, object]:
    """The script's RECIPE."""
    kind = recipe.lr_scheduler_type
    constant = kind == "constant" and recipe.warmup_steps
    return {name: getattr(recipe, name) for name in AS_THEY_ARE} | {
        "device": str(base.device),
        "dtype": named(base.dtype),
        "optimizer": OPTIMIZERS[recipe.optimizer],
        "lr_scheduler_type": "constant_with_warmup" if constant else kind,
        "max_grad_norm": "inf" if math.isinf(recipe.max_grad_norm) else recipe.max_grad_norm,
    }


def _adapter(recipe: Recipe, base: Base) -> dict[str, object]:
    """The script's ADAPTER."""
    options = {"peft_type": recipe.method.upper(), **adapter_options(recipe, base)}
    if recipe.method == "adalora":  # PEFT adds the orthogonality term to each batch's loss
        options["orth_reg_weight"] /= recipe.gradient_accumulation_steps
    return options


def quantization_options(how: Quantization) -> dict[str, object]:
    """The arguments of transformers' BitsAndBytesConfig for the same weights."""
    if how.quantize == "int8":
        return {"load_in_8bit": True}
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": how.quantize,
        "bnb_4bit_use_double_quant": how.double_quant,
        "bnb_4bit_compute_dtype": named(how.compute_dtype),
    }


# --- constants in a program -----------------------------------------------------------------


def _with_constants(program: str, values: Mapping[str, object]) -> str:
    """The program with other values for its constants."""
    lines = program.splitlines(keepends=True)
    for node in reversed(ast.parse(program).body):  # from the end, so that line numbers hold
        if isinstance(node, ast.Assign):
            name = node.targets[0].id
            lines[node.lineno - 1 : node.end_lineno] = [f"{name} = {_literal(values[name])}\n"]
    return "".join(lines)


def _literal(value: object) -> str:
    """A value as Python source; each member of a list or dictionary has its own line."""
    value = _plain(value)
    if isinstance(value, dict) and value:
        members = [f"    {key!r}: {member!r},\n" for key, member in value.items()]
        return "{\n" + "".join(members) + "}"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {member!r},\n" for member in value) + "]"
    return repr(value)


def _plain(value: object) -> object:
    """The value in Python's own types: numpy's numbers and texts have no literals."""
    if isinstance(value, dict):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if isinstance(value, tuple):
        return tuple(_plain(member) for member in value)
    for general, own in ((bool, bool), (str, str), (numbers.Integral, int), (numbers.Real, float)):
        if isinstance(value, general):
            return own(value)
    return value

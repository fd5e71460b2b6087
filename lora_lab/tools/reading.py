"""`read`: the program that a recipe belongs to, and the recipe in our words."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from lora_lab.recipe import Recipe
from lora_lab.tools import (
    axolotl,
    llamafactory,
    peft_config,
    scripts,
    torchtune,
    trainer_state,
    trl,
)
from lora_lab.tools.brought_recipe import BroughtRecipe
from lora_lab.tools.files import mapping_of, read_text
from lora_lab.tools.trainer_state import TrainerState
from lora_lab.tools.vocabulary import keys_of

KNOWN = (
    "TRL's or transformers' arguments (YAML, JSON, a script), Axolotl's, LLaMA-Factory's or "
    "torchtune's YAML, Unsloth's or PEFT's calls (.py, .ipynb), an adapter_config.json, a "
    "trainer_state.json, or lab.Recipe's fields"
)
OURS = {field.name for field in fields(Recipe)}
READERS = {
    "Axolotl": axolotl.read,
    "LLaMA-Factory": llamafactory.read,
    "TRL": trl.read,
}
# Keys that only one tool has, or that each of its recipes needs.
SIGNS = {
    "Axolotl": ("base_model", "micro_batch_size", "sequence_len", "lora_target_linear", "adapter"),
    "LLaMA-Factory": ("finetuning_type", "cutoff_len", "lora_rank", "lora_target", "stage")
    + ("template", "infer_backend", "export_dir", "quant_config", "model_class"),
    "TRL": ("use_peft", "dataset_name", "lora_r", "use_peft_lora", "model_name_or_path"),
}
# Keys of PEFT's own examples/sft/train.py, which takes them beside TRL's arguments.
OLDER = ("use_peft_lora", "use_4bit_quantization", "use_nested_quant", "bnb_4bit_compute_dtype")
OLDER += ("use_flash_attn", "use_reentrant", "chat_template_format", "splits", "model")


def read(source: str | Path | Mapping[str, object]) -> BroughtRecipe | TrainerState:
    """The recipe, or the log of a training, in a file or in settings by name.

    Nothing is run. Values that are known only at run time are left out, and named in the notes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is broken or of a kind that is not known here.
        TypeError: if `source` is neither a path nor settings.
    """
    if isinstance(source, Mapping):
        return read_settings(source, "settings")
    if not isinstance(source, str | Path):
        raise TypeError(
            f"{type(source).__name__} isn't a recipe; give a path, or settings by name as a dict"
        )
    path = Path(source).expanduser()
    text = read_text(path)
    if path.suffix.lower() in (".py", ".ipynb"):
        found = scripts.read(text, path.name)
        if found is None:
            raise ValueError(
                f"{path.name} makes no adapter and no trainer that is known here (LoraConfig, "
                "get_peft_model, SFTConfig, TrainingArguments); give the file that trains"
            )
        return found
    return read_settings(mapping_of(text, path.name), path.name)


def read_settings(values: Mapping[str, object], source: str) -> BroughtRecipe | TrainerState:
    """`read` for settings that were parsed before.

    Raises:
        ValueError: if no known program has such settings, or a value that should be a number is
            not.
    """
    names = {str(name) for name in values}
    if "log_history" in names:
        return trainer_state.read(values, source)
    if "peft_type" in names:
        return peft_config.read(values, source)
    if isinstance(values.get("model"), Mapping) and torchtune.COMPONENT in values["model"]:
        return torchtune.read(values, source)
    if names and names <= OURS:
        return BroughtRecipe(tool="lora_lab", source=source, said=dict(values))
    tool = _whose(names)
    if tool is None:
        shown = ", ".join(sorted(names)[:6])
        raise ValueError(
            f"{source} has settings of no program that is known here ({shown or 'none'}); "
            f"give {KNOWN}"
        )
    return READERS[tool](values, source)


def _whose(names: set[str]) -> str | None:
    """The tool that knows the keys best, if two or more of them show a fine-tune."""
    points = {tool: 3 * len(names & set(signs)) for tool, signs in SIGNS.items()}
    shared = set(keys_of("transformers"))
    for tool in points:
        points[tool] += len(names & set(keys_of(tool)) - shared)
    points["TRL"] += len(names & shared)
    points["LLaMA-Factory"] += len(names & shared) if points["LLaMA-Factory"] else 0
    best = max(points, key=points.__getitem__)
    training = {"learning_rate", "model_name_or_path", "base_model", "num_train_epochs"}
    training |= {"per_device_train_batch_size", "lora_r", "lora_rank", "max_steps"}
    training |= {"model", "cutoff_len"}
    known = names & {*keys_of(best), *shared, *SIGNS[best], *OLDER}
    if points[best] < 2 or not names & training or 2 * len(known) < len(names):
        return None
    return best

"""The data about pocket in the playground's page: its modules, its tasks, PEFT's configuration."""

import dataclasses
import json
from collections.abc import Sequence
from importlib.metadata import version

from lora_lab.models.adapters import adapt
from lora_lab.models.architecture import layer_of
from lora_lab.models.bases import Base
from lora_lab.models.learned import adapter_for, learned_of
from lora_lab.recipe import Recipe
from lora_lab.tasks import pocket
from lora_lab.tasks.examples import Example
from lora_lab.training.graphs import Traceable

SIZES = {  # numbers of training examples to choose from; a task's usual one is added
    "sentiment": (25, 50, 100, 200),
    "style": (25, 50, 100, 200),
    "new-facts": (20, 60, 100),
    "json": (25, 50, 100, 200),
    "two-hop": (50, 100, 200),
    "two-hop-chain": (50, 100, 200),
}
FIELDS = (  # the fields of a recipe that the page offers
    "r lora_alpha use_rslora learning_rate lr_scheduler_type warmup_steps weight_decay "
    "max_grad_norm loraplus_lr_ratio batch_size steps seed"
).split()
LEFT_TO_THE_PAGE = ("r", "lora_alpha", "use_rslora", "target_modules")


def playground_data(base: Base) -> str:
    """The data that the page's engine needs beside weights, graphs and tokenizer, as JSON.

    Args:
        base: pocket, in float32 on the CPU.
    """
    traceable = Traceable(base)
    modules = [
        {"name": name, "layer": layer_of(name), "kind": name.rpartition(".")[2], "in": i, "out": o}
        for name, (i, o) in traceable.modules.items()
    ]
    some = pocket.pocket_task("new-facts")
    config = base.model.config
    facts = {
        "parameters": base.parameters,
        "layers": config.num_hidden_layers,
        "vocabulary": config.vocab_size,
        "context": config.max_position_embeddings,
        "max_length": some.recipe.max_length,
        "modules": modules,
        "weights": list(traceable.weights),
        "adapter_config": _adapter_config(base),
        "tasks": [_task(name) for name in pocket.NAMES],
        "old": _pairs(some.old_knowledge),
        "strangers": _pairs(some.strangers),
        "versions": {name: version(name) for name in ("lora-lab", "peft", "torch", "transformers")},
    }
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def _task(name: str) -> dict[str, object]:
    """A task with its examples for each number of training examples that the page offers."""
    usual = pocket.usual_n(name)
    made = {n: pocket.pocket_task(name, n) for n in sorted({*SIZES[name], usual})}
    splits = {
        n: {"train": _pairs(task.train), "test": _pairs(task.test)} for n, task in made.items()
    }
    recipe = dataclasses.asdict(made[usual].recipe)
    return {
        "name": name,
        "about": made[usual].about,
        "metric": made[usual].metric,
        "n": usual,
        "recipe": {field: recipe[field] for field in FIELDS},
        "splits": splits,
    }


def _pairs(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(example.prompt, example.answer) for example in examples]


def _adapter_config(base: Base) -> dict[str, object]:
    """PEFT's adapter_config.json for a LoRA on pocket, without the fields that the page chooses."""
    recipe = Recipe()
    learned = adapter_for(learned_of(adapt(base, recipe), recipe, {}))
    config = json.loads(json.dumps(learned.config.to_dict(), default=_as_peft_does))
    return {field: value for field, value in config.items() if field not in LEFT_TO_THE_PAGE}


def _as_peft_does(value: object) -> object:
    if isinstance(value, set):
        return sorted(value)
    raise TypeError(f"{value!r} can't be kept as JSON")

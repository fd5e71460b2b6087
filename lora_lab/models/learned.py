"""What a fine-tune learned: taken from a trained model, and kept in PEFT's own format."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftConfig
from torch import Tensor, nn

from lora_lab.models.adapter_config import MODEL_FILE, WEIGHTS_FILE, check_files
from lora_lab.models.adapter_files import read_config, read_tensors
from lora_lab.models.adapters import adapter_tensors
from lora_lab.models.built_in import hub_id
from lora_lab.models.tensor_files import save_tensors
from lora_lab.places import make_new_folder
from lora_lab.recipe import Recipe, shown
from lora_lab.records import StepRecord


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a fine-tune changed: an adapter as PEFT keeps it, or every weight of the model."""

    config: PeftConfig | None  # None: `tensors` is a whole model's state dict
    tensors: dict[str, Tensor]  # PEFT's names, without the adapter's own name

    def save(self, folder: Path) -> None:
        """Write it into an empty folder, in the format that PEFT or transformers read."""
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()
        }
        if self.config is None:
            save_tensors(tensors, folder / MODEL_FILE, {"format": "pt"})
        else:
            self.config.save_pretrained(folder)
            save_tensors(tensors, folder / WEIGHTS_FILE, {"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> "Learned":
        """What `save` wrote, or an adapter that PEFT wrote.

        Raises:
            FileNotFoundError: if there is no adapter in the folder.
            ValueError: if its weights are a pickle or damaged, or its configuration is not known.
        """
        weights = check_files(folder)
        config = None if weights == MODEL_FILE else read_config(folder)
        return cls(config, read_tensors(folder / weights))


def learned_of(model: nn.Module, recipe: Recipe, start: dict[str, Tensor]) -> Learned:
    """What a model from `adapt` has learned, as a copy in the form in which it is kept.

    PiSSA and OLoRA train on a changed base. Their change, BA - B₀A₀, has rank 2r at most. It is
    given as a plain LoRA of that rank for the unchanged base, as PEFT converts it. AdaLoRA's
    matrices have the ranks that they keep, once the budget is met; before, all that they train.

    Args:
        model: from `adapt(base, recipe)`, trained since.
        recipe: the same.
        start: `adapter_tensors(model)` before the first step; only PiSSA and OLoRA need it.
    """
    if recipe.method == "full":
        parameters = dict(model.named_parameters())  # tied weights once, as files want it
        return Learned(None, {name: weight.detach().clone() for name, weight in parameters.items()})
    tensors = adapter_tensors(model)  # first: it takes the adapter's name out of `rank_pattern`
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    if recipe.changes_the_base:
        for name, tensor in tensors.items():
            if "lora_A" in name:
                tensors[name] = torch.cat([tensor, start[name]], dim=0)  # (2r, in)
            elif "lora_B" in name:
                tensors[name] = torch.cat([tensor, -start[name]], dim=1)  # (out, 2r)
        config.r = 2 * recipe.r
        config.lora_alpha = recipe.lora_alpha * (2**0.5 if recipe.use_rslora else 2)
        config.init_lora_weights = True
    return Learned(config, tensors)


class Trained(Protocol):
    """A Run or a Training: something that was trained by a recipe."""

    recipe: Recipe
    records: Sequence[StepRecord]

    @property
    def learned(self) -> Learned:
        """What it learned."""


def save_adapter(trained: Trained, folder: str | Path) -> Path:
    """Write a run's adapter in plain PEFT format: `PeftModel.from_pretrained` reads it.

    Args:
        trained: a Run or a Training.
        folder: a new or an empty folder.

    Raises:
        TypeError: if `trained` is neither.
        ValueError: for method "full", which has no adapter, and for AdaLoRA before its last
            allocation, when the ranks are not yet decided.
        FileExistsError: if the folder holds something already.
    """
    if not hasattr(type(trained), "learned"):
        raise TypeError(f"{shown(trained)} has learned nothing; give a run or a training")
    folder = Path(folder)
    if trained.recipe.method == "full":
        raise ValueError(
            "method='full' changed every weight, so there is no adapter to save; "
            "train with method='lora', or write the model: lab.export(run, folder)"
        )
    check_ranks_decided(trained)
    with make_new_folder(folder) as new:
        adapter_for(trained.learned).save(new)
    return folder


def adapter_for(learned: Learned, base: str | None = None) -> Learned:
    """The same adapter, whose configuration names a base that PEFT finds.

    Args:
        learned: an adapter.
        base: the name, a hub id or a folder; None: the hub's id of a base with a short name.
    """
    config = copy.deepcopy(learned.config)
    own = config.base_model_name_or_path or ""
    config.base_model_name_or_path = base or hub_id(own) or own
    return Learned(config, learned.tensors)


def check_ranks_decided(trained: Trained) -> None:
    """Refuse an AdaLoRA run that stopped before its last allocation."""
    if trained.recipe.method != "adalora":
        return
    recipe, done, tfinal = trained.recipe, len(trained.records), trained.recipe.schedule[1]
    last_allocation = recipe.steps - tfinal
    if done < last_allocation:
        raise ValueError(
            f"this AdaLoRA run stopped after step {done} of {recipe.steps}, and its ranks are "
            f"decided at step steps - tfinal = {recipe.steps} - {tfinal} = {last_allocation}; "
            f"until then each matrix holds init_r={recipe.init_r} of them. "
            f"Train {last_allocation - done} steps more, or give a recipe with fewer steps"
        )

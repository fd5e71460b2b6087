"""Adapters that PEFT itself makes and saves on pocket, for tests that check and break them."""

import json
import warnings
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lora_lab.models.built_in import base_folder

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
NAMES = ["q_proj", "v_proj"]


def pocket():
    """pocket's model, as transformers loads it, in float32."""
    return AutoModelForCausalLM.from_pretrained(base_folder("pocket"), dtype=torch.float32)


def adapted(model=None, *, adalora=False, **fields):
    """A model of PEFT with an adapter whose factors are all random, as if it were trained."""
    fields = {"target_modules": NAMES, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | fields
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if adalora:
            config = peft.AdaLoraConfig(init_r=6, target_r=2, total_step=100, **fields)
        else:
            config = peft.LoraConfig(**{"r": 8} | fields)
        found = peft.get_peft_model(pocket() if model is None else model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in found.named_parameters():
        if "lora_B" in name or "lora_E" in name or "embedding_A" in name:
            parameter.data.normal_(0, 0.01, generator=generator)
    return found


def saved(model, folder: Path, base: str = "pocket") -> Path:
    """The adapter in a folder, saved by PEFT, with a base's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    configured(folder, base_model_name_or_path=base)
    return folder


def configured(folder: Path, **changes) -> None:
    """Change fields of the configuration."""
    words = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(words))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / WEIGHTS)


def holding(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the weights."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)

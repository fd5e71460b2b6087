"""A trained adapter cut to a lower rank, which shows how much of its rank it used."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from lora_lab.maths.spectra import energy_kept, singular_values, truncate
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import as_trained
from lora_lab.training.store import Run

PREFIX = "base_model.model."  # PEFT's, before a module's own name


def factors(run: Run) -> dict[str, tuple[Tensor, Tensor]]:
    """The A (r, in) and B (out, r) of a LoRA run, by the name of the module that they change.

    Raises:
        ValueError: for a run of another method: full fine-tuning has no factors, AdaLoRA has three.
    """
    if run.recipe.method != "lora":
        raise ValueError(f"method={run.recipe.method!r} trains no A and B; give a run of LoRA")
    tensors = run.learned.tensors
    ends = "lora_A.weight", "lora_B.weight"
    names = [name.removesuffix(f".{ends[0]}") for name in tensors if name.endswith(ends[0])]
    return {
        name.removeprefix(PREFIX): tuple(tensors[f"{name}.{end}"] for end in ends) for name in names
    }


def spectra(run: Run) -> dict[str, Tensor]:
    """The singular values of each module's change: (r,), falling, float64."""
    scaling = run.recipe.scaling
    return {name: singular_values(*pair, scaling) for name, pair in factors(run).items()}


def mean_energy_kept(values: Mapping[str, Tensor]) -> list[float]:
    """The share of a change's energy that rank 1, 2, … keeps, as a mean over all modules."""
    return torch.stack([*map(energy_kept, values.values())]).mean(dim=0).tolist()


def cut(run: Run, k: int) -> Adapted:
    """The adapted base of a LoRA run, each change cut to its k strongest directions.

    The shapes stay: the other r - k rows of A and columns of B are zero.

    Args:
        run: a LoRA run.
        k: from 1 to r.

    Raises:
        ValueError: for another k, or a run of another method.
    """
    tensors = dict(run.learned.tensors)
    for name, (lora_A, lora_B) in factors(run).items():
        new_A, new_B = truncate(lora_A, lora_B, run.recipe.scaling, k)  # (k, in) and (out, k)
        missing = len(lora_A) - k
        tensors[f"{PREFIX}{name}.lora_A.weight"] = pad(new_A, (0, 0, 0, missing))  # rows below
        tensors[f"{PREFIX}{name}.lora_B.weight"] = pad(new_B, (0, missing))  # columns on the right
    learned = dataclasses.replace(run.learned, tensors=tensors)
    return Adapted(as_trained(run.base, run.recipe), learned)

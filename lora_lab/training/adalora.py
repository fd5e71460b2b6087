"""AdaLoRA's part of a training step, done by PEFT's own allocator: the ranks that stay."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_lab.maths.adalora import PARTS, regu_loss
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # that PEFT's RankAllocator goes on from


def last_ranks(records: Iterable[StepRecord]) -> dict[str, int] | None:
    """The rank of each adapted layer after a run's last allocation; None: there was none."""
    return next((record.ranks for record in reversed([*records]) if record.ranks is not None), None)


def importances(model: nn.Module) -> dict[str, Tensor]:
    """What PEFT's allocator holds of each triplet, by adapted layer: (3, r).

    The rows: λ's smoothed sensitivity, λ's smoothed uncertainty, and what the triplets are ranked
    by: the product of the two for λ, plus its mean over the entries of each of the two vectors.
    Empty before the first step, and from the last allocation on.

    Args:
        model: a PEFT model with AdaLoRA, as a `Training`'s `model`.
    """
    allocator = model.base_model.rankallocator
    ends = {part: f".{part}.default" for part in PARTS}
    layers = [name.removesuffix(ends["lora_E"]) for name in allocator.ipt if "lora_E" in name]
    scores = {}
    for name in layers:
        mean, spread = (
            {part: averages[name + end] for part, end in ends.items()}
            for averages in (allocator.exp_avg_ipt, allocator.exp_avg_unc)
        )
        of_A, of_E, of_B = (mean[part] * spread[part] for part in PARTS)
        score = of_E[:, 0] + of_A.mean(1) + of_B.mean(0)  # (r,)
        rows = mean["lora_E"][:, 0], spread["lora_E"][:, 0], score
        scores[name] = torch.stack(rows).detach().cpu()
    return scores


class RankAllocation:
    """The allocation of ranks in a model made by `adapt` with method "adalora".

    They are decided in training, step by step, never by a truncation at the end. `maths/adalora.py`
    shows how. PEFT leaves two things to whoever trains: to call its allocator at the right moment
    (no trainer of transformers does), and, since our loop computes the loss itself, to add the
    orthogonality term.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._tuner = model.base_model
        self._config = model.peft_config["default"]
        self._met = recipe.steps - recipe.schedule[1]  # the step that meets the budget
        named = dict(self._tuner.model.named_parameters())
        self._lora_A = [tensor for name, tensor in named.items() if "lora_A" in name]
        self._lora_B = [tensor for name, tensor in named.items() if "lora_B" in name]

    def add_orthogonality(self) -> float:
        """Add the orthogonality term's gradient to the loss's. Returns the term, not weighted."""
        term = regu_loss([*self._lora_A, *(tensor.T for tensor in self._lora_B)])
        (self._config.orth_reg_weight * term).backward()
        return term.item()

    def allocate(self, step: int) -> dict[str, int] | None:
        """Let PEFT measure importance and mask what has too little of it.

        Call it after `optimizer.step()` and before `zero_grad()`: the importance is the size of
        the parameter after the step times its gradient.

        Returns:
            The rank of each adapted layer by name, at an allocation; at other steps None.
        """
        self._tuner.update_and_allocate(step)
        if step > self._met:
            return None  # the last allocation holds
        pattern = self._config.rank_pattern
        if step < self._met:  # PEFT would cut a file to this pattern, and the next steps change it
            self._config.rank_pattern = None
        return pattern and {name.partition(".lora_E")[0]: sum(on) for name, on in pattern.items()}

    def mask(self) -> None:
        """Mask what the last allocation masked, where there was one."""
        if self._config.rank_pattern:
            self._tuner.rankallocator.mask_using_rank_pattern(
                self._tuner.model, self._config.rank_pattern
            )

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs beside weights and optimizer, by names like "ranks/ipt/…"."""
        kept = {kind: getattr(self._tuner.rankallocator, kind) for kind in AVERAGES}
        pattern = self._config.rank_pattern or {}
        kept["pattern"] = {name: torch.tensor(on) for name, on in pattern.items()}
        return {
            f"ranks/{kind}/{name}": tensor for kind in kept for name, tensor in kept[kind].items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's tensors, of which those by other names are passed over."""
        kept: dict[str, dict[str, Tensor]] = {kind: {} for kind in (*AVERAGES, "pattern")}
        for key, tensor in tensors.items():
            if key.startswith("ranks/"):
                _, kind, name = key.split("/")
                kept[kind][name] = tensor
        device = self._lora_A[0].device
        for kind in AVERAGES:
            there = {name: tensor.to(device) for name, tensor in kept[kind].items()}
            setattr(self._tuner.rankallocator, kind, there)
        pattern = {name: on.tolist() for name, on in kept["pattern"].items()}
        self._config.rank_pattern = pattern or None

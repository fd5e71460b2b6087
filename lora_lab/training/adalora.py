"""AdaLoRA's part of a training step: PEFT's allocator decides which ranks stay."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_lab.maths.adalora import PARTS, regu_loss
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # the state of PEFT's RankAllocator


def last_ranks(records: Iterable[StepRecord]) -> dict[str, int] | None:
    """The rank of each adapted layer after a run's last allocation; None: no allocation."""
    return next((record.ranks for record in reversed([*records]) if record.ranks is not None), None)


def importances(model: nn.Module) -> dict[str, Tensor]:
    """The importance of each triplet in PEFT's allocator, by adapted layer: (3, r).

    The rows are λ's smoothed sensitivity, λ's smoothed uncertainty, and the score that ranks the
    triplets. The score is the product of the two for λ, plus the product's mean over the entries
    of each of the two vectors. Empty before the first step, and from the last allocation on.

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

    The ranks are decided in training, step by step, never by a truncation at the end.
    `maths/adalora.py` shows how. PEFT leaves two things to the training loop. The loop calls the
    allocator at the right moment, which no trainer of transformers does. It adds the orthogonality
    term, since it computes the loss itself.
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
        """Let PEFT measure importance and mask the triplets with too little importance.

        Call it after `optimizer.step()` and before `zero_grad()`: the importance is the size of
        the parameter after the step times its gradient.

        Returns:
            The rank of each adapted layer by name at an allocation; None at other steps.
        """
        self._tuner.update_and_allocate(step)
        if step > self._met:
            return None  # the last allocation holds
        pattern = self._config.rank_pattern
        if step < self._met:  # PEFT would cut a file to this pattern, and the next steps change it
            self._config.rank_pattern = None
        return pattern and {name.partition(".lora_E")[0]: sum(on) for name, on in pattern.items()}

    def mask(self) -> None:
        """Mask the triplets that the last allocation masked, if there was an allocation."""
        if self._config.rank_pattern:
            self._tuner.rankallocator.mask_using_rank_pattern(
                self._tuner.model, self._config.rank_pattern
            )

    def state(self) -> dict[str, Tensor]:
        """The allocator's tensors for a checkpoint, by names like "ranks/ipt/…"."""
        kept = {kind: getattr(self._tuner.rankallocator, kind) for kind in AVERAGES}
        pattern = self._config.rank_pattern or {}
        kept["pattern"] = {name: torch.tensor(on) for name, on in pattern.items()}
        return {
            f"ranks/{kind}/{name}": tensor for kind in kept for name, tensor in kept[kind].items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set the allocator to a checkpoint's tensors; tensors with other names are ignored."""
        kept: dict[str, dict[str, Tensor]] = {kind: {} for kind in (*AVERAGES, "pattern")}
        for key, tensor in tensors.items():
            if key.startswith("ranks/"):
                _, kind, name = key.split("/")
                kept[kind][name] = tensor
        device = self._lora_A[0].device
        for kind in AVERAGES:
            averages = {name: tensor.to(device) for name, tensor in kept[kind].items()}
            setattr(self._tuner.rankallocator, kind, averages)
        pattern = {name: on.tolist() for name, on in kept["pattern"].items()}
        self._config.rank_pattern = pattern or None

"""AdaLoRA from scratch, in PEFT's words: the matrices compete for rank (arXiv:2303.10512).

Each change is built like a singular value decomposition, ΔW = P Λ Q. A column of P, an entry λ of Λ
and a row of Q are a triplet. Every step updates the importance of each triplet. At an allocation
the least important triplets of all the matrices are masked: their λ is set to 0. The budget is the
number of triplets that stay, and it shrinks on a schedule. A masked λ still gets gradients, so its
triplet can come back. When the budget has reached its target, the choice is final.

PEFT calls Q `lora_A`, Λ `lora_E` and P `lora_B`. Comments say where PEFT and the paper differ; this
code does as PEFT does.
"""

from collections.abc import Iterable, Mapping
from itertools import product

import torch
from torch import Tensor, nn

PARTS = ("lora_A", "lora_E", "lora_B")


class SVDLinear(nn.Module):
    """A frozen linear layer plus P Λ Q: y = base(x) + scaling * x (Λ A)^T B^T.

    Section 3.1, equation 3. `base_layer` is kept by reference and frozen, as in PEFT. There is no
    dropout here.
    """

    def __init__(self, base_layer: nn.Linear, r: int, lora_alpha: float) -> None:
        super().__init__()
        if r < 1:
            raise ValueError(f"r={r} leaves nothing to train; give a rank of 1 or more")
        like_base = {"dtype": base_layer.weight.dtype, "device": base_layer.weight.device}
        self.base_layer = base_layer.requires_grad_(False)
        # The paper has no factor here. PEFT divides by the rank at the start, however few triplets
        # stay later. It adds 1e-5 to that rank, since a saved layer may have rank 0.
        self.scaling = lora_alpha / (r + 1e-5)
        self.lora_A = nn.Parameter(torch.empty(r, base_layer.in_features, **like_base))
        self.lora_E = nn.Parameter(torch.zeros(r, 1, **like_base))  # training starts at the base
        self.lora_B = nn.Parameter(torch.empty(base_layer.out_features, r, **like_base))
        nn.init.normal_(self.lora_A, std=0.02)
        nn.init.normal_(self.lora_B, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        low = x @ (self.lora_A * self.lora_E).T  # (..., in) @ (in, r) -> (..., r)
        change = low @ self.lora_B.T  # (..., r) @ (r, out) -> (..., out)
        return self.base_layer(x) + self.scaling * change

    def delta_weight(self) -> Tensor:
        """The change to the base weight, (out_features, in_features)."""
        return self.scaling * self.lora_B @ (self.lora_A * self.lora_E)  # (out, r) @ (r, in)


def regu_loss(singular_vectors: Iterable[Tensor]) -> Tensor:
    """The penalty that keeps triplets from sharing a direction, so that each can be judged alone.

    Args:
        singular_vectors: matrices V, (r, width), with vectors as rows: `lora_A`, `lora_B.T`.

    Returns:
        The mean of all ‖V Vᵀ − I‖, a scalar, 0 for orthonormal vectors. It is added to the loss.
        The paper (equation 4) adds up the squares of these norms.
    """
    norms = []
    for v in singular_vectors:
        eye = torch.eye(len(v), dtype=v.dtype, device=v.device)
        norms.append(torch.linalg.matrix_norm(v @ v.T - eye))  # of (r, r)
    return torch.stack(norms).mean()


def budget_schedule(
    step: int, init_bgt: int, target_bgt: int, *, tinit: int, tfinal: int, total_step: int
) -> int:
    """The budget after a step t, counted from 1: how many triplets may stay.

    All of them up to step `tinit`. Then the budget falls, fast at first, and reaches `target_bgt`
    at step `total_step - tfinal`. With T = total_step,

        budget = target + (init - target) (1 - (t - tinit) / (T - tinit - tfinal))³

    Source:
        Section 3.3. The paper has t - tinit - tfinal where PEFT has t - tinit. The paper's fraction
        is below 1 at step T - tfinal, so its budget ends with a jump.
    """
    if step <= tinit:
        return init_bgt
    if step >= total_step - tfinal:
        return target_bgt
    left = 1 - (step - tinit) / (total_step - tfinal - tinit)  # share of the way down, 1 to 0
    return int((init_bgt - target_bgt) * left**3 + target_bgt)


class RankAllocator:
    """Masks the least important triplets of several layers, so that the budget is kept.

    Call `update_and_allocate(step)` after `optimizer.step()` and before `zero_grad()`.

    Args:
        layers: the adapted layers by name; they share one budget.
        target_r: mean rank at the end.
        tinit: steps before the budget shrinks.
        tfinal: steps at the end, after the budget has reached its target.
        deltaT: between these two phases, each step that it divides is an allocation.
        total_step: number of steps of the run.
        beta1: smoothing of the importance.
        beta2: smoothing of its uncertainty.
    """

    def __init__(
        self,
        layers: Mapping[str, SVDLinear],
        *,
        target_r: int,
        tinit: int,
        tfinal: int,
        total_step: int,
        deltaT: int = 1,
        beta1: float = 0.85,
        beta2: float = 0.85,
    ) -> None:
        self.layers = dict(layers)
        self.init_bgt = sum(len(layer.lora_E) for layer in self.layers.values())
        self.target_bgt = target_r * len(self.layers)
        if self.target_bgt >= self.init_bgt:
            raise ValueError(
                f"target_r={target_r} keeps {self.target_bgt} triplets and there are "
                f"{self.init_bgt}, so nothing would be masked; give a smaller target_r"
            )
        self.phases = {"tinit": tinit, "tfinal": tfinal, "total_step": total_step}
        self.last = total_step - tfinal  # the step of the last allocation
        self.tinit, self.deltaT, self.beta1, self.beta2 = tinit, deltaT, beta1, beta2
        self.ipt: dict[str, Tensor] = {}  # by "layer.lora_A" and so on, shaped like that
        self.exp_avg_ipt: dict[str, Tensor] = {}
        self.exp_avg_unc: dict[str, Tensor] = {}
        self.rank_pattern: dict[str, Tensor] = {}  # by layer, (r,); True: the triplet stays

    @torch.no_grad()
    def update_ipt(self) -> None:
        """Update each entry's importance I = |p ∂loss/∂p|, as a running mean, and its uncertainty.

            mean = beta1 * mean + (1 - beta1) I
            uncertainty = beta2 * uncertainty + (1 - beta2) |I - mean|

        Source:
            Section 3.2, equations 8 to 10. The paper's p is the value that the gradient was taken
            at; PEFT's p is the value after the step.
        """
        for layer, part in product(self.layers, PARTS):
            name, p = f"{layer}.{part}", getattr(self.layers[layer], part)
            ipt = self.ipt[name] = (p * p.grad).abs()  # about what setting p to 0 does to the loss
            mean = self.beta1 * self.exp_avg_ipt.get(name, 0) + (1 - self.beta1) * ipt
            spread = (ipt - mean).abs()
            self.exp_avg_ipt[name] = mean
            self.exp_avg_unc[name] = (
                self.beta2 * self.exp_avg_unc.get(name, 0) + (1 - self.beta2) * spread
            )

    def triplet_ipt(self) -> dict[str, Tensor]:
        """The importance of each layer's triplets, (r,): s(λ) + mean of s(P) + mean of s(Q).

        The means go over a column of P and a row of Q; s is mean * uncertainty (equation 11).
        """
        scores = {}
        for name in self.layers:
            keys = [f"{name}.{part}" for part in PARTS]
            of_A, of_E, of_B = (self.exp_avg_ipt[key] * self.exp_avg_unc[key] for key in keys)
            scores[name] = of_E.squeeze(1) + (of_A.mean(1) + of_B.mean(0))  # (r,)
        return scores

    def mask_to_budget(self, budget: int) -> dict[str, Tensor]:
        """Mask all but the `budget` most important triplets, and return which stay, by layer.

        The paper keeps exactly `budget`. PEFT masks each triplet that is not above the threshold,
        so fewer stay where several are equal to it.
        """
        scores = self.triplet_ipt()
        all_scores = torch.cat(list(scores.values()))  # (init_bgt,)
        threshold = torch.kthvalue(all_scores, self.init_bgt - budget).values
        self.rank_pattern = {name: score > threshold for name, score in scores.items()}
        self._mask()
        return self.rank_pattern

    @torch.no_grad()
    def _mask(self) -> None:
        for name, kept in self.rank_pattern.items():
            self.layers[name].lora_E.masked_fill_(~kept[:, None], 0.0)  # (r, 1)

    def update_and_allocate(self, global_step: int) -> tuple[int, dict[str, Tensor] | None]:
        """The budget after a step, counted from 1; and at an allocation, which triplets stay."""
        budget = budget_schedule(global_step, self.init_bgt, self.target_bgt, **self.phases)
        if global_step < self.last:  # not at the last allocation itself
            self.update_ipt()
        elif global_step > self.last:
            self._mask()  # the optimizer has moved the masked λ, too
            return budget, None
        due = global_step > self.tinit and global_step % self.deltaT == 0
        if due or global_step == self.last:
            return budget, self.mask_to_budget(budget)
        return budget, None

"""Notebook 08's exercises: their right answers are the allocator's, which is PEFT's."""

import pytest
import torch
from torch import nn

from lora_lab.checks.adalora import budget_at, importance, share_out
from lora_lab.maths.adalora import RankAllocator, SVDLinear, budget_schedule


def allocator(sizes, target_r=1, **betas):
    """An allocator for layers of these ranks, by name."""
    layers = {name: SVDLinear(nn.Linear(2, 3), r, 1).double() for name, r in sizes.items()}
    return RankAllocator(layers, target_r=target_r, tinit=1, tfinal=1, total_step=9, **betas)


@pytest.mark.parametrize("case", list(importance.cases()))
def test_the_importance_is_the_allocators(case):
    own = allocator({"one": 2}, beta1=case["beta1"], beta2=case["beta2"])
    layer = own.layers["one"]
    for value, gradient in zip(case["values"], case["gradients"], strict=True):
        for p in layer.parameters():
            p.grad = torch.zeros_like(p)
        layer.lora_E.data.fill_(value)
        layer.lora_E.grad.fill_(gradient)
        own.update_ipt()
    scores = own.triplet_ipt()["one"]  # the vectors have no gradient: only λ counts
    assert scores.tolist() == pytest.approx([importance.reference(**case)] * 2)


@pytest.mark.parametrize("case", list(budget_at.cases()))
def test_the_budget_is_the_packages(case):
    assert budget_at.reference(**case) == budget_schedule(**case)


@pytest.mark.parametrize("case", list(share_out.cases()))
def test_the_ranks_are_those_that_the_allocator_leaves(case):
    scores = case["scores"]
    own = allocator({name: len(triplets) for name, triplets in scores.items()})
    for name, layer in own.layers.items():
        for part in ("lora_A", "lora_E", "lora_B"):
            zero = torch.zeros_like(getattr(layer, part))
            own.exp_avg_ipt[f"{name}.{part}"] = own.exp_avg_unc[f"{name}.{part}"] = zero
        own.exp_avg_ipt[f"{name}.lora_E"] = torch.tensor(scores[name]).double()[:, None]
        own.exp_avg_unc[f"{name}.lora_E"] = torch.ones_like(layer.lora_E)
    kept = own.mask_to_budget(case["budget"])
    assert {name: int(on.sum()) for name, on in kept.items()} == share_out.reference(**case)

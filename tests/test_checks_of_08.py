"""Notebook 08's exercises: their right answers are PEFT's and its allocator's."""

import pytest
import torch
from torch import nn

from lora_lab.checks.adalora import adalora_step, share_out
from lora_lab.maths.adalora import RankAllocator, SVDLinear


def allocator(sizes, target_r=1, **betas):
    """An allocator for layers of these ranks, by name."""
    layers = {name: SVDLinear(nn.Linear(2, 3), r, 1).double() for name, r in sizes.items()}
    return RankAllocator(layers, target_r=target_r, tinit=1, tfinal=1, total_step=9, **betas)


def plain_step(model, optimizer, batch, step):
    """The step as PEFT's documentation has it."""
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
    optimizer.zero_grad()
    return loss.item()


def test_a_plain_step_is_right_and_trains_pocket_to_its_budget():
    verdict = adalora_step(plain_step)
    assert verdict.passed
    assert "28 of 168 triplets are left" in verdict.message


def test_the_models_of_the_check_are_pruned_to_one_triplet_a_layer():
    for case in adalora_step.cases():
        outcome = adalora_step.outcome(plain_step, case)
        assert outcome.answer["triplets left"] == 2
        assert outcome.answer["losses"][-1] < outcome.answer["losses"][0]


def test_in_its_trial_a_step_that_never_leaves_step_1_is_found_out():
    verdict = adalora_step.trial(lambda **given: plain_step(**given | {"step": 1}))
    assert not verdict.passed
    assert "28 should be left" in verdict.message


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

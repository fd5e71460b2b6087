"""Notebook 06's exercises: their right answers against PEFT and against training."""

import dataclasses
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from lora_lab.checks.alpha import loraplus_groups, same_run
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base


@pytest.mark.parametrize("ratio", [1.0, 4.0, 0.25])
def test_the_groups_have_the_rates_that_pefts_lora_plus_gives(ratio):
    config = LoraConfig(r=2, target_modules=["0", "1"])
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)), config)
    theirs = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=ratio
    ).param_groups
    named = dict(model.named_parameters())
    ours = loraplus_groups.reference(named, 1e-3, ratio)
    assert rates(ours) == rates(theirs)
    assert len(rates(ours)) == 4


def rates(groups):
    return {id(parameter): group["lr"] for group in groups for parameter in group["params"]}


def test_a_group_of_another_form_is_refused_in_words():
    for answer, said in (
        ([[1]], "each group is a dict"),
        ([{"params": [torch.zeros(1)], "lr": 1.0}], "none of the parameters"),
    ):
        verdict = loraplus_groups(lambda answer=answer, **_: answer)
        assert not verdict.passed
        assert said in verdict.message
    twice = loraplus_groups(
        lambda parameters, **_: 2 * [{"params": [*parameters.values()][1:2], "lr": 1.0}]
    )
    assert "stands in two groups" in twice.message


def test_the_trial_trains_twins_with_the_right_groups_and_refuses_groups_that_change_later():
    right = loraplus_groups.trial(loraplus_groups.reference)
    assert right.passed
    assert "within a thousandth of a nat" in right.message
    wrong = loraplus_groups.trial(
        lambda parameters, learning_rate, ratio: loraplus_groups.reference(
            parameters, learning_rate, ratio / 2
        )
    )
    assert not wrong.passed
    assert "nats away" in wrong.message


def losses(optimizer, learning_rate, **changes):
    plain = recipe(
        steps=4, optimizer=optimizer, learning_rate=learning_rate, max_grad_norm=math.inf
    )
    made = train(tiny_base(), letters_task(), dataclasses.replace(plain, **changes))
    return [record.loss for record in made]


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 1e-2), ("sgd", 0.3)])
def test_with_the_right_ratio_the_run_is_the_same_and_with_its_square_or_root_it_is_not(
    optimizer, learning_rate
):
    case = {"lora_alpha": 16, "loraplus_lr_ratio": 2.0, "new_alpha": 64, "optimizer": optimizer}
    ratio = same_run.reference(**case)
    before = losses(optimizer, learning_rate, lora_alpha=16, loraplus_lr_ratio=2.0)
    after = losses(optimizer, learning_rate, lora_alpha=64, loraplus_lr_ratio=ratio)
    assert after == pytest.approx(before, rel=1e-4)
    assert before[0] - before[-1] > 0.01  # it does train
    for wrong in (4 * ratio, ratio / 4):
        other = losses(optimizer, learning_rate, lora_alpha=64, loraplus_lr_ratio=wrong)
        assert other != pytest.approx(before, rel=1e-3)

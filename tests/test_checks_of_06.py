"""Notebook 06's exercises: their right answers against PEFT, against training, by hand."""

import dataclasses
import math

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.checks.alpha import diagnose_alpha, same_run, scaling
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base


@pytest.mark.parametrize("case", list(scaling.cases()))
def test_the_factor_is_the_one_that_pefts_layer_holds(case):
    config = LoraConfig(**case, target_modules=["0"])
    layer = get_peft_model(nn.Sequential(nn.Linear(128, 128)), config).base_model.model[0]
    assert scaling.reference(**case) == pytest.approx(layer.scaling["default"])


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


def test_the_diagnoses_are_those_that_follow_from_the_two_shares():
    diagnoses = [diagnose_alpha.reference(**case) for case in diagnose_alpha.cases()]
    assert diagnoses == ["too weak", "too strong", "fine", "too strong", "fine", "too weak", "fine"]

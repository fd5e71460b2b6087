"""Notebook 10's exercises: their right answers against transformers and torch, and by hand."""

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from lora_lab.checks.training_parameters import (
    decayed,
    diagnose_recipe,
    diagnosed,
    update_steps,
)


class Line(nn.Module):
    """The least that a Trainer trains."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x, labels):
        return {"loss": ((self.weight * x - labels) ** 2).mean()}


@pytest.mark.parametrize("case", list(update_steps.cases()))
def test_the_steps_are_those_that_transformers_trainer_takes(case, tmp_path):
    data = [{"x": [1.0], "labels": [2.0]}] * case["examples"]
    arguments = TrainingArguments(
        output_dir=tmp_path,
        num_train_epochs=case["epochs"],
        per_device_train_batch_size=case["batch_size"],
        gradient_accumulation_steps=case["gradient_accumulation_steps"],
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=Line(), args=arguments, train_dataset=data)
    trainer.train()
    assert update_steps.reference(**case) == trainer.state.global_step


@pytest.mark.parametrize("case", list(decayed.cases()))
def test_the_decay_is_that_of_torchs_adamw_on_a_weight_without_a_gradient(case):
    weight = nn.Parameter(torch.tensor([case["weight"]], dtype=torch.float64))
    optimizer = torch.optim.AdamW([weight], weight_decay=case["weight_decay"])
    for rate in case["rates"]:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    assert decayed.reference(**case) == pytest.approx(weight.item(), rel=1e-12)


def test_the_diagnoses_are_those_that_each_recipe_was_made_with():
    diagnoses = [diagnose_recipe.reference(**case) for _, case in diagnosed()]
    assert diagnoses == [diagnosis for diagnosis, _ in diagnosed()]
    assert {*diagnoses} == {"fine", "too short", "not seen", "all warm-up"}

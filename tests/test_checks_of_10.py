"""Lesson 10's exercises: right answers against transformers, torch, pocket, by hand."""

import copy

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

import lora_lab as lab
from lora_lab.checks.training_parameters import (
    accumulated_step,
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


def test_the_accumulated_step_is_the_one_that_a_batch_of_all_rows_takes():
    model = lab.load_base("pocket", device="cpu", dtype="float32").model
    parts = [torch.tensor([[5, 9, 17, 4, 8, 30, 2]]), torch.tensor([[30, 8, 77, 12, 3, 9, 1]] * 3)]
    batches = [{"input_ids": ids, "labels": ids.clone()} for ids in parts]
    batches[0]["labels"][:, :2] = -100  # 5 labels
    batches[1]["labels"][:, :6] = -100  # 3 labels
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    weights = []
    for step, given in ((accumulated_step.reference, batches), (None, whole)):
        trained = copy.deepcopy(model)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        if step:
            step(trained, given, optimizer)
        else:
            trained(**given).loss.backward()
            optimizer.step()
        weights.append(trained.get_input_embeddings().weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)
    assert (weights[0] - model.get_input_embeddings().weight).abs().max() > 1e-3


def test_in_its_trial_a_step_that_leaves_something_behind_is_told_apart():
    def drifting(model, batches, optimizer):
        accumulated_step.reference(model, batches, optimizer)
        if hasattr(model, "peft_config"):  # pocket, and no model of the cases
            for group in optimizer.param_groups:
                group["lr"] *= 2

    verdict = lab.check.accumulated_step(drifting)
    assert not verdict
    assert "does anything of one step stay for the next?" in verdict.message


def test_the_trial_of_the_accumulated_step_names_the_gap_of_the_mean_of_means():
    verdict = lab.check.accumulated_step(accumulated_step.reference)
    assert verdict
    assert "4 batches of 4 have the losses of one batch of 16" in verdict.message

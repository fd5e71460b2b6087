"""What AdaLoRA's allocator holds, read from outside while it trains."""

import torch

from lora_lab.maths.adalora import budget_schedule
from lora_lab.records import StepRecord
from lora_lab.training.adalora import importances, last_ranks
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base


def test_the_last_ranks_are_those_of_the_last_allocation():
    told = [None, {"a": 3}, {"a": 2}, None]
    records = [
        StepRecord(step, loss=1.0, learning_rate=1e-3, grad_norm=1.0, tokens=8, ranks=ranks)
        for step, ranks in enumerate(told, start=1)
    ]
    assert last_ranks(iter(records)) == {"a": 2}
    assert last_ranks(records[:1]) is None


def test_the_most_important_triplets_are_those_that_peft_keeps():
    wanted = recipe(method="adalora", init_r=4, target_r=2, steps=10, tinit=2, tfinal=3)
    training = train(tiny_base(), letters_task(), wanted)
    assert importances(training.model) == {}
    phases = {"tinit": 2, "tfinal": 3, "total_step": 10}
    compared = 0
    for record in training:
        found = importances(training.model)
        if record.step >= 7:  # PEFT forgets them at the last allocation
            assert found == {}
            continue
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == dict.fromkeys(
            found, (3, 4)
        )
        assert len(found) == 14
        if record.ranks is None:
            continue
        scores = torch.cat([one[2] for one in found.values()])
        budget = budget_schedule(record.step, 14 * 4, 14 * 2, **phases)
        least = scores.topk(budget).values[-1]
        kept = {name: int((one[2] >= least).sum()) for name, one in found.items()}
        assert kept == record.ranks
        compared += 1
    assert compared == 4


def test_the_first_two_rows_are_what_peft_holds_of_the_lambdas():
    wanted = recipe(method="adalora", init_r=4, target_r=2, steps=8, beta1=0.5, beta2=0.75)
    training = train(tiny_base(), letters_task(), wanted)
    next(iter(training))
    allocator = training.model.base_model.rankallocator
    for name, (sensitivity, uncertainty, _) in importances(training.model).items():
        key = f"{name}.lora_E.default"
        now = allocator.ipt[key][:, 0]  # of one step: the averages began at 0
        torch.testing.assert_close(sensitivity, 0.5 * now, rtol=1e-5, atol=0)
        expected = 0.25 * (now - 0.5 * now).abs()
        torch.testing.assert_close(uncertainty, expected, rtol=1e-5, atol=0)

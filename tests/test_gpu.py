"""The suite's training once more, on a GPU. Skipped, with the reason, where there is none."""

import dataclasses

import pytest
import torch

import lora_lab as lab

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU"),
]


def facts():
    task = lab.load_task("new-facts", n=60)
    return task, dataclasses.replace(task.recipe, steps=40)


@pytest.mark.parametrize("changes", [{}, {"use_dora": True}, {"method": "full"}], ids=str)
def test_losses_on_the_gpu_equal_those_on_the_cpu(changes):
    task, recipe = facts()
    recipe = dataclasses.replace(recipe, learning_rate=1e-3, steps=20, **changes)
    losses = [
        [
            record.loss
            for record in lab.train(lab.load_base(device=device, dtype="float32"), task, recipe)
        ]
        for device in ("cpu", "cuda")
    ]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-2, atol=1e-3)


def test_a_run_on_the_gpu_learns_and_can_be_resumed_saved_and_loaded(tmp_path):
    base = lab.load_base(device="cuda")
    task, recipe = facts()
    recipe = dataclasses.replace(recipe, lora_dropout=0.1)
    run = lab.fit(base, task, recipe, store=tmp_path)
    assert run.scores.loss < lab.evaluate(base, task).loss
    folder = lab.save_adapter(run, tmp_path / "adapter")
    prompts = [example.prompt for example in task.test[:8]]
    assert lab.generate(lab.load_adapter(base, folder), prompts) == lab.generate(run, prompts)
    half = lab.train(base, task, recipe)
    for record in half:
        if record.step == 20:
            break
    again = lab.train(base, task, recipe)
    again.restore(half.checkpoint())
    list(again)
    assert again.records == list(run.records)


def test_the_gpus_random_state_is_left_as_it_was():
    base = lab.load_base(device="cuda")
    task, recipe = facts()
    before = torch.cuda.get_rng_state()
    list(lab.train(base, task, dataclasses.replace(recipe, lora_dropout=0.3, steps=3)))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_smollm2_trains_in_bfloat16():
    base = lab.load_base("smollm2", device="cuda", dtype="bfloat16")
    task = lab.load_task("home-commands", base)
    recipe = dataclasses.replace(task.recipe, steps=30)
    run = lab.fit(base, task, recipe, store=None, evaluate=False)
    assert run.records[-1].loss < 0.5 * run.records[0].loss

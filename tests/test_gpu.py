"""The suite's training once more, on a GPU. Skipped, with the reason, where there is none."""

import dataclasses

import pytest
import torch

import lora_lab as lab
from lora_lab.machine.devices import seeded
from lora_lab.models.adapters import as_trained
from lora_lab.records import StepRecord
from lora_lab.training import packing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no NVIDIA GPU"),
]


def facts():
    task = lab.load_task("new-facts", n=60)
    return task, dataclasses.replace(task.recipe, steps=40)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_dora": True},
        {"method": "full"},
        {"method": "adalora", "init_r": 6, "target_r": 2},
        {"quantize": "nf4"},
        {"quantize": "fp4", "double_quant": False, "init_lora_weights": "loftq"},
    ],
    ids=str,
)
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


def test_training_in_8_bits_learns_on_the_gpu():
    task, recipe = facts()
    base = lab.load_base(device="cuda", dtype="float32")
    recipe = dataclasses.replace(recipe, quantize="int8")
    losses = [record.loss for record in lab.train(base, task, recipe)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("changes", [{}, {"quantize": "nf4"}, {"gradient_checkpointing": True}])
def test_the_estimate_of_memory_is_right_on_the_gpu(changes):
    base = lab.load_base("smollm2", device="cuda", dtype="bfloat16")
    task = lab.load_task("home-commands", base)
    recipe = dataclasses.replace(task.recipe, steps=3, batch_size=16, **changes)
    on = as_trained(base, recipe)  # what the estimate takes to be loaded
    del base
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    list(lab.train(on, task, recipe))
    measured = torch.cuda.max_memory_allocated()
    assert lab.estimate(on, recipe, task).memory.total == pytest.approx(measured, rel=0.1)


def test_full_fine_tuning_keeps_its_last_good_weights_off_the_gpu():
    base = lab.load_base(device="cuda", dtype="float32")
    task, recipe = facts()
    recipe = dataclasses.replace(recipe, method="full", learning_rate=3e-4, steps=13)
    torch.cuda.reset_peak_memory_stats()
    training = lab.train(base, task, recipe)
    list(training)
    assert {tensor.device.type for tensor in training._good.values()} == {"cpu"}
    measured = torch.cuda.max_memory_allocated()
    assert lab.estimate(base, recipe, task).memory.total == pytest.approx(measured, rel=0.1)


def test_the_gpus_random_state_is_left_as_it_was():
    base = lab.load_base(device="cuda")
    task, recipe = facts()
    before = torch.cuda.get_rng_state()
    list(lab.train(base, task, dataclasses.replace(recipe, lora_dropout=0.3, steps=3)))
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_a_seed_reaches_this_gpu_alone_and_gives_what_torchs_own_gives():
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    before = torch.cuda.get_rng_state_all()
    with seeded(last, 5):
        drawn = torch.rand(7, device=last)
        inside = torch.cuda.get_rng_state_all()
    for states in (inside[:-1], torch.cuda.get_rng_state_all()):
        for now, then in zip(states, before, strict=False):
            assert torch.equal(now, then)
    with torch.random.fork_rng([last]):
        torch.cuda.default_generators[last.index].manual_seed(5)
        assert torch.equal(torch.rand(7, device=last), drawn)


def test_smollm2_trains_in_bfloat16():
    base = lab.load_base("smollm2", device="cuda", dtype="bfloat16")
    task = lab.load_task("home-commands", base)
    recipe = dataclasses.replace(task.recipe, steps=30)
    run = lab.fit(base, task, recipe, store=None, evaluate=False)
    assert run.records[-1].loss < 0.5 * run.records[0].loss


def losses_in_a_pack(base, task, recipes):
    """The losses of each run, by recipe, as `train_packed` gives them."""
    losses = {recipe: [] for recipe in recipes}
    for recipe, result in packing.train_packed(base, task, recipes, store=None, evaluate=False):
        if isinstance(result, StepRecord):
            losses[recipe].append(result.loss)
    return losses


def many_ranks(recipe, count):
    """As many runs as that, of ranks 1 to 32."""
    changes = {"steps": 20, "learning_rate": 1e-3}
    return [
        dataclasses.replace(recipe, r=2 ** (seed % 6), seed=seed, **changes)
        for seed in range(count)
    ]


def test_packed_runs_on_the_gpu_equal_runs_alone():
    base = lab.load_base(device="cuda", dtype="float32")
    task, recipe = facts()
    recipes = many_ranks(recipe, 8)
    for recipe, losses in losses_in_a_pack(base, task, recipes).items():
        alone = [record.loss for record in lab.train(base, task, recipe)]
        torch.testing.assert_close(losses, alone, rtol=1e-3, atol=0)


def test_a_pack_that_finds_too_little_memory_on_the_gpu_is_halved(monkeypatch):
    base = lab.load_base(device="cuda", dtype="float32")
    task, recipe = facts()
    recipes = [dataclasses.replace(one, steps=4, batch_size=64) for one in many_ranks(recipe, 16)]
    torch.cuda.reset_peak_memory_stats()
    whole = losses_in_a_pack(base, task, recipes)
    most, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    monkeypatch.setattr(packing, "members_at_once", lambda *_: 16)
    torch.cuda.empty_cache()
    try:
        torch.cuda.set_per_process_memory_fraction(0.7 * most / total)
        with pytest.warns(UserWarning, match="too small for 16 runs in one batch: going on with 8"):
            halved = losses_in_a_pack(base, task, recipes)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for recipe, losses in whole.items():
        torch.testing.assert_close(halved[recipe], losses, rtol=1e-3, atol=0)


def test_smollm2_trains_in_packs_in_bfloat16():
    base = lab.load_base("smollm2", device="cuda", dtype="bfloat16")
    task = lab.load_task("home-commands", base)
    recipes = [dataclasses.replace(task.recipe, steps=30, seed=seed) for seed in range(4)]
    for losses in losses_in_a_pack(base, task, recipes).values():
        assert losses[-1] < 0.5 * losses[0]

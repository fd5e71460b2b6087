"""`estimate`: what a fine-tune will cost, against the run that follows; the cards it fits on."""

import dataclasses
import json
import re
import time

import pytest
import torch
import transformers as hf

import lora_lab as lab
from lora_lab.cost import budget, estimates, gpus
from lora_lab.cost.budget import Batch
from lora_lab.cost.estimates import batches_of, expected_seconds, find_shape
from lora_lab.cost.memory import memory
from lora_lab.machine import devices
from lora_lab.models.bases import load_base
from lora_lab.models.read_architecture import shape_of
from lora_lab.records import Memory
from lora_lab.tasks.examples import IGNORED, Example
from tiny import letters_task, recipe, tiny_base

FULL = lab.Recipe(method="full")


def uneven_task():
    """Prompts and answers of many lengths."""
    task = letters_task()
    words = ["a", "bcd", "efghijk", "l m n", "opqrstuvwxyz", "é", "seven letters"]
    examples = [Example(words[i % 7], words[i % 5]) for i in range(30)]
    return dataclasses.replace(task, train=examples)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_the_batches_are_those_that_training_draws(loss_on, monkeypatch):
    base, task = tiny_base(), uneven_task()
    one = recipe(steps=5, gradient_accumulation_steps=2, loss_on=loss_on)
    drawn = []
    training = lab.train(base, task, one)
    following = training._next_batch

    def next_batch():
        batch = following()
        labels = batch["labels"][:, 1:] != IGNORED
        real = batch["attention_mask"].sum(dim=1)
        places, all_labels = int(labels.any(dim=0).sum()), int(labels.sum())
        padded = bool((real < real.max()).any())
        drawn.append(Batch(*batch["input_ids"].shape, places, all_labels, padded))
        return batch

    monkeypatch.setattr(training, "_next_batch", next_batch)
    list(training)
    assert list(batches_of(task, base.tokenizer, one)) == drawn
    assert len(set(drawn)) > 2  # they differ, so the test can fail


def test_an_estimate_tells_the_parameters_of_the_model_that_is_trained():
    base, task, one = tiny_base(), letters_task(), recipe(use_dora=True)
    model = lab.train(base, task, one).model
    told = lab.estimate(base, one, task)
    trained, every = model.get_nb_trainable_parameters()
    assert (told.trainable_parameters, told.total_parameters) == (trained, every)


def test_with_a_task_a_step_costs_the_mean_over_the_steps_and_the_memory_of_the_largest():
    base, task, one = tiny_base(), uneven_task(), recipe(steps=9, batch_size=1)
    alone = [
        (batch, budget.flops(shape_of(base.model), one, [batch]))
        for batch in batches_of(task, base.tokenizer, one)
    ]
    assert len({cost for _, cost in alone}) > 2
    told = lab.estimate(base, one, task)
    assert told.flops_per_step == pytest.approx(sum(cost for _, cost in alone) / 9)
    most = max(memory(shape_of(base.model), one, batch).total for batch, _ in alone)
    assert told.memory.total == most


def test_two_batches_a_step_cost_twice_as_much():
    one, two = recipe(), recipe(gradient_accumulation_steps=2)
    single, double = lab.estimate(tiny_base(), one), lab.estimate(tiny_base(), two)
    assert double.flops_per_step == 2 * single.flops_per_step


def test_without_a_task_every_example_is_as_long_as_may_be_and_all_of_it_is_learnt():
    model, one = tiny_base(), recipe(max_length=20, batch_size=3)
    told = lab.estimate(model, one)
    whole = Batch(examples=3, length=20, places=19, labels=57)
    assert told.flops_per_step == budget.flops(shape_of(model.model), one, [whole])


def test_an_estimate_is_the_same_for_a_base_its_config_and_its_folder(tmp_path):
    base = tiny_base()
    base.model.config.save_pretrained(tmp_path)
    expected = lab.estimate(base, recipe())
    assert lab.estimate(base.model.config, recipe()) == expected
    assert lab.estimate(tmp_path, recipe()) == lab.estimate(str(tmp_path), recipe()) == expected


def test_a_wide_model_without_weights_is_taken_to_be_in_bfloat16():
    wide, narrow = lab.estimate("smollm2", lab.Recipe()), lab.estimate("pocket", lab.Recipe())
    assert wide.memory.weights == 2 * find_shape("smollm2").parameters
    assert narrow.memory.weights == 4 * find_shape("pocket").parameters


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_base_loaded_quantised_costs_what_a_recipe_that_quantises_costs(quantize):
    once = lab.estimate(lab.load_base("pocket", quantize=quantize), recipe())
    assert once == lab.estimate(lab.load_base("pocket"), recipe(quantize=quantize))
    assert once.memory.weights < lab.estimate("pocket", recipe()).memory.weights


def test_a_quantised_base_refuses_in_an_estimate_what_it_refuses_in_training():
    with pytest.raises(ValueError, match="method='full' needs the whole weights"):
        lab.estimate(lab.load_base("pocket", quantize="nf4"), FULL)


def test_an_estimate_leaves_the_base_and_the_random_state_as_they_were():
    base = tiny_base()
    before, state = base.fingerprint(), torch.get_rng_state()
    lab.estimate(base, recipe(), letters_task())
    lab.estimate("llama-7b", recipe())
    assert base.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_not_known_of_a_model_is_none_with_the_reason_as_a_warning():
    with pytest.warns(UserWarning, match="t5-base has an encoder and a decoder"):
        told = lab.estimate("t5-base", lab.Recipe())
    assert (told.flops_per_step, told.memory) == (None, None)
    assert told.trainable_parameters == 8 * (
        3 * 12 * 4 * 1536 + 2 * 12 * 2 * 3840
    )  # q k v o, wi wo


def test_a_recipe_that_does_not_fit_is_an_error_and_no_warning():
    with pytest.raises(ValueError, match="did you mean 'q_proj'"):
        lab.estimate("llama-7b", lab.Recipe(target_modules=("q_porj",)))


def test_a_task_needs_a_base_for_its_tokenizer():
    with pytest.raises(ValueError, match="'letters' are counted by a base's tokenizer.*load_base"):
        lab.estimate("pocket", recipe(), letters_task())


# --- how long -----------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    return tmp_path


def test_the_rate_is_measured_once_and_then_read(empty_cache, monkeypatch):
    cpu = torch.device("cpu")
    first = devices.matmul_speed(cpu, torch.float32, 10**6, 64)
    assert 1e7 < first < 1e14
    (kept,) = empty_cache.glob("matmul_speed.json")
    (key,) = json.loads(kept.read_text())
    assert "1 threads, float32, 64" in key  # a small model trains on one
    monkeypatch.setattr(devices.time, "perf_counter", lambda: 1 / 0)
    assert devices.matmul_speed(cpu, torch.float32, 10**6, 64) == first
    with pytest.raises(ZeroDivisionError):  # another width is another rate
        devices.matmul_speed(cpu, torch.float32, 10**6, 65)


def test_full_fine_tuning_is_timed_in_float32_and_the_rest_as_the_device_likes_it(monkeypatch):
    monkeypatch.setattr(devices, "bfloat16_speed", lambda width: 9.0)  # so it is chosen
    monkeypatch.setattr(estimates, "matmul_speed", lambda device, dtype, *size: dtype)
    wide, cpu = find_shape("llama-7b"), torch.device("cpu")
    assert estimates.flops_per_second(wide, FULL, cpu) == torch.float32
    assert estimates.flops_per_second(wide, recipe(), cpu) == torch.bfloat16


def test_measuring_the_rate_leaves_the_number_of_threads_as_it_was(empty_cache):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        devices.matmul_speed(torch.device("cpu"), torch.float32, 10**6, 32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_step_takes_its_flops_at_the_shares_of_the_rate_that_were_measured():
    least, most = expected_seconds(flops_per_step=9e9, rate=1e10)
    assert (least, most) == pytest.approx((1.0, 3.6))


@pytest.mark.slow
def test_a_step_of_pocket_takes_between_the_seconds_that_are_expected(empty_cache):
    base = load_base("pocket")
    task = lab.load_task("sentiment", base)
    one = dataclasses.replace(task.recipe, steps=12)
    rate = estimates.flops_per_second(find_shape(base), one, base.device)
    least, most = expected_seconds(lab.estimate(base, one, task).flops_per_step, rate)
    training = iter(lab.train(base, task, one))
    next(training)
    start = time.process_time()  # whatever else the machine does
    steps = len(list(training))
    assert least < (time.process_time() - start) / steps < most


# --- cards --------------------------------------------------------------------------------------


def of(total):
    return Memory(
        weights=1, adapters=1, gradients=1, optimizer=1, activations=1, logits=1, total=total
    )


def test_a_card_fits_to_the_byte_and_says_how_much_is_left_or_lacking():
    card = next(card for card in gpus.cards() if card.name == "RTX 3090")
    assert card.usable == 23 * 2**30  # of 24

    def verdict(plain, checkpointed):
        (fit,) = [fit for fit in gpus.which_gpu(of(plain), of(checkpointed)) if fit.card == card]
        return fit.verdict, fit.spare

    room = card.usable
    assert verdict(room, room - 7) == ("fits", 0)
    assert verdict(room + 1, room - 7) == ("fits with checkpointing", 7)
    assert verdict(room + 9, room + 5) == ("does not fit", -5)


def test_there_is_each_card_that_was_asked_for_with_its_source():
    names = " ".join(card.name for card in gpus.cards())
    asked = "3060 3090 4060 4070 4080 4090 5080 5090 T4 L4 A10 A100 H100 H200 Apple".split()
    assert [name for name in asked if not re.search(rf"\b{name}\b", names)] == []
    assert all(re.match(r"(nvidia|apple)\.com, ", card.source) for card in gpus.cards())
    rooms = [card.usable for card in gpus.cards()]
    assert rooms == sorted(rooms)
    assert all(room > 0 for room in rooms)


def test_full_fine_tuning_of_70_b_takes_over_a_terabyte_and_no_card_holds_it():
    """Not "100 GB+": 16 bytes a parameter, float32 weights, gradients and AdamW's two moments."""
    told = lab.estimate("llama-2-70b", dataclasses.replace(FULL, batch_size=1))
    trained = 4 * 68_976_648_192
    assert told.memory.gradients == trained
    assert told.memory.optimizer == pytest.approx(2 * trained, rel=1e-6)
    assert 4 * trained == pytest.approx(1.10e12, rel=0.01)
    assert told.memory.total > 4 * trained
    checkpointed = dataclasses.replace(FULL, batch_size=1, gradient_checkpointing=True)
    lighter = lab.estimate("llama-2-70b", checkpointed).memory
    assert {fit.verdict for fit in gpus.which_gpu(told.memory, lighter)} == {"does not fit"}


def test_a_known_model_can_be_built_by_its_own_config():
    config = hf.AutoConfig.for_model(**estimates.known_shapes()["qwen2.5-7b"].config)
    assert lab.estimate(config, lab.Recipe()) == lab.estimate("qwen2.5-7b", lab.Recipe())

"""`estimate`: what a fine-tune will cost, against the run that follows; the cards it fits on."""

import dataclasses
import re
import subprocess
import sys
import time

import pytest
import torch
import transformers as hf

import lora_lab as lab
from lora_lab.cost import budget, estimates, gpus
from lora_lab.cost.budget import Batch
from lora_lab.cost.estimates import batches_of, expected_seconds, find_shape, more_memory
from lora_lab.cost.known_models import known_shapes
from lora_lab.cost.memory import memory
from lora_lab.machine import devices
from lora_lab.models.bases import load_base
from lora_lab.models.read_architecture import shape_of
from lora_lab.records import Memory
from lora_lab.tasks.examples import IGNORED, Example
from tiny import letters_task, recipe, tiny_base

FULL = lab.Recipe(method="full")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    return tmp_path


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
    estimated = lab.estimate(base, one, task)
    trained, every = model.get_nb_trainable_parameters()
    assert (estimated.trainable_parameters, estimated.total_parameters) == (trained, every)


def test_with_a_task_a_step_costs_the_mean_over_the_steps_and_the_memory_of_the_largest():
    base, task, one = tiny_base(), uneven_task(), recipe(steps=9, batch_size=1)
    alone = [
        (batch, budget.flops(shape_of(base.model), one, [batch]))
        for batch in batches_of(task, base.tokenizer, one)
    ]
    assert len({cost for _, cost in alone}) > 2
    estimated = lab.estimate(base, one, task)
    assert estimated.flops_per_step == pytest.approx(sum(cost for _, cost in alone) / 9)
    most = max(memory(shape_of(base.model), one, batch).total for batch, _ in alone)
    assert estimated.memory.total == most


def test_of_many_batches_those_are_left_that_no_other_exceeds_in_every_size():
    small, wide, long = Batch(2, 5, 3, 9), Batch(4, 7, 6, 20), Batch(4, 8, 5, 18)
    padded = dataclasses.replace(wide, padded=True)
    assert estimates.largest_batches([small, wide, long, wide, padded]) == [long, padded]


def test_two_batches_a_step_cost_twice_as_much():
    one, two = recipe(), recipe(gradient_accumulation_steps=2)
    single, double = lab.estimate(tiny_base(), one), lab.estimate(tiny_base(), two)
    assert double.flops_per_step == 2 * single.flops_per_step


def test_without_a_task_every_example_is_as_long_as_may_be_and_all_of_it_is_learnt():
    model, one = tiny_base(), recipe(max_length=20, batch_size=3)
    estimated = lab.estimate(model, one)
    whole = Batch(examples=3, length=20, places=19, labels=57)
    assert estimated.flops_per_step == budget.flops(shape_of(model.model), one, [whole])


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
        estimated = lab.estimate("t5-base", lab.Recipe())
    assert (estimated.flops_per_step, estimated.memory) == (None, None)
    assert estimated.trainable_parameters == 8 * (
        3 * 12 * 4 * 1536 + 2 * 12 * 2 * 3840
    )  # q k v o, wi wo


def test_a_recipe_that_does_not_fit_is_an_error_and_no_warning(recwarn):
    with pytest.raises(ValueError, match="did you mean 'q_proj'"):
        lab.estimate("llama-7b", lab.Recipe(target_modules=("q_porj",)))
    assert [str(warning.message) for warning in recwarn if warning.category is UserWarning] == []


def test_a_task_needs_a_base_for_its_tokenizer():
    with pytest.raises(ValueError, match="'letters' are counted by a base's tokenizer.*load_base"):
        lab.estimate("pocket", recipe(), letters_task())


# --- what is scored -----------------------------------------------------------------------------


def test_a_test_at_the_end_counts_when_there_is_asked_for_room(monkeypatch):
    base, one = tiny_base(), recipe(batch_size=1)
    task = letters_task()
    without = dataclasses.replace(task, test=task.test[:1])
    assert more_memory(base, task, one) > more_memory(base, without, one)
    assert lab.estimate(base, one, task).memory == lab.estimate(base, one, without).memory


def test_a_validation_counts_where_eval_steps_asks_for_it():
    base, task = tiny_base(), letters_task()
    plain, validating = recipe(batch_size=1), recipe(batch_size=1, eval_steps=3)
    seldom = lab.estimate(base, plain, task).memory
    assert lab.estimate(base, validating, task).memory.total > seldom.total
    short = {"batch_size": 1, "max_length": 32}  # and a vocabulary of 128,256
    plain, validating = recipe(**short), recipe(**short, eval_steps=3)
    logits = lab.estimate("llama-3.2-3b", validating).memory.logits
    assert logits > 20 * lab.estimate("llama-3.2-3b", plain).memory.logits


# --- in a fresh process -------------------------------------------------------------------------

ASK = """
import sys
from lora_lab.cost.estimates import estimate
from lora_lab.recipe import Recipe
print(estimate({name!r}, Recipe()))
sys.exit(any(name in sys.modules for name in ("transformers", "peft", "bitsandbytes")))
"""


@pytest.mark.parametrize("name", ["llama-7b", "pocket"])
def test_a_models_shape_is_built_once_and_then_read_without_transformers(name, empty_cache):
    def asked():
        command = [sys.executable, "-c", ASK.format(name=name)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first, second = asked(), asked()
    assert (first.returncode, second.returncode) == (1, 0), second.stderr
    assert first.stdout == second.stdout
    assert find_shape("llama-13b").parameters == 13_015_864_320  # kept beside it, not in its place
    assert find_shape(name) == shape_of(
        lab.load_base("pocket").model.config
        if name == "pocket"
        else hf.AutoConfig.for_model(**known_shapes()[name].config),
        name,
    )


def test_a_damaged_shape_in_the_cache_is_built_again(empty_cache):
    expected = find_shape("llama-7b")
    (kept,) = (empty_cache / "shapes").glob("*.json")
    for text in ("", "{}", "[1]", kept.read_text()[:-100]):
        kept.write_text(text)
        assert find_shape("llama-7b") == expected


# --- how long -----------------------------------------------------------------------------------


def test_the_rate_is_measured_once_and_then_read(empty_cache, monkeypatch):
    cpu = torch.device("cpu")
    first = devices.matmul_speed(cpu, torch.float32, 10**6, 64)
    assert 1e7 < first < 1e14
    assert len([*(empty_cache / "speeds").glob("*.json")]) == 1
    monkeypatch.setattr(devices.time, "perf_counter", lambda: 1 / 0)
    assert devices.matmul_speed(cpu, torch.float32, 10**6, 64) == first
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)  # a small model trains on one thread
    assert devices.matmul_speed(cpu, torch.float32, 10**6, 64) == first
    with pytest.raises(ZeroDivisionError):  # a large model trains on all, at another rate
        devices.matmul_speed(cpu, torch.float32, 10**8, 64)
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


def of(total, lasting=1):
    """A step's memory, of which `lasting` bytes stay from step to step."""
    return Memory(
        weights=lasting, adapters=0, gradients=1, optimizer=0, activations=1, logits=1, total=total
    )


def test_a_card_fits_to_the_byte_and_says_how_much_is_left_or_lacking():
    card = card_called("RTX 3090")
    assert card.usable == int(23.59 * 2**30) - 2**30  # of "24 GB"

    def verdict(plain, checkpointed):
        fits = gpus.which_gpu(of(plain, plain), of(checkpointed, checkpointed))
        (fit,) = [fit for fit in fits if fit.card == card]
        return fit.verdict, card.usable - fit.spare

    fits, edge = int(card.usable / (1 + gpus.ERROR)), int(card.usable / (1 - gpus.ERROR))
    assert verdict(fits, fits - 7) == ("fits", fits)
    assert verdict(fits + 1, fits - 7) == ("fits with checkpointing", fits - 7)
    assert verdict(fits + 1, fits + 1) == ("at the edge", fits + 1)
    assert verdict(edge + 1, edge) == ("at the edge with checkpointing", edge)
    assert verdict(edge + 9, edge + 5) == ("does not fit", edge + 5)


def test_what_the_allocator_keeps_counts_where_tensors_come_and_go():
    assert gpus.cached(of(1000, 1000)) == 0
    assert gpus.cached(of(1000, 600)) == int(gpus.CACHED * 400)
    assert gpus.verdict_on(1060, of(1000, 1000)) == "fits"
    assert gpus.verdict_on(1060, of(1000, 600)) == "at the edge"


def card_called(name):
    return next(card for card in gpus.cards() if card.name == name)


@pytest.mark.parametrize(
    ("name", "shown"),  # MiB, by nvidia-smi
    [
        ("T4", 15360),
        ("RTX 4080", 16376),
        ("RTX 5080", 16303),
        ("L4", 23034),
        ("RTX 3090", 24576),
        ("RTX 4090", 24564),
        ("RTX 5090", 32607),
        ("A100 40 GB", 40960),
        ("A100 80 GB", 81920),
        ("H100", 81559),
        ("H200", 143771),
    ],
)
def test_a_card_has_what_a_program_finds_and_not_what_is_written_on_its_box(name, shown):
    kept_by_the_driver = shown / 1024 - card_called(name).memory
    assert 0.2 <= kept_by_the_driver <= 0.8


def test_a_card_without_bfloat16_says_so_of_a_base_in_bfloat16_alone():
    def notes(dtype):
        return {fit.card.name: fit.note for fit in gpus.which_gpu(of(1), of(1), dtype) if fit.note}

    assert notes("bfloat16") == {"T4": "in float16: it has no bfloat16"}
    assert notes("float32") == {}


def test_the_largest_model_in_4_bits_is_at_the_edge_of_the_40_gb_card():
    made = recipe(r=8, quantize="nf4", batch_size=1, max_length=512, gradient_checkpointing=True)
    memory_70b = lab.estimate("llama-2-70b", made).memory
    (fit,) = (
        fit for fit in gpus.which_gpu(memory_70b, memory_70b) if fit.card.name == "A100 40 GB"
    )
    assert fit.verdict == "at the edge"
    assert abs(fit.spare) < 0.1 * memory_70b.total  # too near for the estimate to decide


def test_there_is_each_card_that_was_asked_for_with_its_source():
    names = " ".join(card.name for card in gpus.cards())
    asked = "3060 3090 4060 4070 4080 4090 5080 5090 T4 L4 A10 A100 H100 H200 Apple".split()
    assert [name for name in asked if not re.search(rf"\b{name}\b", names)] == []
    assert all(re.match(r"(nvidia|apple)\.com, ", card.source) for card in gpus.cards())
    seen = r"\w/[\w.-]+#\d+|nvidia-smi: [\d,]+ MiB"
    assert all(re.search(seen, card.source) for card in gpus.cards() if card.share == 1)
    rooms = [card.usable for card in gpus.cards()]
    assert rooms == sorted(rooms)
    assert all(room > 0 for room in rooms)


def test_full_fine_tuning_of_70_b_takes_over_a_terabyte_and_no_card_holds_it():
    """Not "100 GB+": 16 bytes a parameter by the usual loop, and 18 by this one on a GPU."""
    estimated = lab.estimate("llama-2-70b", dataclasses.replace(FULL, batch_size=1))
    parameters = 68_976_648_192
    usual = estimated.usual_memory
    fixed = usual.weights + usual.gradients + usual.optimizer
    assert fixed == 16 * parameters == pytest.approx(1.10e12, rel=0.01)
    assert usual.total > 16 * parameters
    ours = estimated.memory.weights + estimated.memory.gradients + estimated.memory.optimizer
    assert ours == 18 * parameters
    checkpointed = dataclasses.replace(FULL, batch_size=1, gradient_checkpointing=True)
    lighter = lab.estimate("llama-2-70b", checkpointed).memory
    assert {fit.verdict for fit in gpus.which_gpu(estimated.memory, lighter)} == {"does not fit"}


def test_a_known_model_can_be_built_by_its_own_config():
    config = hf.AutoConfig.for_model(**known_shapes()["qwen2.5-7b"].config)
    assert lab.estimate(config, lab.Recipe()) == lab.estimate("qwen2.5-7b", lab.Recipe())

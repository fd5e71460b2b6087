"""The memory of other training programs' steps, against real steps built as theirs are."""

import dataclasses
import gc

import peft
import pytest
import torch
import transformers
from torch.profiler import record_function

from benchmarks.measuring import peaks_of
from lora_lab.cost.budget import Batch
from lora_lab.cost.memory import stack_memory
from lora_lab.cost.stacks import Stack
from lora_lab.cost.static_memory import stack_static_memory
from lora_lab.models.read_architecture import shape_of
from tiny import recipe

ERROR = 0.04  # as for our own loop: kernels' own buffers are among the allocator's events
SIZES = {"vocab_size": 500, "hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4}
CONFIG = transformers.LlamaConfig(**SIZES, intermediate_size=256, num_key_value_heads=2)
BATCH = Batch(16, 40, 40, 640)
EXACT, MIXED = Stack(autocast=False, exact_weights=False), Stack(exact_weights=False)
STEPS = {  # a program, what it trains, and in which dtype the base is
    "full": (EXACT, {"method": "full"}, "float32"),
    "full in 16 bits": (EXACT, {"method": "full"}, "bfloat16"),
    "LoRA": (EXACT, {}, "float32"),
    "LoRA in 16 bits": (dataclasses.replace(EXACT, adapters="16-bit"), {}, "bfloat16"),
    "eager attention": (dataclasses.replace(EXACT, eager=True), {}, "float32"),
    "autocast": (MIXED, {}, "bfloat16"),
    "autocast, of float32": (MIXED, {"method": "full"}, "float32"),
    "checkpointing": (MIXED, {"gradient_checkpointing": True}, "bfloat16"),
}


def model_of(made, stack, dtype):
    """The model as the program makes it."""
    attention = "eager" if stack.eager else "sdpa"
    model = transformers.AutoModelForCausalLM.from_config(CONFIG, attn_implementation=attention)
    model = model.to(getattr(torch, dtype)).train()
    if made.method == "lora":
        config = peft.LoraConfig(r=made.r, target_modules=made.target_modules)
        model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        for name, tensor in model.named_parameters():
            if "lora_" in name and stack.adapters == "float32":
                tensor.data = tensor.data.float()
    if made.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model


def measured_peak(made, stack, dtype, batch=BATCH):
    """The most bytes held in a second step, by the memory allocator's own events."""
    model = model_of(made, stack, dtype)
    trained = [tensor for tensor in model.parameters() if tensor.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)
    ids = torch.randint(0, 500, (batch.examples, batch.length))

    def loss_of_step():
        with torch.autocast("cpu", torch.bfloat16, enabled=stack.autocast):
            return model(input_ids=ids, labels=ids).loss

    def train():
        for number in (1, 2):
            with record_function(f"step {number}"):
                loss_of_step().backward()
                optimizer.step()
                optimizer.zero_grad()
        gc.collect()

    return peaks_of(train, model)["step 2"]


@pytest.mark.parametrize("name", STEPS)
def test_the_memory_of_a_programs_step_is_that_of_a_real_one(name):
    stack, changes, dtype = STEPS[name]
    made = recipe(batch_size=16, **changes)
    estimate = stack_memory(shape_of(CONFIG), made, BATCH, dtype, stack)
    assert estimate.total == pytest.approx(measured_peak(made, stack, dtype), rel=ERROR)


def test_with_few_tokens_the_peak_is_the_optimizers_update_with_a_copy_of_all_it_trains():
    made, shape, batch = recipe(method="full", batch_size=1), shape_of(CONFIG), Batch(1, 4, 4, 4)
    estimate = stack_memory(shape, made, batch, "float32", EXACT)
    assert estimate.total == 20 * shape.parameters
    assert estimate.total == pytest.approx(measured_peak(made, EXACT, "float32", batch), rel=ERROR)


def test_what_a_program_keeps_of_a_base_in_4_bits_is_what_it_makes_of_embeddings_and_norms():
    made, shape = recipe(quantize="nf4"), shape_of(CONFIG)
    weights = {
        beside: stack_static_memory(shape, made, "bfloat16", Stack(beside=beside))["weights"]
        for beside in ("float32", "16-bit")
    }
    rest = 2 * 500 * 128 + 11 * 128  # embeddings, output layer, norms
    assert weights["float32"] - weights["16-bit"] == 2 * rest


def test_full_fine_tuning_keeps_float32_weights_unless_the_program_updates_16_bit_ones():
    made, shape = recipe(method="full"), shape_of(CONFIG)
    kept = {
        exact: sum(
            stack_static_memory(shape, made, "bfloat16", Stack(exact_weights=exact)).values()
        )
        for exact in (True, False)
    }
    assert kept == {True: 14 * shape.parameters, False: 6 * shape.parameters}


def test_adapters_of_16_bits_and_their_optimizers_state_take_half():
    made, shape = recipe(), shape_of(CONFIG)
    kept = [
        stack_static_memory(shape, made, "bfloat16", Stack(adapters=dtype))
        for dtype in ("float32", "16-bit")
    ]
    assert kept[0]["weights"] == kept[1]["weights"]
    for part in ("adapters", "optimizer"):
        assert kept[0][part] == pytest.approx(2 * kept[1][part], rel=0.01)

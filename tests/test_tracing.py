import dataclasses
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
import transformers
from bitsandbytes import functional

import lora_lab as lab
from benchmarks.measuring import measure, peaks_of_run, random_lengths, random_llama, random_recipe
from lora_lab.cost import steps as module
from lora_lab.cost.budget import Batch
from lora_lab.cost.memory import memory
from lora_lab.machine.devices import named
from lora_lab.models.bases import quantized_base
from lora_lab.models.quantization import Quantization
from lora_lab.models.read_architecture import shape_of
from lora_lab.records import Memory
from lora_lab.tasks.examples import Example
from tiny import letters_task, recipe, tiny_base, tiny_tokenizer

ERROR = 0.04  # of the total: kernels' own buffers are among the allocator's events
PART, SLACK = 0.1, 0.01  # of a part: this share of itself, or of the whole where that is more
SIZES = {"vocab_size": 500, "pad_token_id": 256, "eos_token_id": 259, "bos_token_id": None}
WIDE = {"hidden_size": 128, "num_hidden_layers": 5, "num_attention_heads": 4}
LLAMA = WIDE | {"intermediate_size": 256, "num_key_value_heads": 2, "head_dim": 32}
FAMILIES = {  # by model class: fields of its config
    "LlamaForCausalLM": LLAMA,
    "Qwen3ForCausalLM": LLAMA,
    "Gemma2ForCausalLM": LLAMA,
    "Gemma3ForCausalLM": LLAMA,
    "Phi3ForCausalLM": WIDE | {"intermediate_size": 256},
    "GPTNeoXForCausalLM": WIDE | {"intermediate_size": 256},
    "FalconForCausalLM": WIDE,
    "GPT2LMHeadModel": {"n_embd": 128, "n_layer": 5, "n_head": 4},
    "BertForMaskedLM": WIDE | {"intermediate_size": 256},
}
CHANGES = [
    {},
    {"method": "full"},
    {"gradient_checkpointing": True},
    {"lora_dropout": 0.1, "use_dora": True, "layers_to_transform": (1, 3)},
    {"gradient_accumulation_steps": 2, "optimizer": "adamw_8bit"},
    {"quantize": "nf4"},
    {"quantize": "int8"},
]


def assert_right(base, task, made):
    """In all against the allocator's events in a real step; in parts against its storages."""
    measured = measure(base, task, made)
    estimate = memory(shape_of(base.model), made, measured.batch, named(base.dtype))
    real = measured.memory
    peaks = peaks_of_run(base, task, dataclasses.replace(made, steps=max(2, made.steps)))
    assert estimate.total == pytest.approx(peaks["step 2"], rel=ERROR)
    for part in Memory.__slots__:
        slack = max(PART * getattr(real, part), SLACK * real.total)
        assert getattr(estimate, part) == pytest.approx(getattr(real, part), abs=slack), part


def base_of(family, made):
    kind = getattr(transformers, family)
    config = kind.config_class(**SIZES, **FAMILIES[family])
    model = kind(config).bfloat16().eval()
    if not hasattr(model, "prepare_inputs_for_generation"):
        model.prepare_inputs_for_generation = None  # else PEFT refuses BERT
    base = dataclasses.replace(tiny_base(), model=model, dtype=torch.bfloat16)
    if made.quantize is None:
        return base
    return quantized_base(base, Quantization(made.quantize, compute_dtype=torch.bfloat16))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_traced_memory_is_that_of_a_real_step_whatever_the_model_is_built_like(family, changes):
    made = recipe(batch_size=16, **changes)
    assert_right(base_of(family, made), letters_task(), made)


@pytest.mark.parametrize("family", ["Qwen3ForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM"])
def test_the_traced_memory_is_right_for_padded_batches(family):
    made, task = recipe(batch_size=16), letters_task()
    lengths = [
        Example(" ".join([example.prompt] * (1 + number % 9)), example.answer)
        for number, example in enumerate(task.train)
    ]
    assert_right(base_of(family, made), dataclasses.replace(task, train=lengths), made)


@pytest.mark.parametrize("seed", range(500, 508))
def test_the_traced_memory_is_right_for_random_shapes_and_recipes(seed):
    rng = random.Random(seed)
    base = random_llama(rng, rng.choice((torch.float32, torch.bfloat16)), tiny_tokenizer())
    made = random_recipe(rng, layers=base.model.config.num_hidden_layers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="r=.*is above")
        assert_right(base, random_lengths(rng, letters_task(), made), made)


def test_the_traced_memory_is_right_for_adalora():
    base = lab.load_base("pocket", dtype="float32")
    made = recipe(method="adalora", init_r=12, target_r=4, tinit=1, tfinal=2, steps=30)
    made = dataclasses.replace(made, lora_dropout=0.1, modules_to_save=("lm_head",))
    assert_right(base, lab.load_task("new-facts", base), made)


@pytest.mark.parametrize("changes", CHANGES[:5], ids=str)
@pytest.mark.parametrize("family", ["Gemma3ForCausalLM", "GPT2LMHeadModel"])
def test_a_few_layers_tell_as_much_as_all_of_them(family, changes, monkeypatch):
    made, batch = recipe(**changes), Batch(4, 30, 7, 24, padded=True)
    model = base_of(family, made).model
    shape, relevant = shape_of(model), module._step_recipe(made)
    few = module._traced(shape, relevant, batch, "bfloat16", "step")
    monkeypatch.setattr(module, "_layer_kinds", lambda *_: [*range(5)])  # no two are alike
    every = module._traced(shape, relevant, batch, "bfloat16", "step")
    assert few.together == pytest.approx(every.together, rel=0.002)


def test_an_encoder_with_a_decoder_is_refused_and_not_guessed():
    shape = shape_of(transformers.T5Config(num_layers=2, d_model=64, vocab_size=300))
    with pytest.raises(ValueError, match="an encoder and a decoder, whose lengths"):
        memory(shape, recipe(), Batch(4, 9, 8, 32))


def test_a_model_whose_step_cannot_be_followed_is_an_error_in_words(monkeypatch):
    monkeypatch.setattr(module, "attention_of_cpu", lambda: 1 / 0)
    shape = shape_of(base_of("GPT2LMHeadModel", recipe()).model)
    with pytest.raises(ValueError, match=r"gpt2 can't be followed .*not known \(ZeroDivisionError"):
        module._traced(shape, module._step_recipe(recipe()), Batch(4, 9, 8, 32), "float32", "step")


def test_tracing_leaves_the_model_and_torchs_attention_as_they_were():
    base, before = tiny_base(), F.scaled_dot_product_attention
    fingerprint, layers = base.fingerprint(), base.model.config.num_hidden_layers
    module._traced(
        shape_of(base.model), module._step_recipe(recipe()), Batch(4, 9, 8, 32), "float32", "step"
    )
    assert F.scaled_dot_product_attention is before
    assert (base.fingerprint(), base.model.config.num_hidden_layers) == (fingerprint, layers)


def test_after_tracing_a_quantised_step_a_first_base_is_quantised_all_the_same(monkeypatch):
    monkeypatch.setattr(functional, "name2qmap", {})
    base, made = lab.load_base("pocket"), recipe(quantize="nf4")
    relevant = module._step_recipe(made)
    module._traced(shape_of(base.model), relevant, Batch(4, 9, 8, 32), "float32", "step")
    quantized_base(base, Quantization("nf4"))

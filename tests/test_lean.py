import dataclasses
import itertools

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from lora_lab.models import lean
from lora_lab.models.adapters import adapt, checkpoint_activations
from lora_lab.models.bases import load_base
from lora_lab.models.built_in import list_bases
from lora_lab.models.read_llama import read
from lora_lab.tasks.examples import IGNORED, Example, collate, encode, encode_all
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.training.evaluation import mean_loss
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

UNEVEN = [Example("ab" * length, "cd" * (1 + length % 3)) for length in (1, 7, 2, 5, 9)]
KINDS = [
    {},
    {"use_rslora": True, "r": 5},
    {"target_modules": ("q_proj", "v_proj")},
    {"target_modules": ("k_proj", "up_proj", "down_proj"), "loss_on": "all"},
    {"layers_to_transform": (1,)},
    {"init_lora_weights": "pissa"},
    {"target_modules": ("o_proj", "lm_head", "embed_tokens")},
]


def batch_of(base, loss_on="answer", examples=UNEVEN):
    encoded = [encode(base.tokenizer, example, 256, loss_on) for example in examples]
    return collate(encoded, base.tokenizer.pad_token_id)


def adapted(base, changes):
    """The base with an adapter whose B is not zero, and the recipe."""
    wanted = recipe(**changes)
    model = adapt(base, wanted)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return model, wanted


def gradients(model, loss):
    named = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_equal_to_peft(model, batch):
    """Logits within 1e-5, and gradients within 1e-4, of transformers' and PEFT's own."""
    wanted = batch["labels"][:, 1:] != IGNORED
    theirs = model(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits[:, :-1]
    ours = lean.logits_at(read(model), batch, wanted)
    expected = theirs[wanted]
    assert (ours - expected).norm() <= 1e-5 * expected.norm()
    loss = model(**batch).loss
    summed, labels = loss_of_batch(model, batch)
    assert labels == wanted.sum()
    torch.testing.assert_close(summed / labels, loss, rtol=1e-5, atol=0)
    expected = gradients(model, loss)
    for name, gradient in gradients(model, summed / labels).items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_logits_and_gradients_equal_those_of_transformers_and_peft(changes):
    base = tiny_base(layers=3)
    model, wanted = adapted(base, changes)
    assert_equal_to_peft(model, batch_of(base, wanted.loss_on))
    same_length = [UNEVEN[0], Example("cd", "ab"), Example("ef", "gh")]
    assert_equal_to_peft(model, batch_of(base, wanted.loss_on, same_length))


def test_pockets_logits_and_gradients_equal_those_of_transformers_and_peft():
    base = load_base("pocket", device="cpu", dtype="float32")
    task = load_task("sentiment", base)
    model, _ = adapted(base, {"r": 8})
    assert_equal_to_peft(model, batch_of(base, examples=task.train[:6]))


@pytest.mark.slow
def test_smollm2s_logits_and_gradients_equal_those_of_transformers_and_peft():
    if not any(base.name == "smollm2" and base.prepared for base in list_bases()):
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    base = load_base("smollm2", device="cpu", dtype="float32")
    task = load_task("film-sentiment", base)
    for changes in ({"r": 8}, {"r": 8, "layers_to_transform": tuple(range(24, 30))}):
        model, _ = adapted(base, changes)
        assert_equal_to_peft(model, batch_of(base, examples=task.train[:3]))


def with_hook(model):
    model.get_base_model().model.layers[1].mlp.up_proj.register_forward_hook(lambda *_: None)


def with_own_forward(model):
    norm = model.get_base_model().model.layers[0].input_layernorm
    norm.forward = norm.forward


def with_trained_norm(model):
    model.get_base_model().model.norm.weight.requires_grad_(True)


def with_second_adapter(model):
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules="all-linear"))
    model.base_model.set_adapter(["default", "second"])


UNKNOWN = {
    "dropout": ({"lora_dropout": 0.1}, None),
    "DoRA": ({"use_dora": True}, None),
    "AdaLoRA": ({"method": "adalora"}, None),
    "full": ({"method": "full"}, None),
    "saved norm": ({"modules_to_save": ("norm",)}, None),
    "hook": ({}, with_hook),
    "own forward": ({}, with_own_forward),
    "trained norm": ({}, with_trained_norm),
    "two adapters": ({}, with_second_adapter),
    "merged": ({}, lambda model: model.merge_adapter()),
    "checkpointing": ({}, lambda model: checkpoint_activations(model.train())),
    "eager attention": ({}, lambda model: model.set_attn_implementation("eager")),
    "bfloat16 adapter": ({}, lambda model: model.bfloat16()),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_model_that_it_does_not_know_is_computed_by_its_own_forward(case, monkeypatch):
    changes, change = UNKNOWN[case]
    base = tiny_base()
    model = adapt(base, recipe(**changes))
    if change:
        change(model)
    assert read(model) is None
    monkeypatch.setattr(lean, "logits_at", None)  # not called
    assert loss_of_batch(model, batch_of(base))[0] > 0
    assert read(adapt(base, recipe())) is not None


@pytest.mark.parametrize(
    "made",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
    ],
    ids=str,
)
def test_a_llama_of_another_kind_is_not_known(made):
    small = dict(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1)
    small |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    plain = LlamaForCausalLM(LlamaConfig(**small)).requires_grad_(False)
    assert read(plain) is not None
    assert read(LlamaForCausalLM(LlamaConfig(**small | made)).requires_grad_(False)) is None
    assert read(Qwen2ForCausalLM(Qwen2Config(**small)).requires_grad_(False)) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert read(plain) is None


def test_a_base_is_known_only_where_its_weights_are_not_trained():
    model = tiny_base().model.requires_grad_(True)
    assert read(model) is None
    with torch.no_grad():
        assert read(model) is not None


def test_a_disabled_adapter_changes_nothing():
    base = tiny_base()
    model, _ = adapted(base, {})
    with model.disable_adapter():
        disabled = loss_of_batch(model, batch_of(base))[0]
    torch.testing.assert_close(
        disabled, loss_of_batch(base.model.requires_grad_(False), batch_of(base))[0]
    )
    assert disabled != loss_of_batch(model, batch_of(base))[0]


def test_a_batch_padded_on_the_left_is_computed_by_the_models_own_forward():
    base = tiny_base()
    right = batch_of(base)
    turned = {name: tensor.flip(1) for name, tensor in right.items()}
    wanted = turned["labels"][:, 1:] != IGNORED
    assert not lean.is_padded_right(turned["attention_mask"], wanted)
    assert not lean.is_padded_right(torch.tensor([[1, 0, 1]]), torch.zeros(1, 2, dtype=torch.bool))
    turned["labels"][turned["attention_mask"] == 0] = IGNORED
    summed, labels = loss_of_batch(base.model, turned)
    torch.testing.assert_close(summed / labels, base.model(**turned).loss)
    assert lean.is_padded_right(right["attention_mask"], right["labels"][:, 1:] != IGNORED)


def saved_bytes(model, batch):
    """The bytes that the forward pass keeps for the backward pass."""
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage.nbytes()
        return tensor

    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = loss_of_batch(model, batch)
    kept = {place: size for place, size in kept.items() if place not in parameters}
    return sum(kept.values()), loss


def test_nothing_below_the_lowest_adapter_is_kept_for_the_backward_pass():
    few, many = (tiny_base(layers=layers) for layers in (1, 5))
    batch = batch_of(few)
    one, _ = saved_bytes(adapt(few, recipe()), batch)
    top, _ = saved_bytes(adapt(many, recipe(layers_to_transform=(4,))), batch)
    everywhere, _ = saved_bytes(adapt(many, recipe()), batch)
    assert one <= top < one + batch["input_ids"].numel() * 32 * 4  # at most one layer's input more
    assert everywhere > 4 * one


def test_less_is_kept_for_the_backward_pass_than_by_peft():
    base = tiny_base(layers=3)
    model, batch = adapt(base, recipe()), batch_of(base)
    ours, _ = saved_bytes(model, batch)
    with_hook(model)
    theirs, _ = saved_bytes(model, batch)
    assert ours < 0.8 * theirs


# --- frozen layers, kept ------------------------------------------------------------------------


TOP = {"layers_to_transform": (2,), "steps": 12, "eval_steps": 4, "batch_size": 4}
TASK = dataclasses.replace(letters_task(), train=UNEVEN + letters_task().train[:6])


def counted(monkeypatch):
    """How many examples went through the frozen layers."""
    calls, real = [], lean.FrozenLayers._computed

    def computed(self, model, ids):
        calls.append(tuple(ids))
        return real(self, model, ids)

    monkeypatch.setattr(lean.FrozenLayers, "_computed", computed)
    return calls


def test_frozen_layers_are_computed_once_for_each_example_and_change_no_loss(monkeypatch):
    base = tiny_base(layers=3)
    calls = counted(monkeypatch)
    kept = list(train(base, TASK, recipe(**TOP)))
    examples = encode_all([*TASK.train, *TASK.validation], base.tokenizer, 256, "answer")
    assert sorted(calls) == sorted({tuple(example.input_ids) for example in examples})
    monkeypatch.setattr("lora_lab.training.loop.frozen_layers", lambda model: None)
    plain = list(train(base, TASK, recipe(**TOP)))
    for field in ("loss", "validation_loss", "grad_norm"):
        values = [[getattr(record, field) for record in records] for records in (kept, plain)]
        values = [[value for value in each if value is not None] for each in values]
        torch.testing.assert_close(*values, rtol=1e-6, atol=1e-6)


def test_only_so_many_bytes_of_frozen_layers_are_kept(monkeypatch):
    base = tiny_base(layers=3)
    whole = list(train(base, TASK, recipe(**TOP)))
    calls = counted(monkeypatch)
    monkeypatch.setattr(lean, "MOST_KEPT", 3_000)
    training = train(base, TASK, recipe(**TOP))
    assert list(training) == whole
    assert 0 < sum(tensor.nbytes for tensor in training._frozen._outputs.values()) <= 3_000
    assert len(calls) > len(set(calls))


def test_a_training_that_goes_on_has_the_same_records_with_kept_layers():
    base = tiny_base(layers=3)
    whole = list(train(base, TASK, recipe(**TOP)))
    training = train(base, TASK, recipe(**TOP))
    list(itertools.islice(training, 7))
    again = train(base, TASK, recipe(**TOP))
    again.restore(training.checkpoint())
    assert [*again.records, *again] == whole


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_to_transform": None},  # adapters everywhere
        {"modules_to_save": ("embed_tokens",)},  # the embedding is trained
        {"lora_dropout": 0.1},  # not known
        {"steps": 2},  # no example comes twice
    ],
    ids=str,
)
def test_nothing_is_kept_where_it_would_not_be_used_again_or_would_change(changes):
    wanted = recipe(**TOP | changes)
    assert train(tiny_base(layers=3), TASK, wanted)._frozen is None


def test_the_validation_loss_is_the_same_with_kept_layers():
    base = tiny_base(layers=3)
    model, _ = adapted(base, {"layers_to_transform": (1, 2)})
    frozen = lean.frozen_layers(model)
    assert frozen.count == 1
    kept = mean_loss(model, base.tokenizer, UNEVEN, frozen=frozen)
    assert kept == pytest.approx(mean_loss(model, base.tokenizer, UNEVEN), rel=1e-6)

"""Trainings that would fail in the middle, or at the end, are refused before they begin."""

import dataclasses
import os

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lora_lab as lab
from lora_lab.models.adapters import adapt
from lora_lab.tasks.examples import Example
from lora_lab.training.store import open_run
from tiny import letters_task, recipe, save_tiny_base, tiny_base


def gpt2(context):
    sizes = {"vocab_size": 300, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()
    return dataclasses.replace(tiny_base(), name="gpt2", model=model)


def long_task(length):
    task = letters_task()
    return dataclasses.replace(task, train=[*task.train, Example("a" * length, "A")])


@pytest.mark.parametrize(
    "call",
    [lab.fit, lambda *given: lab.sweep(*given[:2], [given[2]], evaluate=False)],
    ids=["fit", "sweep"],
)
def test_an_example_longer_than_the_context_is_refused_with_both_numbers(call):
    with pytest.raises(ValueError, match="has 70 tokens, and gpt2 has positions for 64; give max_"):
        call(gpt2(64), long_task(64), recipe(steps=2))


def test_an_example_as_long_as_the_context_is_trained():
    run = lab.fit(gpt2(70), long_task(64), recipe(steps=8), store=None, evaluate=False)
    assert len(run.records) == 8


def test_the_length_that_the_error_gives_is_one_that_trains():
    with pytest.warns(UserWarning, match="1 of .* training examples are left out"):
        lab.fit(gpt2(64), long_task(64), recipe(steps=2, max_length=64), store=None, evaluate=False)


@pytest.mark.parametrize("make", [tiny_base, lambda: gpt2(64)], ids=["linear", "Conv1D"])
def test_dora_is_refused_for_a_row_of_zeros_which_would_give_nan(make):
    base = make()
    name = {"tiny": "model.layers.1.mlp.up_proj", "gpt2": "transformer.h.1.mlp.c_fc"}[base.name]
    weight = base.model.get_submodule(name).weight.data
    (weight.T if base.name == "gpt2" else weight)[5] = 0  # the sixth output
    with pytest.raises(ValueError, match=f"length; row 5 of '{name}' is all zero; leave that"):
        adapt(base, recipe(use_dora=True))
    other = name.rpartition(".")[2].replace("up", "down").replace("c_fc", "c_attn")
    model = adapt(base, recipe(use_dora=True, target_modules=(other,)))
    assert model(torch.tensor([[1, 2]])).logits.isfinite().all()
    adapt(base, recipe())


def test_a_base_that_was_named_from_its_own_folder_is_found_from_another(tmp_path, monkeypatch):
    save_tiny_base(tmp_path / "bases" / "tiny")
    monkeypatch.chdir(tmp_path / "bases")
    run = lab.fit(lab.load_base("tiny/"), letters_task(), recipe(steps=2))
    monkeypatch.chdir(os.sep)
    again = open_run(run.path.name)
    assert lab.evaluate(again, letters_task()) == run.scores

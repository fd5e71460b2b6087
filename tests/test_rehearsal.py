"""A GPU's rehearsal without one: every tensor is on the `meta` device, which has no numbers.

A tensor that was left on the CPU then raises where it meets the others, as it does on a GPU. What
reads a number gets 1. So this proves where tensors are, and nothing about their values.
"""

import dataclasses
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_lab.machine import devices
from lora_lab.models import bases
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.training.packing import train_packed
from tiny import letters_task, recipe, tiny_base

META = torch.device("meta")
CHOICES = {
    "LoRA": {},
    "rsLoRA, LoRA+": {"use_rslora": True, "loraplus_lr_ratio": 4.0},
    "DoRA": {"use_dora": True},
    "dropout, decay": {"lora_dropout": 0.1, "weight_decay": 0.1},
    "accumulation, warm-up": {"gradient_accumulation_steps": 2, "warmup_steps": 1},
    "checkpointing": {"gradient_checkpointing": True},
    "loss on all": {"loss_on": "all"},
    "AdaLoRA": {"method": "adalora"},
    "full": {"method": "full"},
}
READ = {  # what reads a number of a tensor, and what it then gets
    "item": lambda tensor: 1.0 if tensor.is_floating_point() else 1,
    "tolist": lambda tensor: torch.ones(tensor.shape, dtype=tensor.dtype).tolist(),
    "__bool__": lambda tensor: True,
    "__int__": lambda tensor: 1,
    "__float__": lambda tensor: 1.0,
}


class OneDevice(TorchDispatchMode):
    """Raises where an operation meets tensors of two devices; `meta` alone would let some pass.

    As on a GPU, copying from one to the other may, and so may indices and single numbers.
    """

    FREE = ("_to_copy", "copy_", "index", "index_put", "index_put_")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        leaves = tree_leaves((args, kwargs or {}))
        found = {leaf.device.type for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
        if len(found) > 1 and func._schema.name.partition("::")[2] not in self.FREE:
            raise RuntimeError(f"{func} got tensors of several devices: {sorted(found)}")
        return func(*args, **(kwargs or {}))


@contextmanager
def on_cpu_alone(*_):
    """In place of a device's random state: `meta` has none."""
    yield


@pytest.fixture
def base(monkeypatch):
    """The tiny base on `meta`; from here on, numbers that are read are 1."""
    made = tiny_base()
    originals = [devices.seeded, devices.own_randomness]
    monkeypatch.setattr(bases, "in_words", str)  # a device's name
    for module in [*sys.modules.values()]:
        if getattr(module, "__name__", "").startswith("lora_lab"):
            for name in ("seeded", "own_randomness"):
                if getattr(module, name, None) in originals:
                    monkeypatch.setattr(module, name, on_cpu_alone)
    for name, read in READ.items():
        real = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor,
            name,
            lambda tensor, real=real, read=read: read(tensor) if tensor.is_meta else real(tensor),
        )
    on_meta = dataclasses.replace(made, model=made.model.to(META), device=META)
    with OneDevice():
        yield on_meta


@pytest.mark.parametrize("choice", CHOICES)
def test_a_step_leaves_no_tensor_on_the_cpu(choice, base):
    training = train(base, letters_task(), recipe(steps=3, **CHOICES[choice]))
    assert [record.step for record in training] == [1, 2, 3]
    trained = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    assert trained
    assert {parameter.device for parameter in training.model.parameters()} == {META}


def test_losses_answers_and_marks_are_asked_on_the_models_device(base):
    training = train(base, letters_task(), recipe(steps=1))
    for _ in training:
        pass
    scores = evaluate(training, letters_task(), split="validation")
    assert len(scores.answers) == len(letters_task().validation)
    assert evaluate(base, letters_task()).metric_name == scores.metric_name


def test_runs_that_are_packed_into_one_batch_leave_no_tensor_on_the_cpu(base):
    recipes = [recipe(steps=2, seed=seed, r=r) for seed, r in ((0, 2), (1, 4))]
    news = train_packed(base, letters_task(), recipes, store=None)
    assert {recipe.r for recipe, item in news if hasattr(item, "scores")} == {2, 4}


def test_a_tensor_that_is_left_on_the_cpu_raises(base):
    training = train(base, letters_task(), recipe(steps=1))
    modules = dict(training.model.named_modules())
    left = next(module for name, module in modules.items() if name.endswith("lora_A.default"))
    left.weight = torch.nn.Parameter(torch.zeros(tuple(left.weight.shape)))
    with pytest.raises(RuntimeError, match="device|meta"):
        next(iter(training))

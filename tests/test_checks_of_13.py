"""Notebook 13's exercises: their right answers against PEFT's merge and its own layers."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.checks.shipping import (
    anonymous_adapters,
    merge_adapters,
    pairs_of_adapters,
    read_adapter,
)


@pytest.mark.parametrize("case", [*pairs_of_adapters()])
def test_the_merged_change_is_that_of_pefts_cat(case):
    model = nn.Sequential(nn.Linear(10, 12, bias=False))
    names = ("first", "second")
    peft = None
    for name in names:
        A, B, scaling = case[name]
        config = LoraConfig(r=len(A), lora_alpha=len(A) * scaling, target_modules=["0"])
        if peft is None:
            peft = get_peft_model(model, config, name)
        else:
            peft.add_adapter(name, config)
        layer = peft.base_model.model[0]
        layer.lora_A[name].weight.data, layer.lora_B[name].weight.data = A, B
    peft.add_weighted_adapter([*names], [*case["weights"]], "both", combination_type="cat")
    A, B = merge_adapters.reference(**case)
    assert torch.allclose(B @ A, layer.get_delta_weight("both"), atol=1e-5)
    assert len(A) == layer.r["both"]


@pytest.mark.parametrize("case", [*anonymous_adapters()])
def test_what_is_read_is_what_a_layer_of_peft_does(case):
    sizes = []
    for key, A in case["tensors"].items():
        if "lora_A" not in key:
            continue
        config = LoraConfig(
            r=len(A),
            lora_alpha=case["lora_alpha"],
            use_rslora=case["use_rslora"],
            target_modules=["0"],
        )
        layer = get_peft_model(nn.Sequential(nn.Linear(10, 12)), config).base_model.model[0]
        layer.lora_A["default"].weight.data = A
        layer.lora_B["default"].weight.data = case["tensors"][key.replace("lora_A", "lora_B")]
        sizes.append(layer.get_delta_weight("default").norm())
    read = read_adapter.reference(**case)
    assert read["factor"] == pytest.approx(layer.scaling["default"])
    assert read["size"] == pytest.approx(torch.stack(sizes).norm().item(), rel=1e-5)
    assert all(any(f".{name}.lora_A" in key for key in case["tensors"]) for name in read["targets"])


def test_the_trial_refuses_what_merges_otherwise_on_real_adapters():
    def only_small(first, second, weights):  # right on the cases, whose ranks are below 8
        A, B = merge_adapters.reference(first, second, weights)
        return (A, B) if len(A) < 16 else (0 * A, B)

    right = merge_adapters.trial(merge_adapters.reference)
    assert right.passed, right.message
    assert "So does PEFT's own sum" in right.message
    assert not merge_adapters.trial(only_small).passed

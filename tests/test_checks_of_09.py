"""Notebook 09's exercises: their right answers against bitsandbytes and the estimate."""

import re

import pytest
import torch

import lora_lab as lab
from lora_lab.checks.qlora import blocks, qlora_bytes, quantize_block
from lora_lab.cost.estimates import find_shape

bnb = pytest.importorskip(
    "bitsandbytes.functional", reason="bitsandbytes does not exist for this machine"
)


@pytest.mark.parametrize("case", [block for block in blocks() if 0 in block["levels"][7]])
def test_the_codes_are_those_of_bitsandbytes(case):
    with torch.compiler.set_stance("force_eager"):
        packed, state = bnb.quantize_4bit(case["block"], quant_type="nf4")
    codes, absmax = quantize_block.reference(**case)
    if len(case["levels"]) == 16:
        assert codes.tolist() == torch.cat([packed >> 4, packed & 15], dim=1).flatten().tolist()
    assert absmax == state.absmax[0]


@pytest.mark.parametrize("name", ["smollm2", "llama-7b", "llama-2-70b"])
@pytest.mark.parametrize("double_quant", [False, True])
def test_the_bytes_are_those_that_the_estimate_tells(name, double_quant):
    shape = find_shape(name)
    linear = sum(matrix.weights for matrix in shape.matrices if matrix.kind == "linear")
    budget = lab.estimate(name, lab.Recipe(quantize="nf4", double_quant=double_quant))
    counts = {"linear": linear, "others": shape.parameters - linear}
    weights = qlora_bytes.reference(**counts, blocksize=64, double_quant=double_quant)
    assert weights == pytest.approx(budget.memory.weights, rel=2e-4)  # tables, a mean a matrix


def test_the_counts_in_the_cases_are_those_of_the_models():
    for name, case in zip(("smollm2", "llama-7b"), [*qlora_bytes.cases()][::2], strict=False):
        shape = find_shape(name)
        linear = sum(matrix.weights for matrix in shape.matrices if matrix.kind == "linear")
        assert (case["linear"], case["others"]) == (linear, shape.parameters - linear)


def test_the_trial_trains_on_what_the_function_rounded_and_refuses_another_rounding():
    right = quantize_block.trial(quantize_block.reference)
    assert right.passed
    share, whole = map(int, re.findall(r"(\d+) %", right.message))
    assert min(share, whole) > 50

    def only_for_16(block, levels):  # right on the cases, which have 16 weights
        codes, absmax = quantize_block.reference(block[:16], levels)
        return codes.repeat(len(block) // 16), absmax

    assert not quantize_block.trial(only_for_16).passed

"""Intruder dimensions: found as PEFT finds them, and shrunk as PEFT shrinks them."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.maths.intruders import closeness, intruder_dimensions, shrink_intruders

NAN = torch.full((5, 4), math.nan)


def test_an_intruder_is_a_strong_direction_that_the_base_had_not():
    weight = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0])).double()
    weight = torch.cat([weight, torch.zeros(2, 4)])  # (6, 4): rows 4 and 5 are unused by W
    new = torch.zeros(6, 4).double()
    new[5, 3] = 4.5  # column 3 now points to row 5, with its old 2 in row 3: length 4.92
    assert intruder_dimensions(weight, new, top_k=4).tolist() == [1]
    assert intruder_dimensions(weight, new, top_k=1).tolist() == []
    assert intruder_dimensions(weight, 0 * new, top_k=4).tolist() == []
    old_part = 2 / math.hypot(2, 4.5)  # the cosine with W's own direction: 0.406
    for threshold, found in [(old_part - 0.01, []), (old_part + 0.01, [1])]:
        assert intruder_dimensions(weight, new, 4, threshold_epsilon=threshold).tolist() == found


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0, 4.0])
@pytest.mark.parametrize(("out_features", "in_features"), [(40, 23), (21, 34)])
def test_as_many_intruders_are_found_as_peft_finds(size, out_features, in_features):
    intruders = pytest.importorskip(
        "peft.tuners.lora.intruders", reason="this PEFT does not look for intruders yet"
    )
    torch.manual_seed(0)
    base_layer = nn.Linear(in_features, out_features, dtype=torch.float64)
    model = get_peft_model(nn.Sequential(base_layer), LoraConfig(r=6, target_modules=["0"]))
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight, std=size)
    found = intruder_dimensions(base_layer.weight, layer.get_delta_weight("default")).numel()
    said = []
    intruders.reduce_intruder_dimension(model, logging_sink=said.append)
    assert said[0].split(": ", 1)[1] == (f"Intruders: {found}" if found else "No intruders")
    assert (found > 0) == (size > 0.1)  # both answers are asked for


def peft_layer(size, seed=0):
    """A plain layer, and PEFT's around it with a change that brings intruders in."""
    torch.manual_seed(seed)
    base_layer = nn.Linear(23, 40, bias=False, dtype=torch.float64)
    model = get_peft_model(nn.Sequential(base_layer), LoraConfig(r=6, target_modules=["0"]))
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight, std=size)
    return model, layer, base_layer.weight


@pytest.mark.parametrize("kept", [0.75, 0.3])
def test_an_intruder_is_shrunk_as_peft_shrinks_it(kept):
    intruders = pytest.importorskip("peft.tuners.lora.intruders")
    model, layer, weight = peft_layer(size=1.0)
    ours = shrink_intruders(weight, layer.get_delta_weight("default"), kept)
    intruders.reduce_intruder_dimension(model, mitigation_lambda=kept, logging_sink=None)
    theirs = layer.get_delta_weight("intruder_reduced")
    U, S, Vh = torch.linalg.svd(ours, full_matrices=False)
    at_rank_6 = (U[:, :6] * S[:6]) @ Vh[:6]  # PEFT cuts to the adapter's rank
    torch.testing.assert_close(at_rank_6, theirs)


def test_only_the_intruders_are_shrunk():
    _, layer, weight = peft_layer(size=1.0)
    change = layer.get_delta_weight("default").detach()
    places = intruder_dimensions(weight, change).tolist()
    assert 0 < len(places) < 10
    before = torch.linalg.svdvals(weight + change)
    after = weight + shrink_intruders(weight, change, 0.5)
    U, S, Vh = torch.linalg.svd(weight + change, full_matrices=False)
    strengths = (U.T @ after @ Vh.T).diagonal()
    wanted = before.clone()
    wanted[places] *= 0.5
    torch.testing.assert_close(strengths, wanted)
    torch.testing.assert_close(shrink_intruders(weight, change, 1), change)


def test_without_a_change_each_direction_is_its_own():
    weight = torch.diag(torch.tensor([5.0, 4.0, 3.0, 2.0]))
    torch.testing.assert_close(closeness(weight, 0 * weight, 3), torch.eye(4).double()[:3])


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_that_does_not_shrink_is_refused(share):
    with pytest.raises(ValueError, match="does not shrink; give 0"):
        shrink_intruders(torch.ones(5, 4), torch.ones(5, 4), share, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"delta_weight": torch.ones(4, 5)},
            r"weight \(5, 4\) and delta_weight \(4, 5\) differ in",
        ),
        ({"delta_weight": NAN}, "delta_weight holds NaN or infinity"),
        ({"top_k": 0}, r"top_k=0, and \(5, 4\) has 4 singular vectors; give a whole number from 1"),
        ({"top_k": 5}, "top_k=5, and .* has 4 singular vectors"),
        (
            {"threshold_epsilon": 0},
            "threshold_epsilon=0 isn't a cosine above 0; give for example 0.5",
        ),
        ({"threshold_epsilon": math.nan}, "threshold_epsilon=nan isn't a cosine"),
    ],
)
def test_intruders_that_cannot_be_looked_for_are_refused(changes, words):
    usual = {"weight": torch.ones(5, 4), "delta_weight": torch.ones(5, 4), "top_k": 3}
    with pytest.raises(ValueError, match=words):
        intruder_dimensions(**usual | changes)

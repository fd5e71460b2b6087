"""Spectra of thin factors against torch's SVD of the whole product, PEFT, and cases by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.maths.lora import LoRALinear
from lora_lab.maths.spectra import (
    effective_rank,
    energy_kept,
    singular_values,
    stable_rank,
    subspace_overlap,
    truncate,
)

SIZES = {
    "r": st.integers(1, 8),
    "out_features": st.integers(1, 12),
    "in_features": st.integers(1, 12),
    "scaling": st.floats(0.01, 50),
    "seed": st.integers(0, 999),
}
NAN = torch.tensor([[1.0, torch.nan]])


def factors(r=3, out_features=5, in_features=7, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    lora_A = torch.randn(r, in_features, generator=generator, dtype=dtype)
    return lora_A, torch.randn(out_features, r, generator=generator, dtype=dtype)


# --- singular values ----------------------------------------------------------------------------


@settings(deadline=None)
@given(**SIZES)
def test_the_thin_way_gives_the_singular_values_of_the_whole_product(
    r, out_features, in_features, scaling, seed
):
    lora_A, lora_B = factors(r, out_features, in_features, seed)
    whole = torch.linalg.svdvals(scaling * lora_B @ lora_A)
    thin = singular_values(lora_A, lora_B, scaling)
    assert len(thin) == min(r, out_features, in_features)
    torch.testing.assert_close(thin, whole[: len(thin)], rtol=1e-10, atol=1e-10 * whole[0].item())
    assert whole[len(thin) :].sum() < 1e-10 * whole[0]


def test_an_adapter_in_training_is_measured_without_gradients():
    layer = LoRALinear(nn.Linear(7, 5), 3, 6)
    nn.init.ones_(layer.lora_B)
    values = singular_values(layer.lora_A, layer.lora_B, layer.scaling)
    assert not values.requires_grad
    assert values.dtype == torch.float64
    torch.testing.assert_close(
        values.float(), torch.linalg.svdvals(layer.delta_weight())[:3].detach(), atol=1e-5, rtol=0
    )


# --- how many directions ------------------------------------------------------------------------


def test_each_rank_keeps_the_squares_of_the_largest_values():
    shares = energy_kept(torch.tensor([3.0, 2.0, 1.0], dtype=torch.bfloat16))
    torch.testing.assert_close(shares, torch.tensor([9 / 14, 13 / 14, 1.0]).double())


@pytest.mark.parametrize(
    ("values", "effective", "stable"),
    [
        ([5.0], 1, 1),
        ([4.0, 0.0, 0.0], 1, 1),
        ([2.0, 2.0, 2.0], 3, 3),
        ([3.0, 1.0], 4 / 3**0.75, 10 / 9),  # shares 3/4 and 1/4: entropy ln 4 - 3/4 ln 3
        ([2.0, 1.0, 1.0], 2 * math.sqrt(2), 6 / 4),  # 1/2, 1/4, 1/4: 1.5 bits
    ],
)
def test_effective_and_stable_rank_are_those_worked_out_by_hand(values, effective, stable):
    assert effective_rank(torch.tensor(values)) == pytest.approx(effective, rel=1e-12)
    assert stable_rank(torch.tensor(values)) == pytest.approx(stable, rel=1e-12)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9), st.floats(1e-2, 1e2))
def test_ranks_lie_between_1_and_n_and_forget_the_scale(values, factor):
    values = torch.tensor(values, dtype=torch.float64).sort(descending=True).values
    for rank in (effective_rank, stable_rank):
        assert 1 - 1e-9 <= rank(values) <= len(values) + 1e-9
        assert rank(factor * values) == pytest.approx(rank(values), rel=1e-9)


# --- truncation ---------------------------------------------------------------------------------


@settings(deadline=None)
@given(share=st.floats(0, 1), **SIZES)
def test_a_truncated_adapter_is_the_best_of_its_rank(
    share, r, out_features, in_features, scaling, seed
):
    lora_A, lora_B = factors(r, out_features, in_features, seed)
    delta_weight = scaling * lora_B @ lora_A
    most = min(r, out_features, in_features)
    k = 1 + round(share * (most - 1))
    new_A, new_B = truncate(lora_A, lora_B, scaling, k)
    assert (new_A.shape, new_B.shape) == ((k, in_features), (out_features, k))
    left, values, right = torch.linalg.svd(delta_weight, full_matrices=False)
    best = left[:, :k] @ values[:k].diag() @ right[:k]
    torch.testing.assert_close(scaling * new_B @ new_A, best, rtol=0, atol=1e-9 * values[0].item())
    lost = (delta_weight - scaling * new_B @ new_A).square().sum() / delta_weight.square().sum()
    kept = energy_kept(singular_values(lora_A, lora_B, scaling))
    assert lost.item() == pytest.approx(1 - kept[k - 1].item(), abs=1e-10)


@pytest.mark.parametrize("use_rslora", [False, True])
def test_a_truncated_adapter_is_a_plain_lora_with_the_alpha_that_keeps_the_scaling(use_rslora):
    lora_A, lora_B = factors(dtype=torch.float32)
    scaling, k = 2.5, 2
    new_A, new_B = truncate(lora_A, lora_B, scaling, k)
    assert new_A.dtype == new_B.dtype == torch.float32
    lora_alpha = scaling * (math.sqrt(k) if use_rslora else k)
    config = LoraConfig(r=k, lora_alpha=lora_alpha, use_rslora=use_rslora, target_modules=["0"])
    layer = get_peft_model(nn.Sequential(nn.Linear(7, 5)), config).base_model.model[0]
    layer.lora_A["default"].weight.data.copy_(new_A)
    layer.lora_B["default"].weight.data.copy_(new_B)
    torch.testing.assert_close(
        torch.linalg.svdvals(layer.get_delta_weight("default"))[:k].detach(),
        singular_values(lora_A, lora_B, scaling)[:k].float(),
    )


def test_both_factors_of_a_truncated_adapter_carry_the_same_weight():
    new_A, new_B = truncate(*factors(), 2.5, 2)
    torch.testing.assert_close(new_A.norm(dim=1), new_B.norm(dim=0))


# --- which directions ---------------------------------------------------------------------------


def test_overlap_is_0_for_orthogonal_and_1_for_the_same_directions():
    axes = torch.eye(6, dtype=torch.float64)
    strong_first = torch.tensor([[3.0], [2.0]]).double()
    assert not subspace_overlap(strong_first * axes[:2], axes[2:5]).any()
    same = subspace_overlap(strong_first * axes[:2], 5 * strong_first * axes[:2])
    torch.testing.assert_close(same, torch.tensor([[1.0, 1.0], [1.0, 1.0]]).double())
    swapped = subspace_overlap(strong_first * axes[:2], strong_first * axes[[1, 0]])
    torch.testing.assert_close(swapped, torch.tensor([[0.0, 1.0], [1.0, 1.0]]).double())


def test_overlap_of_two_lines_is_the_squared_cosine_of_their_angle():
    lines = torch.tensor([[2.0, 0.0]]), torch.tensor([[3 * math.cos(1.0), 3 * math.sin(1.0)]])
    assert subspace_overlap(*lines).item() == pytest.approx(math.cos(1.0) ** 2, rel=1e-6)


@settings(deadline=None)
@given(
    r1=st.integers(1, 6), r2=st.integers(1, 6), width=st.integers(1, 9), seed=st.integers(0, 999)
)
def test_overlap_is_the_papers_formula_at_every_i_and_j(r1, r2, width, seed):
    first, second = factors(r1, 1, width, seed)[0], factors(r2, 1, width, seed + 1)[0]
    overlap = subspace_overlap(first, second)
    assert overlap.shape == (min(r1, width), min(r2, width))
    U1, U2 = torch.linalg.svd(first).Vh.T, torch.linalg.svd(second).Vh.T
    for i in range(1, overlap.shape[0] + 1):
        for j in range(1, overlap.shape[1] + 1):
            phi = torch.linalg.matrix_norm(U1[:, :i].T @ U2[:, :j]) ** 2 / min(i, j)
            assert overlap[i - 1, j - 1].item() == pytest.approx(phi.item(), abs=1e-9)
    torch.testing.assert_close(subspace_overlap(second, first), overlap.T)


def test_directions_that_an_a_does_not_use_are_left_out():
    lora_A, other = factors(dtype=torch.float32)[0], factors(2, seed=1, dtype=torch.float32)[0]
    twice = torch.cat([lora_A, 0.7 * lora_A])  # six rows, three directions, and rounding
    assert subspace_overlap(twice, other).shape == (3, 2)


# --- what can't work ----------------------------------------------------------------------------


@pytest.mark.parametrize("function", [singular_values, lambda *given: truncate(*given, 1)])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"lora_A": torch.ones(4, 7)},
            r"lora_A \(4, 7\) and lora_B \(5, 3\) differ in rank: 4 and",
        ),
        ({"lora_A": torch.ones(3)}, r"lora_A has shape \(3,\); give a matrix with two sizes"),
        ({"lora_B": torch.ones(5, 0)}, r"lora_B has shape \(5, 0\); give a matrix"),
        ({"lora_A": NAN}, "lora_A holds NaN or infinity, so its run has diverged; give"),
        ({"lora_B": torch.full((5, 3), torch.inf)}, "lora_B holds NaN or infinity"),
        ({"scaling": 0}, "scaling=0 is not a finite number above 0; give lora_alpha / r"),
        ({"scaling": math.nan}, "scaling=nan is not a finite number above 0"),
    ],
)
def test_factors_that_make_no_change_are_refused(function, changes, words):
    lora_A, lora_B = factors()
    usual = {"lora_A": lora_A, "lora_B": lora_B, "scaling": 2.0}
    with pytest.raises(ValueError, match=words):
        function(*(usual | changes).values())


@pytest.mark.parametrize("k", [0, -1, 4, 2.5])
def test_a_rank_that_the_adapter_has_not_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k} isn't a rank to cut to.*has 3 .* from 1 to 3"):
        truncate(*factors(), 2.0, k)


@pytest.mark.parametrize("function", [energy_kept, effective_rank, stable_rank])
@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(3),
        torch.ones(3, 2),
        torch.tensor([]),
        torch.tensor([2.0, -1.0]),
        torch.tensor([2.0, torch.nan]),
        torch.tensor([1.0, 2.0]),
    ],
)
def test_what_are_no_singular_values_is_refused(function, values):
    with pytest.raises(ValueError, match="not a change's singular values; give one row of finite"):
        function(values)


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (torch.ones(3, 7), torch.ones(2, 6), r"\(3, 7\) and lora_A2 \(2, 6\) read inputs of diff"),
        (torch.ones(3, 7), torch.zeros(2, 7), "an A is all zero and has no directions; give a"),
        (torch.ones(3, 7), NAN, "lora_A2 holds NaN or infinity"),
        (torch.ones(7), torch.ones(2, 7), r"lora_A1 has shape \(7,\)"),
    ],
)
def test_subspaces_that_cannot_be_compared_are_refused(first, second, words):
    with pytest.raises(ValueError, match=words):
        subspace_overlap(first, second)

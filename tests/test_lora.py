"""LoRALinear and DoRALinear against PEFT's layers: in float64, no two sizes equal, B not zero."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from lora_lab.maths.lora import DoRALinear, LoRALinear

BATCH, TOKENS, IN, OUT, R, LORA_ALPHA = 2, 4, 7, 5, 3, 11
EXACT = {"rtol": 1e-10, "atol": 1e-10}
KINDS = {LoRALinear: {"use_dora": False}, DoRALinear: {"use_dora": True}}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pefts(base_layer, **config):
    """PEFT's own layer on a base layer."""
    return get_peft_model(
        nn.Sequential(base_layer), LoraConfig(target_modules=["0"], **config)
    ).base_model.model[0]


def pair(kind, base_layer, r=R, lora_alpha=LORA_ALPHA, use_rslora=False):
    """Our layer and PEFT's on one base, holding the same random A, B (and magnitude)."""
    theirs = pefts(base_layer, r=r, lora_alpha=lora_alpha, use_rslora=use_rslora, **KINDS[kind])
    ours = kind(base_layer, r, lora_alpha, use_rslora)
    train_alike(ours, theirs)
    return ours, theirs


def trained_of(layer):
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


@torch.no_grad()
def train_alike(layer, other):
    """Move all that is trained away from its start, to the same values in both layers."""
    for mine, its in zip(trained_of(layer), trained_of(other), strict=True):
        mine.add_(torch.randn_like(mine) / 2)
        its.copy_(mine)


def linear(out_features=OUT, in_features=IN, bias=True, dtype=torch.float64):
    return nn.Linear(in_features, out_features, bias=bias, dtype=dtype)


def outputs_and_gradients(layer, x):
    """A layer's output, and the gradients of a sum over it: of x, and of all that is trained."""
    output = layer(x)
    weights = torch.arange(output.numel(), dtype=x.dtype).reshape(output.shape).sin()
    gradients = torch.autograd.grad((weights * output.square()).sum(), [x, *trained_of(layer)])
    return [output, *gradients]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(
    out_features=st.integers(1, 12),
    in_features=st.integers(1, 12),
    r=st.integers(1, 16),
    lora_alpha=st.floats(0.1, 64),
    use_rslora=st.booleans(),
    bias=st.booleans(),
    before=st.lists(st.integers(1, 4), min_size=1, max_size=3),  # PEFT's DoRA makes (out,) (1, out)
    seed=st.integers(0, 999),
)
def test_outputs_and_gradients_equal_pefts_for_any_sizes(
    kind, out_features, in_features, r, lora_alpha, use_rslora, bias, before, seed
):
    torch.manual_seed(seed)
    base_layer = linear(out_features, in_features, bias)
    ours, theirs = pair(kind, base_layer, r, lora_alpha, use_rslora)
    x = torch.randn(*before, in_features, dtype=torch.float64, requires_grad=True)
    assert ours.scaling == theirs.scaling["default"]
    torch.testing.assert_close(
        outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x), **EXACT
    )


@pytest.mark.parametrize("use_rslora", [False, True])
def test_the_delta_weight_equals_pefts(use_rslora):
    ours, theirs = pair(LoRALinear, linear(), use_rslora=use_rslora)
    torch.testing.assert_close(ours.delta_weight(), theirs.get_delta_weight("default"), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
def test_a_merged_layer_equals_pefts_and_has_the_same_outputs(kind, bias):
    ours, theirs = pair(kind, linear(bias=bias))
    x = torch.randn(BATCH, TOKENS, IN, dtype=torch.float64)
    expected, merged = ours(x), ours.merge()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), expected, **EXACT)
    theirs.merge()  # in place: PEFT's base layer, and so ours, is another one from here on
    torch.testing.assert_close(merged.state_dict(), theirs.base_layer.state_dict(), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_merging_leaves_the_layer_and_its_base_as_they_were(kind):
    ours, _ = pair(kind, linear())
    before = copy.deepcopy(ours.state_dict())
    assert ours.merge() is not ours.base_layer
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_a_new_layer_starts_as_its_base_and_trains_a_and_b_alone():
    layer = LoRALinear(linear(), R, LORA_ALPHA)
    x = torch.randn(BATCH, TOKENS, IN, dtype=torch.float64)
    assert torch.equal(layer(x), layer.base_layer(x))
    trained = {
        name: tuple(parameter.shape)
        for name, parameter in layer.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {"lora_A": (R, IN), "lora_B": (OUT, R)}


def test_a_is_drawn_as_peft_draws_it():
    torch.manual_seed(0)
    ours = LoRALinear(linear(in_features=400), 90, LORA_ALPHA).lora_A
    theirs = pefts(linear(in_features=400), r=90).lora_A["default"].weight
    bound = 400**-0.5  # both uniform between -bound and bound
    assert ours.abs().max() <= bound
    assert theirs.abs().max() <= bound
    assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.02)


def test_dora_starts_as_its_base_with_pefts_magnitude():
    base_layer = linear()
    layer = DoRALinear(base_layer, R, LORA_ALPHA)
    theirs = pefts(base_layer, r=R, use_dora=True).lora_magnitude_vector["default"].weight
    assert torch.equal(layer.lora_magnitude_vector, theirs)
    x = torch.randn(BATCH, TOKENS, IN, dtype=torch.float64)
    torch.testing.assert_close(layer(x), base_layer(x), **EXACT)


def test_dora_rows_have_the_length_that_their_magnitude_says():
    layer, _ = pair(DoRALinear, linear())
    norms = layer.merge().weight.norm(dim=1)
    torch.testing.assert_close(norms, layer.lora_magnitude_vector.abs(), **EXACT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_16_bit_base_the_trained_part_is_float32_as_in_peft(kind, dtype):
    ours, theirs = pair(kind, linear(dtype=dtype))
    x = torch.randn(BATCH, TOKENS, IN, dtype=dtype)
    assert {parameter.dtype for parameter in trained_of(ours)} == {torch.float32}
    assert ours(x).dtype == dtype
    few_roundings = 0 if kind is LoRALinear else 8 * torch.finfo(dtype).eps  # in another order
    torch.testing.assert_close(ours(x), theirs(x), rtol=few_roundings, atol=few_roundings)


# --- on quantised bases -------------------------------------------------------------------------


def four_bits(bias=True, **settings):
    """bitsandbytes' layer with quantised weights; its rows fill whole blocks."""
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes does not exist for this machine"
    )
    return bitsandbytes.nn.Linear4bit(
        64, 96, bias=bias, compute_dtype=torch.float32, **settings
    ).to("cpu")  # the move quantises


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("quant_type", "double_quant", "bias", "storage"),
    [
        ("nf4", True, False, torch.uint8),
        ("nf4", False, True, torch.bfloat16),  # codes that look like numbers
        ("fp4", True, True, torch.uint8),
    ],
)
def test_on_4_bits_outputs_and_gradients_equal_pefts(kind, quant_type, double_quant, bias, storage):
    base_layer = four_bits(
        bias, quant_type=quant_type, compress_statistics=double_quant, quant_storage=storage
    )
    base_layer.is_loaded_in_4bit = True
    model = nn.Sequential(base_layer)
    model.is_loaded_in_4bit = True  # what transformers sets, and what PEFT looks for
    config = LoraConfig(r=R, lora_alpha=LORA_ALPHA, target_modules=["0"], **KINDS[kind])
    theirs = get_peft_model(model, config).base_model.model[0]
    assert type(theirs).__name__ == "Linear4bit"
    ours = kind(base_layer, R, LORA_ALPHA)
    assert {parameter.dtype for parameter in trained_of(ours)} == {torch.float32}
    train_alike(ours, theirs)
    x = torch.randn(BATCH, TOKENS, 64, requires_grad=True)
    torch.testing.assert_close(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x))


def test_the_change_to_4_bit_weights_is_the_change_to_what_they_stand_for():
    base_layer = four_bits(quant_type="nf4")
    from bitsandbytes.functional import dequantize_4bit

    plain = nn.Linear(64, 96)
    plain.load_state_dict(
        {
            "weight": dequantize_4bit(base_layer.weight.data, base_layer.weight.quant_state),
            "bias": base_layer.bias,
        }
    )
    for kind in KINDS:
        ours, same = kind(base_layer, R, LORA_ALPHA), kind(plain, R, LORA_ALPHA)
        train_alike(ours, same)
        torch.testing.assert_close(ours.delta_weight(), same.delta_weight())


def test_dora_reads_4_bit_weights_in_eval_mode_and_leaves_their_codes_alone():
    base_layer = four_bits(quant_type="nf4").eval()
    base_layer.support_avx512bf16_for_cpu = True  # bitsandbytes then repacks in eval mode
    codes, state = base_layer.weight.data.clone(), copy.deepcopy(base_layer.weight.quant_state)
    DoRALinear(base_layer, R, LORA_ALPHA)
    assert not base_layer.training
    assert torch.equal(base_layer.weight.data, codes)
    assert torch.equal(base_layer.weight.quant_state.absmax, state.absmax)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
def test_merging_into_quantised_weights_is_refused_with_what_would_work(kind, storage):
    layer = kind(four_bits(quant_storage=storage), R, LORA_ALPHA)
    words = "a Linear4bit with quantised weights.*lost.*unmerged, or merge.*before quantisation"
    with pytest.raises(ValueError, match=words):
        layer.merge()


# --- what can't work ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"r": 0}, ValueError, "r=0 leaves nothing to train; give 1 or more"),
        ({"r": -2}, ValueError, "r=-2 leaves nothing to train; give 1 or more"),
        ({"r": 2.5}, TypeError, "r=2.5 is not a whole number; give for example 8"),
        ({"r": True}, TypeError, "r=True is not a whole number"),
        ({"lora_alpha": 0}, ValueError, "lora_alpha=0 is not a finite number above 0; give one"),
        ({"lora_alpha": float("nan")}, ValueError, "lora_alpha=nan is not a finite number"),
        ({"lora_alpha": float("inf")}, ValueError, "lora_alpha=inf is not a finite number"),
        ({"lora_alpha": "16"}, ValueError, "lora_alpha='16' is not a finite number"),
        (
            {"base_layer": nn.Embedding(7, 5)},
            TypeError,
            "of type Embedding, which isn't a linear layer; give",
        ),
        (
            {"base_layer": torch.zeros(5, 7)},
            TypeError,
            "of type Tensor, which isn't a linear layer; give",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_words(kind, changes, error, words):
    usual = {"base_layer": nn.Linear(IN, OUT), "r": R, "lora_alpha": LORA_ALPHA}
    with pytest.raises(error, match=words):
        kind(**usual | changes)


def test_a_layer_that_is_adapted_already_is_refused():
    with pytest.raises(
        TypeError, match="base_layer is of type LoRALinear, which isn't a linear layer"
    ):
        LoRALinear(LoRALinear(linear(), R, LORA_ALPHA), R, LORA_ALPHA)


def test_dora_refuses_a_row_of_zeros_where_peft_gives_nan():
    base_layer = linear()
    with torch.no_grad():
        base_layer.weight[3] = 0
    assert pefts(base_layer, r=R, use_dora=True)(torch.ones(1, IN).double()).isnan().any()
    with pytest.raises(ValueError, match="row 3 of the base weight is all zero.*give a LoRALinear"):
        DoRALinear(base_layer, R, LORA_ALPHA)

"""Our 4-bit numbers against bitsandbytes': codes and restored values, bit for bit."""

import dataclasses
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab.maths.nf4 import (
    BLOCKSIZES,
    bits_per_parameter,
    dequantize,
    double_quantize,
    quantize,
    relative_error,
    scaled,
)
from lora_lab.maths.quant_types import LEVELS, levels

bnb = pytest.importorskip(
    "bitsandbytes.functional", reason="bitsandbytes does not exist for this machine"
)
THEIR_TYPES = ("nf4", "fp4")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The pivots of bitsandbytes' CUDA kernels (csrc/kernels.cu, dQuantizeNF4 and dQuantizeFP4, 0.50)
CUDA_NF4 = [
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
    -0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
    0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
    0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
]  # fmt: skip
CUDA_FP4 = [0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333]


@pytest.fixture(autouse=True)
def _uncompiled():
    """bitsandbytes compiles its torch kernels for each shape, which takes seconds."""
    with torch.compiler.set_stance("force_eager"):
        yield


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def theirs(tensor, blocksize=64, quant_type="nf4", **options):
    """What bitsandbytes makes of a tensor: a code for each value, its state, the restored tensor.

    It restores the tensor as one row. With more rows, 0.50.2 takes the wrong absmax on processors
    with AVX-512 where a row is a multiple of 16 long, and none of the block.
    """
    packed, state = bnb.quantize_4bit(tensor, blocksize=blocksize, quant_type=quant_type, **options)
    codes = torch.cat([packed >> 4, packed & 15], dim=1).flatten()[: tensor.numel()]
    state.shape = torch.Size([tensor.numel()])
    return codes, state, bnb.dequantize_4bit(packed, state).reshape(tensor.shape)


def assert_equal_theirs(tensor, blocksize=64, quant_type="nf4"):
    ours = quantize(tensor, blocksize, quant_type)
    codes, state, restored = theirs(tensor, blocksize, quant_type)
    assert torch.equal(ours.codes, codes)
    torch.testing.assert_close(ours.absmax, state.absmax, rtol=0, atol=1e-38)  # theirs, if all 0
    assert dequantize(ours).dtype == tensor.dtype
    assert torch.equal(dequantize(ours), restored)


@pytest.mark.parametrize("quant_type", THEIR_TYPES)
def test_levels_equal_bitsandbytes_bit_for_bit(quant_type):
    assert torch.equal(levels(quant_type), bnb.get_4bit_type(quant_type, device="cpu"))


def test_the_8_bit_levels_equal_bitsandbytes_bit_for_bit():
    assert torch.equal(levels("dynamic"), bnb.create_dynamic_map())


def test_e2m1_is_what_its_bits_say_and_bitsandbytes_fp4_is_not():
    values = []
    for code in range(16):
        exponent, mantissa = code >> 1 & 3, code & 1
        size = 2 ** (exponent - 1) * (1 + mantissa / 2) if exponent else mantissa / 2
        values.append((-size if code & 8 else size) / 6)
    assert levels("e2m1").tolist() == pytest.approx(values, abs=1e-7)
    assert levels("e2m1")[1] == pytest.approx(0.0833, abs=1e-4)
    assert levels("fp4")[1] == pytest.approx(0.0052, abs=1e-4)


def test_e3m0_is_0_and_the_powers_of_two_from_a_64th_to_1():
    sizes = [0.0, *(2.0**-power for power in range(6, -1, -1))]
    assert levels("e3m0").tolist() == [*sizes, *(-size for size in sizes)]


def test_powers_of_two_are_coarse_but_spare_small_weights_beside_an_outlier():
    weights = normal(64, 64)
    spoilt = weights.clone()
    spoilt[0, 0] = 40.0
    for tensor, order in ((weights, ["nf4", "int4", "e3m0"]), (spoilt, ["e3m0", "nf4", "int4"])):
        errors = {name: relative_error(tensor, quantize(tensor, 4096, name)) for name in order}
        assert sorted(order, key=errors.get) == order


def test_int4_has_15_even_steps():
    assert (7 * levels("int4")).tolist() == pytest.approx(list(range(-7, 8)), abs=1e-6)


@pytest.mark.parametrize("wide", [64, 256, 4096])
def test_int8_in_blocks_as_long_as_a_row_equals_bitsandbytes_rows_of_int8(wide):
    weight = normal(40, wide)
    ours = quantize(weight, wide, "int8")
    codes, absmax, _ = bnb.int8_vectorwise_quant(weight.half())  # it takes 16 bits alone
    theirs = codes.float() * (absmax / 127)[:, None]
    torch.testing.assert_close(ours.absmax, absmax, rtol=1e-3, atol=0)
    off = (ours.codes.view(40, wide).int() - 127 - codes.int()).abs()  # rounded to half first
    assert off.max() <= 1
    assert off.float().mean() < 0.02
    assert relative_error(theirs, ours) < 0.01


@settings(deadline=None, max_examples=300)
@given(
    shape=st.one_of(
        st.tuples(st.integers(1, 700)),
        st.tuples(st.integers(1, 23), st.integers(1, 97)),
        st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 130)),
    ),
    dtype=st.sampled_from(DTYPES),
    blocksize=st.sampled_from(BLOCKSIZES),
    quant_type=st.sampled_from(THEIR_TYPES),
    scale=st.sampled_from([1e-3, 0.02, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_codes_and_values_equal_bitsandbytes(shape, dtype, blocksize, quant_type, scale, seed):
    tensor = (scale * normal(*shape, seed=seed)).to(dtype)
    assert_equal_theirs(tensor, blocksize, quant_type)


@pytest.mark.parametrize("quant_type", THEIR_TYPES)
def test_small_whole_numbers_full_of_ties_equal_bitsandbytes(quant_type):
    for absmax in range(1, 32):
        numbers = torch.arange(-absmax, absmax + 1.0)
        whole = torch.cat([numbers, torch.zeros(64 - len(numbers))])
        assert_equal_theirs(numbers, 64, quant_type)  # a short block is scaled in another way
        assert_equal_theirs(whole, 64, quant_type)


@pytest.mark.parametrize("quant_type", THEIR_TYPES)
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 64),
        torch.zeros(5, 7),  # one short block of zeros
        torch.full((130,), 0.3),
        torch.full((130,), -0.3),
        torch.cat([normal(64), torch.zeros(64), normal(30, seed=1)]),
        torch.cat([normal(63), torch.tensor([1e6]), normal(65, seed=1)]),  # an outlier
        normal(128) * 1e-20,
        torch.tensor([2.5]),
        normal(6, 50).T,  # not contiguous
    ],
    ids=["zeros", "short zeros", "constant", "negative", "zero block", "outlier", "tiny", "one",
         "transposed"],
)  # fmt: skip
def test_odd_blocks_equal_bitsandbytes(tensor, quant_type):
    assert_equal_theirs(tensor, 64, quant_type)


@pytest.mark.parametrize("quant_type", THEIR_TYPES)
def test_a_value_between_two_levels_takes_the_lower_as_in_bitsandbytes(quant_type):
    ordered = levels(quant_type).unique()  # FP4 has 0 twice
    ties = (ordered[:-1] + ordered[1:]) / 2
    block = torch.cat([torch.ones(1), ties, torch.zeros(63 - len(ties))])  # absmax 1: scaled as is
    restored = dequantize(quantize(block, 64, quant_type))
    assert torch.equal(restored[1 : 1 + len(ties)], ordered[:-1])
    assert_equal_theirs(block, 64, quant_type)


def test_borders_equal_those_of_bitsandbytes_on_cuda_for_nf4_and_nearly_for_fp4():
    between = {name: levels(name).unique().unfold(0, 2, 1).mean(1) for name in THEIR_TYPES}
    assert torch.equal(between["nf4"], torch.tensor(CUDA_NF4))
    positive = between["fp4"][between["fp4"] > 0]
    assert not torch.equal(positive, torch.tensor(CUDA_FP4))
    torch.testing.assert_close(positive, torch.tensor(CUDA_FP4), rtol=2e-6, atol=0)


@pytest.mark.parametrize("quant_type", LEVELS)
def test_what_is_restored_is_the_nearest_level_of_all(quant_type):
    tensor = normal(9, 31)
    absmax = [block.abs().max() for block in tensor.flatten().split(64) for _ in block]
    every = levels(quant_type) * torch.stack(absmax)[:, None]  # (279, 16)
    nearest = (every - tensor.flatten()[:, None]).abs().amin(dim=1)
    restored = dequantize(quantize(tensor, 64, quant_type))
    torch.testing.assert_close((restored - tensor).abs().flatten(), nearest, rtol=0, atol=1e-6)


def nested_state(absmax):
    """The 8-bit codes and constants of bitsandbytes' torch kernel, the one without CPU code.

    On CPU tensors bitsandbytes prefers a compiled kernel; XLA has none of its own.
    """
    kernel = torch.ops.bitsandbytes.quantize_blockwise.default
    general = torch._C.DispatchKeySet(torch._C.DispatchKey.XLA)
    return kernel.redispatch(general, absmax - absmax.mean(), bnb.create_dynamic_map(), 256)


@pytest.mark.parametrize("shape", [(64, 64), (301, 150), (70, 1024), (40, 2)], ids=str)
def test_double_quantization_equals_bitsandbytes_torch_kernel(shape):
    plain = quantize(normal(*shape) * torch.linspace(0.1, 3, shape[1]))
    nested = double_quantize(plain)
    codes, absmax = nested_state(plain.absmax)
    assert torch.equal(nested.absmax.codes, codes)
    assert torch.equal(nested.absmax.absmax, absmax)
    assert torch.equal(nested.codes, plain.codes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_double_quantization_equals_bitsandbytes_cpu_kernel_within_its_grid(dtype):
    tensor = normal(300, 512, dtype=dtype)
    ours = double_quantize(quantize(tensor))
    codes, state, restored = theirs(tensor, compress_statistics=True)
    assert torch.equal(ours.codes, codes)
    assert torch.equal(ours.offset, state.offset)
    assert torch.equal(ours.absmax.absmax, state.state2.absmax)
    apart = ours.absmax.codes.int() - state.absmax.int()
    assert apart.abs().max() <= 1
    assert apart.count_nonzero() <= 0.01 * len(apart)
    with_their_codes = dataclasses.replace(ours.absmax, codes=state.absmax)
    assert torch.equal(dequantize(dataclasses.replace(ours, absmax=with_their_codes)), restored)


def test_nested_constants_are_not_quantized_a_third_time():
    with pytest.raises(ValueError, match="quantized already; give what quantize"):
        double_quantize(double_quantize(quantize(normal(7, 64))))


@pytest.mark.parametrize("blocksize", [32, 64, 256])
@pytest.mark.parametrize("double_quant", [False, True])
def test_the_ledger_is_what_bitsandbytes_stores(blocksize, double_quant):
    tensor = normal(512, 4096)
    options = {"blocksize": blocksize, "compress_statistics": double_quant, "quant_type": "nf4"}
    packed, state = bnb.quantize_4bit(tensor, **options)
    stored = [packed, state.absmax, state.state2.absmax] if double_quant else [packed, state.absmax]
    bits = [8 * part.nbytes / tensor.numel() for part in stored]
    ledger = bits_per_parameter(blocksize, double_quant=double_quant)
    assert list(ledger) == ["codes", "absmax", "nested_absmax"][: len(bits)]
    assert list(ledger.values()) == bits


def test_the_ledger_of_blocks_of_64_is_qloras():
    plain, nested = (sum(bits_per_parameter(64, double).values()) for double in (False, True))
    assert plain == 4.5
    assert nested == pytest.approx(4.127, abs=5e-4)
    assert plain - nested == pytest.approx(0.373, abs=5e-4)  # arXiv:2305.14314, section 3


def test_8_bits_take_4_more_and_round_17_times_finer_in_even_steps():
    assert bits_per_parameter(64, quant_type="int8") == {"codes": 8, "absmax": 0.5}
    assert bits_per_parameter(64, quant_type="int4") == {"codes": 4, "absmax": 0.5}
    weights = normal(512, 512)
    coarse, fine = (relative_error(weights, quantize(weights, 64, f"int{bits}")) for bits in (4, 8))
    assert coarse / fine == pytest.approx(127 / 7, rel=0.02)  # an even step's error is its share


def test_on_normal_weights_nf4_loses_least_and_bitsandbytes_fp4_most():
    order = ["nf4", "e2m1", "int4", "fp4"]
    errors = {name: [] for name in order}
    for seed in range(5):
        weights = normal(512, 512, seed=seed)
        for name in order:
            errors[name].append(relative_error(weights, quantize(weights, 64, name)))
        assert sorted(order, key=lambda name: errors[name][-1]) == order
    for name, expected in zip(order, [0.0920, 0.1057, 0.1077, 0.1220], strict=True):
        assert statistics.mean(errors[name]) == pytest.approx(expected, abs=3e-4)
        assert statistics.stdev(errors[name]) < 3e-4


def test_nf4s_bins_are_not_equally_full():
    codes = quantize(normal(2048, 1024)).codes
    shares = torch.bincount(codes.int(), minlength=16) / len(codes)
    assert shares.min() == pytest.approx(0.017, abs=1e-3)
    assert shares.max() == pytest.approx(0.092, abs=1e-3)


def test_scaled_values_are_shares_of_their_blocks_greatest():
    tensor = torch.tensor([*[1.0, -2.0] * 32, *[0.0] * 64, 3.0, 6.0]).view(1, -1)
    found = scaled(tensor, quantize(tensor, 64)).tolist()
    assert found == pytest.approx([*[0.5, -1.0] * 32, *[0.0] * 64, 0.5, 1.0])
    weights = normal(40, 33)
    near = levels("nf4")[quantize(weights).codes.int()]
    assert (scaled(weights, quantize(weights)) - near).abs().max() < 0.16  # half the widest gap


def test_the_relative_error_of_known_numbers():
    tensor = torch.tensor([[1.0, 0.5], [0.0, -1.0]])
    quantized = quantize(tensor, 64, "int4")  # 0.5 * 7 = 3.5 goes down to 3
    assert relative_error(tensor, quantized) == pytest.approx((0.5 - 3 / 7) / 1.5)
    assert relative_error(dequantize(quantized), quantized) == 0


def test_a_parameter_is_left_as_it_is_and_nothing_of_it_is_recorded():
    weight = torch.nn.Parameter(normal(5, 33))
    before = weight.detach().clone()
    restored = dequantize(double_quantize(quantize(weight)))
    assert torch.equal(weight, before)
    assert not restored.requires_grad


@pytest.mark.parametrize(
    ("tensor", "error", "words"),
    [
        (torch.arange(6), TypeError, "torch.int64, which bitsandbytes does not .* tensor.float()"),
        (normal(6).double(), TypeError, "of torch.float64"),
        ([0.1, 0.2], TypeError, "tensor is of list"),
        (torch.empty(0, 4), ValueError, r"empty, of shape \(0, 4\); give at least 1 value"),
        (torch.tensor([1.0, torch.nan]), ValueError, "NaN or infinity 1 times; give finite"),
        (torch.tensor([torch.inf, -torch.inf]), ValueError, "NaN or infinity 2 times"),
    ],
)
def test_a_tensor_that_has_no_4_bit_form_is_refused(tensor, error, words):
    with pytest.raises(error, match=words):
        quantize(tensor)


@pytest.mark.parametrize("blocksize", [0, -64, 16, 48, 8192, 64.0, None, True])
def test_a_blocksize_that_bitsandbytes_does_not_take_is_refused(blocksize):
    words = (
        f"blocksize={blocksize!r} isn't a block size of bitsandbytes; give one of 32, 64, .* 4096"
    )
    with pytest.raises(ValueError, match=words):
        quantize(normal(6), blocksize)
    with pytest.raises(ValueError, match=words):
        bits_per_parameter(blocksize)


@pytest.mark.parametrize(
    ("quant_type", "words"),
    [("nf5", "did you mean 'nf4'"), ("q8", "'q8' is not known; give one of 'nf4', 'fp4', 'e2m1'")],
)
def test_an_unknown_type_is_refused_with_the_nearest_name(quant_type, words):
    with pytest.raises(ValueError, match=words):
        quantize(normal(6), 64, quant_type)


def test_an_error_that_is_a_share_of_nothing_or_of_another_tensor_is_refused():
    with pytest.raises(ValueError, match="all zero: no error is a share of it"):
        relative_error(torch.zeros(3, 5), quantize(torch.zeros(3, 5)))
    with pytest.raises(ValueError, match=r"tensor has shape \(3, 1\), quantized \(3, 5\)"):
        relative_error(normal(3, 1), quantize(normal(3, 5)))
    with pytest.raises(ValueError, match=r"tensor has shape \(5, 3\), quantized \(3, 5\)"):
        scaled(normal(5, 3), quantize(normal(3, 5)))

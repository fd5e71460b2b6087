"""A bank of adapters against the same adapters one by one: in float64, no two sizes equal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lora_lab.maths.bank import LoRABank
from lora_lab.maths.lora import DoRALinear, LoRALinear
from tiny import tiny_base

K, BATCH, TOKENS, IN, OUT = 3, 2, 4, 7, 5
EXACT = {"rtol": 1e-10, "atol": 1e-10}
CHOICES = [(1, 3, False), (6, 11, True), (9, 2, False)]  # r, lora_alpha, use_rslora; 9 is above OUT


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def adapters_on(base_layer, choices=CHOICES):
    """Adapters that have moved away from B = 0."""
    adapters = [LoRALinear(base_layer, *choice) for choice in choices]
    for adapter in adapters:
        nn.init.normal_(adapter.lora_B)
    return adapters


@pytest.fixture
def adapters():
    return adapters_on(nn.Linear(IN, OUT, dtype=torch.float64))


def stacked(count=K, requires_grad=False):
    return torch.randn(count * BATCH, TOKENS, IN, dtype=torch.float64, requires_grad=requires_grad)


def loss_of(output):
    weights = torch.arange(output.numel(), dtype=output.dtype).reshape(output.shape).sin()
    return (weights * output.square()).sum()


def one_by_one(adapters, x):
    return torch.cat(
        [adapter(part) for adapter, part in zip(adapters, x.chunk(len(adapters)), strict=True)]
    )


@settings(deadline=None, max_examples=40)
@given(
    choices=st.lists(
        st.tuples(st.integers(1, 12), st.floats(0.1, 64), st.booleans()), min_size=1, max_size=5
    ),
    before=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    in_features=st.integers(1, 9),
    out_features=st.integers(1, 9),
    bias=st.booleans(),
    seed=st.integers(0, 999),
)
def test_outputs_and_gradients_equal_those_of_each_adapter_alone(
    choices, before, in_features, out_features, bias, seed
):
    torch.manual_seed(seed)
    base_layer = nn.Linear(in_features, out_features, bias=bias, dtype=torch.float64)
    adapters = adapters_on(base_layer, choices)
    bank = LoRABank(adapters)
    x = torch.randn(len(choices) * before[0], *before[1:], in_features, dtype=torch.float64)
    x.requires_grad_()
    expected, actual = one_by_one(adapters, x), bank(x)
    torch.testing.assert_close(actual, expected, **EXACT)
    of_x, *of_each = torch.autograd.grad(
        loss_of(expected),
        [x, *(p for adapter in adapters for p in (adapter.lora_A, adapter.lora_B))],
    )
    inputs = [x, bank.lora_A, bank.lora_B]
    of_x_together, of_A, of_B = torch.autograd.grad(loss_of(actual), inputs)
    torch.testing.assert_close(of_x_together, of_x, **EXACT)
    for k, (r, _, _) in enumerate(choices):
        torch.testing.assert_close(of_A[k, :r], of_each[2 * k], **EXACT)
        torch.testing.assert_close(of_B[k, :, :r], of_each[2 * k + 1], **EXACT)
        assert not of_A[k, r:].any()  # exactly: the padding is never moved
        assert not of_B[k, :, r:].any()


def test_the_bases_matrix_is_multiplied_once_for_all_adapters(adapters):
    seen = []
    adapters[0].base_layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    LoRABank(adapters)(stacked())
    assert seen == [(K * BATCH, TOKENS, IN)]


def test_only_the_stacked_factors_are_trained(adapters):
    bank = LoRABank(adapters)
    trained = {
        name: tuple(parameter.shape)
        for name, parameter in bank.named_parameters()
        if parameter.requires_grad
    }
    assert trained == {"lora_A": (K, 9, IN), "lora_B": (K, OUT, 9)}


def test_a_bank_holds_copies_and_leaves_the_adapters_as_they_were(adapters):
    x = stacked()
    before = one_by_one(adapters, x)
    bank = LoRABank(adapters)
    bank.lora_A.data.zero_()
    bank.lora_B.data.zero_()
    assert torch.equal(one_by_one(adapters, x), before)


def test_an_adapter_that_broke_does_not_reach_the_others(adapters):
    bank, x = LoRABank(adapters), stacked()
    before = bank(x)
    bank.lora_A.data[1] = torch.nan
    after = bank(x)
    assert torch.equal(after[:BATCH], before[:BATCH])
    assert after[BATCH : 2 * BATCH].isnan().all()
    assert torch.equal(after[2 * BATCH :], before[2 * BATCH :])


def test_an_adapter_taken_out_is_the_one_that_was_put_in(adapters):
    bank = LoRABank(adapters)
    random_state = torch.get_rng_state()
    for k, adapter in enumerate(adapters):
        taken = bank.adapter(k)
        torch.testing.assert_close(taken.state_dict(), adapter.state_dict(), rtol=0, atol=0)
        assert taken.scaling == adapter.scaling
        assert taken.base_layer is adapter.base_layer
        taken.lora_A.data.zero_()  # a copy: the bank keeps its own
    assert bank.lora_A.any()
    assert torch.equal(torch.get_rng_state(), random_state)


def test_trained_together_at_their_own_rates_and_clippings_adapters_end_as_trained_alone(adapters):
    """What a packed run needs: steps of AdamW with decay, on each adapter's own slice."""
    rates, max_norms, x = [3e-2, 1e-2, 2e-1], [0.5, 4.0, 20.0], stacked()
    bank = LoRABank(adapters)
    alone = [
        torch.optim.AdamW([adapter.lora_A, adapter.lora_B], lr=rate, weight_decay=0.1)
        for adapter, rate in zip(adapters, rates, strict=True)
    ]
    slices = [
        [nn.Parameter(factor.data[k]) for factor in (bank.lora_A, bank.lora_B)] for k in range(K)
    ]
    together = [
        torch.optim.AdamW(own, lr=rate, weight_decay=0.1)  # own shares the bank's memory
        for own, rate in zip(slices, rates, strict=True)
    ]
    clipped = set()
    for _ in range(4):
        loss_of(one_by_one(adapters, x)).backward()
        loss_of(bank(x)).backward()
        for k, own in enumerate(slices):
            norm = nn.utils.clip_grad_norm_([adapters[k].lora_A, adapters[k].lora_B], max_norms[k])
            own[0].grad, own[1].grad = bank.lora_A.grad[k], bank.lora_B.grad[k]
            torch.testing.assert_close(nn.utils.clip_grad_norm_(own, max_norms[k]), norm, **EXACT)
            clipped |= {k} if norm > max_norms[k] else set()
        for optimizer in (*alone, *together):
            optimizer.step()
            optimizer.zero_grad()
        bank.zero_grad()
    assert clipped
    for k, adapter in enumerate(adapters):
        torch.testing.assert_close(
            bank.adapter(k).state_dict(), adapter.state_dict(), rtol=1e-7, atol=1e-9
        )
        assert not bank.lora_A[k, adapter.r :].any()
        assert not bank.lora_B[k, :, adapter.r :].any()


def test_a_whole_model_runs_with_the_adapters_batches_stacked():
    """Each adapter's logits, and its gradients, are those of a model with that adapter alone."""
    model = tiny_base(dtype=torch.float64).model
    attention, mlp = model.model.layers[0].self_attn, model.model.layers[1].mlp
    places = [(attention, "q_proj"), (mlp, "down_proj")]  # one reads the embeddings, one is deep
    adapters = [adapters_on(getattr(*place)) for place in places]
    tokens = torch.randint(256, (K * BATCH, TOKENS))

    def logits_with(layers, ids):
        for place, layer in zip(places, layers, strict=True):
            setattr(*place, layer)
        return model(input_ids=ids).logits

    alone = [logits_with([ones[k] for ones in adapters], tokens.chunk(K)[k]) for k in range(K)]
    banks = [LoRABank(ones) for ones in adapters]
    together = logits_with(banks, tokens)
    torch.testing.assert_close(together, torch.cat(alone), **EXACT)
    loss_of(together).backward()
    loss_of(torch.cat(alone)).backward()
    for bank, ones in zip(banks, adapters, strict=True):
        for k, adapter in enumerate(ones):
            torch.testing.assert_close(
                bank.lora_A.grad[k, : adapter.r], adapter.lora_A.grad, **EXACT
            )
            torch.testing.assert_close(
                bank.lora_B.grad[k, :, : adapter.r], adapter.lora_B.grad, **EXACT
            )


def test_on_a_16_bit_base_a_bank_computes_what_its_adapters_do():
    adapters = adapters_on(nn.Linear(IN, OUT, dtype=torch.bfloat16))
    bank, x = LoRABank(adapters), stacked().bfloat16()
    assert bank.lora_A.dtype == torch.float32
    torch.testing.assert_close(bank(x), one_by_one(adapters, x))


def test_on_a_4_bit_base_a_bank_computes_what_its_adapters_do():
    bitsandbytes = pytest.importorskip(
        "bitsandbytes", reason="bitsandbytes does not exist for this machine"
    )
    base_layer = bitsandbytes.nn.Linear4bit(64, 96, compute_dtype=torch.float32).to("cpu")
    adapters = adapters_on(base_layer)
    x = torch.randn(K * BATCH, TOKENS, 64)
    torch.testing.assert_close(LoRABank(adapters)(x), one_by_one(adapters, x))


# --- what can't work ----------------------------------------------------------------------------


def test_a_bank_of_no_adapters_is_refused():
    with pytest.raises(ValueError, match="a bank of no adapters.*give one LoRALinear or more"):
        LoRABank([])


def test_adapters_on_different_layers_are_refused(adapters):
    other = adapters_on(nn.Linear(IN, OUT, dtype=torch.float64))[0]
    with pytest.raises(ValueError, match="adapter 3 sits on another base layer than adapter 0"):
        LoRABank([*adapters, other])


def test_what_is_no_plain_adapter_is_refused(adapters):
    dora = DoRALinear(adapters[0].base_layer, 2, 4)
    with pytest.raises(TypeError, match="adapter 1 is of type DoRALinear; .* give LoRALinears"):
        LoRABank([adapters[0], dora])
    with pytest.raises(TypeError, match="adapter 0 is of type Linear"):
        LoRABank([adapters[0].base_layer])


@pytest.mark.parametrize("shape", [(4, TOKENS, IN), (0, IN), (IN,)])
def test_a_batch_that_the_adapters_cannot_share_is_refused(adapters, shape):
    with pytest.raises(ValueError, match=r"which 3 adapters can't share evenly; give \(3 \* batch"):
        LoRABank(adapters)(torch.zeros(shape, dtype=torch.float64))

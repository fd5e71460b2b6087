import peft
import pytest
import torch
from torch import nn

from lora_lab.maths.adalora import RankAllocator, SVDLinear, budget_schedule, regu_loss

BATCH, IN, MIDDLE, OUT = 3, 7, 11, 5
INIT_R, LORA_ALPHA, WEIGHT = 4, 13, 0.3
NAMES = ("0", "2", "4")  # of the linear layers
SCHEDULE = {"target_r": 2, "tinit": 3, "tfinal": 8, "deltaT": 1, "total_step": 30}


def linears():
    """Three linear layers of different sizes, one of them without a bias."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(IN, MIDDLE),
        nn.Tanh(),
        nn.Linear(MIDDLE, MIDDLE + 2, bias=False),
        nn.Tanh(),
        nn.Linear(MIDDLE + 2, OUT),
    ).double()


def pair(bias=True, **changes):
    """PEFT's AdaLoRA and ours on equal layers, holding the same values, E not zero."""
    values = {"beta1": 0.85, "beta2": 0.85} | SCHEDULE | changes
    config = peft.AdaLoraConfig(
        init_r=INIT_R,
        lora_alpha=LORA_ALPHA,
        target_modules=list(NAMES),
        orth_reg_weight=WEIGHT,
        **values,
    )
    theirs = peft.get_peft_model(linears(), config).double()
    ours = linears()
    layers = {name: SVDLinear(ours[int(name)], INIT_R, LORA_ALPHA) for name in NAMES}
    with torch.no_grad():
        for name, layer in layers.items():
            ours[int(name)] = layer
            their = theirs.base_model.model[int(name)]
            their.lora_E["default"].normal_()
            for part in ("lora_A", "lora_E", "lora_B"):
                getattr(layer, part).copy_(getattr(their, part)["default"])
    return theirs, ours, RankAllocator(layers, **values)


def parts(theirs, ours):
    """(PEFT's, ours) of each trained parameter."""
    for name in NAMES:
        for part in ("lora_A", "lora_E", "lora_B"):
            their = getattr(theirs.base_model.model[int(name)], part)["default"]
            yield their, getattr(ours[int(name)], part)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_outputs_and_gradients_of_a_e_b_and_x_equal_pefts():
    theirs, ours, _ = pair()
    x = torch.randn(BATCH, 2, IN, dtype=torch.float64, requires_grad=True)
    target = torch.randn(BATCH, 2, OUT, dtype=torch.float64)
    close(ours(x), theirs(x))
    inputs = [[x], [x]]
    for their, own in parts(theirs, ours):
        inputs[0].append(their)
        inputs[1].append(own)
    expected = torch.autograd.grad(((theirs(x) - target) ** 2).sum(), inputs[0])
    actual = torch.autograd.grad(((ours(x) - target) ** 2).sum(), inputs[1])
    close(actual, expected)


def test_the_change_of_the_weight_is_pefts_and_makes_the_layers_output():
    theirs, ours, _ = pair()
    for name in NAMES:
        layer = ours[int(name)]
        delta = layer.delta_weight()
        close(delta, theirs.base_model.model[int(name)].get_delta_weight("default"))
        x = torch.randn(BATCH, layer.base_layer.in_features, dtype=torch.float64)
        close(layer(x), layer.base_layer(x) + x @ delta.T)


def test_a_fresh_layer_answers_as_its_base_and_only_the_triplets_learn():
    base = nn.Linear(IN, OUT)
    layer = SVDLinear(base, 3, LORA_ALPHA)
    x = torch.randn(BATCH, IN)
    assert torch.equal(layer(x), base(x))
    trained = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    assert trained == {"lora_A", "lora_E", "lora_B"}
    with pytest.raises(ValueError, match="r=0 leaves nothing to train"):
        SVDLinear(base, 0, LORA_ALPHA)


def test_the_singular_vectors_start_small_at_pefts_standard_deviation():
    torch.manual_seed(1)
    wide = SVDLinear(nn.Linear(2000, 1000), 5, LORA_ALPHA)
    for factor in (wide.lora_A, wide.lora_B):
        assert factor.std().item() == pytest.approx(0.02, rel=0.05)
        assert factor.mean().item() == pytest.approx(0, abs=0.002)


def test_the_orthogonality_term_and_its_gradient_are_what_peft_adds_to_the_loss():
    class WithLoss(nn.Module):
        """PEFT adds the term to the `loss` of whatever a model returns."""

        def __init__(self):
            super().__init__()
            self.layers = linears()

        def forward(self, x):
            return type("Output", (), {"loss": self.layers(x).sum()})()

    torch.manual_seed(2)
    names = [f"layers.{name}" for name in NAMES]
    config = peft.AdaLoraConfig(
        init_r=INIT_R, target_modules=names, orth_reg_weight=WEIGHT, total_step=10
    )
    theirs = peft.get_peft_model(WithLoss(), config).double()
    x = torch.randn(BATCH, IN, dtype=torch.float64)
    named = dict(theirs.named_parameters())
    A = [parameter for name, parameter in named.items() if "lora_A" in name]
    B = [parameter for name, parameter in named.items() if "lora_B" in name]
    plain = theirs.base_model.model(x).loss
    term = regu_loss([*A, *(parameter.T for parameter in B)])
    total = theirs.base_model(x).loss  # `theirs(x)` leaves it out unless it has a task_type
    close(plain + WEIGHT * term, total)
    expected = torch.autograd.grad(total - theirs.base_model.model(x).loss, A + B)
    close(torch.autograd.grad(WEIGHT * term, A + B), expected)


def test_orthonormal_vectors_cost_nothing():
    rows = torch.linalg.qr(torch.randn(7, 3, dtype=torch.float64)).Q.T  # (3, 7)
    assert regu_loss([rows]) < 1e-12
    close(regu_loss([2 * rows, rows]), rows.new_tensor(3 * 3**0.5 / 2))  # |4I - I| / 2


CHANGES = [
    {},
    {"deltaT": 4},
    {"deltaT": 4, "tfinal": 0},
    {"tinit": 0, "tfinal": 28},
    {"target_r": 1, "beta1": 0.4, "beta2": 0.95},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_allocation_of_a_whole_run_is_pefts(changes, monkeypatch):
    theirs, ours, allocator = pair(**changes)
    their_allocator = theirs.base_model.rankallocator
    allocated, thresholds = [], []
    note_results(monkeypatch, their_allocator, "update_and_allocate", allocated)
    note_results(monkeypatch, torch, "kthvalue", thresholds)
    named = dict(theirs.named_parameters())
    rows = [parameter for name, parameter in named.items() if "lora_A" in name]
    rows += [parameter.T for name, parameter in named.items() if "lora_B" in name]
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.02)
    met = allocator.last
    for step in range(1, SCHEDULE["total_step"] + 1):
        x = torch.randn(BATCH, IN, dtype=torch.float64)
        (theirs(x).square().sum() + WEIGHT * regu_loss(rows)).backward()
        optimizer.step()
        for their, own in parts(theirs, ours):
            own.data, own.grad = their.detach().clone(), their.grad.clone()
        theirs.base_model.update_and_allocate(step)
        budget, pattern = allocator.update_and_allocate(step)
        optimizer.zero_grad()

        for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc") if step < met else ():
            expected = getattr(their_allocator, kind)  # PEFT forgets them at the last allocation
            assert len(expected) == 9
            for name, tensor in expected.items():
                torch.testing.assert_close(
                    getattr(allocator, kind)[name.removesuffix(".default")], tensor, rtol=0, atol=0
                )
        if step <= met:
            expected_budget, expected_pattern = allocated.pop()
            assert (budget, pattern is None) == (expected_budget, expected_pattern is None)
        if pattern is not None:
            assert {
                f"{name}.lora_E.default": kept.tolist() for name, kept in pattern.items()
            } == expected_pattern
            assert thresholds.pop().values == thresholds.pop().values
            assert sum(kept.sum() for kept in pattern.values()) == budget
        for their, own in parts(theirs, ours):
            assert torch.equal(own, their)
    assert budget == allocator.target_bgt
    ranks = {int(kept.sum()) for kept in allocator.rank_pattern.values()}
    assert len(ranks) > 1  # the layers did compete


def note_results(monkeypatch, owner, name, results):
    """Append to `results` what a function returns, each time that it is called."""
    function = getattr(owner, name)

    def noting(*arguments, **options):
        results.append(function(*arguments, **options))
        return results[-1]

    monkeypatch.setattr(owner, name, noting)


def test_the_budget_falls_from_all_to_the_target_as_worked_out_by_hand():
    phases = {"tinit": 2, "tfinal": 3, "total_step": 9}
    budgets = [budget_schedule(step, 100, 36, **phases) for step in range(1, 10)]
    assert budgets == [100, 100, 63, 44, 37, 36, 36, 36, 36]  # 36 + 64 × (.75³, .5³, .25³), cut


def test_equal_importances_at_the_threshold_are_masked_together_as_by_peft():
    theirs, _, allocator = pair()
    own = theirs.base_model.rankallocator
    for name, parameter in theirs.base_model.model.named_parameters():
        if "lora_" in name:
            level = torch.ones_like(parameter)
            if "lora_E" in name and name.startswith("2"):
                level[:2] = 3.0  # two triplets stand out; all others tie
            own.exp_avg_ipt[name] = own.exp_avg_unc[name] = level
            layer, part, _ = name.rsplit(".", 2)
            allocator.exp_avg_ipt[f"{layer}.{part}"] = level
            allocator.exp_avg_unc[f"{layer}.{part}"] = level
    pattern = {n: kept.tolist() for n, kept in allocator.mask_to_budget(8).items()}
    found = own.mask_to_budget(theirs.base_model.model, 8)
    assert pattern == {name.removesuffix(".lora_E.default"): kept for name, kept in found.items()}
    assert sum(map(sum, pattern.values())) == 2  # of a budget of 8


def test_a_target_that_masks_nothing_is_refused():
    layers = {"one": SVDLinear(nn.Linear(IN, OUT), 3, LORA_ALPHA)}
    with pytest.raises(ValueError, match="target_r=3 keeps 3 triplets and there are 3"):
        RankAllocator(layers, target_r=3, tinit=1, tfinal=2, total_step=9)

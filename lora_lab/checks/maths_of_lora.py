"""Checks for notebook 03, The maths of LoRA: forward, start, merge, count, first gradients."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.checks.one_token import llama_shapes, llama_sizes


def _random(shapes: dict[str, tuple[int, int]], count: int = 3) -> Iterator[dict[str, Tensor]]:
    """Tensors of these shapes, float64, with positive and negative numbers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }


# --- the layer ------------------------------------------------------------------------------


def _lora_forward(
    x: Tensor, weight: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> Tensor:
    """The output of a linear layer with LoRA, (batch, out): x Wᵀ + (lora_alpha / r) x Aᵀ Bᵀ."""
    scaling = lora_alpha / lora_A.shape[0]
    return x @ weight.T + scaling * x @ lora_A.T @ lora_B.T


def _forward_cases() -> Iterator[Case]:
    shapes = {"x": (2, 7), "weight": (5, 7), "lora_A": (3, 7), "lora_B": (5, 3)}
    for tensors in _random(shapes):
        yield tensors | {"lora_alpha": 4.0}


lora_forward = Exercise(
    _lora_forward,
    _forward_cases,
    slips={
        "the scaling is missing: multiply the change by lora_alpha / r": (
            lambda x, weight, lora_A, lora_B, lora_alpha: x @ weight.T + x @ lora_A.T @ lora_B.T
        ),
        "the scaling is lora_alpha, but should be lora_alpha / r": (
            lambda x, weight, lora_A, lora_B, lora_alpha: (
                x @ weight.T + lora_alpha * x @ lora_A.T @ lora_B.T
            )
        ),
        "the scaling divides by √r, as rsLoRA's does; LoRA's divides by r": (
            lambda x, weight, lora_A, lora_B, lora_alpha: (
                x @ weight.T + lora_alpha / math.sqrt(len(lora_A)) * x @ lora_A.T @ lora_B.T
            )
        ),
        "this r is not the rank: lora_A is (r, in), so r is its first size": (
            lambda x, weight, lora_A, lora_B, lora_alpha: (
                x @ weight.T + lora_alpha / lora_A.shape[1] * x @ lora_A.T @ lora_B.T
            )
        ),
        "the base layer is missing: add x @ weight.T": (
            lambda x, weight, lora_A, lora_B, lora_alpha: (
                lora_alpha / len(lora_A) * x @ lora_A.T @ lora_B.T
            )
        ),
        "the scaling is on the base layer too; it belongs to the change alone": (
            lambda x, weight, lora_A, lora_B, lora_alpha: (
                lora_alpha / len(lora_A) * (x @ weight.T + x @ lora_A.T @ lora_B.T)
            )
        ),
    },
)

# --- its start ------------------------------------------------------------------------------


def _lora_init(in_features: int, out_features: int, r: int) -> tuple[Tensor, Tensor]:
    """lora_A (r, in), uniform between -1/√in and 1/√in as PEFT draws it; lora_B (out, r), zero."""
    bound = 1 / math.sqrt(in_features)
    lora_A = torch.empty(r, in_features).uniform_(-bound, bound)
    return lora_A, torch.zeros(out_features, r)


def _init_cases() -> Iterator[Case]:
    for sizes in ((900, 500, 16), (600, 800, 12)):
        yield dict(zip(("in_features", "out_features", "r"), sizes, strict=True))


def _drawn(function: Function, case: Case) -> dict[str, object]:
    """Facts about the two random tensors that do not depend on the random numbers."""
    answer = function(**case)
    pair = isinstance(answer, tuple | list) and len(answer) == 2
    if not (pair and all(isinstance(tensor, Tensor) for tensor in answer)):
        raise WrongAnswer("return two tensors: `return lora_A, lora_B`.")
    lora_A, lora_B = (tensor.detach().double() for tensor in answer)
    relative = lora_A * math.sqrt(case["in_features"])  # to the bound
    return {
        "the shape of lora_A": tuple(lora_A.shape),
        "the shape of lora_B": tuple(lora_B.shape),
        "lora_B": "not all zero" if lora_B.any() else "all zero",
        "the largest size in lora_A, times √in": round(relative.abs().max().item(), 1),
        "the share of lora_A below 0": round((lora_A < 0).double().mean().item(), 1),
        "the root mean square of lora_A, times √in": round(
            relative.square().mean().item() ** 0.5, 1
        ),
    }


def _drawn_by(lora_A: Function, lora_B: Function = torch.zeros) -> Function:
    """A slip: the two tensors come from functions of (rows, columns)."""
    return lambda in_features, out_features, r: (lora_A(r, in_features), lora_B(out_features, r))


def _bounded(bound: Function) -> Function:
    """A function that draws a uniform tensor; its bound is a function of (rows, columns)."""

    def draw(rows: int, columns: int) -> Tensor:
        end = bound(rows, columns)
        return torch.empty(rows, columns).uniform_(-end, end)

    return draw


_as_peft = _bounded(lambda rows, columns: 1 / math.sqrt(columns))

lora_init = Exercise(
    _lora_init,
    _init_cases,
    slips={
        "both are zero: then both gradients are zero too, and nothing is ever learnt": (
            _drawn_by(torch.zeros)
        ),
        "it is the wrong way round: in PEFT lora_A is drawn, and lora_B is zero": (
            _drawn_by(torch.zeros, _as_peft)
        ),
        "both are drawn, so B A is not zero, and training would not start at the base": (
            _drawn_by(_as_peft, _as_peft)
        ),
        "torch.randn is far too large for lora_A: its outputs would grow with √in": (
            _drawn_by(torch.randn)
        ),
        "torch.rand lies between 0 and 1; lora_A is uniform between -1/√in and 1/√in": (
            _drawn_by(torch.rand)
        ),
        'this lora_A is normal with deviation 1/r: PEFT\'s init_lora_weights="gaussian", not its '
        "default": _drawn_by(lambda rows, columns: torch.randn(rows, columns) / rows),
        "kaiming_uniform_ needs a=√5 here; its default, a=0, is √6 times as wide": (
            _drawn_by(_bounded(lambda rows, columns: math.sqrt(6 / columns)))
        ),
        "the bound is 1/√r here; what comes in has in_features values, so it is 1/√in": (
            _drawn_by(_bounded(lambda rows, columns: 1 / math.sqrt(rows)))
        ),
    },
    ask=_drawn,
)

# --- merging --------------------------------------------------------------------------------


def _lora_merge(weight: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    """One new weight with the same outputs, (out, in): W + (lora_alpha / r) B A."""
    return weight + lora_alpha / lora_A.shape[0] * lora_B @ lora_A


def _merge_cases() -> Iterator[Case]:
    for tensors in _random({"weight": (5, 7), "lora_A": (3, 7), "lora_B": (5, 3)}):
        yield tensors | {"lora_alpha": 4.0}


def _merge_in_place(weight: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float) -> Tensor:
    weight += lora_alpha / len(lora_A) * lora_B @ lora_A
    return weight


lora_merge = Exercise(
    _lora_merge,
    _merge_cases,
    slips={
        "the scaling is missing: add lora_alpha / r times B A": (
            lambda weight, lora_A, lora_B, lora_alpha: weight + lora_B @ lora_A
        ),
        "the scaling is lora_alpha, but should be lora_alpha / r": (
            lambda weight, lora_A, lora_B, lora_alpha: weight + lora_alpha * lora_B @ lora_A
        ),
        "this is the change alone: add it to weight": (
            lambda weight, lora_A, lora_B, lora_alpha: lora_alpha / len(lora_A) * lora_B @ lora_A
        ),
        "the change is taken away here; that is how one unmerges": (
            lambda weight, lora_A, lora_B, lora_alpha: (
                weight - lora_alpha / len(lora_A) * lora_B @ lora_A
            )
        ),
        "this is the merged weight transposed; nn.Linear keeps its weight as (out, in)": (
            lambda weight, lora_A, lora_B, lora_alpha: (
                _lora_merge(weight, lora_A, lora_B, lora_alpha).T
            )
        ),
        "weight itself changed: `+=` writes into it, and the base is lost; use weight + ...": (
            _merge_in_place
        ),
    },
)

# --- how much is trained --------------------------------------------------------------------


def _lora_count(
    hidden_size: int,
    intermediate_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
    num_hidden_layers: int,
    r: int,
) -> int:
    """The number of trainable parameters of LoRA on all seven linear layers of a Llama's layers.

    A matrix of (out, in) is given A of (r, in) and B of (out, r).
    """
    shapes = llama_shapes(
        hidden_size, intermediate_size, num_attention_heads, num_key_value_heads, head_dim
    )
    return num_hidden_layers * sum(r * (ins + outs) for outs, ins in shapes.values())


def _llama_cases() -> Iterator[Case]:
    for sizes, layers, r in zip(llama_sizes(), (30, 16, 5), (8, 16, 4), strict=True):
        yield sizes | {"num_hidden_layers": layers, "r": r}


def _count_by_matrix(count: Function) -> Function:
    """A slip: the sum of another count over a model's matrices, for (name, out, in, r)."""

    def slip(num_hidden_layers: int, r: int, **sizes: int) -> int:
        shapes = llama_shapes(**sizes)
        return num_hidden_layers * sum(count(name, *shape, r) for name, shape in shapes.items())

    return slip


_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

lora_count = Exercise(
    _lora_count,
    _llama_cases,
    slips={
        "k and v count as wide as q here; with grouped-query attention their outputs are "
        "num_key_value_heads * head_dim wide": (
            lambda **case: _lora_count(
                **case | {"num_key_value_heads": case["num_attention_heads"]}
            )
        ),
        "the heads together count as hidden_size wide here; they are num_attention_heads * "
        "head_dim wide": (
            _count_by_matrix(
                lambda name, outs, ins, r: (
                    r * {"q_proj": 2 * ins, "o_proj": 2 * outs}.get(name, ins + outs)
                )
            )
        ),
        "this is one layer; multiply by num_hidden_layers": (
            lambda **case: _lora_count(**case | {"num_hidden_layers": 1})
        ),
        "these are the base's own weights, out times in; A and B have r (in + out)": (
            _count_by_matrix(lambda name, outs, ins, r: outs * ins)
        ),
        "only lora_A is counted: lora_B has r out parameters more": (
            _count_by_matrix(lambda name, outs, ins, r: r * ins)
        ),
        "r is missing: A and B together have r (in + out) parameters": (
            _count_by_matrix(lambda name, outs, ins, r: ins + outs)
        ),
        "only attention is counted; gate, up and down are linear layers too": (
            _count_by_matrix(lambda name, outs, ins, r: r * (ins + outs) * (name in _ATTENTION))
        ),
        "only q and v are counted, as in the LoRA paper; here all seven have an adapter": (
            _count_by_matrix(
                lambda name, outs, ins, r: r * (ins + outs) * (name in ("q_proj", "v_proj"))
            )
        ),
    },
)

# --- the first gradients --------------------------------------------------------------------


def _lora_gradients(
    x: Tensor, grad_y: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> tuple[Tensor, Tensor]:
    """dL/dA (r, in) and dL/dB (out, r), from the inputs x (batch, in) and dL/dy (batch, out)."""
    scaling = lora_alpha / lora_A.shape[0]
    grad_A = scaling * lora_B.T @ grad_y.T @ x  # (r, out) @ (out, batch) @ (batch, in)
    grad_B = scaling * grad_y.T @ x @ lora_A.T  # (out, batch) @ (batch, in) @ (in, r)
    return grad_A, grad_B


def _gradient_cases() -> Iterator[Case]:
    """Step 0, where lora_B is zero, then two steps at which it is not."""
    shapes = {"x": (2, 7), "grad_y": (2, 5), "lora_A": (3, 7), "lora_B": (5, 3)}
    for step, tensors in enumerate(_random(shapes)):
        start = {} if step else {"lora_B": torch.zeros_like(tensors["lora_B"])}
        yield tensors | start | {"lora_alpha": 4.0}


def _changed_gradients(change: Function) -> Function:
    """A slip: the right gradients, changed by a function of (grad_A, grad_B, case)."""
    return lambda **case: change(*_lora_gradients(**case), case)


lora_gradients = Exercise(
    _lora_gradients,
    _gradient_cases,
    slips={
        "both are zero here; dL/dB is not, even at step 0: it needs A, which is not zero": (
            _changed_gradients(lambda A, B, case: (A * 0, B * 0))
        ),
        "dL/dA is always zero here; it is so at step 0 alone, since Bᵀ is a factor of it": (
            _changed_gradients(lambda A, B, case: (A * 0, B))
        ),
        "the scaling is missing: it stands before B A, so before both gradients": (
            _changed_gradients(
                lambda A, B, case: (A / (case["lora_alpha"] / 3), B / (case["lora_alpha"] / 3))
            )
        ),
        "they are the wrong way round: first dL/dA, then dL/dB": (
            _changed_gradients(lambda A, B, case: (B, A))
        ),
        "both are transposed: a gradient has its parameter's shape": (
            _changed_gradients(lambda A, B, case: (A.T, B.T))
        ),
        "this is the mean over the batch; dL/dy holds that mean already, so sum": (
            _changed_gradients(lambda A, B, case: (A / len(case["x"]), B / len(case["x"])))
        ),
        "this goes uphill: the gradients are those of L, and the optimizer puts the minus": (
            _changed_gradients(lambda A, B, case: (-A, -B))
        ),
    },
)

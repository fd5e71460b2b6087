"""Checks for notebook 10, Training parameters: steps, decay, a recipe diagnosed."""

import math
from collections.abc import Iterator, Sequence

import torch

from lora_lab.checks.compare import Case, Exercise, Function

# --- how many steps -------------------------------------------------------------------------


def _update_steps(
    examples: int, epochs: int, batch_size: int, gradient_accumulation_steps: int
) -> int:
    """The number of steps that the Trainer of transformers takes.

    The last batch of an epoch may be smaller. A step adds up `gradient_accumulation_steps` batches;
    the last step of an epoch may have fewer.
    """
    batches = math.ceil(examples / batch_size)
    return epochs * math.ceil(batches / gradient_accumulation_steps)


def _epochs() -> Iterator[Case]:
    """Epochs that come out even, that leave examples over, that leave batches over."""
    for examples, epochs, batch_size, accumulation in (
        (960, 3, 16, 4), (1000, 3, 16, 4), (100, 2, 8, 1), (50, 4, 4, 5), (7, 5, 16, 2),
    ):  # fmt: skip
        yield {
            "examples": examples,
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
        }


def _steps_by(steps: Function) -> Function:
    """A slip: a function of (examples, epochs, batch size, accumulation)."""
    return lambda examples, epochs, batch_size, gradient_accumulation_steps: steps(
        examples, epochs, batch_size, gradient_accumulation_steps
    )


update_steps = Exercise(
    _update_steps,
    _epochs,
    slips={
        "these are batches; a step adds up several of them": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n / size))
        ),
        "the examples left over are dropped here; they make one more, smaller batch": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n // size / add))
        ),
        "the batches left over are dropped here; they make an epoch's last step": (
            _steps_by(lambda n, epochs, size, add: epochs * (math.ceil(n / size) // add))
        ),
        "this rounds once, over all epochs; each epoch has a last batch of its own": (
            _steps_by(lambda n, epochs, size, add: math.ceil(epochs * n / (size * add)))
        ),
        "these are the steps of one epoch": (
            _steps_by(lambda n, epochs, size, add: _update_steps(n, 1, size, add))
        ),
        "accumulation makes fewer steps, not more: divide by it": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n / size) * add)
        ),
    },
)

# --- what decay does by itself --------------------------------------------------------------


def _decayed(weight: float, rates: Sequence[float], weight_decay: float) -> float:
    """A weight after AdamW's steps when its gradient is 0.

    `rates`: the learning rate of each step. Decoupled: each step multiplies by
    1 - rate * weight_decay.
    """
    return weight * math.prod(1 - rate * weight_decay for rate in rates)


def _rate_schedules() -> Iterator[Case]:
    """A constant rate, a falling rate, a warm-up; weights of both signs; no decay."""
    falling = [0.1, 0.08, 0.06, 0.04, 0.02]
    for weight, rates, weight_decay in (
        (2.0, [0.1] * 4, 0.5), (-1.5, falling, 2.0), (0.8, [0.0, 0.05, 0.1, 0.05], 4.0),
        (3.0, falling, 0.0),
    ):  # fmt: skip
        yield {"weight": weight, "rates": list(rates), "weight_decay": weight_decay}


def _factor_by(factor: Function) -> Function:
    """A slip: the weight times a function of (rates, decay)."""
    return lambda weight, rates, weight_decay: weight * factor(rates, weight_decay)


def _as_l2_in_adam(weight: float, rates: Sequence[float], weight_decay: float) -> float:
    """The decay as a part of the gradient, which Adam then brings to the size of a step."""
    parameter = torch.tensor([weight], requires_grad=True, dtype=torch.float64)
    optimizer = torch.optim.Adam([parameter], weight_decay=weight_decay)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return parameter.item()


decayed = Exercise(
    _decayed,
    _rate_schedules,
    slips={
        "the learning rate is missing; AdamW takes rate * weight_decay off at each step": (
            _factor_by(lambda rates, decay: (1 - decay) ** len(rates))
        ),
        "this takes the sum off the first weight; each step takes its part of what is left": (
            _factor_by(lambda rates, decay: 1 - decay * sum(rates))
        ),
        "this takes the first rate for all steps; each has its own": (
            _factor_by(lambda rates, decay: (1 - rates[0] * decay) ** len(rates))
        ),
        "this takes the mean rate for all steps; near, but each step has its own": (
            _factor_by(lambda rates, decay: (1 - sum(rates) / len(rates) * decay) ** len(rates))
        ),
        "this is one step; there are as many as rates": (
            _factor_by(lambda rates, decay: 1 - rates[-1] * decay)
        ),
        "this grows; decay takes away: 1 - rate * weight_decay": (
            _factor_by(lambda rates, decay: math.prod(1 + rate * decay for rate in rates))
        ),
        "exp is what many small steps come to; multiply the steps themselves": (
            _factor_by(lambda rates, decay: math.exp(-decay * sum(rates)))
        ),
        "this is L2 in Adam, where the decay is a gradient; in AdamW it never meets the moments": (
            _as_l2_in_adam
        ),
    },
)

# --- a recipe, diagnosed before it is run ---------------------------------------------------


def _diagnose_recipe(
    lengths: Sequence[int],
    max_length: int,
    batch_size: int,
    gradient_accumulation_steps: int,
    steps: int,
    warmup_steps: int,
) -> str:
    """The diagnosis of a recipe before it is run: the first of these that is true.

    "too short": a tenth or more of the examples are longer than `max_length`. "not seen": all
    steps together draw fewer examples than there are. "all warm-up": half of the steps or more are
    warm-up. "fine": all other recipes. `lengths`: the training examples' lengths, in tokens.
    """
    if sum(length > max_length for length in lengths) >= len(lengths) / 10:
        return "too short"
    if steps * batch_size * gradient_accumulation_steps < len(lengths):
        return "not seen"
    return "all warm-up" if warmup_steps >= steps / 2 else "fine"


_FIELDS = (
    *("lengths", "max_length", "batch_size", "gradient_accumulation_steps"),
    *("steps", "warmup_steps"),
)


def diagnosed() -> Iterator[tuple[str, Case]]:
    """Recipes made for this exercise, each with its diagnosis."""
    short, some_long = [20] * 100, [20] * 89 + [300] * 11
    for diagnosis, *values in (
        ("fine", short, 256, 4, 8, 5, 1),  # with the accumulation all are seen
        ("fine", [*short, 257], 256, 16, 1, 50, 24),  # one is too long
        ("fine", [256] * 64, 256, 16, 1, 4, 0),  # as long as may be, seen once
        ("too short", [300] * 50, 256, 16, 1, 100, 0),  # all of them are
        ("too short", some_long, 256, 16, 1, 100, 0),
        ("too short", some_long, 256, 4, 1, 10, 9),  # and everything else, too
        ("too short", [20] * 90 + [300] * 10, 256, 16, 1, 100, 0),  # a tenth exactly
        ("too short", [500] * 60 + [20] * 40, 256, 16, 1, 100, 0),  # by their mean, too
        ("not seen", short, 256, 16, 1, 6, 0),
        ("not seen", short, 256, 4, 2, 12, 6),
        ("all warm-up", short, 256, 16, 1, 20, 10),
        ("all warm-up", [*short, 257], 256, 16, 1, 20, 19),
    ):
        yield diagnosis, dict(zip(_FIELDS, values, strict=True))


def _with(**changes: Function) -> Function:
    """A slip: the diagnosis after some values are replaced by functions of the case."""
    return lambda **case: _diagnose_recipe(
        **case | {name: change(case) for name, change in changes.items()}
    )


def _in_another_order(**case: object) -> str:
    seen = case["steps"] * case["batch_size"] * case["gradient_accumulation_steps"]
    if seen < len(case["lengths"]):
        return "not seen"
    return _diagnose_recipe(**case)


diagnose_recipe = Exercise(
    _diagnose_recipe,
    lambda: (case for _, case in diagnosed()),
    slips={
        "accumulation is left out; a step draws batch_size times that many examples": (
            _with(gradient_accumulation_steps=lambda case: 1)
        ),
        "one long example is no reason yet; a tenth of them is": (
            lambda **case: (
                "too short"
                if max(case["lengths"]) > case["max_length"]
                else _diagnose_recipe(**case)
            )
        ),
        "an example exactly as long as max_length still fits": (
            _with(max_length=lambda case: case["max_length"] - 1)
        ),
        "these are asked in another order; what never fits can't be seen however many steps": (
            _in_another_order
        ),
        "warm-up is not looked at; in such a run the full rate hardly comes": (
            _with(warmup_steps=lambda case: 0)
        ),
        "lengths are not looked at": _with(max_length=lambda case: max(case["lengths"])),
        "this compares the mean length; the long ones hide in it": (
            lambda **case: (
                "too short"
                if sum(case["lengths"]) / len(case["lengths"]) > case["max_length"]
                else _with(max_length=lambda inputs: max(inputs["lengths"]))(**case)
            )
        ),
    },
)

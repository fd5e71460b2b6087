"""Checks for notebook 06, Alpha: a learning rate for B, another alpha for the same run."""

import functools
from collections.abc import Iterator

import torch
from torch import nn

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.lessons.alpha import train_with_groups
from lora_lab.models.bases import load_base
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task

TRIAL_RATE = 3e-3

# --- a learning rate for B ------------------------------------------------------------------


def _loraplus_groups(
    parameters: dict[str, nn.Parameter], learning_rate: float, ratio: float
) -> list[dict[str, object]]:
    """The groups for torch.optim.AdamW in which B learns `ratio` times as fast as A.

    Each group is {"params": [...], "lr": ...}. What is frozen stands in no group.
    """
    sides: dict[str, list[nn.Parameter]] = {"lora_A": [], "lora_B": []}
    for name, parameter in parameters.items():
        if parameter.requires_grad:
            sides["lora_B" if "lora_B" in name else "lora_A"].append(parameter)
    return [
        {"params": sides["lora_A"], "lr": learning_rate},
        {"params": sides["lora_B"], "lr": learning_rate * ratio},
    ]


def _layers() -> Iterator[Case]:
    """The parameters of one and of three layers by PEFT's names: each has a frozen weight."""
    for layers, learning_rate, ratio in ((1, 1e-3, 4.0), (3, 2e-4, 16.0), (2, 3e-3, 0.25)):
        parameters = {}
        for layer in range(layers):
            place = f"base_model.model.model.layers.{layer}.mlp.up_proj"
            for part, size in (("base_layer", 6), ("lora_A.default", 2), ("lora_B.default", 3)):
                trained = part != "base_layer"
                tensor = nn.Parameter(torch.zeros(size), requires_grad=trained)
                parameters[f"{place}.{part}.weight"] = tensor
        yield {"parameters": parameters, "learning_rate": learning_rate, "ratio": ratio}


def _rates(function: Function, case: Case) -> dict[str, float]:
    """The learning rate of each parameter in a function's groups, by name."""
    groups = function(**case)
    if groups is None:
        return None
    names = {id(parameter): name for name, parameter in case["parameters"].items()}
    rates = {}
    for group in groups:
        if not isinstance(group, dict) or not {"params", "lr"} <= group.keys():
            raise WrongAnswer('each group is a dict: {"params": [...], "lr": a number}.')
        for parameter in group["params"]:
            if id(parameter) not in names:
                raise WrongAnswer("a group holds something that is none of the parameters.")
            name = names[id(parameter)]
            if name in rates:
                raise WrongAnswer(f"{name} stands in two groups, and the optimizer refuses that.")
            rates[name] = float(group["lr"])
    return dict(sorted(rates.items()))


def _at(rate: Function) -> Function:
    """A slip: a group for each parameter, at a rate of (name, parameter, learning rate, ratio)."""

    def slip(
        parameters: dict[str, nn.Parameter], learning_rate: float, ratio: float
    ) -> list[dict[str, object]]:
        rates = {
            name: rate(name, parameter, learning_rate, ratio)
            for name, parameter in parameters.items()
        }
        return [
            {"params": [parameters[name]], "lr": rate}
            for name, rate in rates.items()
            if rate is not None
        ]

    return slip


def _trial(function: Function) -> Verdict:
    """Train pocket at alpha 16 with the learner's groups, and at four times the alpha without."""
    base = load_base("pocket", dtype="float32")
    facts = load_task("new-facts", base, n=40)
    yours, slow, louder = (
        train_with_groups(
            base, facts, alpha, functools.partial(groups, learning_rate=TRIAL_RATE, ratio=ratio)
        )
        for alpha, groups, ratio in (
            (16, function, 4.0),
            (16, function, 1.0),
            (64, _loraplus_groups, 1.0),
        )
    )
    gap, other = (
        max(abs(one - two) for one, two in zip(louder, losses, strict=True))
        for losses in (yours, slow)
    )
    if gap > 1e-3:
        return Verdict(
            False,
            f"But pocket trained with it at alpha 16 and ratio 4 is up to {gap:.2f} nats away from "
            "a run at alpha 64, and should be its twin: are all of A and B in a group?",
        )
    return Verdict(
        True,
        f"Pocket trained with it for {len(yours)} steps, from {yours[0]:.1f} to {yours[-1]:.1f} "
        "nats: at alpha 16 and ratio 4 each step has the loss of a run at alpha 64, within a "
        f"thousandth of a nat. At ratio 1 the widest gap is {other:.1f} nats.",
    )


loraplus_groups = Exercise(
    _loraplus_groups,
    _layers,
    slips={
        "the frozen weight is in a group, and gets decay and memory; look at requires_grad": _at(
            lambda name, parameter, rate, ratio: rate * ratio if "lora_B" in name else rate
        ),
        "A has the faster rate here; it is B's": _at(
            lambda name, parameter, rate, ratio: (
                None if not parameter.requires_grad else rate * ratio if "lora_A" in name else rate
            )
        ),
        "B is slower here: multiply the rate by the ratio": _at(
            lambda name, parameter, rate, ratio: (
                None if not parameter.requires_grad else rate / ratio if "lora_B" in name else rate
            )
        ),
        "the ratio is not used: B learns as fast as A": _at(
            lambda name, parameter, rate, ratio: rate if parameter.requires_grad else None
        ),
        "A stands in no group, so it would stay as it was": _at(
            lambda name, parameter, rate, ratio: rate * ratio if "lora_B" in name else None
        ),
        "both are faster here; A keeps the rate itself": _at(
            lambda name, parameter, rate, ratio: rate * ratio if parameter.requires_grad else None
        ),
        "B's rate is the ratio itself here; it is the learning rate times the ratio": _at(
            lambda name, parameter, rate, ratio: (
                None if not parameter.requires_grad else ratio if "lora_B" in name else rate
            )
        ),
    },
    ask=_rates,
    trial=_trial,
)

# --- another alpha, the same run ------------------------------------------------------------


def _same_run(
    lora_alpha: float, loraplus_lr_ratio: float, new_alpha: float, optimizer: str
) -> float:
    """The loraplus_lr_ratio with which a run at `new_alpha` is the run that it was at `lora_alpha`.

    From B = 0, r and all else unchanged, without clip and decay. B moves by its learning rate under
    "adamw", whatever its gradient's size; under "sgd" by rate times gradient, which alpha scales.
    """
    factor = lora_alpha / new_alpha
    return loraplus_lr_ratio * (factor**2 if optimizer == "sgd" else factor)


def _runs() -> Iterator[Case]:
    """Alpha raised and lowered, with and without LoRA+, under both optimizers."""
    for lora_alpha, loraplus_lr_ratio, new_alpha in ((16, 1.0, 64), (32, 16.0, 8), (16, 4.0, 24)):
        for optimizer in ("adamw", "sgd"):
            yield {
                "lora_alpha": lora_alpha,
                "loraplus_lr_ratio": loraplus_lr_ratio,
                "new_alpha": new_alpha,
                "optimizer": optimizer,
            }


def _ratio_by(factor: Function) -> Function:
    """A slip: the old ratio times a function of (alpha, new alpha, optimizer)."""
    return lambda lora_alpha, loraplus_lr_ratio, new_alpha, optimizer: (
        loraplus_lr_ratio * factor(lora_alpha, new_alpha, optimizer)
    )


same_run = Exercise(
    _same_run,
    _runs,
    slips={
        "this goes the wrong way: where alpha rises, B's own rate must fall": (
            _ratio_by(lambda old, new, optimizer: (new / old) ** (1 + (optimizer == "sgd")))
        ),
        "sgd is not looked at: there alpha counts twice, in the step and in what it does": (
            _ratio_by(lambda old, new, optimizer: old / new)
        ),
        "this squares for adamw too; Adam's step does not grow with the gradient": (
            _ratio_by(lambda old, new, optimizer: (old / new) ** 2)
        ),
        "the two optimizers are swapped": (
            _ratio_by(lambda old, new, optimizer: (old / new) ** (1 + (optimizer == "adamw")))
        ),
        "this is the root for sgd; alpha counts twice there, so square": (
            _ratio_by(lambda old, new, optimizer: (old / new) ** (0.5 if optimizer == "sgd" else 1))
        ),
        "the ratio that there was is lost; multiply it": (
            lambda lora_alpha, loraplus_lr_ratio, new_alpha, optimizer: _same_run(
                lora_alpha, 1.0, new_alpha, optimizer
            )
        ),
        "this leaves the ratio as it was: then the run is another one": (
            _ratio_by(lambda old, new, optimizer: 1.0)
        ),
    },
)

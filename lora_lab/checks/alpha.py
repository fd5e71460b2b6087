"""Checks for notebook 06, What does alpha / r do: the factor, its twin, a diagnosis."""

import math
from collections.abc import Iterator

from lora_lab.checks.compare import Case, Exercise, Function

# --- the factor in front of BA --------------------------------------------------------------


def _scaling(r: int, lora_alpha: float, use_rslora: bool) -> float:
    """The factor in front of an adapter's BA: alpha / r, or alpha / √r with rsLoRA."""
    return lora_alpha / math.sqrt(r) if use_rslora else lora_alpha / r


def _adapters() -> Iterator[Case]:
    """Factors above and below 1, whole and not, both ways."""
    for r, lora_alpha in ((8, 16), (16, 8), (4, 10), (64, 16)):
        for use_rslora in (False, True):
            yield {"r": r, "lora_alpha": lora_alpha, "use_rslora": use_rslora}


scaling = Exercise(
    _scaling,
    _adapters,
    slips={
        "this is r over alpha; a larger alpha makes the change stronger": (
            lambda r, lora_alpha, use_rslora: r / lora_alpha
        ),
        "rsLoRA is not looked at; with it, alpha is divided by the root of r": (
            lambda r, lora_alpha, use_rslora: lora_alpha / r
        ),
        "this is rsLoRA's factor in both cases; without it, divide by r itself": (
            lambda r, lora_alpha, use_rslora: lora_alpha / math.sqrt(r)
        ),
        "the two cases are swapped": (
            lambda r, lora_alpha, use_rslora: _scaling(r, lora_alpha, not use_rslora)
        ),
        "this is the root of the whole quotient; with rsLoRA, alpha itself stays as it is": (
            lambda r, lora_alpha, use_rslora: (
                math.sqrt(lora_alpha / r) if use_rslora else lora_alpha / r
            )
        ),
        "// drops what is behind the point; factors below 1 are usual, so take /": (
            lambda r, lora_alpha, use_rslora: (
                lora_alpha // math.sqrt(r) if use_rslora else lora_alpha // r
            )
        ),
    },
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

# --- three diagnoses ------------------------------------------------------------------------


def _diagnose_alpha(new: float, old: float, enough: float) -> str:
    """The diagnosis of a run from the shares of new facts learnt and of old facts kept, 0 to 1.

    "too strong" where fewer old facts than `enough` are left, whatever was learnt: a change that
    breaks what was there teaches nothing either. Else "too weak" where fewer new facts than
    `enough` are right. Else "fine".
    """
    if old < enough:
        return "too strong"
    return "too weak" if new < enough else "fine"


def _scored() -> Iterator[Case]:
    """Each diagnosis, both shares low, and shares that are just enough."""
    for new, old in ((0.1, 1.0), (1.0, 0.3), (0.98, 0.95), (0.05, 0.02), (0.9, 0.9), (0.88, 0.97)):
        yield {"new": new, "old": old, "enough": 0.9}
    yield {"new": 0.7, "old": 0.75, "enough": 0.7}


diagnose_alpha = Exercise(
    _diagnose_alpha,
    _scored,
    slips={
        "where both are low, this says too weak; more of a change that broke the old facts "
        "will not teach the new ones": (
            lambda new, old, enough: (
                "too weak" if new < enough else "too strong" if old < enough else "fine"
            )
        ),
        "this never looks at the old facts; a run that learnt all can have forgotten all": (
            lambda new, old, enough: "too weak" if new < enough else "fine"
        ),
        "this never looks at the new facts; a run that kept all may have learnt nothing": (
            lambda new, old, enough: "too strong" if old < enough else "fine"
        ),
        "the two shares are swapped": lambda new, old, enough: _diagnose_alpha(old, new, enough),
        "a share that is just enough is enough: compare with <, not with <=": (
            lambda new, old, enough: (
                "too strong" if old <= enough else "too weak" if new <= enough else "fine"
            )
        ),
        "0.9 is written in; the threshold is `enough`": (
            lambda new, old, enough: _diagnose_alpha(new, old, 0.9)
        ),
        "too weak and too strong are swapped: what forgets is too strong": (
            lambda new, old, enough: {
                "too weak": "too strong",
                "too strong": "too weak",
                "fine": "fine",
            }[_diagnose_alpha(new, old, enough)]
        ),
    },
)

"""Checks for notebook 08, AdaLoRA: the importance of a number, the budget, who keeps how much."""

import math
from collections.abc import Callable, Iterator, Mapping

from lora_lab.checks.compare import Case, Exercise, Function

# --- importance -----------------------------------------------------------------------------


def _importance(values: list[float], gradients: list[float], beta1: float, beta2: float) -> float:
    """The importance of one trained number after several steps, from its values and gradients.

    The sensitivity of a step is |value × gradient|. Its uncertainty is the distance between the
    sensitivity and its new average. Both have a moving average that begins at 0: the sensitivity
    by beta1, the uncertainty by beta2. The importance is the product of the two averages.
    """
    mean = spread = 0.0
    for value, gradient in zip(values, gradients, strict=True):
        sensitivity = abs(value * gradient)
        mean = beta1 * mean + (1 - beta1) * sensitivity
        spread = beta2 * spread + (1 - beta2) * abs(sensitivity - mean)
    return mean * spread


def _importance_cases() -> Iterator[Case]:
    rows = (
        ([0.5, -0.25, 0.75, 1.0], [0.2, 0.4, -0.1, 0.3], 0.85, 0.85),
        ([1.0, 1.0, -2.0], [-0.5, 0.25, 0.125], 0.5, 0.9),
        ([-0.1, 0.3, 0.2, -0.4, 0.6], [1.0, -2.0, 0.5, 1.5, -0.25], 0.7, 0.4),
    )
    names = "values", "gradients", "beta1", "beta2"
    yield from (dict(zip(names, row, strict=True)) for row in rows)


def _followed(
    sensitivity: Callable[[float, float], float] = lambda value, gradient: abs(value * gradient),
    away: Callable[[float, float, float], float] = lambda now, new, old: abs(now - new),
    end: Callable[[float, float], float] = lambda mean, spread: mean * spread,
    betas: Callable[[float, float], tuple[float, float]] = lambda beta1, beta2: (beta1, beta2),
) -> Function:
    """A slip: the same steps, but a part of them done in another way."""

    def slip(values: list[float], gradients: list[float], beta1: float, beta2: float) -> float:
        first, second = betas(beta1, beta2)
        mean = spread = 0.0
        for value, gradient in zip(values, gradients, strict=True):
            now, old = sensitivity(value, gradient), mean
            mean = first * mean + (1 - first) * now
            spread = second * spread + (1 - second) * away(now, mean, old)
        return end(mean, spread)

    return slip


importance = Exercise(
    _importance,
    _importance_cases,
    slips={
        "a sensitivity is a size: without abs, steps up and steps down cancel out": (
            _followed(sensitivity=lambda value, gradient: value * gradient)
        ),
        "this is the gradient's size alone: a number of 0 would count as much as a large one": (
            _followed(sensitivity=lambda value, gradient: abs(gradient))
        ),
        "the uncertainty is measured from the new average, after this step's has been added": (
            _followed(away=lambda now, new, old: abs(now - old))
        ),
        "the uncertainty is a distance: take its size, abs": (
            _followed(away=lambda now, new, old: now - new)
        ),
        "this is the smoothed sensitivity alone; multiply it by the smoothed uncertainty": (
            _followed(end=lambda mean, spread: mean)
        ),
        "the two are multiplied, not added up": _followed(end=lambda mean, spread: mean + spread),
        "beta weighs what was there before; what is new gets 1 - beta": (
            _followed(betas=lambda beta1, beta2: (1 - beta1, 1 - beta2))
        ),
        "beta1 smooths the sensitivity and beta2 the uncertainty: here they are swapped": (
            _followed(betas=lambda beta1, beta2: (beta2, beta1))
        ),
        "both averages begin at 0, and nothing makes up for it (Adam does; this does not)": (
            lambda values, gradients, beta1, beta2: (
                _importance(values, gradients, beta1, beta2)
                / ((1 - beta1 ** len(values)) * (1 - beta2 ** len(values)))
            )
        ),
    },
)

# --- schedule -------------------------------------------------------------------------------


def _budget_at(
    step: int, init_bgt: int, target_bgt: int, tinit: int, tfinal: int, total_step: int
) -> int:
    """The number of triplets that may be left after a step.

    All are left up to step tinit, and the target from step total_step - tfinal on. In between it is
    target + (init - target) × left³, rounded down, where left is the share of the way still to go.
    """
    if step <= tinit:
        return init_bgt
    if step >= total_step - tfinal:
        return target_bgt
    left = 1 - (step - tinit) / (total_step - tfinal - tinit)
    return int(target_bgt + (init_bgt - target_bgt) * left**3)


def _schedule_cases() -> Iterator[Case]:
    for step in (5, 12, 30, 47, 80, 100):
        yield {
            "step": step, "init_bgt": 224, "target_bgt": 56,
            "tinit": 10, "tfinal": 40, "total_step": 100,
        }  # fmt: skip
    yield {
        "step": 3, "init_bgt": 100, "target_bgt": 36, "tinit": 2, "tfinal": 3, "total_step": 9,
    }  # fmt: skip


def _scheduled(
    curve: Callable[[float], float] = lambda left: left**3,
    left_at: Callable[[int, int, int, int], float] = lambda step, tinit, tfinal, total: (
        1 - (step - tinit) / (total - tfinal - tinit)
    ),
    ends: Callable[[int, int, int], int] = lambda tinit, tfinal, total: total - tfinal,
    whole: Callable[[float], float] = int,
    add: bool = True,
) -> Function:
    """A slip: the budget, but a part of the formula is another."""

    def slip(
        step: int, init_bgt: int, target_bgt: int, tinit: int, tfinal: int, total_step: int
    ) -> float:
        if step <= tinit:
            return init_bgt
        if step >= ends(tinit, tfinal, total_step):
            return target_bgt
        share = curve(left_at(step, tinit, tfinal, total_step))
        return whole(target_bgt * add + (init_bgt - target_bgt) * share)

    return slip


budget_at = Exercise(
    _budget_at,
    _schedule_cases,
    slips={
        "the way down is a cube, not a straight line: left ** 3": _scheduled(lambda left: left),
        "the cube is of what is left of the way, not of what is done": (
            _scheduled(left_at=lambda step, tinit, tfinal, total: (
                (step - tinit) / (total - tfinal - tinit)
            ))
        ),
        "the way ends tfinal steps before the last one; here it goes on to the end": (
            _scheduled(
                left_at=lambda step, tinit, tfinal, total: 1 - (step - tinit) / (total - tinit),
                ends=lambda tinit, tfinal, total: total,
            )
        ),
        "tfinal is counted back from the end; here it is taken as a step's number": (
            _scheduled(
                left_at=lambda step, tinit, tfinal, total: 1 - (step - tinit) / (tfinal - tinit),
                ends=lambda tinit, tfinal, total: tfinal,
            )
        ),
        "the paper's formula takes tinit off above, too, and ends with a jump; the way is "
        "step - tinit of total_step - tfinal - tinit": (
            _scheduled(left_at=lambda step, tinit, tfinal, total: (
                1 - (step - tinit - tfinal) / (total - tfinal - tinit)
            ))
        ),
        "the target is missing: the cube shrinks what is above it, and it comes on top": (
            _scheduled(add=False)
        ),
        "a budget counts triplets: round it down to a whole number, with int": (
            _scheduled(whole=lambda budget: budget)
        ),
        "it is rounded up, and then more are kept than the curve allows: round down, with int": (
            _scheduled(whole=math.ceil)
        ),
    },
)  # fmt: skip

# --- allocate a budget ----------------------------------------------------------------------

Scores = Mapping[str, list[float]]


def _share_out(scores: Scores, budget: int) -> dict[str, int]:
    """The rank of each matrix when the `budget` most important triplets of all matrices are kept.

    `scores` holds, by matrix, the importance of each of its triplets.
    """
    kept = _ranked(scores)[:budget]
    return _ranks_left(scores, kept)


def _ranked(scores: Scores) -> list[float]:
    """The importance of all triplets together, the greatest first."""
    return sorted((score for triplets in scores.values() for score in triplets), reverse=True)


def _ranks_left(scores: Scores, kept: list[float]) -> dict[str, int]:
    return {name: sum(score in kept for score in triplets) for name, triplets in scores.items()}


def _share_cases() -> Iterator[Case]:
    yield {
        "scores": {"q": [0.1, 0.4, 0.2], "v": [0.9, 0.8, 0.7], "up": [0.6, 0.05, 0.5]},
        "budget": 5,
    }
    yield {
        "scores": {"q": [0.01, 0.02], "k": [0.3, 0.04], "down": [5.0, 0.25, 0.5, 0.75]},
        "budget": 4,
    }
    yield {
        "scores": {"gate": [3.0, 1.0, 2.0, 1.5], "o": [2.5, 0.5, 0.25, 2.25], "k": [0.75, 0.125]},
        "budget": 6,
    }


def _keeping(kept: Callable[[list[float], int], list[float]]) -> Function:
    """The ranks where other triplets are kept: a function of (all, ranked; the budget)."""
    return lambda scores, budget: _ranks_left(scores, kept(_ranked(scores), budget))


def _by_matrix(worth: Callable[[list[float]], float]) -> Function:
    """A slip: each matrix as a whole gets a share of the budget, rounded."""

    def slip(scores: Scores, budget: int) -> dict[str, int]:
        total = sum(worth(triplets) for triplets in scores.values())
        return {name: round(budget * worth(triplets) / total) for name, triplets in scores.items()}

    return slip


share_out = Exercise(
    _share_out,
    _share_cases,
    slips={
        "every matrix gets an equal share here: that is LoRA; in AdaLoRA they compete": (
            lambda scores, budget: dict.fromkeys(scores, budget // len(scores))
        ),
        "the budget is shared out by each matrix's total; it is the single triplets that compete": (
            _by_matrix(sum)
        ),
        "the budget is shared out by each matrix's best triplet; all of them compete": (
            _by_matrix(max)
        ),
        "the least important are kept here": _keeping(lambda ranked, budget: ranked[-budget:]),
        "one too many is kept: count those above the first that must go": (
            _keeping(lambda ranked, budget: ranked[: budget + 1])
        ),
        "the budget is what is kept, not what is masked": (
            _keeping(lambda ranked, budget: ranked[: len(ranked) - budget])
        ),
        "the budget is for all matrices together, not for each": (
            lambda scores, budget: {
                name: min(budget, len(triplets)) for name, triplets in scores.items()
            }
        ),
        "a matrix that keeps nothing has rank 0, and is in the answer": (
            lambda scores, budget: {
                name: rank for name, rank in _share_out(scores, budget).items() if rank
            }
        ),
        "give how many are kept, not which": (
            lambda scores, budget: {
                name: [score for score in triplets if score in _ranked(scores)[:budget]]
                for name, triplets in scores.items()
            }
        ),
    },
)

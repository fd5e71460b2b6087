"""Checks for notebook 04, Reading a run: a paired comparison, four curves, the schedule."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean, pstdev, stdev

import torch

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.reading_runs import CURVES
from lora_lab.maths.comparison import SEEDS
from lora_lab.maths.statistics import NORMAL_95
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.pairing import compare
from lora_lab.training.sweep import sweep

# --- is this difference real? ---------------------------------------------------------------

Difference = tuple[float, float, float, str]  # difference, low, high, verdict
Scores = Sequence[float]


def _paired_difference(scores_a: Scores, scores_b: Scores, t: float) -> Difference:
    """(difference, low, high, verdict) of two settings' scores, a number for each seed.

    The mean of b - a, seed by seed; its interval, t standard errors to each side (the standard
    deviation divides by n - 1). "better" if the interval is above 0, "worse" if below 0, else "not
    settled"; with fewer than five seeds always "not settled".
    """
    differences = [b - a for a, b in zip(scores_a, scores_b, strict=True)]
    margin = t * stdev(differences) / math.sqrt(len(differences))
    return _with_verdict(mean(differences), margin, len(differences))


def _with_verdict(difference: float, margin: float, seeds: int = SEEDS) -> Difference:
    low, high = difference - margin, difference + margin
    verdict = "better" if low > 0 else "worse" if high < 0 else "not settled"
    return difference, low, high, verdict if seeds >= SEEDS else "not settled"


STUDENT = {3: 4.303, 5: 2.776, 10: 2.262}  # 95 %, by the number of seeds


def _scored_seeds() -> Iterator[Case]:
    """b is better, seen in pairs only; worse; not settled; better, but of three seeds."""
    random = torch.Generator().manual_seed(0)
    for seeds, difference, spread in (
        (5, 0.03, 0.004),
        (10, -0.05, 0.02),
        (10, 0.03, 0.08),
        (3, 0.1, 0.01),
    ):
        a = 0.6 + 0.08 * torch.randn(seeds, generator=random, dtype=torch.float64)
        b = a + difference + spread * torch.randn(seeds, generator=random, dtype=torch.float64)
        yield {"scores_a": a.tolist(), "scores_b": b.tolist(), "t": STUDENT[seeds]}


def _unpaired(scores_a: Scores, scores_b: Scores, t: float) -> Difference:
    error = math.hypot(stdev(scores_a), stdev(scores_b)) / math.sqrt(len(scores_a))
    return _with_verdict(mean(scores_b) - mean(scores_a), t * error, len(scores_a))


def _other_margin(margin: Function) -> Function:
    """A slip: another margin, a function of the differences and t."""

    def slip(scores_a: Scores, scores_b: Scores, t: float) -> Difference:
        differences = [b - a for a, b in zip(scores_a, scores_b, strict=True)]
        return _with_verdict(mean(differences), margin(differences, t), len(differences))

    return slip


def _other_verdict(verdict: Function) -> Function:
    """A slip: another verdict, a function of the right answer."""

    def slip(scores_a: Scores, scores_b: Scores, t: float) -> Difference:
        answer = _paired_difference(scores_a, scores_b, t)
        return *answer[:3], verdict(*answer)

    return slip


TRIAL = Recipe(steps=30, batch_size=16, max_length=96)  # of pocket: a second a run
RATES = 1e-3, 3e-3


def _trial(function: Function) -> Verdict:
    """Compare two learning rates, five seeds each, with the learner's function."""
    base = load_base("pocket", dtype="float32")
    facts = replace(load_task("new-facts", base, n=60), old_knowledge=(), strangers=())
    recipes = [replace(TRIAL, learning_rate=rate) for rate in RATES]
    runs = sweep(base, facts, recipes, seeds=range(SEEDS), engine="sequential", store=None).runs
    a, b = runs[:SEEDS], runs[SEEDS:]
    shares = ([run.scores.value for run in side] for side in (a, b))
    difference, low, high, verdict = function(*shares, STUDENT[SEEDS])
    said = f"{verdict} by {100 * difference:.0f} points ({100 * low:.0f} to {100 * high:.0f})"
    slow, fast = (f"{rate:g}" for rate in RATES)
    return Verdict(
        True,
        f"It was then given {len(runs)} runs of pocket, trained just now: of {fast} beside {slow} "
        f"it says {said}. lab.compare says: {compare(a, b).verdict}.",
    )


paired_difference = Exercise(
    _paired_difference,
    _scored_seeds,
    slips={
        "this interval is for two separate groups; both settings had the same seeds, so take b - a "
        "seed by seed first, and the spread of that": _unpaired,
        "this margin is one standard error, which holds 68 % at best; take t of them": (
            _other_margin(lambda d, t: stdev(d) / math.sqrt(len(d)))
        ),
        "1.96 is for hundreds of numbers; of a few seeds the spread is known badly, so take t": (
            _other_margin(lambda d, t: NORMAL_95 * stdev(d) / math.sqrt(len(d)))
        ),
        "this is the spread of single seeds; that of their mean is √n times smaller": (
            _other_margin(lambda d, t: t * stdev(d))
        ),
        "this standard deviation divides by n, as numpy's does unless told ddof=1; from a sample, "
        "divide by n - 1": _other_margin(lambda d, t: t * pstdev(d) / math.sqrt(len(d))),
        "the sign is turned: take b - a, so that a better b gives a number above 0": (
            lambda scores_a, scores_b, t: _paired_difference(scores_b, scores_a, t)
        ),
        "three seeds settle nothing here: below five, say not settled": _other_verdict(
            lambda _, low, high, __: "better" if low > 0 else "worse" if high < 0 else "not settled"
        ),
        "every difference but 0 is settled here; it is settled if 0 lies outside the interval": (
            _other_verdict(lambda difference, *_: "better" if difference > 0 else "worse")
        ),
        "only a better b is found here; a worse one is a finding, too": _other_verdict(
            lambda *answer: "not settled" if answer[3] == "worse" else answer[3]
        ),
        "better and worse are the wrong way round: a difference above 0 says that b is better": (
            _other_verdict(
                lambda *answer: {"better": "worse", "worse": "better"}.get(answer[3], answer[3])
            )
        ),
    },
    trial=_trial,
)

# --- four curves ----------------------------------------------------------------------------


def _diagnose(chart: int) -> str:
    """ "too high", "over-fitting", "too low" or "fine": what the chart of that number shows."""
    return CURVES[chart][0]


def _charts() -> Iterator[Case]:
    yield from ({"chart": name} for name in CURVES)


def _read_as(wrong: dict[int, str]) -> Function:
    """A slip: the right answers, but for some charts."""
    return lambda chart: wrong.get(chart, _diagnose(chart))


diagnose = Exercise(
    _diagnose,
    _charts,
    slips={
        "charts 1 and 4 are the wrong way round: a rate that is too high makes the loss jump, one "
        "that is too low makes it creep": _read_as({1: "too low", 4: "too high"}),
        "look at 3's dashed line: on new examples the loss rises, while the training loss is 0": (
            _read_as({3: "fine"})
        ),
        "3's training loss falls at once, so its rate is not too high; look at the dashed line": (
            _read_as({3: "too high"})
        ),
        "1's validation loss does not rise at the end, so this isn't over-fitting; look at its "
        "first ten steps, and at the height where it stays": _read_as({1: "over-fitting"}),
        "1's loss jumps to three times its start, and then stays three times as high as 2's": (
            _read_as({1: "fine"})
        ),
        "1 ends flat, and 4 still falls: a flat loss need not be a low rate; look at 1's jump": (
            _read_as({1: "too low"})
        ),
        "4 falls, but after 40 steps it has come a third of the way; 2 took two steps for that": (
            _read_as({4: "fine"})
        ),
        "2 jumps less with each step and ends low; batches differ, so no curve is smooth": (
            _read_as({2: "too high"})
        ),
    },
)

# --- the schedule ---------------------------------------------------------------------------


def _linear_schedule(learning_rate: float, warmup_steps: int, steps: int) -> list[float]:
    """The learning rate that each step uses, as transformers' linear schedule with warm-up.

    The first step uses 0 if there is a warm-up. After `warmup_steps` steps comes the full rate;
    from there it falls in equal parts, so that it would be 0 one step after the last.
    """
    warm_up = [learning_rate * done / warmup_steps for done in range(warmup_steps)]
    falling = steps - warmup_steps
    return warm_up + [learning_rate * (falling - done) / falling for done in range(falling)]


def _schedules() -> Iterator[Case]:
    for learning_rate, warmup_steps, steps in ((3e-3, 4, 20), (2e-4, 10, 25), (1e-2, 0, 7)):
        yield {"learning_rate": learning_rate, "warmup_steps": warmup_steps, "steps": steps}


def _rates(rate: Function) -> Function:
    """A slip: shares of the full rate by a function of (steps done, warm-up, steps)."""

    def slip(learning_rate: float, warmup_steps: int, steps: int) -> list[float]:
        return [learning_rate * rate(done, warmup_steps, steps) for done in range(steps)]

    return slip


linear_schedule = Exercise(
    _linear_schedule,
    _schedules,
    slips={
        "the first step has done none before it, so with a warm-up it uses 0; count from 0": (
            _rates(
                lambda done, warm, steps: (
                    (done + 1) / warm if done < warm else (steps - done - 1) / (steps - warm)
                )
            )
        ),
        "the fall is spread over all steps; it takes only those after the warm-up": (
            _rates(lambda done, warm, steps: done / warm if done < warm else (steps - done) / steps)
        ),
        "there is no warm-up here": _rates(lambda done, warm, steps: (steps - done) / steps),
        "the rate stays after the warm-up; a linear schedule falls to 0": (
            _rates(lambda done, warm, steps: done / warm if done < warm else 1)
        ),
        "the last step uses 0 here and learns nothing; the line ends one step later": (
            _rates(
                lambda done, warm, steps: (
                    done / warm if done < warm else (steps - 1 - done) / (steps - 1 - warm)
                )
            )
        ),
        "these are shares of the full rate; multiply by learning_rate": (
            lambda learning_rate, **case: _linear_schedule(1.0, **case)
        ),
        "warmup_steps may be 0, and then there is nothing to divide by": (
            _rates(lambda done, warm, steps: min(done / warm, (steps - done) / (steps - warm)))
        ),
        "the fall begins at the first step here, under the warm-up; it begins after it": (
            _rates(
                lambda done, warm, steps: (
                    (done / warm if done < warm else 1) * (steps - done) / steps
                )
            )
        ),
    },
)

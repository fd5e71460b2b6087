"""Checks for notebook 04, Reading a run: a difference or noise, four curves, the schedule."""

import math
from collections.abc import Iterator, Sequence
from statistics import mean, pstdev, stdev

import torch

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.maths.statistics import NORMAL_95

# --- is this difference real? ---------------------------------------------------------------

Difference = tuple[float, float, float, str]  # difference, low, high, verdict


def _paired_difference(right_a: Sequence[bool], right_b: Sequence[bool]) -> Difference:
    """(difference, low, high, verdict) of two models' answers to the same items.

    The mean of b - a, item by item; its 95 % interval, 1.96 standard errors to each side (the
    standard deviation divides by n - 1). "better" if the interval is above 0, "worse" if below 0,
    else "not settled".
    """
    differences = [b - a for a, b in zip(right_a, right_b, strict=True)]  # -1, 0 or 1
    error = stdev(differences) / math.sqrt(len(differences))
    return _with_verdict(mean(differences), NORMAL_95 * error)


def _with_verdict(difference: float, margin: float) -> Difference:
    low, high = difference - margin, difference + margin
    verdict = "better" if low > 0 else "worse" if high < 0 else "not settled"
    return difference, low, high, verdict


def _marked_tests() -> Iterator[Case]:
    """200 items: b is better, b is worse, no difference, a difference that is too small."""
    for both, only_a, only_b in ((150, 4, 16), (140, 25, 9), (160, 0, 0), (120, 21, 29)):
        pairs = [(True, True)] * both + [(True, False)] * only_a + [(False, True)] * only_b
        pairs += [(False, False)] * (200 - len(pairs))
        right_a, right_b = zip(*pairs, strict=True)
        yield {"right_a": list(right_a), "right_b": list(right_b)}


def _unpaired(right_a: Sequence[bool], right_b: Sequence[bool]) -> Difference:
    a, b = mean(map(float, right_a)), mean(map(float, right_b))
    error = math.sqrt((a * (1 - a) + b * (1 - b)) / len(right_a))
    return _with_verdict(b - a, NORMAL_95 * error)


def _other_margin(margin: Function) -> Function:
    """A slip: another margin, a function of the differences."""

    def slip(right_a: Sequence[bool], right_b: Sequence[bool]) -> Difference:
        differences = [b - a for a, b in zip(right_a, right_b, strict=True)]
        return _with_verdict(mean(differences), margin(differences))

    return slip


paired_difference = Exercise(
    _paired_difference,
    _marked_tests,
    slips={
        "this interval is for two separate tests; both models answered the same items, so take "
        "b - a item by item first, and the spread of that": _unpaired,
        "this margin is one standard error, which holds 68 %; for 95 % take 1.96 of them": (
            _other_margin(lambda d: stdev(d) / math.sqrt(len(d)))
        ),
        "this is the spread of single items; that of their mean is √n times smaller": (
            _other_margin(lambda d: NORMAL_95 * stdev(d))
        ),
        "this standard deviation divides by n, as numpy's does unless told ddof=1; from a sample, "
        "divide by n - 1": _other_margin(lambda d: NORMAL_95 * pstdev(d) / math.sqrt(len(d))),
        "the sign is turned: take b - a, so that a better b gives a number above 0": (
            lambda right_a, right_b: _paired_difference(right_b, right_a)
        ),
        "every difference but 0 is settled here; it is settled if 0 lies outside the interval": (
            lambda right_a, right_b: (
                *(answer := _paired_difference(right_a, right_b))[:3],
                "better" if answer[0] > 0 else "worse" if answer[0] < 0 else "not settled",
            )
        ),
        "only a better b is found here; a worse one is a finding, too": (
            lambda right_a, right_b: (
                *(answer := _paired_difference(right_a, right_b))[:3],
                "better" if answer[1] > 0 else "not settled",
            )
        ),
        "better and worse are the wrong way round: a difference above 0 says that b is better": (
            lambda right_a, right_b: (
                *(answer := _paired_difference(right_a, right_b))[:3],
                {"better": "worse", "worse": "better"}.get(answer[3], answer[3]),
            )
        ),
        "these are percentage points; give shares between -1 and 1": (
            lambda right_a, right_b: (
                *(100 * number for number in _paired_difference(right_a, right_b)[:3]),
                _paired_difference(right_a, right_b)[3],
            )
        ),
    },
)

# --- four curves ----------------------------------------------------------------------------


def _diagnose(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    """ "too high", "over-fitting", "too low" or "fine": what these losses say, in this order.

    Start and end of the training loss are the means of its first and its last tenth. too high (the
    learning rate): its end is not finite, or 10 % or more above its start. over-fitting: the
    validation loss ends 10 % or more above its lowest. too low: the training loss fell by less
    than a quarter of its start. fine: the rest.
    """
    tenth = math.ceil(len(train_losses) / 10)
    first, last = mean(train_losses[:tenth]), mean(train_losses[-tenth:])
    if not math.isfinite(last) or last >= 1.1 * first:
        return "too high"
    if validation_losses[-1] >= 1.1 * min(validation_losses):
        return "over-fitting"
    return "too low" if last > 0.75 * first else "fine"


STEPS, EVERY = 60, 10  # training losses of a curve; from one validation loss to the next


def made_curves() -> Iterator[tuple[str, Case]]:
    """Curves made for this exercise, by formula: no run gave them. Each with its diagnosis."""
    random = torch.Generator().manual_seed(0)

    def curve(train: Function, validation: Function) -> Case:
        noise = 1 + 0.04 * torch.randn(STEPS, generator=random)
        losses = [train(step) * noise[step].item() for step in range(STEPS)]
        return {
            "train_losses": losses,
            "validation_losses": [validation(step) for step in range(EVERY, STEPS + 1, EVERY)],
        }

    def falling(start: float, end: float, steps: float = 10) -> Function:
        return lambda step: end + (start - end) * math.exp(-step / steps)

    yield "fine", curve(falling(3, 0.3), falling(3, 0.4))
    yield "fine", curve(falling(9, 2.4), falling(9, 2.6))  # a high loss, and learnt all the same
    yield "fine", curve(falling(3, 0.2), falling(3, 0.7))  # a gap, and no rise
    spike = curve(falling(3, 0.3), falling(3, 0.4))
    spike["train_losses"][-1] = 4.0  # one hard batch at the end
    yield "fine", spike
    yield "too low", curve(falling(3, 2.7, 60), falling(3, 2.75, 60))
    yield "too low", curve(falling(0.9, 0.8, 60), falling(0.9, 0.82, 60))
    yield "over-fitting", curve(falling(3, 0.02), lambda step: 0.7 + abs(step - 20) * 0.02)
    yield "over-fitting", curve(falling(3, 0.05), lambda step: 0.7 + abs(step - 40) * 0.05)
    yield "too high", curve(lambda step: 3 + step / 12, lambda step: 3.2 + step / 12)
    blown_up = curve(falling(3, 1.5), falling(3, 1.6))
    blown_up["train_losses"][-8:] = [math.nan] * 8
    blown_up["validation_losses"][-1] = math.nan
    yield "too high", blown_up
    late = curve(lambda step: 3 - step / 20 if step < 30 else 6.0, falling(3, 1.5))
    late["validation_losses"][-3:] = [5.0, 6.0, 6.0]  # fell at first, then broke
    yield "too high", late


def _four_curves() -> Iterator[Case]:
    yield from (case for _, case in made_curves())


def _end_loss(losses: Sequence[float]) -> float:
    return mean(losses[-math.ceil(len(losses) / 10) :])


def _by_last_loss(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    return _diagnose([*train_losses[:-1], *train_losses[-1:] * 7], validation_losses)


def _by_training_alone(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    return _diagnose(train_losses, [1.0])


def _first_over_fitting(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    if validation_losses[-1] >= 1.1 * min(validation_losses):
        return "over-fitting"
    return _diagnose(train_losses, validation_losses)


def _by_gap(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    diagnosis = _diagnose(train_losses, [1.0])
    gap = validation_losses[-1] > 1.5 * _end_loss(train_losses)
    return "over-fitting" if diagnosis == "fine" and gap else diagnosis


def _by_height(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    diagnosis = _diagnose(train_losses, validation_losses)
    if diagnosis in ("fine", "too low"):
        return "too low" if _end_loss(train_losses) > 1 else "fine"
    return diagnosis


def _without_nan(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    if math.isnan(_end_loss(train_losses)):
        return "fine"  # each comparison with nan is False
    return _diagnose(train_losses, validation_losses)


def _from_the_start(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    diagnosis = _diagnose(train_losses, [1.0])
    worse = validation_losses[-1] >= 1.1 * validation_losses[0]
    return "over-fitting" if diagnosis in ("fine", "too low") and worse else diagnosis


def _turned(train_losses: Sequence[float], validation_losses: Sequence[float]) -> str:
    diagnosis = _diagnose(train_losses, validation_losses)
    return {"too low": "too high", "too high": "too low"}.get(diagnosis, diagnosis)


diagnose = Exercise(
    _diagnose,
    _four_curves,
    slips={
        "over-fitting is never found: the training loss cannot show it, the validation loss can": (
            _by_training_alone
        ),
        "a run that broke is called over-fitting here, since its validation loss rose too; look "
        "at the training loss first": _first_over_fitting,
        "a gap between the two losses is called over-fitting here; that is usual, and no harm "
        "while the validation loss still falls": _by_gap,
        "nan slips through: every comparison with it is False; ask math.isfinite": _without_nan,
        "the loss's height says nothing by itself; compare with where it started": _by_height,
        "one last loss is one batch, easy or hard; take the mean of the last few": _by_last_loss,
        "over-fitting is missed where the validation loss ends below its first value; compare "
        "with its lowest": _from_the_start,
        "too low and too high are the wrong way round: a rate that is too low learns slowly": (
            _turned
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

"""Findings about the curves of a training, which are in trainer_state.json."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

from lora_lab.review.finding import Finding, Review
from lora_lab.tools.trainer_state import Point, TrainerState, read
from lora_lab.wording import counted, significant

STATE_FILE = "trainer_state.json"
LEAST = 10  # records of a loss: fewer are noise
FELL = 0.02  # a loss that falls by a smaller share has not moved
ROSE = 1.2  # the last losses over the first: diverged
LEAPT = 1.5  # the last losses over the lowest stretch: diverged late
OVERFIT = 1.03  # the last validation loss over the lowest
SPIKE = 100  # gradients over their median


def log_beside(folder: Path) -> tuple[dict[str, str], list[Finding]]:
    """The facts and the findings about the log in a checkpoint's folder; none without a log."""
    path = folder / STATE_FILE
    if not path.is_file():
        return {}, []
    from lora_lab.tools.files import mapping_of, read_text

    try:
        state = read(mapping_of(read_text(path), path.name), path.name)
    except (ValueError, OSError) as error:
        broken = Finding(
            severity="note",
            what=f"{STATE_FILE} can't be read: {error}",
            why="it holds the losses of the training, so nobody can tell how it went",
            do="copy it again from where the training ran, or delete it",
        )
        return {"training": f"{STATE_FILE} can't be read"}, [broken]
    review = curves_review(state, is_checkpoint=True)
    return {f"training's {name}": value for name, value in review.facts.items()}, [*review]


def curves_review(state: TrainerState, is_checkpoint: bool = False) -> Review:
    """The review of a training's log.

    Args:
        state: the log.
        is_checkpoint: whether it lies in a checkpoint's folder, which may be from the middle.
    """
    findings = [*_broken(state)]
    if not findings:
        findings += _fall(state)
    findings += [*_validation(state), *_progress(state, is_checkpoint)]
    return Review(
        subject=state.source,
        kind="log of a training (trainer_state.json)",
        facts=_facts(state),
        findings=tuple(findings),
    )


def _facts(state: TrainerState) -> dict[str, str]:
    planned = f" of {state.planned:,}" if state.planned else ""
    facts = {"steps": f"{state.steps:,}{planned}"}
    if state.epochs is not None:
        facts["epochs"] = f"{state.epochs:.3g}"
    for name, curve in (("loss", state.losses), ("validation loss", state.eval_losses)):
        if curve:
            low = min((p for p in curve if math.isfinite(p[1])), key=lambda p: p[1], default=None)
            lowest = f", lowest {low[1]:.4g} at step {low[0]:.0f}" if low else ""
            facts[name] = f"{curve[0][1]:.4g} → {curve[-1][1]:.4g}{lowest}"
    if state.learning_rates:
        facts["learning rate"] = f"at most {max(rate for _, rate in state.learning_rates):.3g}"
    return facts


def _best_before(state: TrainerState, step: float) -> str:
    """Words for the step with the best validation loss, if it rose before `step`; else empty."""
    before = [point for point in state.eval_losses if point[0] < step and math.isfinite(point[1])]
    if not before:
        return ""
    best = min(before, key=lambda point: point[1])
    risen = best is not before[-1]
    return f", best that of step {best[0]:.0f}: after it the validation loss rose" if risen else ""


def _broken(state: TrainerState) -> Iterator[Finding]:
    for name, curve in (("loss", state.losses), ("gradient", state.grad_norms)):
        bad = next((step for step, value in curve if not math.isfinite(value)), None)
        if bad is not None:
            yield Finding(
                severity="grave",
                what=f"the {name} is not a number from step {bad:.0f} on",
                why="Every weight that was trained is NaN after it; the adapter is lost.",
                do=f"Take the checkpoint before it{_best_before(state, bad)}. Halve the learning "
                "rate, keep max_grad_norm 1, and train in bf16 rather than fp16.",
                lesson="04",
            )
            return
    values = [value for _, value in state.losses]
    zeros = len(values) - next(
        (len(values) - place for place, value in enumerate(reversed(values)) if value != 0), 0
    )
    if zeros >= 3:
        yield Finding(
            severity="grave",
            what=f"the last {zeros} losses are exactly 0",
            why="No token earned a loss (every label is -100), or the loss was NaN: transformers "
            "writes 0 for it (logging_nan_inf_filter).",
            do="Print the labels of one batch, and look for NaN with logging_nan_inf_filter=False.",
            lesson="02",
        )


def _fall(state: TrainerState) -> Iterator[Finding]:
    values = [value for _, value in state.losses]
    if len(values) < LEAST:
        return
    part = max(2, len(values) // 10)
    first, last = fmean(values[:part]), fmean(values[-part:])
    stretches = [fmean(values[at : at + part]) for at in range(len(values) - part + 1)]
    lowest = min(stretches)
    where = state.losses[stretches.index(lowest)][0]
    if last > ROSE * first or (last > LEAPT * lowest and last > lowest + 0.3):
        yield Finding(
            severity="grave",
            what=f"the loss diverged: {first:.3g} at first, {lowest:.3g} around step {where:.0f}, "
            f"{last:.3g} at the end",
            why="The steps are too long; what was learnt is overwritten.",
            do=f"Take a checkpoint from before step {where:.0f}, and halve the learning rate.",
            lesson="04",
        )
    elif last > (1 - FELL) * first and first > 0.05:
        guess = abs(last - math.log(2)) < 0.005
        yield Finding(
            severity="warning",
            what=f"the loss never fell: {first:.4g} at first, {last:.4g} at the end"
            + (" (0.693 is a coin's toss between two classes)" if guess else ""),
            why="Nothing was learnt: the rate is too low, no gradient arrives, or the targets "
            "match few layers.",
            do="Look at the gradient's norm (0: nothing is connected), count the parameters that "
            "are trained, then try ten times the learning rate.",
            lesson="04",
        )
    norms = [value for _, value in state.grad_norms if math.isfinite(value)]
    if norms and max(norms) == 0:
        yield Finding(
            severity="grave",
            what="the gradient's norm is 0 in every record",
            why="No gradient reaches what is trained.",
            do="Look at requires_grad, and at gradient checkpointing with a frozen embedding.",
            lesson="04",
        )
    elif len(norms) >= LEAST and max(norms) > SPIKE * max(median(norms), 1e-12):
        yield Finding(
            severity="note",
            what=f"gradients leap: the largest norm is {significant(max(norms))}, the median "
            f"{significant(median(norms))}",
            why="A few batches move the adapter far more than the others do.",
            do="Look at the examples of that step, and keep max_grad_norm at 1.",
            lesson="04",
        )


def _validation(state: TrainerState) -> Iterator[Finding]:
    curve = [point for point in state.eval_losses if math.isfinite(point[1])]
    if len(curve) < 3:
        return
    step, low = min(curve, key=lambda point: point[1])
    last_step, last = curve[-1]
    before, after = _around(state.losses, step), _around(state.losses, last_step)
    falls = before is None or after is None or after < before
    if last > OVERFIT * low and last_step > step and falls:
        yield Finding(
            severity="warning",
            what=f"the validation loss rose from {low:.4g} at step {step:.0f} to {last:.4g} at "
            f"step {last_step:.0f}, while the training loss fell",
            why="From there on the examples are learnt by heart: answers get surer, not better.",
            do=f"Take the checkpoint nearest to step {step:.0f}, or train that long; "
            "load_best_model_at_end does it.",
            lesson="04",
        )


def _around(curve: Sequence[Point], step: float) -> float | None:
    near = sorted(curve, key=lambda point: abs(point[0] - step))[:5]
    near = [value for _, value in near if math.isfinite(value)]
    return fmean(near) if near else None


def _progress(state: TrainerState, is_checkpoint: bool) -> Iterator[Finding]:
    if not state.planned or state.steps >= state.planned or state.stopped_early:
        return
    if is_checkpoint:
        yield Finding(
            severity="note",
            what=f"a checkpoint after {state.steps:,} of {counted(state.planned, 'step')}",
            why="Its learning rate had not yet fallen, and the last steps at a low rate are the "
            "ones that settle the model.",
            do="Take the last checkpoint, or that with the lowest validation loss.",
            lesson="04",
        )
    else:
        yield Finding(
            severity="warning",
            what=f"{state.steps:,} of {counted(state.planned, 'step')} were made",
            why="The run stopped before its end; its learning rate had not yet fallen, and the "
            "last steps at a low rate are the ones that settle the model.",
            do="Go on with resume_from_checkpoint, or plan fewer steps.",
            lesson="04",
        )

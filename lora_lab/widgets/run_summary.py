"""A run in words: its progress, score and cost, and how its recipe differs from another's."""

import dataclasses
import html
import math
import re
from collections.abc import Callable, Sequence

from lora_lab.maths.measures import LOWER_IS_BETTER
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Scores, StepRecord
from lora_lab.training.loop import Training
from lora_lab.training.store import Run
from lora_lab.widgets import markup
from lora_lab.wording import counted, fine_percent, in_short


def progress(records: Sequence[StepRecord], steps: int, elapsed: float) -> str:
    """`step 34 of 60 · loss 0.41 · 5,200 tokens/s · 6 s left`."""
    last, recent = records[-1], records[-10:]
    seconds = sum(record.seconds for record in recent)
    speed = sum(record.tokens for record in recent) / seconds if seconds else 0
    left = math.ceil(elapsed / last.step * (steps - last.step))
    loss, tokens = f"loss {last.loss:.2f}", f"{speed:,.0f} tokens/s"
    return f"step {last.step} of {steps} · {loss} · {tokens} · {left} s left"


def differences(recipe: Recipe, other: Recipe) -> str:
    """The values of the other recipe that differ: `r 4, q_proj + v_proj`; "" if none does.

    eval_steps is left out: it changes nothing in what is learnt.
    """
    phrases = []
    for field in dataclasses.fields(recipe):
        value = getattr(other, field.name)
        if field.name != "eval_steps" and value != getattr(recipe, field.name):
            values = value if isinstance(value, tuple) else (value,)
            texts = map(_value_text, values)
            # modules are recognised without their field's name
            name = "" if field.name == "target_modules" else f"{field.name} "
            phrases.append(name + " + ".join(texts))
    return ", ".join(phrases)


def _value_text(value: object) -> str:
    """A recipe's value in words: `0.003`, `none`."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def score_text(metric: str, value: float) -> str:
    """A score of a task's metric: a share in percent, or the number."""
    return f"{value:.3g}" if metric in LOWER_IS_BETTER else fine_percent(value)


def score_range(runs: Sequence[Scores]) -> str:
    """`12 % to 20 %`: the least and the greatest score of several runs."""
    ends = min(scores.value for scores in runs), max(scores.value for scores in runs)
    return " to ".join(dict.fromkeys(score_text(runs[0].metric_name, end) for end in ends))


def right_answers(base: Scores | None, seeds: Sequence[Scores]) -> str:
    """`right answers: base 0 of 20 · adapted 13 of 20`, and how many were valid JSON.

    Args:
        base: the base's scores; None: not known.
        seeds: the adapted model's scores, then those of other seeds. The least and the greatest
            are added.
    """
    adapted = seeds[0]
    models = [("base", [base])] * (base is not None) + [("adapted", seeds)]

    def both(value: Callable[[Scores], float], form: str) -> str:
        return " · ".join(f"{name} {_with_spread(runs, value, form)}" for name, runs in models)

    if not adapted.answers:  # a planted task has none, only its distance
        return f"{html.escape(adapted.metric_name)}: {both(lambda s: s.value, '{:.3f}')}"
    of = f"{{}} of {len(adapted.answers)}"
    line = f"right answers at strength 1: <b>{both(_right_count, of)}</b>"
    if adapted.metric_name == "accuracy":  # a base answers in sentences, which are not the label
        line += f"<br>the right word somewhere in the answer: {both(_naming_count, of)}"
    if "valid JSON" in adapted.metrics:
        line += f"<br>valid JSON: {both(lambda s: 100 * s.metrics['valid JSON'], '{:.0f} %')}"
    return line


def _with_spread(runs: Sequence[Scores], value: Callable[[Scores], float], form: str) -> str:
    """`13 of 20 (11 to 14, 4 seeds)`: the first run's value, and the range of all."""
    values = [value(scores) for scores in runs]
    first = form.format(values[0])
    if len(values) == 1:
        return first
    number = form.partition("}")[0] + "}"
    low, high = number.format(min(values)), number.format(max(values))
    return f"{first} ({low} to {high}, {counted(len(values), 'seed')})"


def _right_count(scores: Scores) -> int:
    return sum(answer.right for answer in scores.answers)


def _naming_count(scores: Scores) -> int:
    return sum(map(_names_expected, scores.answers))


def _names_expected(answer: Answer) -> bool:
    """Whether the expected words are somewhere in the answer."""
    return re.search(rf"\b{re.escape(answer.expected)}\b", answer.given, re.IGNORECASE) is not None


def cost(training: Training, seconds: float) -> str:
    """`trained 1.2 M of 136 M parameters (0.90 %) · adapter 4.9 MB · 23 s on this CPU`."""
    parameters = training.model.parameters()
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    beside = 0 if training.recipe.method == "full" else trained
    total = training.base.parameters + beside  # 4-bit weights are packed, two to a byte
    tensors = training.learned.tensors.values()
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    what = "model" if training.recipe.method == "full" else "adapter"
    kind = training.base.device.type
    device = {"cpu": "this CPU", "cuda": "this GPU", "mps": "this Mac's GPU"}.get(kind, kind)
    share = fine_percent(trained / total)
    return markup.faint(
        f"trained {in_short(trained)} of {in_short(total)} parameters ({share}) "
        f"· {what} {in_short(size)}B · {seconds:.0f} s on {device}"
    )


def recorded_and_here(
    recorded: Sequence[Run], here: Scores | None, records: Sequence[StepRecord]
) -> str:
    """A table: a row for each recorded run and for the run here, with score, time, where, when.

    Args:
        recorded: a run for each seed; the first is run again.
        here: that run's scores here; None: it has none yet.
        records: the records of the run here.
    """
    metric = recorded[0].scores.metric_name
    rows = [
        (
            f"recorded, seed {run.recipe.seed}",
            score_text(metric, run.scores.value),
            _training_seconds(run.records),
            f"{run.trained_on}, {run.date[:10]}",
        )
        for run in recorded
    ]
    result = (score_text(metric, here.value), _training_seconds(records)) if here else ("…", "…")
    rows.append((f"here, seed {recorded[0].recipe.seed}", *result, "this machine, now"))
    return markup.table("lora-lab-runs", ("", metric, "training", "where, when"), rows)


def _training_seconds(records: Sequence[StepRecord]) -> str:
    return f"{sum(record.seconds for record in records):.0f} s"

"""What widgets say, as HTML: answers, marks, costs. What models and data say is escaped here."""

import dataclasses
import html
import math
import re
from collections.abc import Callable, Sequence

from lora_lab.plots import NOT_SHARES
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Scores, StepRecord
from lora_lab.training.loop import Training
from lora_lab.training.store import Run

# A slider's handle comes without a name from ipywidgets, and Python can't give it one: its label's
# words, or its tooltip, become the name that is read out. A slider may come later than the style.
_NAME_SLIDERS = """\
const box = this.closest('.lora-lab');
const name = () => box.querySelectorAll('.widget-slider').forEach(slider => {
  const label = slider.querySelector('.widget-label');
  const words = label.textContent.trim() || label.title;
  slider.querySelectorAll('.noUi-handle').forEach(one => one.setAttribute('aria-label', words));
});
name();
new MutationObserver(name).observe(box, {childList: true, subtree: true});"""
_LOOK = """
.lora-lab { max-width: 1040px; font-size: 13px; }
.lora-lab h3 { margin: 0; font-size: 16px; }
.lora-lab .widget-html-content { line-height: 1.45; }
.lora-lab .lora-lab-faint { color: var(--jp-ui-font-color2, #666); }
.lora-lab-about summary { cursor: pointer; }
.lora-lab .lora-lab-wrong { color: var(--jp-error-color1, #d32f2f); }
.lora-lab-picture { border-radius: 4px; border: 1px solid var(--jp-border-color2, #ccc); }
.lora-lab-answers { width: 100%; border-collapse: collapse; font-size: 13px; }
.lora-lab-answers td { padding: 0 10px 1px 0; vertical-align: top; overflow-wrap: anywhere; }
.lora-lab-answers td:first-child { width: 4.6em; color: var(--jp-ui-font-color2, #666); }
.lora-lab-answers .lora-lab-prompt td {
  padding-top: 7px; color: var(--jp-ui-font-color1, inherit); font-weight: 600; }
.lora-lab-answers code { background: none; padding: 0; white-space: pre-wrap; font-size: 12.5px; }
.lora-lab-runs th, .lora-lab-runs td, .lora-lab-best th, .lora-lab-best td {
  padding: 1px 16px 1px 0; text-align: left; }
.lora-lab-runs tr:last-child td { font-weight: 600; }
.lora-lab-help summary { cursor: pointer; list-style: none; width: 1.4em; height: 1.4em;
  border-radius: 50%; text-align: center; border: 1px solid var(--jp-border-color1, #999); }
.lora-lab-help { display: flex; gap: 8px; }
.lora-lab-folded > .widget-toggle-button { padding: 0 4px; background: none; box-shadow: none; }
.lora-lab pre.lora-lab-code { margin: 0; padding: 8px; overflow-x: auto; line-height: 1.4;
  background: var(--jp-layout-color2, #eee); color: var(--jp-ui-font-color1, inherit); }
"""
STYLE = f'<style onload="{_NAME_SLIDERS}">{_LOOK}</style>'
LONGEST = 220  # characters of an answer that are shown


def title(words: str) -> str:
    """The widget's heading, with the style of everything below it."""
    return f"{STYLE}<h3>{html.escape(words)}</h3>"


def faint(words: str) -> str:
    """A small remark."""
    return f'<span class="lora-lab-faint">{html.escape(words)}</span>'


def about(task: str, warnings: Sequence[str] = ()) -> str:
    """What a task is: its first sentence in sight, the rest folded; warnings always in sight."""
    first, stop, rest = task.partition(". ")
    said = f"{html.escape(first)}{stop.strip()}"
    if rest:
        said = f"<details><summary>{said}</summary>{html.escape(rest)}</details>"
    said += "".join(f"<div>{html.escape(warning)}</div>" for warning in warnings)
    return f'<div class="lora-lab-faint lora-lab-about">{said}</div>'


def failure(error: Exception) -> str:
    """An error in words: its notes, which say where it arose, its class and its message."""
    notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
    words = html.escape(f"{type(error).__name__}: {error}")
    return f'{html.escape(notes)}<span class="lora-lab-wrong">{words}</span>'


def counted(count: int, what: str) -> str:
    """`1 step`, `50 steps`."""
    return f"{count} {what}{'s' * (count != 1)}"


def otherwise(recipe: Recipe, other: Recipe) -> str:
    """What the other recipe does differently: `r 4, q_proj + v_proj`; "" if nothing.

    How often it is looked at meanwhile, eval_steps, is not told.
    """
    told = []
    for field in dataclasses.fields(recipe):
        value = getattr(other, field.name)
        if field.name != "eval_steps" and value != getattr(recipe, field.name):
            values = value if isinstance(value, tuple) else (value,)
            said = (f"{one:g}" if isinstance(one, float) else str(one) for one in values)
            name = (
                "" if field.name == "target_modules" else f"{field.name} "
            )  # they name themselves
            told.append(name + " + ".join(said))
    return ", ".join(told)


def progress(records: Sequence[StepRecord], steps: int, elapsed: float) -> str:
    """`step 34 of 60 · loss 0.41 · 5,200 tokens/s · 6 s left`."""
    last = records[-1]
    recent = records[-10:]
    spent = sum(record.seconds for record in recent)
    speed = sum(record.tokens for record in recent) / spent if spent else 0
    left = math.ceil(elapsed / last.step * (steps - last.step))
    told = f"step {last.step} of {steps}", f"loss {last.loss:.2f}", f"{speed:,.0f} tokens/s"
    return " · ".join([*told, f"{left} s left"])


def before_and_after(
    rows: Sequence[tuple[str, Answer | None, Answer | None]], strength: float
) -> str:
    """The same prompts, answered by the base and by the adapted model.

    Args:
        rows: prompt, the base's answer, the adapted model's; None for one not there yet. An answer
            with an expected text is marked right, or the text that was wanted is shown under it.
        strength: of the adapter.
    """
    if not rows:  # a planted task asks nothing in words
        return ""
    name = "adapted" if strength == 1 else f"at {strength:g}"
    lines = []
    for prompt, before, after in rows:
        lines.append(f'<tr class="lora-lab-prompt"><td colspan="2">{html.escape(prompt)}</td></tr>')
        lines += [_row("base", before), _row(name, after)]
        if after and after.expected and not after.right:
            lines.append(
                f"<tr><td>wanted</td><td><code>{html.escape(after.expected)}</code></td></tr>"
            )
    heading = "<b>The same prompts, before and after</b>"
    return f'{heading}<table class="lora-lab-answers"><tbody>{"".join(lines)}</tbody></table>'


def _row(name: str, answer: Answer | None) -> str:
    if answer is None:
        said = faint("…")
    else:
        given = answer.given if len(answer.given) <= LONGEST else f"{answer.given[:LONGEST]} …"
        said = f"<code>{html.escape(given)}</code>" if given else faint("(says nothing)")
        if answer.right:
            said += " ✓ right"
    return f"<tr><td>{html.escape(name)}</td><td>{said}</td></tr>"


def in_short(count: float) -> str:
    """A count as people say it: 980, 62.4 K, 135 M."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if count >= size:
            return f"{count / size:.{1 if count < 100 * size else 0}f}{unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """Two digits of a share: 0.91 %, 7.0 %, 54 %, 100 %."""
    digits = 0 if share >= 0.0995 else 1 if share >= 0.00995 else 2
    return f"{100 * share:.{digits}f} %"


def score(metric: str, value: float) -> str:
    """A score of a task's metric: a share in percent, or the number."""
    return f"{value:.3g}" if metric in NOT_SHARES else percent(value)


def scores_of(runs: Sequence[Scores]) -> str:
    """`12 % to 20 %`: the least and the greatest score of several runs."""
    ends = min(one.value for one in runs), max(one.value for one in runs)
    return " to ".join(dict.fromkeys(score(runs[0].metric_name, end) for end in ends))


def right_answers(base: Scores | None, seeds: Sequence[Scores]) -> str:
    """`right answers: base 0 of 20 · adapted 13 of 20`, and how many were valid JSON.

    Args:
        base: None: not known.
        seeds: the adapted model's; then those of other seeds, whose least and greatest are told.
    """
    adapted = seeds[0]
    both = [("base", [base])] * (base is not None) + [("adapted", seeds)]
    if not adapted.answers:  # a planted task has none, only its distance
        words = [f"{name} {_first(one, lambda s: s.value, '{:.3f}')}" for name, one in both]
        return f"{html.escape(adapted.metric_name)}: {' · '.join(words)}"
    of = f"{{}} of {len(adapted.answers)}"
    words = [f"{name} {_first(one, _right, of)}" for name, one in both]
    line = f"right answers at strength 1: <b>{' · '.join(words)}</b>"
    if adapted.metric_name == "accuracy":  # a base answers in sentences, which are not the label
        named = [f"{name} {_first(one, _named, of)}" for name, one in both]
        line += f"<br>the right word somewhere in the answer: {' · '.join(named)}"
    if "valid JSON" in adapted.metrics:
        shares = [f"{name} {_first(one, _json, '{:.0f} %')}" for name, one in both]
        line += f"<br>valid JSON: {' · '.join(shares)}"
    return line


def _first(seeds: Sequence[Scores], value: Callable[[Scores], float], form: str) -> str:
    """`13 of 20 (11 to 14, 4 seeds)`: the first one's, and how far all go."""
    values = [value(one) for one in seeds]
    told = form.format(values[0])
    if len(values) == 1:
        return told
    number = form.partition("}")[0] + "}"
    low, high = number.format(min(values)), number.format(max(values))
    return f"{told} ({low} to {high}, {counted(len(values), 'seed')})"


def _right(scores: Scores) -> int:
    return sum(answer.right for answer in scores.answers)


def _named(scores: Scores) -> int:
    return sum(map(_names_it, scores.answers))


def _json(scores: Scores) -> float:
    return 100 * scores.metrics["valid JSON"]


def _names_it(answer: Answer) -> bool:
    """Whether the wanted words are somewhere in the answer, whatever stands around them."""
    return re.search(rf"\b{re.escape(answer.expected)}\b", answer.given, re.IGNORECASE) is not None


def cost(training: Training, seconds: float) -> str:
    """`trained 1.2 M of 136 M parameters (0.90 %) · adapter 4.9 MB · 23 s on this CPU`."""
    parameters = list(training.model.parameters())
    every = sum(one.numel() for one in parameters)
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    size = sum(one.numel() * one.element_size() for one in training.learned.tensors.values())
    what = "model" if training.recipe.method == "full" else "adapter"
    kind = training.base.device.type
    device = {"cpu": "this CPU", "cuda": "this GPU", "mps": "this Mac's GPU"}.get(kind, kind)
    return faint(
        f"trained {in_short(trained)} of {in_short(every)} parameters ({percent(trained / every)}) "
        f"· {what} {in_short(size)}B · {seconds:.0f} s on {device}"
    )


def recorded_and_here(
    recorded: Sequence[Run], here: Scores | None, records: Sequence[StepRecord]
) -> str:
    """A row for each recorded run, and one for the run here: its score, its time, where, when.

    Args:
        recorded: a run a seed; the first is the one that is run again.
        here: its scores here; None: it has none yet.
        records: of the run here.
    """
    metric = recorded[0].scores.metric_name
    rows = [
        (
            f"recorded, seed {run.recipe.seed}",
            score(metric, run.scores.value),
            _seconds(run.records),
            f"{run.trained_on}, {run.date[:10]}",
        )
        for run in recorded
    ]
    told = (score(metric, here.value), _seconds(records)) if here else ("…", "…")
    rows.append((f"here, seed {recorded[0].recipe.seed}", *told, "this machine, now"))
    head = "".join(
        f"<th>{html.escape(one)}</th>" for one in ("", metric, "training", "where, when")
    )
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(one)}</td>' for one in cells)}</tr>" for cells in rows
    )
    return (
        f'<table class="lora-lab-runs"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    )


def _seconds(records: Sequence[StepRecord]) -> str:
    return f"{sum(record.seconds for record in records):.0f} s"

"""Lines on the time and memory of a fine-tune, before it begins and while it runs.

They go to stderr, since stdout is for the results.
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from lora_lab.cli.show import note
from lora_lab.recipe import Recipe
from lora_lab.wording import counted, duration, memory_size, percent

if TYPE_CHECKING:
    from lora_lab.models.bases import Base
    from lora_lab.records import StepRecord
    from lora_lab.tasks.examples import Task
    from lora_lab.training.store import Run
    from lora_lab.training.sweep import Planned

MEASURED = (3, 1.0)  # a pace is known after this many steps and seconds, without the first step
WORTH_SAYING = 5.0  # seconds: a shorter rest is not worth a line


# --- before -------------------------------------------------------------------------------------


def estimated(base: "Base", task: "Task", recipe: Recipe, steps: int, at_once: int = 1) -> str:
    """The time and memory of a number of steps, in words; empty if neither is known."""
    from lora_lab.cost.estimates import budget_of, expected_seconds, find_shape, flops_per_second
    from lora_lab.cost.limits import free_memory
    from lora_lab.machine.devices import SMALL

    budget = budget_of(base, task, recipe)
    if budget is None or not budget.flops_per_step or not budget.memory:
        return ""
    rate = flops_per_second(find_shape(base), recipe, base.device)
    alone = base.parameters < SMALL  # one thread a run; runs of a large base share the cores
    share = at_once if alone else 1
    least, most = (steps * each / share for each in expected_seconds(budget.flops_per_step, rate))
    weights = budget.memory.weights
    memory = weights + at_once * (budget.memory.total - weights)
    free = free_memory(base.device)
    room = "" if free is None else f" ({memory_size(free)} are free)"
    times = f"{duration(least)} to {duration(most)}"
    return (
        f"estimated from FLOPs: {times} on an idle machine for {counted(steps, 'step')}, tests not "
        f"counted; {memory_size(memory)} of memory beside Python and torch{room}"
    )


def say_before_fit(base: "Base", task: "Task", recipe: Recipe, done: int) -> None:
    """Print the time and memory that the rest of a run will take; `done` steps are done already.

    Raises:
        ValueError: for a step that does not fit into memory, as in training.
    """
    from lora_lab.cost.limits import check_fits
    from lora_lab.tasks.examples import encode_all

    with warnings.catch_warnings(action="ignore"):  # training warns of it too
        of_recipe = recipe.max_length, recipe.loss_on
        check_fits(base, encode_all(task.train, base.tokenizer, *of_recipe), recipe)
    words = estimated(base, task, recipe, recipe.steps - done)
    if not words:
        return
    at_most = "at most, " if recipe.patience else ""
    note(f"{at_most}{words}")


def say_before_sweep(planned: "Planned") -> None:
    """Print the time and memory of a sweep's new runs, what trains them, and why."""
    from lora_lab.cost.limits import largest_run

    if not planned.new:
        return
    runs, because = counted(len(planned.new), "run"), f" ({planned.why})" if planned.why else ""
    how = {
        "processes": f"{planned.at_once} at once",
        "sequential": "one after the other",
        "packed": "packed into batches",
        "ray": "on the cluster",
    }[planned.engine]
    note(f"{runs} to train, {how}{because}")
    if planned.engine in ("processes", "sequential"):
        steps = sum(recipe.steps for recipe in planned.new)
        largest = largest_run(planned.new)
        words = estimated(planned.base, planned.task, largest, steps, planned.at_once)
        if words:
            note(f"at most, {words}" if len(planned.new) > 1 else words)


# --- while it runs ------------------------------------------------------------------------------


def followed(news: "Iterator[StepRecord | Run]", recipe: Recipe) -> "Run":
    """The run at its end, with a bar; then the measured pace, and a flat validation loss."""
    from lora_lab.training.fit import StepsBar
    from lora_lab.training.store import Run

    records: list[StepRecord] = []
    pace, hint = Pace(recipe), FlatHint()
    with closing(news), StepsBar(recipe, show=True) as bar:
        for item in news:
            bar.note(item)
            if isinstance(item, Run):
                continue
            records.append(item)
            flat = "" if recipe.patience else hint.after(item, records)
            for words in (pace.after(item), flat):
                if words:
                    bar.say(words)
    return item


class Pace:
    """The time that a step takes, measured on the first few steps; mentioned once."""

    def __init__(self, recipe: Recipe) -> None:
        self._steps = recipe.steps
        self._first: tuple[int, float] | None = None  # step, and when it ended
        self._said = False

    def after(self, record: "StepRecord") -> str:
        """The pace in words, once it is known and the rest is worth saying; else empty."""
        now = time.monotonic()
        if self._first is None:  # the first step warms up
            self._first = record.step, now
            return ""
        steps, seconds = record.step - self._first[0], now - self._first[1]
        if self._said or steps < MEASURED[0] or seconds < MEASURED[1]:
            return ""
        self._said = True
        left = self._steps - record.step
        rest = left * seconds / steps
        if rest < WORTH_SAYING:
            return ""
        each = f"measured over {counted(steps, 'step')}: {duration(seconds / steps)} a step"
        return f"{each}, {duration(rest)} for the {left} that are left"


class FlatHint:
    """A hint that the validation loss has been flat for long; given once."""

    def __init__(self) -> None:
        self._said = False

    def after(self, record: "StepRecord", records: "list[StepRecord]") -> str:
        """The hint, if it is due after this step's validation; else empty."""
        if self._said or record.validation_loss is None:
            return ""
        words = flat_words(records)
        self._said = bool(words)
        return f"{words}. Ctrl-C stops; what is done is kept." if words else ""


def flat_words(records: "list[StepRecord]") -> str:
    """Words on the step since which the validation loss is flat; empty if it is not for long."""
    from lora_lab.training.early_stopping import FLAT_SHARE, flat_since

    since = flat_since(records)
    if since is None:
        return ""
    return (
        f"the validation loss is flat since step {since.step} ({since.validation_loss:.3g}): in "
        f"{records[-1].step - since.step} steps it fell by less than {percent(FLAT_SHARE)}"
    )


def validation_lines(run: "Run") -> list[str]:
    """The validation losses of a run in words: first, last, best, flat; where and why it stopped.

    If there are none, the lines say how to get them.
    """
    recipe, last = run.recipe, run.records[-1]
    validated = [record for record in run.records if record.validation_loss is not None]
    if not validated:
        every = max(1, recipe.steps // 10)
        return [f"validation loss: not measured; --eval-steps {every} would measure it"]
    best = min(validated, key=lambda record: record.validation_loss)
    first, end = validated[0], validated[-1]
    line = f"validation loss {first.validation_loss:.3g} at step {first.step}"
    if end is not first:
        line += f" → {end.validation_loss:.3g} at step {end.step}"
    if best is not end:
        line += f"; the best was {best.validation_loss:.3g} at step {best.step}"
    lines = [line]
    if recipe.patience:
        early = f"stopped after step {last.step} of {recipe.steps}: "
        early += f"{counted(recipe.patience, 'validation')} without a better loss. "
        kept = f"Kept are the weights of step {run.kept_step.step}, the best validation loss."
        lines.append((early if last.step < recipe.steps else "") + kept)
    elif words := flat_words(run.records):
        lines.append(f"{words}. Fewer steps would do, or --patience 3.")
    return lines

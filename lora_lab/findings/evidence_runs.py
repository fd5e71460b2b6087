"""The runs that a plan still lacks: trained, and kept row by row; and a sample of them repeated."""

import math
import random
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from filelock import FileLock, Timeout

from lora_lab.findings.evidence import (
    FINAL,
    TUNING,
    Row,
    read_rows,
    rows_path,
    write_rows,
)
from lora_lab.findings.plans import Plan
from lora_lab.findings.recordings import kept_scores
from lora_lab.machine.resources import processor
from lora_lab.models.bases import Base, load_base
from lora_lab.places import writing_in
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Example, Task, encode_prompts
from lora_lab.training.evaluation import evaluate, mean_loss
from lora_lab.training.run_files import FINISHED
from lora_lab.training.store import Run
from lora_lab.training.sweep import follow_sweep

STEP = math.sqrt(10)  # between a learning rate at the end of the grid and the next beyond it
LOWEST, HIGHEST = 1e-6, 1.0  # learning rates: none beyond these is tried
PACKAGES = ("torch", "transformers", "peft", "lora-lab")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that a plan lacks."""

    stage: str
    setting: str
    choice: float  # the learning rate; of a way to ask, what is tried
    seed: int


def missing_runs(plan: Plan, rows: Sequence[Row]) -> list[Wanted]:
    """The runs to be made next: the runs that choose the rates first, then the tested runs.

    If the best rate of a setting is the lowest or the highest that was tried, the next rate beyond
    it is tried too. So the list may grow after these runs.

    Raises:
        ValueError: for a setting that was tested at another rate than its tuning chooses.
    """
    done = {Wanted(row.stage, row.setting, row.choice, row.seed) for row in rows}
    tuning = [
        Wanted(TUNING, setting, choice, seed)
        for setting in plan.settings
        if len(plan.choices(setting)) > 1
        for choice in _tried(plan, rows, setting)
        for seed in plan.tuning_seeds
    ]
    if left := [run for run in tuning if run not in done]:
        return left
    beyond = [
        Wanted(TUNING, setting, rate, seed)
        for setting in plan.settings
        if (rate := _rate_beyond(plan, rows, setting))
        for seed in plan.tuning_seeds
    ]
    if beyond:
        return beyond
    best = {setting: best_choice(plan, rows, setting) for setting in plan.settings}
    for row in rows:
        if row.stage == FINAL and row.choice != best[row.setting]:
            raise ValueError(
                f"{plan.id}.csv tests {row.setting!r} at {row.choice:g}, and its tuning "
                f"chooses {best[row.setting]:g}; delete its tests, and "
                f"`make evidence ONLY={plan.id}` makes them again"
            )
    final = [Wanted(FINAL, setting, best[setting], seed) for setting in best for seed in plan.seeds]
    return [run for run in final if run not in done]


def _tried(plan: Plan, rows: Sequence[Row], setting: str) -> list[float]:
    more = {row.choice for row in rows if row.setting == setting and row.stage == TUNING}
    return sorted({*plan.choices(setting), *more})


def _losses(plan: Plan, rows: Sequence[Row], setting: str) -> dict[float, float]:
    """The mean validation loss of each choice, from low to high; infinite if a run diverged."""
    losses: dict[float, list[float]] = {choice: [] for choice in _tried(plan, rows, setting)}
    for row in rows:
        if row.stage == TUNING and row.setting == setting:
            found = row.validation_loss
            good = row.status == FINISHED and found is not None and not math.isnan(found)
            losses[row.choice].append(found if good else math.inf)
    return {choice: statistics.fmean(found) for choice, found in losses.items()}


def best_choice(plan: Plan, rows: Sequence[Row], setting: str) -> float:
    """The learning rate with the least mean validation loss, the lower of equals.

    For a way to ask, it is the try with the least loss. A single rate is chosen already.
    """
    first, *others = plan.choices(setting)
    if not others:
        return first
    losses = _losses(plan, rows, setting)
    return min(losses, key=losses.__getitem__)


def _rate_beyond(plan: Plan, rows: Sequence[Row], setting: str) -> float | None:
    """The next rate to be tried, if the best one is the lowest or the highest so far."""
    if not plan.is_trained(setting) or len(plan.choices(setting)) == 1:
        return None
    tried, best = _tried(plan, rows, setting), best_choice(plan, rows, setting)
    ends = {tried[0]: best / STEP, tried[-1]: best * STEP}
    if best not in ends:
        return None
    rate = float(f"{ends[best]:.2g}")
    return rate if LOWEST <= rate <= HIGHEST else None


def make_missing(plan: Plan) -> Iterator[tuple[int, Row | StepRecord]]:
    """Make the runs that a plan lacks, and keep each as soon as it is done.

    Yields pairs: the number of runs that the present stage still lacks, and a step's record or the
    row of a finished run. Leaving the loop loses only the runs that are not finished.

    Raises:
        TimeoutError: if another process is making the plan's runs.
        ValueError: as `read_rows` and `missing_runs` do.
    """
    if not missing_runs(plan, read_rows(plan)):
        return
    with _alone(plan):
        base = load_base(plan.base, dtype="float32")
        rows = [*read_rows(plan)]
        while wanted := missing_runs(plan, rows):
            left = len(wanted)
            for news in _made(plan, base, wanted):
                if isinstance(news, Row):
                    rows.append(news)
                    write_rows(plan, rows)
                    left -= 1
                yield left, news


@contextmanager
def _alone(plan: Plan) -> Iterator[None]:
    """A block in which no other process makes the plan's runs."""
    lock = FileLock(rows_path(plan).with_suffix(".lock"))
    try:
        with writing_in(rows_path(plan).parent):
            lock.acquire(timeout=0)
    except Timeout as error:
        raise TimeoutError(
            "another process is making these runs; wait for its end, or name another plan"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _made(plan: Plan, base: Base, wanted: Sequence[Wanted]) -> Iterator[Row | StepRecord]:
    """Runs of one stage: their steps and their rows, as they are made."""
    by_task: dict[tuple, list[Wanted]] = {}
    for run in wanted:
        drawn = plan.examples(run.setting), run.seed, plan.replays(run.setting)
        by_task.setdefault(drawn, []).append(run)
    options = {"store": None, "evaluate": wanted[0].stage == FINAL}
    for (n, seed, replays), runs in by_task.items():
        task = plan.make_task(base, n, seed, replays)
        trained = {
            plan.recipe(run.setting, run.choice, run.seed): run
            for run in runs
            if plan.is_trained(run.setting)
        }
        tokens = None if plan.only_trains else _prompt_tokens(base, task.test)
        made = follow_sweep(base, task, trained, seeds=(seed,), **options) if trained else ()
        for recipe, news in made:
            done = isinstance(news, Run)
            yield _row(plan, trained[recipe], news, tokens) if done else news
        for run in runs:
            if not plan.is_trained(run.setting):
                yield _asked(plan, base, task, run)


def _row(plan: Plan, wanted: Wanted, run: Run, prompt_tokens: float | None) -> Row:
    """The row of a run that was trained."""
    last = run.records[-1] if run.records else None
    return Row(
        **_facts(plan, wanted),
        learning_rate=wanted.choice,
        status=run.status,
        train_loss=last and last.loss,
        validation_loss=last and last.validation_loss,
        metric=run.scores and run.scores.metric_name,
        **kept_scores(run.scores),
        seconds=sum(record.seconds for record in run.records),
        prompt_tokens=prompt_tokens,
    )


def _asked(plan: Plan, base: Base, task: Task, wanted: Wanted) -> Row:
    """The row of a way to ask the base: its loss on validation, or its scores on the test."""
    written = plan.prompt_maker(wanted.setting, wanted.choice, base.tokenizer, task)
    split = "test" if wanted.stage == FINAL else "validation"
    examples = [
        replace(example, prompt=written(example.prompt)) for example in getattr(task, split)
    ]
    loss, scores = None, None
    if wanted.stage == FINAL:
        scores = evaluate(base, replace(task, test=examples))
    else:
        loss = mean_loss(base.model, base.tokenizer, examples)
    return Row(
        **_facts(plan, wanted),
        learning_rate=None,
        tried=int(wanted.choice),
        status=FINISHED,
        validation_loss=loss,
        metric=scores and scores.metric_name,
        **kept_scores(scores),
        prompt_tokens=_prompt_tokens(base, examples),
    )


def _prompt_tokens(base: Base, examples: Sequence[Example]) -> float:
    """The mean length of the examples' prompts, in tokens, chat format included."""
    ids = encode_prompts([example.prompt for example in examples], base.tokenizer)
    return statistics.fmean(map(len, ids))


def _facts(plan: Plan, wanted: Wanted) -> dict[str, object]:
    """The columns that every row has: which run it was, when and where it was made."""
    return {
        "plan": plan.fingerprint,
        "stage": wanted.stage,
        "setting": wanted.setting,
        "seed": wanted.seed,
        "device": processor(),
        "versions": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "date": datetime.now(UTC).date().isoformat(),
    }


# --- runs repeated, as a check --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repeated:
    """A tested run that was made again."""

    kept: Row
    again: Row
    allowed: float  # a larger difference of the value than this needs an explanation

    @property
    def agrees(self) -> bool:
        """Whether the values differ by no more than processors and library versions explain."""
        if self.kept.status != self.again.status:
            return False
        if self.kept.value is None:
            return True
        return abs(self.kept.value - self.again.value) <= self.allowed


def repeat_some(plan: Plan, share: float = 0.1) -> Iterator[Repeated]:
    """A random share of a plan's tested runs, made again; at least one.

    On the same processor with the same versions, numbers are equal. Elsewhere rounding differs, and
    training magnifies it: up to the range of the setting's seeds is allowed.
    """
    finals = [row for row in read_rows(plan) if row.stage == FINAL]
    if not finals:
        return
    chosen = random.Random(plan.fingerprint).sample(finals, max(1, round(share * len(finals))))
    base = load_base(plan.base, dtype="float32")
    for kept in chosen:
        wanted = Wanted(FINAL, kept.setting, kept.choice, kept.seed)
        values = [row.value for row in finals if row.setting == kept.setting and row.metric]
        allowed = max(values) - min(values) if values else 0.0
        for news in _made(plan, base, [wanted]):
            if isinstance(news, Row):
                yield Repeated(kept, news, allowed)

"""`fit`: a run to its end, scored and kept. A stored run is replayed, an unfinished run resumed."""

import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from lora_lab.cost.estimates import budget_of
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.arguments import check_given
from lora_lab.training.evaluation import check_answerable, split_to_score
from lora_lab.training.evaluation import evaluate as score
from lora_lab.training.loop import Diverged, Training, run_of, threads_for
from lora_lab.training.run_files import (
    CHECKPOINT,
    DIVERGED,
    FINISHED,
    SCORES_OF,
    DamagedRun,
    read_scores,
)
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import DEFAULT, Default, Run, read_run, resolve_store

CHECKPOINT_SECONDS = 5.0  # between two checkpoints, at least
CHECKPOINT_SHARE = 0.05  # of the time, at most, goes into writing them
Kind = TypeVar("Kind", bound=Training)


def fit(
    base: Base,
    task: Task,
    recipe: Recipe,
    *,
    store: str | Path | Default | None = DEFAULT,
    fresh: bool = False,
    evaluate: bool | str = True,
    progress: bool = False,
) -> Run:
    """Train to the end, evaluate on the test split, and keep the run.

    A finished run is replayed, an unfinished one resumed with the records it would have had.

    Args:
        base: stays as it was.
        task: what to learn.
        recipe: the choices of the training.
        store: a folder; None keeps nothing; the default is $LORA_LAB_STORE, else the user's own.
        fresh: train again even if the run is stored.
        evaluate: score the test split at the end; "validation": that split in its place.
        progress: show a bar.

    Raises:
        Diverged: its `run` holds the records and the last good weights.
        KeyboardInterrupt: after the step at hand; a stored run can be resumed.
    """
    followed = follow_fit(base, task, recipe, store=store, fresh=fresh, evaluate=evaluate)
    with closing(followed), StepsBar(recipe, progress) as bar:
        for news in followed:
            bar.note(news)
    return news


class StepsBar:
    """A bar of a run's steps: their losses, and the time that is left if all are trained.

    It appears with the first step, so a refused or replayed run shows no bar.
    """

    def __init__(self, recipe: Recipe, show: bool) -> None:
        self._recipe, self._show = recipe, show
        self._bar: tqdm | None = None
        self._validation = ""

    def __enter__(self) -> "StepsBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, news: StepRecord | Run) -> None:
        """Count a step."""
        if isinstance(news, Run):
            return
        if self._bar is None:
            options = {"total": self._recipe.steps, "initial": news.step - 1, "unit": "step"}
            self._bar = tqdm(**options, disable=not self._show)
        if news.validation_loss is not None:
            self._validation = f", validation {news.validation_loss:.3f}"
        self._bar.set_postfix_str(f"loss {news.loss:.3f}{self._validation}", refresh=False)
        self._bar.update()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)


def follow_fit(
    base: Base,
    task: Task,
    recipe: Recipe,
    *,
    store: str | Path | Default | None = DEFAULT,
    fresh: bool = False,
    evaluate: bool | str = True,
) -> Iterator[StepRecord | Run]:
    """The same fit as it happens: the record of each step that is trained now, then the Run.

    A replayed run has no steps to train. Closing the generator stops the training; a stored run
    then goes on from the step that it had reached.

    Raises:
        Diverged: as `fit` does.
        KeyboardInterrupt: as `fit` does.
    """
    check_given(base, task, recipe)
    where, split = resolve_store(store), split_to_score(evaluate)
    if where is None:
        if split:  # `evaluate` would refuse it after the training; it is refused now
            check_answerable(base, task, split=split)
        training = Training(base, task, recipe)
        yield from training
        yield with_scores(run_of(training, FINISHED), task, None, evaluate)
        return
    folder = RunFolder(where, base, task, recipe)
    with folder.locked():
        run = None if fresh else folder.ended()
        if run is None:
            if split:
                check_answerable(base, task, split=split)
            yield from _train_stored(folder, fresh)
            run = read_run(folder.path, base, replayed=False)
        if run.status == DIVERGED:
            raise Diverged(run.message, run)
        yield with_scores(run, task, folder, evaluate)


def follow_to_last_good(
    base: Base, task: Task, recipe: Recipe, **options: object
) -> Iterator[StepRecord | Run]:
    """The records and the Run of `follow_fit`; a run that diverges ends with its last good weights.

    Args:
        base: as in `fit`, and so are the next two.
        task: what to learn.
        recipe: the choices of the training.
        options: those of `follow_fit`.
    """
    try:
        yield from follow_fit(base, task, recipe, **options)
    except Diverged as error:
        yield error.run


def _train_stored(folder: RunFolder, fresh: bool) -> Iterator[StepRecord]:
    """Train a run into its folder, from its checkpoint on where there is one."""
    base, task, recipe = folder.base, folder.task, folder.recipe
    if fresh:
        training = Training(base, task, recipe)
        folder.clear()  # not earlier: a refused call leaves the stored run as it was
    else:
        training = begun(folder)
    folder.begin(budget_of(base, task, recipe), training.about)
    try:
        with interrupt_between_steps() as interrupted:
            yield from _with_checkpoints(training, folder, interrupted)
    except Diverged as error:
        folder.finish(error.run.records, error.run.learned, DIVERGED, str(error))
    else:
        folder.finish(training.records, training.learned, FINISHED)


def begun(folder: RunFolder, kind: type[Kind] = Training) -> Kind:
    """The training, continued from its checkpoint, or from the start if that is damaged."""
    base, task, recipe = folder.base, folder.task, folder.recipe
    training = kind(base, task, recipe)
    try:
        checkpoint = folder.read_checkpoint()
        if checkpoint is not None:
            training.restore(checkpoint)
    except DamagedRun as error:
        folder.put_aside(error)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        folder.put_aside(DamagedRun(folder.path, CHECKPOINT, f"can't be gone on from ({error})"))
        return kind(base, task, recipe)
    return training


def _with_checkpoints(
    training: Training, folder: RunFolder, interrupted: threading.Event
) -> Iterator[StepRecord]:
    """The steps of a training, with a checkpoint now and then, and another if it is stopped."""
    last, cost = time.monotonic(), 0.0
    for record in training:
        if interrupted.is_set():
            folder.write_checkpoint(training.checkpoint())
            raise KeyboardInterrupt(
                f"stopped after step {record.step} of {training.recipe.steps}; "
                "call fit again to go on"
            )
        if time.monotonic() - last > max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE):
            began = time.monotonic()
            folder.write_checkpoint(training.checkpoint())
            last = time.monotonic()
            cost = last - began
        try:
            yield record
        except GeneratorExit:  # the caller has seen enough
            folder.write_checkpoint(training.checkpoint())
            raise


@contextmanager
def interrupt_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that the step is finished; a second Ctrl-C interrupts.

    Only a main thread can be interrupted; elsewhere the flag is never set.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(number: int, frame: object) -> None:
        if flag.is_set():
            signal.default_int_handler(number, frame)
        flag.set()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def with_scores(run: Run, task: Task, folder: RunFolder | None, evaluate: bool | str) -> Run:
    """The run with its scores on the split to be scored, which a store keeps beside it."""
    split = split_to_score(evaluate)
    if split is None or (run.scores is not None and run.scores.split == split):
        return run
    scores = folder and read_scores(folder.path, SCORES_OF[split])
    if scores is None:
        with threads_for(run.model):
            scores = score(run, task, split=split)
        if folder is not None:
            folder.write_scores(scores)
    return dataclasses.replace(run, scores=scores)

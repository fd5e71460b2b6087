"""`fit`: a run to its end, scored and kept; a stored one is replayed, a half done one resumed."""

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from lora_lab.cost.estimates import budget_of
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training import evaluation
from lora_lab.training.loop import Diverged, Training, run_of, threads_for
from lora_lab.training.run_files import CHECKPOINT, DIVERGED, FINISHED, DamagedRun
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
    evaluate: bool = True,
    progress: bool = False,
) -> Run:
    """Train to the end, evaluate on the test split, and keep the run.

    A finished run is replayed, an unfinished one resumed with the records it would have had.

    Args:
        base: stays as it was.
        task: what to learn.
        recipe: how.
        store: a folder; None keeps nothing; the default is $LORA_LAB_STORE, else the user's own.
        fresh: train again even if the run is stored.
        evaluate: score the test split at the end.
        progress: show a bar.

    Raises:
        Diverged: its `run` holds the records and the last good weights.
        KeyboardInterrupt: after the step at hand; a stored run can be resumed.
    """
    where = resolve_store(store)
    if where is None:
        if evaluate:  # what it would refuse is refused now, not after the training
            evaluation.check_answerable(base, task)
        return score(_fit_unstored(base, task, recipe, progress), task, None, evaluate)
    folder = RunFolder(where, base, task, recipe)
    with folder.locked():
        run = None if fresh else folder.ended()
        if run is None:
            _fit_stored(folder, base, task, recipe, progress, evaluate, fresh)
            run = read_run(folder.path, base, replayed=False)
        if run.status == DIVERGED:
            raise Diverged(run.message, run)
        return score(run, task, folder, evaluate)


def fit_or_last_good(base: Base, task: Task, recipe: Recipe, **options: object) -> Run:
    """What `fit` gives; of a run that diverges, what it had until then, marked so.

    Args:
        base: as in `fit`, and so on.
        task: what to learn.
        recipe: how.
        options: those of `fit`.
    """
    try:
        return fit(base, task, recipe, **options)
    except Diverged as error:
        return error.run


def _fit_unstored(base: Base, task: Task, recipe: Recipe, progress: bool) -> Run:
    training = Training(base, task, recipe)
    _to_the_end(training, progress)
    return run_of(training, FINISHED)


def _fit_stored(
    folder: RunFolder,
    base: Base,
    task: Task,
    recipe: Recipe,
    progress: bool,
    evaluate: bool,
    fresh: bool,
) -> None:
    if evaluate:
        evaluation.check_answerable(base, task)
    if fresh:
        training = Training(base, task, recipe)
        folder.clear()  # only now: what is refused leaves the stored run as it was
    else:
        training = begun(folder, base, task, recipe)
    folder.begin(budget_of(base, task, recipe))
    try:
        with interrupt_between_steps() as interrupted:
            _to_the_end(training, progress, folder, interrupted)
    except Diverged as error:
        folder.finish(error.run.records, error.run.learned, DIVERGED, str(error))
    else:
        folder.finish(training.records, training.learned, FINISHED)


def begun(
    folder: RunFolder, base: Base, task: Task, recipe: Recipe, kind: type[Kind] = Training
) -> Kind:
    """The training, gone on from its checkpoint; from the start where that is damaged."""
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


def _to_the_end(
    training: Training,
    progress: bool,
    folder: RunFolder | None = None,
    interrupted: threading.Event | None = None,
) -> None:
    steps = training.recipe.steps
    bar = tqdm(total=steps, initial=training.step, unit="step") if progress else nullcontext()
    with bar:
        last, cost = time.monotonic(), 0.0
        for record in training:
            if progress:
                bar.set_postfix_str(f"loss {record.loss:.3f}", refresh=False)
                bar.update()
            if folder is None:
                continue
            stop = interrupted is not None and interrupted.is_set()
            waited = time.monotonic() - last
            if stop or waited > max(CHECKPOINT_SECONDS, cost / CHECKPOINT_SHARE):
                began = time.monotonic()
                folder.write_checkpoint(training.checkpoint())
                last = time.monotonic()
                cost = last - began
            if stop:
                raise KeyboardInterrupt(
                    f"stopped after step {record.step} of {steps}; call fit again to go on"
                )


@contextmanager
def interrupt_between_steps() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that no step is torn apart; a second one gets through.

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


def score(run: Run, task: Task, folder: RunFolder | None, evaluate: bool) -> Run:
    """The run with its scores on the test split, which are kept beside it in a store."""
    if not evaluate or run.scores is not None:
        return run
    with threads_for(run.model):
        scores = evaluation.evaluate(run, task)
    if folder is not None:
        folder.write_scores(scores)
    return dataclasses.replace(run, scores=scores)

"""A sweep followed to its end or to Stop: its finished runs, its curves, and the time left."""

import dataclasses
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.store import Run
from lora_lab.training.sweep import follow_sweep
from lora_lab.wording import counted, duration

News = Iterator[tuple[Recipe, StepRecord | Run]]


class SweepFollower:
    """Trains recipes with seeds, and keeps the runs: it can be stopped, and goes on later.

    `runs` holds the finished runs by recipe, its seed included. A widget's other threads may read
    while it trains.

    Args:
        base: stays as it was.
        task: what to learn.
        options: those of `follow_sweep`: engine, store, fresh.
    """

    def __init__(self, base: Base, task: Task, **options: object) -> None:
        self.base, self.task, self._options = base, task, options
        self.runs: dict[Recipe, Run] = {}
        self.trained = 0  # runs of the last `follow` that were trained, not replayed
        self._records: dict[Recipe, list[StepRecord]] = {}  # of runs under way
        self._lock = threading.RLock()
        self._plan: tuple[Recipe, ...] = ()
        self._begun = 0.0
        self._ended: float | None = None  # of the last `follow`; None: it goes on
        self._first_steps: dict[Recipe, int] = {}  # by run: a resumed run begins further on

    def follow(
        self, settings: Sequence[Recipe], seeds: Sequence[int], *, go_on: Callable[[], bool]
    ) -> Iterator[Recipe]:
        """Train the runs that are not finished, the first seed of all settings first.

        So the settings have nearly equal numbers of seeds, whenever it is stopped.

        Args:
            settings: recipes; their own seeds are replaced.
            seeds: of each setting.
            go_on: asked after each step; once false, it ends.

        Yields:
            The recipe that has a new step or a finished run.
        """
        with self._lock:
            self._plan = tuple(with_seeds(settings, seeds))
            self._records, self._first_steps, self.trained = {}, {}, 0
            self._begun, self._ended = time.perf_counter(), None
        try:
            for seed in seeds:
                yield from self._follow_seed(with_seeds(settings, (seed,)), seed, go_on)
                if not go_on():
                    return
        finally:
            self._ended = time.perf_counter()

    def _follow_seed(
        self, recipes: Sequence[Recipe], seed: int, go_on: Callable[[], bool]
    ) -> Iterator[Recipe]:
        left = [recipe for recipe in recipes if recipe not in self.runs]
        if not left:
            return
        followed = follow_sweep(self.base, self.task, left, seeds=(seed,), **self._options)
        with closing(followed):
            for recipe, news in _without_warnings(followed):
                self._note(recipe, news)
                yield recipe
                if not go_on():
                    return

    def _note(self, recipe: Recipe, news: StepRecord | Run) -> None:
        with self._lock:
            if isinstance(news, Run):
                self.runs[recipe] = news
                self._records.pop(recipe, None)
                self.trained += not news.replayed
                return
            self._first_steps.setdefault(recipe, news.step)
            records = self._records.setdefault(recipe, [])
            while records and records[-1].step >= news.step:  # a worker died: the run begins again
                records.pop()
            records.append(news)

    def records_of(self, recipe: Recipe) -> Sequence[StepRecord]:
        """The steps of a run, finished or under way."""
        with self._lock:
            run = self.runs.get(recipe)
            return run.records if run else tuple(self._records.get(recipe, ()))

    def done(self, recipe: Recipe) -> float:
        """The share of a run that is trained: 0 to 1."""
        with self._lock:
            if recipe in self.runs:
                return 1.0
            records = self._records.get(recipe)
            return records[-1].step / recipe.steps if records else 0.0

    def steps_done(self, recipes: Iterable[Recipe]) -> int:
        """The steps of some runs that are trained."""
        return round(sum(self.done(recipe) * recipe.steps for recipe in recipes))

    def finished(self, recipes: Iterable[Recipe]) -> list[Run]:
        """The finished runs among some recipes."""
        with self._lock:
            return [self.runs[recipe] for recipe in recipes if recipe in self.runs]

    @property
    def seconds(self) -> float:
        """The time that the last `follow` took, or has taken so far."""
        end = time.perf_counter() if self._ended is None else self._ended
        return end - self._begun

    @property
    def progress(self) -> str:
        """`run 12 of 40 · step 34 of 60 · 25 s left`; for runs side by side, the furthest step."""
        with self._lock:
            finished = sum(recipe in self.runs for recipe in self._plan)
            number = min(finished + 1, len(self._plan))
            parts = [f"run {number} of {len(self._plan)}"]
            if self._records:
                furthest = max(self._records, key=self.done)
                step = self._records[furthest][-1].step
                parts.append(f"step {step} of {furthest.steps}")
            left = self._seconds_left
            return " · ".join([*parts, f"{duration(left)} left"] if left is not None else parts)

    @property
    def _seconds_left(self) -> float | None:
        """The seconds that the rest takes at the pace so far; None before anything was trained."""
        under_way = sum(map(self.done, self._records))
        skipped = sum((self._first_steps[recipe] - 1) / recipe.steps for recipe in self._records)
        pace = (self.trained + under_way - skipped) / self.seconds  # runs a second
        left = sum(recipe not in self.runs for recipe in self._plan) - under_way
        return left / pace if pace > 0 else None

    @property
    def ending(self) -> str:
        """`finished: 40 runs in 53 s, 12 of them replayed`, or how many were finished at Stop."""
        finished = sum(recipe in self.runs for recipe in self._plan)
        if finished < len(self._plan):
            return f"stopped: {finished} of {counted(len(self._plan), 'run')} finished"
        replayed = finished - self.trained
        again = f", {replayed} of them from before" if replayed else ""
        return f"finished: {counted(finished, 'run')} in {duration(self.seconds)}{again}"


def with_seeds(settings: Iterable[Recipe], seeds: Iterable[int]) -> list[Recipe]:
    """Each setting with each seed, seed by seed; equal settings once."""
    settings = [*settings]
    recipes = (dataclasses.replace(setting, seed=seed) for seed in seeds for setting in settings)
    return [*dict.fromkeys(recipes)]


def _without_warnings(followed: Generator[tuple[Recipe, StepRecord | Run], None, None]) -> News:
    """The same items, without the warnings of runs that begin: a widget shows these itself."""
    begins = True
    while True:
        try:
            with warnings.catch_warnings():
                if begins:
                    warnings.simplefilter("ignore", UserWarning)
                news = next(followed)
        except StopIteration:
            return
        begins = isinstance(news[1], Run)
        yield news

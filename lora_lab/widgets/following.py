"""A training or a sweep, followed to its end or to Stop, and shown without slowing it down."""

import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.limits import largest_run
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.loop import Training, train
from lora_lab.widgets import markup, run_summary
from lora_lab.widgets.background import Background, Pace
from lora_lab.widgets.boxes import PictureView, action
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.sweep_following import SweepFollower, with_seeds
from lora_lab.wording import counted

FRAMES, DRAWING = 5, 0.08  # pictures a second at most, and their share of the time at most
UPDATES = 10  # state lines a second at most: each is a message to the browser


def prepare(base: Base, task: Task, recipe: Recipe) -> tuple[Training, list[str]]:
    """A training about to begin, and its warnings, which the widget shows instead of the page."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        training = train(base, task, recipe)
    return training, [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def after_step(ending: str, training: Training) -> str:
    """`stopped after step 3 of 12`."""
    return f"{ending} after step {training.step} of {training.recipe.steps}"


class Watcher(Protocol):
    """Something that is shown while a training runs: a film, a picture of a matrix."""

    def look(self, training: Training) -> None:
        """Called before the first step and after each step; it looks when it is time to."""


class TrainingPanel:
    """A button that begins a training, Stop, a bar and the loss; `follow` trains and moves them.

    `outcome` and `seconds` hold how the last training ended, and how long it took.

    Args:
        begin: the words on the button.
        worker: runs `follow` in its thread, and may be asked to stop.
        say: shows a line of text.
    """

    def __init__(self, begin: str, worker: Background, say: Callable[[str], None]) -> None:
        self.train_button = action(begin, button_style="primary")
        self.stop_button = action("Stop", disabled=True)
        self.progress = widgets.IntProgress(layout={"width": "9em"})
        self.loss_picture = PictureView(plots.SIZE[0])
        self.loss_picture.add_class("lora-lab-loss")
        self.warnings = widgets.HTML(layout={"display": "none"})
        self.outcome, self.seconds = "", 0.0
        self._worker, self._say = worker, say

    def set_busy(self, busy: bool) -> None:
        """Disable Train during a training, and Stop without one."""
        self.train_button.disabled, self.stop_button.disabled = busy, not busy

    def reset_bar(self) -> None:
        """Empty the bar."""
        self.progress.value, self.progress.bar_style = 0, ""

    def prepare(self, base: Base, task: Task, recipe: Recipe) -> Training:
        """A training about to begin; its warnings are shown in `warnings`."""
        training, lines = prepare(base, task, recipe)
        self.warn(lines)
        return training

    def warn(self, lines: Sequence[str]) -> None:
        """Show warnings; none takes the line away."""
        self.warnings.value = markup.faint(" ".join(lines))
        self.warnings.layout.display = "" if lines else "none"

    def follow(
        self,
        training: Training,
        film: plots.LossFilm | None = None,
        name: str = "",
        budget: float = math.inf,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        """Train to the end, or until the worker is asked to stop, which takes a step at most.

        An error is raised with a note that says after which step it came.

        Args:
            training: what to follow.
            film: draws its loss; None: no picture.
            name: stands before each line of state, such as "seed 1".
            budget: seconds after which the training is stopped. The lines count them.
            watchers: look at the training before its first step and after each step.
        """
        steps, begun = training.recipe.steps, time.perf_counter()
        self.progress.max, ending = steps, "failed"
        try:
            self._take_steps(training, film, name, budget, watchers)
            ending = "stopped"
        except Exception as error:
            error.add_note(f"{name} {after_step(ending, training)}".strip())
            raise
        finally:
            self.seconds = time.perf_counter() - begun
            self.progress.value = training.step
            self.outcome = after_step(ending, training)
        if training.ended:
            done = counted(training.step, "step")
            early = "" if training.step == steps else f" of {steps}, stopped early by patience,"
            self.outcome = f"finished: {done}{early} in {self.seconds:.0f} s"

    def check_sweep(self, base: Base, task: Task, settings: Sequence[Recipe]) -> None:
        """Refuse runs that do not fit into memory, and show the warnings of the largest.

        Raises:
            MemoryError: as `check_room` does.
        """
        largest = largest_run(settings)
        check_room(base, task, largest)
        self.warn(prepare(base, task, largest)[1])

    def follow_sweep(
        self,
        follower: SweepFollower,
        settings: Sequence[Recipe],
        seeds: Sequence[int],
        draw: Callable[[], None] = lambda: None,
    ) -> None:
        """Train the missing runs of a sweep, to the end or until the worker is asked to stop.

        Args:
            follower: trains, and keeps the runs.
            settings: recipes; their own seeds are replaced.
            seeds: the seeds of each setting.
            draw: shows the runs so far, now and then and at the end.
        """
        recipes = with_seeds(settings, seeds)
        self.progress.max = sum(recipe.steps for recipe in recipes)
        drawing, speaking = Pace(FRAMES, DRAWING), Pace(UPDATES)
        followed = follower.follow(settings, seeds, go_on=lambda: not self._worker.stopped)
        try:
            for _ in followed:
                if speaking.due and not self._worker.stopped:
                    with speaking.turn():
                        self._say(follower.progress)
                        self.progress.value = follower.steps_done(recipes)
                if drawing.due:
                    with drawing.turn():
                        draw()
        finally:
            followed.close()
            self.progress.value = follower.steps_done(recipes)
            draw()
        self.outcome = follower.ending

    def _take_steps(
        self,
        training: Training,
        film: plots.LossFilm | None,
        name: str,
        budget: float,
        watchers: Sequence[Watcher],
    ) -> None:
        steps, begun = training.recipe.steps, time.perf_counter()
        drawing, speaking = Pace(FRAMES, DRAWING), Pace(UPDATES)
        for watcher in watchers:
            watcher.look(training)
        for _ in training:
            for watcher in watchers:
                watcher.look(training)
            seconds = time.perf_counter() - begun
            if speaking.due and not self._worker.stopped:
                with speaking.turn():
                    self.progress.value = training.step
                    line = run_summary.progress(training.records, steps, seconds)
                    if budget < math.inf:
                        line = f"{seconds:.0f} s · {line}"
                    self._say(f"{name}: {line}" if name else line)
            if film is not None and drawing.due:
                with drawing.turn():
                    self.loss_picture.value = film.frame(training.records)
            if self._worker.stopped or time.perf_counter() - begun >= budget:
                return
            time.sleep(0)  # lets waiting threads run, such as the kernel's

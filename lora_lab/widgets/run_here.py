"""A recorded result, and a button that trains the same once more, live, on this machine."""

import time
from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.findings.recordings import recorded_runs
from lora_lab.models.adapters import as_trained
from lora_lab.models.bases import load_base
from lora_lab.models.learned import Adapted
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training, train
from lora_lab.widgets import words
from lora_lab.widgets.following import follow
from lora_lab.widgets.lab_face import PictureView, TrainingBox, row
from lora_lab.widgets.memory_check import check_room


class RunHere(TrainingBox):
    """What was recorded, beside what comes of it here: the first recorded seed is trained again.

    After `start()` or a click on Run it here, and `wait()`, `records` and `scores` hold what
    happened; `recorded` holds the runs that were recorded. The model is not kept.

    Args:
        name: of a recording, as in `recorded_runs`: "home-commands".

    Raises:
        ValueError: if nothing was recorded under that name, with the nearest.
    """

    def __init__(self, name: str) -> None:
        super().__init__("Run it here")
        self.recorded = recorded_runs(name)
        self.name, self.again = name, self.recorded[0]
        self.records: Sequence[StepRecord] = ()
        self.scores: Scores | None = None  # None: not run here, or not to its end
        self.progress.max = self.again.recipe.steps
        self.result = widgets.HTML()
        self.loss_picture = PictureView(plots.SIZE[0])
        self.children = [
            widgets.HTML(words.title(f"Recorded: {name}")),
            self.result,
            row(self.train_button, self.stop_button, self.progress, self.state),
            self.loss_picture,
        ]
        self.loss_picture.add_class("lora-lab-loss")
        self.result.add_class("lora-lab-result")
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self._say("not run here yet")
        self._show()

    def start(self) -> None:
        """Train and score it in the background, as a click on Run it here does. One at a time."""
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("run", self._run)

    def stop(self) -> None:
        """End the training after its step; it is not scored then."""
        self._say("stopping …")
        self._work.stop()

    @property
    def picture(self) -> plots.Picture:
        """The loss here, over the band of the recorded runs."""
        band = [run.records for run in self.recorded]
        return plots.picture(plots.draw_loss, self.records, (), self.again.recipe.steps, band)

    def __repr__(self) -> str:
        scores = [run.scores for run in self.recorded]
        metric = scores[0].metric_name
        seeds = words.counted(len(scores), "seed")
        return f"RunHere: {self.name} · recorded: {metric} {words.scores_of(scores)}, {seeds}"

    def _run(self) -> None:
        self.records, self.scores = (), None
        self.progress.value, self.progress.bar_style = 0, ""
        self._show()
        self._say(f"loading {self.again.base_name} …")
        base = load_base(self.again.base_name, dtype="float32")  # as the recorded ones were
        task, recipe = load_task(self.again.task_name, base), self.again.recipe
        check_room(base, task, recipe)
        training = train(base, task, recipe)
        try:
            self._follow(training)
        finally:
            self._show()
        if not self._work.stopped:
            self._say("counting right answers …")
            scores = evaluate(Adapted(as_trained(base, recipe), training.learnt), task)
            self.scores = None if self._work.stopped else scores
        self._show()
        self.progress.bar_style = "success" if self.scores else ""
        ended = "finished" if self.scores else "stopped"
        self._say(f"{ended} after step {training.step} of {recipe.steps}")

    def _follow(self, training: Training) -> None:
        """Train to the end or to Stop, and show it."""
        self.records, steps, begun = training.records, training.recipe.steps, time.perf_counter()
        film = plots.LossFilm((), steps, [run.records for run in self.recorded])

        def tell(records: Sequence[StepRecord]) -> None:
            self.progress.value = len(records)
            self._say(words.progress(records, steps, time.perf_counter() - begun))

        def draw(records: Sequence[StepRecord]) -> None:
            self.loss_picture.value = film.frame(records)

        follow(training, self._work, tell, draw)
        self.progress.value = training.step

    def _show(self) -> None:
        self.loss_picture.show(self.picture)
        self.result.value = words.recorded_and_here(self.recorded, self.scores, self.records)

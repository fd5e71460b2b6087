"""A recorded result, and a button that trains the same run once more on this machine."""

from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.findings.recordings import recorded_runs
from lora_lab.models.bases import load_base
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.widgets import markup, run_summary
from lora_lab.widgets.boxes import row
from lora_lab.widgets.following import after_step
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import counted


class RunHere(WorkingBox):
    """Recorded runs beside the same run here: the first recorded seed is trained again.

    After `start()` or a click on Run it here, and `wait()`, `records` and `scores` hold the run
    here; `recorded` holds the recorded runs. The model is not kept.

    Args:
        name: the name of a recording, as in `recorded_runs`: "home-commands".

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
        self.children = [
            widgets.HTML(markup.title(f"Recorded: {name}")),
            self.result,
            row(self.train_button, self.stop_button, self.progress, self.state),
            self.panel.warnings,
            self.loss_picture,
        ]
        self.result.add_class("lora-lab-result")
        self.train_button.on_click(lambda _: self.start())
        self._say("not run here yet")
        self._show()

    def start(self) -> None:
        """Train and score it in the background, as a click on Run it here does; one at a time."""
        if not self.train_button.disabled:
            self.panel.set_busy(True)
            self._work.submit("run", self._run)

    @property
    def picture(self) -> plots.Picture:
        """The loss here, over the band of the recorded runs."""
        band = [run.records for run in self.recorded]
        return plots.picture(plots.draw_loss, self.records, (), self.again.recipe.steps, band)

    def __repr__(self) -> str:
        scores = [run.scores for run in self.recorded]
        metric = scores[0].metric_name
        seeds = counted(len(scores), "seed")
        spread = run_summary.score_range(scores)
        return f"RunHere: {self.name} · recorded: {metric} {spread}, {seeds}"

    def _run(self) -> None:
        self.records, self.scores = (), None
        self.panel.reset_bar()
        self._show()
        self._say(f"loading {self.again.base_name} …")
        base = load_base(self.again.base_name, dtype="float32")  # as in the recorded runs
        task, recipe = load_task(self.again.task_name, base), self.again.recipe
        check_room(base, task, recipe)
        training = self.panel.prepare(base, task, recipe)
        self.records = training.records
        band = [run.records for run in self.recorded]
        try:
            self.panel.follow(training, plots.LossFilm((), recipe.steps, band))
        finally:
            self._show()
        if not self._work.stopped:
            self._say("counting right answers …")
            scores = evaluate(training.adapted(), task)
            self.scores = None if self._work.stopped else scores
        self._show()
        self.progress.bar_style = "success" if self.scores else ""
        self._say(after_step("finished" if self.scores else "stopped", training))

    def _show(self) -> None:
        self.loss_picture.show(self.picture)
        self.result.value = run_summary.recorded_and_here(self.recorded, self.scores, self.records)

"""The results of a lab's trainings on a task: the run at hand, its noise band, earlier runs."""

from collections import deque
from collections.abc import Callable

from lora_lab import plots
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training
from lora_lab.training.store import Run
from lora_lab.widgets.before_after import BeforeAfter
from lora_lab.widgets.forgetting_film import ForgettingFilm
from lora_lab.widgets.run_summary import differences
from lora_lab.widgets.samples import smaller_task, with_different_answers
from lora_lab.widgets.seeds import MORE, Seeds

KEPT = 4  # earlier runs that stay in the picture
METERS_SIZE = (500, 150)  # pixels


class LabResults:
    """The training, its answers and scores, and the curves beside it.

    `part` is the task with only the questions that are asked. `before_after` has the answers,
    `seeds` the noise band, `forgetting` the film; None: there is no film.

    Args:
        base: the base that is fine-tuned.
        task: what it learns.
        questions: the most questions of each kind that are asked to count right answers.
        shown: how many prompts are answered before and after.
        film: whether the film's questions are asked during a training.
        seeds: how many other seeds a noise band has.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        questions: int,
        shown: int,
        film: bool = False,
        seeds: int = MORE,
    ) -> None:
        self.base, self.task, self.part = base, task, smaller_task(task, questions)
        examples = [] if task.teacher else with_different_answers(self.part.test, shown)
        self.before_after = BeforeAfter(base, task, examples)
        self.seeds = Seeds(seeds)
        self.forgetting = ForgettingFilm(base, task) if film else None
        self.base_scores: Scores | None = None  # the base is marked once
        self._earlier: deque[tuple[Recipe, list[StepRecord]]] = deque(maxlen=KEPT)
        self.training: Training | None = None
        self.scores: Scores | None = None

    def forget(self) -> None:
        """Drop the run at hand; its curve stays as that of an earlier run."""
        if len(self.records) > 1:
            self._earlier.append((self.training.recipe, list(self.records)))
        self.training = self.scores = None
        self.before_after.forget()
        self.seeds.shown = []
        if self.forgetting is not None:
            self.forgetting.reset()

    def mark(self, go_on: Callable[[], bool]) -> None:
        """Score the adapted model; then the base, unless it has scores or `go_on` is false."""
        self.scores = evaluate(self.before_after.adapted, self.part)
        if self.base_scores is None and go_on():
            self.base_scores = evaluate(self.base, self.part)
        if self.is_finished:
            self.seeds.keep(self.scored(self.training, self.scores))

    def scored(self, training: Training, scores: Scores) -> Run:
        """A training on this task as a Run with its records and scores, without its weights."""
        return Run(
            recipe=training.recipe,
            records=tuple(training.records),
            scores=scores,
            base_name=self.base.name,
            task_name=self.task.name,
            path=None,
        )

    @property
    def watchers(self) -> list[ForgettingFilm]:
        """The watchers of a training: the film, if there is one."""
        return [self.forgetting] if self.forgetting is not None else []

    @property
    def records(self) -> list[StepRecord]:
        """The records of the run at hand, one per step."""
        return [] if self.training is None else self.training.records

    @property
    def is_finished(self) -> bool:
        """Whether the run at hand came to its end and has scores."""
        if self.training is None or self.scores is None:
            return False
        return self.training.ended

    @property
    def runs(self) -> list[Run]:
        """The run at hand, once it is finished and has scores, then those of its noise band."""
        return self.seeds.band(self.training.recipe) if self.is_finished else []

    @property
    def scores_by_seed(self) -> list[Scores]:
        """The scores of the run at hand, then those of its noise band."""
        every = self.scores, *(run.scores for run in self.seeds.shown)
        return [scores for scores in every if scores]

    @property
    def picture(self) -> plots.Picture:
        """The loss chart."""
        steps = None if self.training is None else self.training.recipe.steps
        others = [run.records for run in self.seeds.shown]
        band = [self.records, *others] if others else ()
        title = []
        if steps is not None and self.training.ended:
            found = plots.loss_finding(self.records)
            title = [f"{self.base.name} · {self.task.name}: {found}"]
        earlier = self._earlier_curves
        return plots.picture(
            plots.draw_loss, self.records, earlier, steps, band, self._earlier_names, *title
        )

    @property
    def film(self) -> plots.LossFilm:
        """The loss chart of the training under way, for many pictures a second."""
        steps = self.training.recipe.steps
        return plots.LossFilm(self._earlier_curves, steps, named=self._earlier_names)

    @property
    def meters(self) -> plots.Picture:
        """Meters of what was learnt and what was lost."""
        seeds = self.scores_by_seed if self.seeds.shown else ()
        numbers = self.base_scores, self.scores, seeds
        return plots.picture(plots.draw_meters, *numbers, size=METERS_SIZE)

    @property
    def _earlier_curves(self) -> list[list[StepRecord]]:
        return [records for _, records in self._earlier]

    @property
    def _earlier_names(self) -> list[str]:
        """What each earlier run did differently from the run at hand; "" without such a run."""
        if self.training is None:
            return [""] * len(self._earlier)
        return [differences(self.training.recipe, recipe) for recipe, _ in self._earlier]

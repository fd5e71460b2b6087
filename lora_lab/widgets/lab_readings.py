"""The properties of a live lab for programs: the run at hand, its answers, scores and pictures."""

from lora_lab import plots
from lora_lab.models.adapted import Adapted
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.loop import Training
from lora_lab.training.store import Run
from lora_lab.widgets.forgetting_film import ForgettingFilm
from lora_lab.widgets.lab_results import LabResults


class LabReadings:
    """Properties of a lab that keeps the results of the task at hand in `_results`."""

    _results: LabResults

    @property
    def task(self) -> Task:
        """The task at hand."""
        return self._results.task

    @property
    def film(self) -> ForgettingFilm | None:
        """The forgetting film of the task at hand; None: it has none."""
        return self._results.forgetting

    @property
    def part(self) -> Task:
        """The task at hand with as many test questions as are asked."""
        return self._results.part

    @property
    def prompts(self) -> list[str]:
        """The prompts that are answered before and after."""
        return [example.prompt for example in self._results.before_after.shown]

    @property
    def before(self) -> list[str]:
        """The base's answers to `prompts`; none before it was asked."""
        return self._results.before_after.before

    @property
    def after(self) -> list[str]:
        """The adapted model's answers to `prompts`; none before it was asked."""
        return self._results.before_after.after

    @property
    def adapted(self) -> Adapted | None:
        """The base with what it learnt, at the strength at which it answered."""
        return self._results.before_after.adapted

    @property
    def training(self) -> Training | None:
        """The training at hand."""
        return self._results.training

    @property
    def records(self) -> list[StepRecord]:
        """The records of the run at hand, one per step."""
        return self._results.records

    @property
    def scores(self) -> Scores | None:
        """The adapted model's scores on a part of the test split, at strength 1."""
        return self._results.scores

    @property
    def base_scores(self) -> Scores | None:
        """The base's scores on the same part."""
        return self._results.base_scores

    @property
    def runs(self) -> list[Run]:
        """The run at hand, once it is finished, and those of its noise band, for `lab.compare`."""
        return self._results.runs

    @property
    def scores_by_seed(self) -> list[Scores]:
        """The scores of the run at hand, then those of its noise band."""
        return self._results.scores_by_seed

    @property
    def picture(self) -> plots.Picture:
        """The loss chart as it stands, for readers without a kernel."""
        return self._results.picture

    @property
    def meters(self) -> plots.Picture:
        """Meters of what was learnt and what was lost, once both models have scores."""
        return self._results.meters

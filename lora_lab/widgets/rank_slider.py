"""A trained adapter cut to rank k: the slider is k, the meters what the model still knows."""

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.lessons.cutting import cut, mean_energy_kept, spectra
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.store import Run
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import PictureView
from lora_lab.widgets.samples import smaller_task
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import percent

SIZE = (500, 150)  # pixels on the screen


class RankSlider(WorkingBox):
    """The scores of a run whose adapter is cut to rank k. Nothing is trained.

    After a move and `wait()`, `scores` holds the scores at `k`, and `picture` draws them.

    Args:
        run: a run of LoRA.
        task: what it was trained on.
        questions: how many of each kind are asked: more takes longer.
    """

    def __init__(self, run: Run, task: Task, questions: int = 60) -> None:
        super().__init__()
        self.run, r = run, run.recipe.r
        self._part = smaller_task(task, questions)
        self._energy = mean_energy_kept(spectra(run))
        self._known: dict[int, Scores] = {}  # by k: each is scored once
        self._base_scores: Scores | None = None
        self.scores: Scores | None = None
        self.picture: plots.Picture | None = None
        self.k = widgets.IntSlider(r, 1, r, description="k", layout={"width": "90%"})
        self.k.style.description_width = "1.5em"
        self.k.continuous_update = False  # asking takes a second
        self.view = PictureView(SIZE[0])
        title = widgets.HTML(markup.title(f"How much of rank {r} did it use?"))
        self.children = [title, self.k, self.state, self.view]
        self._say("move the slider")
        self.k.observe(lambda _: self.show(), names="value")

    def show(self) -> None:
        """Score the adapter cut to k, in the background, as a move of the slider does."""
        self._work.submit("ask", self._ask)

    def _ask(self) -> None:
        k = self.k.value
        self._say(f"asking at rank {k} …")
        if self._base_scores is None:
            self._base_scores = evaluate(self.run.base, self._part)
        if k not in self._known:
            self._known[k] = evaluate(cut(self.run, k), self._part)
        self.scores = self._known[k]
        self.picture = plots.picture(plots.draw_meters, self._base_scores, self.scores, size=SIZE)
        self.view.show(self.picture)
        kept = percent(self._energy[k - 1])
        self._say(f"rank {k} of {self.run.recipe.r} · {kept} of the change's energy")

    def __repr__(self) -> str:
        return f"RankSlider: {self.run.task_name} at rank {self.run.recipe.r}, cut to k"

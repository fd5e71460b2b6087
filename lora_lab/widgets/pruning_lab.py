"""A live lab of AdaLoRA beside the film of its ranks, which moves while it trains."""

from collections.abc import Mapping

from lora_lab.models.bases import Base
from lora_lab.plots import Picture
from lora_lab.tasks.examples import Task
from lora_lab.widgets.boxes import LabBox, columns
from lora_lab.widgets.live_lab import LiveLab
from lora_lab.widgets.live_result import LiveResult
from lora_lab.widgets.rank_map import SIZE, RankMap


class PruningLab(LabBox):
    """`live` trains with AdaLoRA, and `film` shows which matrices keep their ranks.

    Args:
        base: stays as it was.
        task: what is learned.
        planted: the rank that is hidden in a module, by the module's name, if it is known.
        changes: recipe fields that replace those of the task's own recipe, such as init_r.
    """

    def __init__(
        self, base: Base, task: Task, planted: Mapping[str, int] | None = None, **changes: object
    ) -> None:
        self.live = LiveLab(
            base,
            task,
            title="Who deserves rank?",
            in_sight=("learning_rate",),
            **{"method": "adalora"} | changes,
        )
        self.film = RankMap(base, self.live.recipe, planted=planted)
        self.live.watch(self.film)
        self._about = f"{base.name} · {task.name}"
        self.film.layout.width, self.live.layout.width = f"{SIZE[0] + 10}px", "510px"
        super().__init__([columns(self.film, self.live)])

    def train(self, **choices: object) -> LiveResult:
        """Train as a click on Train does, wait for the end, and give the result.

        Args:
            choices: controls to set first, as in `LiveLab.train`.
        """
        return self.live.train(**choices)

    @property
    def picture(self) -> Picture:
        """The ranks as they stand, for readers without a kernel."""
        return self.film.picture

    def __repr__(self) -> str:
        return f"PruningLab: {self._about}"

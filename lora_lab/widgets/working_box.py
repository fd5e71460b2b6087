"""A box that works in the background: its thread, its state line, waiting and closing."""

import html

import ipywidgets as widgets

from lora_lab.widgets import markup
from lora_lab.widgets.background import Background
from lora_lab.widgets.boxes import LabBox
from lora_lab.widgets.following import TrainingPanel


class WorkingBox(LabBox):
    """A box with work in the background and a line, `state`, with its progress.

    A subclass sets its `children` once they are made.

    Args:
        begin: the words on the button that trains; None: this box does not train.
    """

    _work: Background | None = None  # until it is made

    def __init__(self, begin: str | None = None) -> None:
        self._work = Background(self._show_error, self._at_rest)
        self.state = widgets.HTML()
        self.panel: TrainingPanel | None = None
        if begin is not None:
            panel = self.panel = TrainingPanel(begin, self._work, self._say)
            self.train_button, self.stop_button = panel.train_button, panel.stop_button
            self.progress, self.loss_picture = panel.progress, panel.loss_picture
            self.stop_button.on_click(lambda _: self.stop())
        super().__init__([])
        self.state.add_class("lora-lab-state")

    def stop(self) -> None:
        """End the training after the step at hand. Runs that are finished are kept."""
        self._say("stopping after this step …")
        self._work.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Return when all is done. An interrupt ends the work within a step.

        Raises:
            TimeoutError: if that takes longer than `timeout` seconds.
            Exception: the error of the work.
        """
        # A cell that waits keeps the kernel's main thread. JupyterLab sends clicks to a second one,
        # but ipykernel 7.4 turns them back to where a widget was last changed: here, the cell.
        if self.panel is not None:
            getattr(self.stop_button.comm, "__dict__", {}).pop("_reply_subshell_id", None)
        self._work.wait(timeout)

    def _say(self, line: str) -> None:
        self.state.value = html.escape(line)

    def _show_error(self, error: Exception) -> None:
        self.state.value = markup.error_text(error)
        if self.panel is not None:
            self.progress.bar_style = "danger"

    def _at_rest(self) -> None:
        """Nothing is left to do."""
        if self.panel is not None:
            self.panel.set_busy(False)

    def close(self) -> None:
        """Take it off the page, and end all work."""
        if self._work is not None:
            self._work.close()
        super().close()


class TrainAllBox(WorkingBox):
    """A box with a button that trains several runs anew at each click.

    A subclass says in `_is_finished` whether all are trained, and trains them in `_train`.
    """

    def __init__(self) -> None:
        super().__init__("Train all")
        self.train_button.on_click(lambda _: self._begin(again=True))

    def start(self) -> None:
        """Train all in the background, unless they have just been trained.

        A click on the button does the same, but always trains.
        """
        self._begin(again=False)

    def _begin(self, again: bool) -> None:
        if not self.train_button.disabled and (again or not self._is_finished):
            self.panel.set_busy(True)
            self._work.submit("train", self._train)

    @property
    def _is_finished(self) -> bool:
        raise NotImplementedError

    def _train(self) -> None:
        raise NotImplementedError

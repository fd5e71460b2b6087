"""A hunt: a word hides changes in secret modules, and trainings show where they are."""

import dataclasses
import functools
from collections.abc import Collection, Sequence

import ipywidgets as widgets
import pandas as pd

from lora_lab import plots
from lora_lab.models.bases import Base
from lora_lab.recipe import nearest
from lora_lab.tasks.hidden_modules import (
    HIDDEN,
    MODULES,
    fewest_trainings,
    hidden_modules,
    hidden_modules_task,
)
from lora_lab.training.evaluation import evaluate
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import PictureView, action, labelled, row
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import counted, percent

SIZE = (600, 250)  # pixels on the screen


@dataclasses.dataclass(frozen=True)
class HuntResult:
    """How a hunt ended. A notebook shows its table."""

    word: str
    answer: tuple[str, ...]
    secret: tuple[str, ...]
    trainings: int  # without that of all modules, which shows nothing

    @property
    def found(self) -> int:
        """How many of the secret modules the answer names."""
        return len({*self.answer} & {*self.secret})

    def table(self) -> pd.DataFrame:
        """The answer beside the secret, and the trainings beside the fewest that always suffice."""
        rows = {
            "your answer": ", ".join(self.answer),
            "the secret": ", ".join(self.secret),
            "found": f"{self.found} of {len(self.secret)}",
            "trainings used": f"{self.trainings}",
            "fewest that always suffice": f"{fewest_trainings()}",
        }
        return pd.DataFrame.from_dict(rows, "index", columns=[f'the word "{self.word}"'])

    def __repr__(self) -> str:
        return f"{self.table()}"

    def _repr_html_(self) -> str:
        return self.table().to_html()


class HuntLab(WorkingBox):
    """A game: choose modules, train them, see how much error is left; then name the secret ones.

    By code, `train("q_proj", "k_proj")` trains as a click does, and `answer(...)` ends the hunt.
    Another word hides the changes anew.

    Args:
        base: pocket; it stays as it was.
        word: any word, best a neighbour's.

    Raises:
        ValueError: for an empty word.
    """

    def __init__(self, base: Base, word: str) -> None:
        super().__init__("Train these")
        self.base = base
        self.word = labelled(
            widgets.Text(word, continuous_update=False), "a neighbour's word", "18em"
        )
        self.buttons = {
            module: widgets.ToggleButton(description=module, layout={"width": "7.5em"})
            for module in MODULES
        }
        self.answer_button = action("This is my answer")
        self.view = PictureView(SIZE[0])
        self.children = [
            widgets.HTML(markup.title(f"Two of these {len(MODULES)} modules were changed. Which?")),
            self.word,
            row(*self.buttons.values()),
            row(self.train_button, self.stop_button, self.answer_button, self.progress, self.state),
            self.panel.warnings,
            self.view,
        ]
        self.word.observe(lambda _: self._begin_anew(), names="value")
        self.train_button.on_click(lambda _: self._start(self._pressed))
        self.answer_button.on_click(lambda _: self._answered())
        self._begin_anew()

    def train(self, *modules: str) -> float:
        """Train these modules, wait for the end, and return the share of the error that is left.

        Modules that were trained together before are not trained again.

        Raises:
            ValueError: for no module, or a module that is not among the seven.
            RuntimeError: if it was stopped before the end.
        """
        chosen = _in_order(modules)
        self._start(chosen)
        self.wait()
        if chosen not in self.left:
            raise RuntimeError("the training was stopped; train these modules once more")
        return self.left[chosen]

    def answer(self, *modules: str) -> HuntResult:
        """End the hunt: name the secret modules, and see how many of them are right.

        Raises:
            ValueError: if the number of modules is not that of the hidden changes.
        """
        chosen = _in_order(modules)
        if len(chosen) != HIDDEN:
            raise ValueError(f"{counted(len(chosen), 'module')} can't be right; name {HIDDEN}")
        used = sum(len(trained) < len(MODULES) for trained in self.left)
        self.result = HuntResult(self.word.value, chosen, hidden_modules(self.word.value), used)
        self._show()
        self._say(
            f"{self.result.found} of {HIDDEN} found, with {counted(used, 'training')}; "
            f"{fewest_trainings()} always suffice · another word hides anew"
        )
        return self.result

    def table(self) -> pd.DataFrame:
        """A row for each training so far."""
        rows = [
            {"trained": ", ".join(trained), "error left": percent(share)}
            for trained, share in self.left.items()
        ]
        return pd.DataFrame(rows, index=range(1, len(rows) + 1))

    @property
    def picture(self) -> plots.Picture:
        """The trainings as they stand, for readers without a kernel."""
        secret = self.result.secret if self.result else ()
        return plots.picture(plots.draw_hunt, MODULES, self.left, secret, size=SIZE)

    def __repr__(self) -> str:
        return f"HuntLab: {self.base.name} · {HIDDEN} of {', '.join(MODULES)}"

    # --- what clicks do ---

    @property
    def _pressed(self) -> tuple[str, ...]:
        return tuple(module for module, button in self.buttons.items() if button.value)

    def _begin_anew(self) -> None:
        self.left: dict[tuple[str, ...], float] = {}
        self.result: HuntResult | None = None
        self._before: float | None = None  # the base's error
        self._show()
        try:
            self.task = hidden_modules_task(self.base, self.word.value)
        except ValueError as error:
            self._show_error(error)
            return
        self._say("ready: choose modules, then train them")

    def _answered(self) -> None:
        try:
            self.answer(*self._pressed)
        except ValueError as error:
            self._show_error(error)

    def _start(self, modules: Collection[str]) -> None:
        if not modules:
            self._say("choose a module first")
        elif modules not in self.left and not self.train_button.disabled:
            self.panel.set_busy(True)
            self._work.submit("train", functools.partial(self._train, modules))

    def _train(self, modules: tuple[str, ...]) -> None:
        self.panel.reset_bar()
        self._say("training …")
        task, left = self.task, self.left  # another word may come meanwhile
        recipe = dataclasses.replace(task.recipe, target_modules=modules)
        training = self.panel.prepare(self.base, task, recipe)
        self.panel.follow(training)
        if self._work.stopped or self.task is not task:
            self._say(self.panel.outcome)
            return
        if self._before is None:
            self._before = evaluate(self.base, task).value
        left[modules] = evaluate(training.adapted(), task).value / self._before
        self.progress.bar_style = "success"
        self._show()
        self._say(f"{percent(left[modules])} of the error is left")

    def _show(self) -> None:
        self.view.show(self.picture)


def _in_order(modules: Sequence[str]) -> tuple[str, ...]:
    """The modules in the model's order, each once."""
    if not modules:
        raise ValueError(f"no module is named; give some of {', '.join(MODULES)}")
    for module in modules:
        if module not in MODULES:
            hint = nearest(module, MODULES)
            raise ValueError(f"there is no module {module!r} here; {hint}it has: {MODULES}")
    return tuple(module for module in MODULES if module in modules)

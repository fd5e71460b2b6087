"""A verdict on two settings, and a button that trains more seeds until it is settled."""

import dataclasses
import html
import statistics
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from lora_lab.maths.comparison import UNSETTLED, Comparison
from lora_lab.maths.looks import LOOKS, next_look
from lora_lab.maths.statistics import LEVEL
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.pairing import compare, compare_at_look
from lora_lab.training.store import DEFAULT, Default, Run
from lora_lab.widgets import markup, run_summary
from lora_lab.widgets.boxes import row
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.sweep_following import SweepFollower, with_seeds
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import counted, duration

LOOKS_TEXT = f"{', '.join(map(str, LOOKS[:-1]))} and {LOOKS[-1]}"
HELP = (
    f"The plan looks at the result after {LOOKS_TEXT} seeds a setting, and ends once it is "
    f"settled. Each look takes a wider interval, so that all looks together call equal settings "
    f"different in {100 * LEVEL:g} % of cases. More looks would err more often (lesson 4)."
)


class SeedsButton(WorkingBox):
    """Whether b is better than a: the verdict so far, and a button "5 more seeds, about 40 s".

    A click, or `train()`, trains both settings up to the next look of the plan: 5, 10 or 20 seeds.
    Then `a` and `b` hold the runs, and `comparison` compares them.

    Args:
        base: stays as it was.
        task: what is learnt.
        a: a setting: its runs so far, each with a seed of its own; or its recipe.
        b: another setting: runs with the same seeds; or its recipe.
        margin: the smallest difference that matters, as in `lab.compare`.
        engine: as in `lab.sweep`.
        store: as in `lab.sweep`: finished runs are replayed.

    Raises:
        ValueError: if the two are the same setting, or their runs can't be compared.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        a: Recipe | Sequence[Run],
        b: Recipe | Sequence[Run],
        *,
        margin: float | None = None,
        engine: str = "auto",
        store: str | Path | Default | None = DEFAULT,
    ) -> None:
        super().__init__("More seeds")
        self.base, self.task, self.margin = base, task, margin
        self._settings = tuple(_setting(side) for side in (a, b))
        self._names = tuple(
            run_summary.differences(*pair) for pair in (self._settings[::-1], self._settings)
        )
        if not all(self._names):
            raise ValueError("a and b are one setting; give two that differ")
        self._follower = SweepFollower(base, task, engine=engine, store=store)
        sides = [() if isinstance(side, Recipe) else tuple(side) for side in (a, b)]
        if any(sides) and not all(sides):
            raise TypeError("one side has runs, the other is a recipe; give runs or recipes twice")
        for run in (*sides[0], *sides[1]):
            self._follower.runs[run.recipe] = run
        self.a: tuple[Run, ...] = ()
        self.b: tuple[Run, ...] = ()
        self.comparison: Comparison | None = None  # None: fewer than two seeds
        self.verdict = widgets.HTML()
        self.verdict.add_class("lora-lab-verdict")
        self.children = [
            widgets.HTML(markup.title(self._question)),
            self.verdict,
            row(self.train_button, self.stop_button, self.progress, self.state),
            widgets.HTML(markup.help_text(HELP)),
        ]
        self.train_button.on_click(lambda _: self.start())
        self._look(*sides)

    # --- what a notebook calls and reads ---

    def start(self) -> None:
        """Train up to the next look in the background, as a click on the button does."""
        if not self.train_button.disabled:
            self.panel.set_busy(True)
            self._work.submit("train", self._train)

    def train(self) -> Comparison | None:
        """Train up to the next look as a click does, wait for it, and return the comparison."""
        self.start()
        self.wait()
        return self.comparison

    @property
    def settled(self) -> bool:
        """Whether the comparison has a verdict other than "not settled"."""
        return self.comparison is not None and self.comparison.result != UNSETTLED

    @property
    def more_seeds(self) -> int:
        """How many seeds each setting lacks at the next look; 0: settled, or the plan has ended."""
        look = next_look(len(self.a))
        return 0 if self.settled or look is None else look - len(self.a)

    def __repr__(self) -> str:
        return f"SeedsButton: {self._question} · looks after {LOOKS_TEXT} seeds"

    # --- the plan ---

    @property
    def _question(self) -> str:
        a, b = self._names
        return f"Is {b} better than {a}?"

    @property
    def _next_seeds(self) -> list[int]:
        """The seeds to train for the next look: the smallest that no run has."""
        taken = {run.recipe.seed for run in self.a}
        free = (seed for seed in range(len(taken) + self.more_seeds) if seed not in taken)
        return [*free][: self.more_seeds]

    def _look(self, a: Sequence[Run], b: Sequence[Run]) -> None:
        """Compare the runs, as the plan allows, and show the verdict."""
        seeds, found = len(a), None
        if seeds in LOOKS:
            found = compare_at_look(a, b, margin=self.margin)
        elif seeds > 1:
            found = compare(a, b, margin=self.margin)
        if found is not None:
            found = dataclasses.replace(found, **dict(zip("ab", self._names, strict=True)))
        between = LOOKS[0] < seeds < LOOKS[-1] and seeds not in LOOKS
        self.a, self.b, self.comparison = tuple(a), tuple(b), None if between else found
        self.verdict.value = f"<b>{html.escape(self._verdict_words())}</b>"
        self._say("" if self.more_seeds else self._ending())
        self._show_buttons(busy=False)

    def _verdict_words(self) -> str:
        seeds = f"{counted(len(self.a), 'seed')} a setting"
        if self.comparison is None:
            return f"no verdict after {seeds}: the plan looks after {LOOKS_TEXT}"
        return f"{self.comparison.measure}: {self.comparison.verdict}"

    def _show_buttons(self, *, busy: bool) -> None:
        self.train_button.description = self._button_words()
        self.panel.set_busy(busy)
        self.train_button.disabled = busy or not self.more_seeds

    def _button_words(self) -> str:
        """`5 more seeds, about 40 s`."""
        if not self.more_seeds:
            return "No more seeds"
        more = "more " if self.a else ""
        words = counted(self.more_seeds, f"{more}seed")
        seconds = self._expected_seconds()
        return words if seconds is None else f"{words}, about {duration(seconds)}"

    def _ending(self) -> str:
        return "settled" if self.settled else f"the plan ends after {counted(LOOKS[-1], 'seed')}"

    def _expected_seconds(self) -> float | None:
        """The seconds that the missing runs take, by the pace here or the steps of earlier runs."""
        count = len(self._settings) * self.more_seeds
        if self._follower.trained:
            return self._follower.seconds / self._follower.trained * count
        seconds = [
            statistics.fmean(sum(record.seconds for record in run.records) for run in runs)
            for runs in (self.a, self.b)
            if runs
        ]
        return sum(seconds) * self.more_seeds if len(seconds) == 2 and all(seconds) else None

    # --- what the thread does ---

    def _train(self) -> None:
        self.panel.reset_bar()
        self._say("getting ready …")
        seeds = self._next_seeds
        for setting in self._settings:
            check_room(self.base, self.task, setting)
        new = with_seeds(self._settings, seeds)
        self.panel.follow_sweep(self._follower, self._settings, seeds)
        if len(self._follower.finished(new)) < len(new):
            self._say(f"{self.panel.outcome}; the button goes on")
            return
        self.progress.bar_style = "success"
        sides = (
            [*runs, *self._follower.finished(with_seeds([setting], seeds))]
            for setting, runs in zip(self._settings, (self.a, self.b), strict=True)
        )
        self._look(*sides)

    def _at_rest(self) -> None:
        self._show_buttons(busy=False)


def _setting(side: Recipe | Sequence[Run]) -> Recipe:
    """The recipe of a side, with seed 0."""
    if isinstance(side, Recipe):
        return dataclasses.replace(side, seed=0)
    if isinstance(side, Sequence) and side and all(isinstance(run, Run) for run in side):
        return dataclasses.replace(side[0].recipe, seed=0)
    raise TypeError(
        f"{side!r:.80} isn't a setting; give its runs, as in sweep.runs[:5], or its recipe"
    )

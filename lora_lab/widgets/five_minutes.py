"""A game: choose all training parameters, train for five minutes, and see the score."""

import dataclasses
import html
from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.estimates import estimate, expected_seconds, find_shape, flops_per_second
from lora_lab.lessons.attempts import Attempt, best_attempts, keep_attempt
from lora_lab.lessons.sharing import share_attempt
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import columns, row
from lora_lab.widgets.following import after_step
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import RecipeControls
from lora_lab.widgets.samples import spread
from lora_lab.widgets.working_box import WorkingBox
from lora_lab.wording import fine_percent

CHOSEN = (
    *("method", "r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay"),
    *("batch_size", "gradient_accumulation_steps", "steps", "warmup_steps"),
)
ALWAYS = ("learning_rate", "batch_size", "steps")  # on the board, even if all are alike
DRAWN = 50  # steps whose batches are drawn for an estimate: more would take too long


class FiveMinutes(WorkingBox):
    """Choose, see how long it will take, train once; the best attempts are kept on disk.

    A run that is not done when the time is up is stopped and scored as it is. The score is the
    share of new facts (of the validation split) or of old facts that are right, whichever is lower.
    After `start()` or a click on Train once, and `wait()`, `attempt` holds the result.

    Args:
        base: stays as it was.
        task: a task with old knowledge.
        seconds: the budget for the training alone.
        questions: the most questions of each kind.
        changes: recipe fields that replace those of the task's own recipe.

    Raises:
        ValueError: if the task has no old knowledge.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        *,
        seconds: float = 300,
        questions: int = 100,
        **changes: object,
    ) -> None:
        if not task.old_knowledge:
            raise ValueError(
                f"the task {task.name!r} has no old knowledge, and what was kept is a half of the "
                "score; give one that has, such as lab.load_task('new-facts', base)"
            )
        super().__init__("Train once")
        self.base, self.seconds = base, seconds
        self.task = dataclasses.replace(
            task,
            validation=spread(task.validation, questions),
            old_knowledge=spread(task.old_knowledge, questions),
            strangers=[],
        )
        examples = f"{len(task.train)} example{'s' * (len(task.train) != 1)}"  # kept on disk so
        self.game = f"{base.name} · {task.name}, {examples} · {seconds:g} s"
        self.records: Sequence[StepRecord] = ()
        self.attempt: Attempt | None = None
        self._unsent = ""
        self.controls = RecipeControls(dataclasses.replace(task.recipe, **changes), CHOSEN)
        self.progress.max = 1
        self.expected, self.best = widgets.HTML(), widgets.HTML()
        self.children = self._rows()
        self.train_button.on_click(lambda _: self.start())
        self.controls.changed = lambda: self._work.submit("estimate", self._show_expected)
        self._say("ready: choose, then train")
        self._show_loss(self.controls.recipe.steps)
        self._show_best()
        self.controls.changed()

    def _rows(self) -> list[widgets.Widget]:
        for control in self.controls.controls.values():  # room for the longest name
            control.style.description_width, control.layout.width = "16em", "23em"
        grid = widgets.GridBox(
            [self.controls.row(field) for field in CHOSEN],
            layout={"grid_template_columns": "repeat(auto-fill, minmax(26em, 1fr))"},
        )
        rule = (
            f"{self.game}. The score: new facts right or old facts right, whichever is lower. "
            f"After {self.seconds:g} s the training is cut."
        )
        return [
            widgets.HTML(markup.title("A budget of five minutes")),
            widgets.HTML(markup.faint(rule)),
            grid,
            self.expected,
            row(self.train_button, self.stop_button, self.progress, self.state),
            self.panel.warnings,
            columns(self.loss_picture, self.best),
        ]

    def start(self) -> None:
        """Train once and score it in the background, as a click on Train once does."""
        if not self.train_button.disabled:
            self.panel.set_busy(True)
            self._work.submit("train", self._train)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the next training.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        return self.controls.recipe

    def __repr__(self) -> str:
        return f"FiveMinutes: {self.game}"

    # --- what the thread does ---

    def _show_expected(self) -> None:
        """Say between which two times the training will take; or why the choices can't be."""
        try:
            recipe = self.recipe
            few = dataclasses.replace(recipe, steps=min(recipe.steps, DRAWN), warmup_steps=0)
            flops = estimate(self.base, few, self.task).flops_per_step
        except (TypeError, ValueError) as error:
            self.expected.value = markup.error_text(error)
            return
        rate = flops_per_second(find_shape(self.base), recipe, self.base.device)
        least, most = (recipe.steps * seconds for seconds in expected_seconds(flops, rate))
        line = f"estimated: {least:.0f} to {most:.0f} s of {self.seconds:g} s, on an idle machine"
        if most > self.seconds:
            line += "; it may be cut" if least <= self.seconds else "; it will be cut"
        self.expected.value = html.escape(line)

    def _train(self) -> None:
        self.attempt, self.records = None, ()
        recipe = self.recipe
        self.panel.reset_bar()
        self.progress.max = recipe.steps
        check_room(self.base, self.task, recipe)
        training = self.panel.prepare(self.base, self.task, recipe)
        self.records = training.records
        try:
            film = plots.LossFilm((), recipe.steps)
            self.panel.follow(training, film, budget=self.seconds)
        finally:
            self._show_loss(recipe.steps)
        if not self._work.stopped:
            self._say("counting right answers …")
            self._score_attempt(training)
        ending = "stopped" if self.attempt is None else self._ending(training)
        self._say(after_step(ending, training))

    def _score_attempt(self, training: Training) -> None:
        scores = evaluate(training.adapted(), self.task, split="validation")
        if self._work.stopped:
            return
        choices = {field: getattr(training.recipe, field) for field in CHOSEN}
        self.attempt = Attempt(
            game=self.game,
            choices=choices,
            new=scores.value,
            old=scores.old_knowledge,
            seconds=self.panel.seconds,
        )
        keep_attempt(self.attempt)
        self._unsent = share_attempt(self.attempt)
        self.progress.bar_style = "success"
        self._show_best()

    def _ending(self, training: Training) -> str:
        whole = training.step == training.recipe.steps
        ending = "finished" if whole else "cut, the time was up,"
        unsent = f" · {self._unsent}" if self._unsent else ""
        return f"score {fine_percent(self.attempt.score)} · {ending}{unsent}"

    # --- what is shown ---

    def _show_best(self) -> None:
        best = best_attempts(self.game)
        self.best.value = _attempts_table(best) if best else markup.faint("no attempt so far")

    def _show_loss(self, steps: int) -> None:
        self.loss_picture.show(plots.picture(plots.draw_loss, self.records, (), steps))


def _attempts_table(best: Sequence[Attempt]) -> str:
    """The best attempts: scores, rate, batch, steps, and the other choices in which they differ."""
    fields = [
        name
        for name in CHOSEN
        if name in ALWAYS or len({str(attempt.choices.get(name)) for attempt in best}) > 1
    ]
    rows = [
        (
            *(fine_percent(share) for share in (attempt.score, attempt.new, attempt.old)),
            f"{attempt.seconds:.0f}",
            *(str(attempt.choices.get(name, "")) for name in fields),
        )
        for attempt in best
    ]
    heads = ("score", "new", "old", "seconds", *fields)
    return f"<b>Your best attempts</b>{markup.table('lora-lab-best', heads, rows)}"

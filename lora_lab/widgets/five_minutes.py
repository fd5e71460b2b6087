"""A game: all training parameters are yours, five minutes too; one run at a time is scored."""

import dataclasses
import html
import time
from collections.abc import Sequence

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.estimates import estimate, expected_seconds, find_shape, flops_per_second
from lora_lab.lessons.attempts import Attempt, best_attempts, keep_attempt
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import as_trained
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training, train
from lora_lab.widgets import words
from lora_lab.widgets.before_after import spread
from lora_lab.widgets.following import follow
from lora_lab.widgets.lab_face import PictureView, TrainingBox, row
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import RecipeControls

CHOSEN = (
    *("method", "r", "lora_alpha", "lora_dropout", "learning_rate", "weight_decay"),
    *("batch_size", "gradient_accumulation_steps", "steps", "warmup_steps"),
)
DRAWN = 50  # steps whose batches are drawn for an estimate: more would keep one waiting


class FiveMinutes(TrainingBox):
    """Choose, see what it will take, train once; the best attempts are kept on disk.

    A run that is not done when the time is up is cut there, and what it learnt until then is
    scored: the lower of the shares of new facts (of the validation split) and of old ones that are
    right. After `start()` or a click on Train once, and `wait()`, `attempt` holds what came of it.

    Args:
        base: stays as it was.
        task: with old knowledge.
        seconds: the budget, for training alone.
        questions: of each kind, at most.
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
        told = words.counted(len(task.train), "example")
        self.game = f"{base.name} · {task.name}, {told} · {seconds:g} s"
        self.records: Sequence[StepRecord] = ()
        self.attempt: Attempt | None = None
        self.controls = RecipeControls(dataclasses.replace(task.recipe, **changes), CHOSEN)
        self.progress.max = 1
        self.expected, self.best = widgets.HTML(), widgets.HTML()
        self.loss_picture = PictureView(plots.SIZE[0])
        self.children = self._rows()
        self.loss_picture.add_class("lora-lab-loss")
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
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
        side_by_side = row(self.loss_picture, self.best)
        side_by_side.layout.align_items, side_by_side.layout.grid_gap = "flex-start", "12px"
        rule = (
            f"{self.game}. The score: new facts right or old facts right, whichever is lower. "
            f"After {self.seconds:g} s the training is cut."
        )
        return [
            widgets.HTML(words.title("A budget of five minutes")),
            widgets.HTML(words.faint(rule)),
            grid,
            self.expected,
            row(self.train_button, self.stop_button, self.progress, self.state),
            side_by_side,
        ]

    def start(self) -> None:
        """Train once and score it in the background, as a click on Train once does."""
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("train", self._train)

    def stop(self) -> None:
        """End the training after its step; it is not scored then."""
        self._say("stopping …")
        self._work.stop()

    @property
    def recipe(self) -> Recipe:
        """What the next training will do.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        return self.controls.recipe

    def __repr__(self) -> str:
        return f"FiveMinutes: {self.game}"

    # --- what the thread does ---

    def _show_expected(self) -> None:
        """What the choices will take here, between the estimate's ends; or why they can't be."""
        try:
            recipe = self.recipe
            few = dataclasses.replace(recipe, steps=min(recipe.steps, DRAWN), warmup_steps=0)
            flops = estimate(self.base, few, self.task).flops_per_step
        except (TypeError, ValueError) as error:
            self.expected.value = words.failure(error)
            return
        rate = flops_per_second(find_shape(self.base), recipe, self.base.device)
        least, most = (recipe.steps * one for one in expected_seconds(flops, rate))
        told = f"estimated: {least:.0f} to {most:.0f} s of {self.seconds:g} s, on an idle machine"
        if most > self.seconds:
            told += "; it may be cut" if least <= self.seconds else "; it will be cut"
        self.expected.value = html.escape(told)

    def _train(self) -> None:
        self.attempt, self.records = None, ()
        recipe = self.recipe
        self.progress.value, self.progress.max = 0, recipe.steps
        self.progress.bar_style = ""
        check_room(self.base, self.task, recipe)
        training = train(self.base, self.task, recipe)
        try:
            seconds = self._follow(training)
        finally:
            self._show_loss(recipe.steps)
        if not self._work.stopped:
            self._say("counting right answers …")
            self._score(training, seconds)
        how = "stopped" if self.attempt is None else self._outcome(training)
        self._say(f"{how} after step {training.step} of {recipe.steps}")

    def _follow(self, training: Training) -> float:
        """Train to the end, to Stop or until the time is up, and show it; the seconds it took."""
        self.records, steps = training.records, training.recipe.steps
        film, begun = plots.LossFilm((), steps), time.perf_counter()

        def spent() -> float:
            return time.perf_counter() - begun

        def tell(records: Sequence[StepRecord]) -> None:
            self.progress.value = len(records)
            self._say(f"{spent():.0f} s · {words.progress(records, steps, spent())}")

        def draw(records: Sequence[StepRecord]) -> None:
            self.loss_picture.value = film.frame(records)

        follow(training, self._work, tell, draw, lambda: spent() >= self.seconds)
        self.progress.value = training.step
        return spent()

    def _score(self, training: Training, seconds: float) -> None:
        model = Adapted(as_trained(self.base, training.recipe), training.learned)
        scores = evaluate(model, self.task, split="validation")
        if self._work.stopped:
            return
        choices = {field: getattr(training.recipe, field) for field in CHOSEN}
        self.attempt = Attempt(
            game=self.game,
            choices=choices,
            new=scores.value,
            old=scores.old_knowledge,
            seconds=seconds,
        )
        keep_attempt(self.attempt)
        self.progress.bar_style = "success"
        self._show_best()

    def _outcome(self, training: Training) -> str:
        how = "finished" if training.step == training.recipe.steps else "cut, the time was up,"
        return f"score {words.percent(self.attempt.score)} · {how}"

    # --- what is shown ---

    def _show_best(self) -> None:
        best = best_attempts(self.game)
        self.best.value = _table(best) if best else words.faint("no attempt so far")

    def _show_loss(self, steps: int) -> None:
        self.loss_picture.show(plots.picture(plots.draw_loss, self.records, (), steps))


def _table(best: Sequence[Attempt]) -> str:
    """The best attempts, and in which choices they differ from each other."""
    fields = [name for name in CHOSEN if len({str(one.choices.get(name)) for one in best}) > 1]
    head = ("score", "new", "old", "seconds", *fields)
    lines = [
        (
            *(words.percent(share) for share in (one.score, one.new, one.old)),
            f"{one.seconds:.0f}",
            *(str(one.choices.get(name, "")) for name in fields),
        )
        for one in best
    ]
    rows = [
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines
    ]
    heads = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    return (
        "<b>Your best attempts</b>"
        f'<table class="lora-lab-best"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )

"""A fine-tune to watch: one click trains; then the same prompts, before and after."""

import dataclasses
import html
import math
import time
import warnings
from collections.abc import Sequence

from lora_lab import plots
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import as_trained
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.loading import NAMES, load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training, train
from lora_lab.widgets import words
from lora_lab.widgets.background import DROP_ALL
from lora_lab.widgets.before_after import Asked, different, opening, part_of
from lora_lab.widgets.following import follow
from lora_lab.widgets.lab_face import LabFace
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import script
from lora_lab.widgets.seeds import Outcome, Seeds

LARGE = 20_000_000  # parameters; from here on an answer takes long enough to ask for fewer
KEPT = 4  # earlier runs of a task that stay in the picture
METERS_SIZE = (500, 150)  # pixels
LONGEST_OWN = 1000  # characters of a prompt of one's own: more would keep one waiting


class LiveLab(LabFace):
    """One fine-tune after another of a base, watched as it happens.

    After `start()` or a click on Train, and `wait_for_results()`, these hold what happened:
    `training`, `records`, `adapted`, `before` and `after` (the answers to `prompts`),
    `base_scores` and `scores` (marks on a part of the test split). Earlier runs stay in the
    chart, in grey.

    Args:
        base: stays as it was.
        tasks: what can be chosen: names or `Task`s, one or several; None: all of this base's.
        title: the heading.
        in_sight: recipe fields whose controls stand beside the task, not folded.
        questions: how many test examples are asked to count right answers; None: as many as take
            seconds (20 for a large base, 100 for a small one).
        shown: how many prompts are answered before and after.
        changes: recipe fields that replace those of the task's own recipe.
    """

    def __init__(
        self,
        base: Base,
        tasks: str | Task | Sequence[str | Task] | None = None,
        *,
        title: str = "Teach a language model a new trick",
        in_sight: Sequence[str] = (),
        questions: int | None = None,
        shown: int = 3,
        **changes: object,
    ) -> None:
        given = NAMES.get(base.name, NAMES["smollm2"]) if tasks is None else tasks
        given = [given] if isinstance(given, str | Task) else list(given)
        self._tasks = {one.name if isinstance(one, Task) else one: one for one in given}
        super().__init__(title, [*self._tasks], in_sight)
        self.base, self.shown, self._changes = base, shown, changes
        self.questions = questions or (20 if base.model.num_parameters() > LARGE else 100)
        self._known_scores: dict[str, Scores] = {}  # the base's, by task: it is marked once
        # by task, the recipes and records of earlier runs
        self._earlier: dict[str, list[tuple[Recipe, list[StepRecord]]]] = {
            name: [] for name in self._tasks
        }
        self._seeds = Seeds()
        self.training: Training | None = None
        self._choose(self.task_choice.value)
        self._wire()

    def _wire(self) -> None:
        self.train_button.on_click(lambda _: self._begin(again=True))
        self.stop_button.on_click(lambda _: self.stop())
        self.noise_button.on_click(lambda _: self.noise_band())
        self.ask_button.on_click(lambda _: self.ask(self.own_prompt.value))
        self.own_prompt.on_msg(self._on_enter)
        self.task_choice.observe(lambda change: self._choose(change["new"]), names="value")
        self.strength.observe(lambda _: self._work.submit("answer", self._answer), names="value")
        self.controls.changed = self._show_code

    def _on_enter(self, _: object, content: dict, __: object) -> None:
        if content.get("event") == "submit":
            self.ask(self.own_prompt.value)

    # --- what can be asked of it ---

    def start(self) -> None:
        """Train in the background, if these choices have not just been trained. One at a time.

        A click on Train does the same, and trains in any case.
        """
        self._begin(again=False)

    def _begin(self, again: bool) -> None:
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("train", lambda: self._train(again))

    def noise_band(self) -> None:
        """Train what is shown again with other seeds, in the background, and draw their spread.

        What was trained before in this lab is replayed. Stop ends it; the seeds until then stay.
        Without a finished training `wait` raises a RuntimeError.
        """
        self._work.submit("noise", self._add_noise)

    def stop(self) -> None:
        """End the training after its step. Asked again: leave the answers out, too."""
        if self._stepping and not self._work.stopped:
            self._say("stopping after this step … (click again to leave the answers out)")
        else:
            self._say("stopping …")
        self.ask_said.value = ""
        self._work.stop()

    def wait_for_results(self, timeout: float | None = None) -> None:
        """`wait`, in front of what looks at answers and marks.

        Raises:
            RuntimeError: if there are none, with what to do.
        """
        self.wait(timeout)
        if self.scores is None or self.base_scores is None:
            raise RuntimeError(
                f"there are no results yet (the lab says: {self._outcome}); press Train in the "
                "lab above and let it end, or run the cell with start()"
            )

    def ask(self, prompt: str) -> None:
        """Answer one more prompt, before and after, beside those of the task; "" takes it away."""
        prompt = prompt.strip()
        if len(prompt) > LONGEST_OWN:
            self._say_beside_ask(
                f"that is {len(prompt):,} characters long; give at most {LONGEST_OWN:,}"
            )
            return
        self._say_beside_ask("asked after the training" if self.train_button.disabled else "")
        own = Example(prompt, "") if prompt else None
        self._work.submit("ask", lambda: self._answer_with(own))

    @property
    def recipe(self) -> Recipe:
        """What the next training will do.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        recipe = self.controls.recipe
        if recipe.eval_steps is None:
            recipe = dataclasses.replace(recipe, eval_steps=math.ceil(recipe.steps / 4))
        return recipe

    @property
    def prompts(self) -> list[str]:
        """What is asked before and after."""
        return [example.prompt for example in self._asked.shown]

    @property
    def before(self) -> list[str]:
        """The base's answers to `prompts`; none before it was asked."""
        return self._asked.before

    @property
    def after(self) -> list[str]:
        """The adapted model's answers to `prompts`; none before it was asked."""
        return self._asked.after

    @property
    def adapted(self) -> Adapted | None:
        """The base with what it learnt, at the strength at which it answered."""
        return self._asked.adapted

    @property
    def records(self) -> list[StepRecord]:
        """Of the run at hand, one per step."""
        return [] if self.training is None else self.training.records

    @property
    def scores_by_seed(self) -> list[Scores]:
        """Of the run at hand, then those of its noise band."""
        return [one for one in (self.scores, *(other.scores for other in self._seeds.shown)) if one]

    @property
    def picture(self) -> plots.Picture:
        """The loss chart as it stands, for readers without a kernel."""
        steps = None if self.training is None else self.training.recipe.steps
        others = [one.records for one in self._seeds.shown]
        band = [self.records, *others] if others else ()
        earlier, named = self._earlier_runs
        return plots.picture(plots.draw_loss, self.records, earlier, steps, band, named)

    @property
    def meters(self) -> plots.Picture:
        """What was learnt and what was lost, once both models are marked."""
        seeds = self.scores_by_seed if self._seeds.shown else ()
        numbers = self.base_scores, self.scores, seeds
        return plots.picture(plots.draw_meters, *numbers, size=METERS_SIZE)

    @property
    def code(self) -> str:
        """The same fine-tune as a script."""
        given = isinstance(self._tasks[self.task.name], Task)
        return script(self.base, None if given else self.task.name, self.recipe)

    def __repr__(self) -> str:
        return f"LiveLab: {self.base.name} · {', '.join(self._tasks)}"

    # --- a task is chosen ---

    def _choose(self, name: str) -> None:
        self._keep_curve()
        given = self._tasks[name]
        self.task = given if isinstance(given, Task) else load_task(given, self.base)
        self._part = part_of(self.task, self.questions)
        examples = [] if self.task.teacher else different(self._part.test, self.shown)
        self._asked = Asked(self.base, self.task, examples)
        self.own_prompt.value = opening(self._part.test)
        self._forget()
        self.controls.reset(dataclasses.replace(self.task.recipe, **self._changes))
        self.about.value = words.about(self.task.about)
        self._show_code()
        self._show_loss()
        self._set_busy(False)

    def _forget(self) -> None:
        """Clear what the last training left."""
        self.training: Training | None = None
        self._stepping = False
        self._asked.forget()
        self._seeds.shown = []
        self.seconds = 0.0
        self.base_scores, self.scores = self._known_scores.get(self.task.name), None
        self.progress.value, self.progress.bar_style = 0, ""
        self.marks.value = self.cost.value = self.ask_said.value = ""
        self.meters_picture.layout.display = "none"
        self._end("ready: press Train")
        self._show_answers()

    def _keep_curve(self) -> None:
        if self.training is not None and len(self.records) > 1:
            kept = self._earlier[self.task.name]
            kept.append((self.training.recipe, list(self.records)))
            del kept[:-KEPT]

    @property
    def _earlier_runs(self) -> tuple[list[list[StepRecord]], list[str]]:
        """Their records, and what they did otherwise than the run at hand."""
        kept = self._earlier[self.task.name]
        names = [
            "" if self.training is None else words.otherwise(self.training.recipe, one)
            for one, _ in kept
        ]
        return [records for _, records in kept], names

    # --- what the thread does ---

    def _train(self, again: bool) -> None:
        self._set_busy(True)
        recipe = self.recipe  # if it can't be made, what the last training left stays
        if not again and self._is_done(recipe):
            self._say(f"{self._outcome} · with these very choices; Train does it again")
            return
        check_room(self.base, self._part, recipe)
        self._keep_curve()
        self._forget()
        self.strength.value = 1.0
        self._say("asking the base first …")
        self._asked.ask(self._asked.own, 1.0)
        self._show_answers()
        self._say("getting ready …")
        self.training = self._prepare(recipe)
        try:
            self._follow(self.training)
        except Exception as error:
            error.add_note(self._outcome)
            raise
        self._asked.adapted = Adapted(as_trained(self.base, recipe), self.training.learned)
        self._show_cost()
        asked = self._work.stopped  # to stop: once, if the training; once more, what follows, too
        if self._work.stopped == asked < DROP_ALL:
            self._say(f"{self._outcome} · asking the adapted model …")
            self._asked.ask(self._asked.own, 1.0)
            self._show_answers()
        if self._work.stopped == asked < DROP_ALL:
            self._say(f"{self._outcome} · counting right answers …")
            self._mark()
        self._say(self._outcome)

    def _prepare(self, recipe: Recipe) -> Training:
        """A training about to begin; what it warns of is shown: the notebook is not written to."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            training = train(self.base, self._part, recipe)
        warned = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
        self.about.value = words.about(self.task.about, warned)
        return training

    def _is_done(self, recipe: Recipe) -> bool:
        """Whether what is shown is a finished training with this recipe."""
        done = self.training is not None and self.training.step == recipe.steps
        return done and self.training.recipe == recipe and self.scores is not None

    def _follow(self, training: Training) -> None:
        """Train to the end or to Stop, and show it, however it ends."""
        steps = training.recipe.steps
        earlier, named = self._earlier_runs
        film = plots.LossFilm(earlier, steps, named=named)
        self.loss_picture.value = film.frame(())
        self.loss_picture.tooltip = "The loss of the training under way."
        self.progress.max, self.progress.value = steps, 0
        begun = time.perf_counter()

        def tell(records: Sequence[StepRecord]) -> None:
            self.progress.value = len(records)
            self._say(words.progress(records, steps, time.perf_counter() - begun))

        def draw(records: Sequence[StepRecord]) -> None:
            self.loss_picture.value = film.frame(records)

        self._say(f"step 0 of {steps}")
        self._stepping, how = True, "failed"
        try:
            follow(training, self._work, tell, draw)
            how = "stopped"
        finally:
            self._stepping = False
            self.seconds = time.perf_counter() - begun
            self._show_loss()
            self.progress.value = training.step
            self._outcome = f"{how} after step {training.step} of {steps}"
        self.progress.bar_style = "success"
        if training.step == steps:
            self._outcome = f"finished: {words.counted(steps, 'step')} in {self.seconds:.0f} s"

    def _add_noise(self) -> None:
        self._set_busy(True)
        if self.training is None or not self._is_done(self.training.recipe):
            raise RuntimeError(
                f"there is no finished training to put a noise band around (the lab says: "
                f"{self._outcome}); press Train and let it end"
            )
        self._seeds.shown, self.progress.bar_style = [], ""
        self._show_spread()
        before = self._outcome.partition(" · noise band")[0]
        try:
            for _ in self._seeds.others(self.task.name, self.training.recipe, self._run_seed):
                self._show_spread()
        finally:
            self._outcome = f"{before} · {self._seeds.told}" if self._seeds.shown else before
        self.progress.bar_style = "success"
        self._say(self._outcome)

    def _run_seed(self, recipe: Recipe) -> Outcome | None:
        """Train and score with another seed; None: it was stopped."""
        named, begun = f"seed {recipe.seed}", time.perf_counter()

        def tell(records: Sequence[StepRecord]) -> None:
            self.progress.value = len(records)
            told = words.progress(records, recipe.steps, time.perf_counter() - begun)
            self._say(f"{named}: {told}")

        check_room(self.base, self._part, recipe)
        training = self._prepare(recipe)
        try:
            follow(training, self._work, tell)
        except Exception as error:
            error.add_note(f"{named} failed after step {training.step} of {recipe.steps}")
            raise
        finally:
            self.progress.value = training.step
        if self._work.stopped:
            return None
        self._say(f"{named}: counting right answers …")
        scores = evaluate(Adapted(as_trained(self.base, recipe), training.learned), self._part)
        return None if self._work.stopped else Outcome(tuple(training.records), scores)

    def _answer(self) -> None:
        """Answer at the strength that the slider shows now."""
        self._answer_with(self._asked.own)

    def _answer_with(self, own: Example | None) -> None:
        self.stop_button.disabled, self.task_choice.disabled = False, True
        strength = self.strength.value
        self._say("asking …" if self.adapted is None else f"asking at strength {strength:g} …")
        self._asked.ask(own, strength, lambda: not self._work.stopped)
        self._say_beside_ask("")
        self._show_answers()
        self._say(self._outcome)

    def _mark(self) -> None:
        self.scores = evaluate(self.adapted, self._part)
        name = self.task.name
        if name not in self._known_scores and self._work.stopped < DROP_ALL:
            self._known_scores[name] = evaluate(self.base, self._part)
        self.base_scores = self._known_scores.get(name)
        if self.training.step == self.training.recipe.steps:
            outcome = Outcome(tuple(self.records), self.scores)
            self._seeds.keep(name, self.training.recipe, outcome)
        self._show_marks()

    def _show_spread(self) -> None:
        self._show_loss()
        self._show_marks()

    def _show_marks(self) -> None:
        self.marks.value = words.right_answers(self.base_scores, self.scores_by_seed)
        if self.base_scores and self.base_scores.old_knowledge is not None:
            self.meters_picture.show(self.meters)
            self.meters_picture.layout.display = ""

    # --- what is shown ---

    def _end(self, outcome: str) -> None:
        """Say how things stand, now and after whatever is asked in between."""
        self._outcome = outcome
        self._say(outcome)

    def _say_beside_ask(self, line: str) -> None:
        self.ask_said.value = words.faint(line)

    def _set_busy(self, busy: bool) -> None:
        super()._set_busy(busy)
        self.task_choice.disabled = busy
        done = self.training is not None and self._is_done(self.training.recipe)
        self.noise_button.disabled = busy or not done
        self.strength.disabled = busy or self.adapted is None

    def _show_loss(self) -> None:
        self.loss_picture.show(self.picture)

    def _show_answers(self) -> None:
        self.answers.value = words.before_and_after(self._asked.rows, self._asked.strength)

    def _show_cost(self) -> None:
        self.cost.value = words.cost(self.training, self.seconds)

    def _show_code(self) -> None:
        try:
            code = html.escape(self.code)
        except (TypeError, ValueError) as error:  # the choices do not fit together
            code = words.failure(error)
        self.code_view.value = f'<pre class="lora-lab-code">{code}</pre>'

"""A fine-tune to watch: one click trains; then the same prompts, before and after."""

import dataclasses
import math
from collections.abc import Sequence

from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.loading import NAMES, load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training
from lora_lab.training.store import Run
from lora_lab.widgets import markup, run_summary
from lora_lab.widgets.background import DROP_ALL
from lora_lab.widgets.following import Watcher, prepare
from lora_lab.widgets.lab_face import LabFace
from lora_lab.widgets.lab_readings import LabReadings
from lora_lab.widgets.lab_results import LabResults
from lora_lab.widgets.live_result import LiveResult
from lora_lab.widgets.memory_check import check_room
from lora_lab.widgets.recipe_controls import script, task_code
from lora_lab.widgets.samples import shared_opening
from lora_lab.widgets.seeds import MORE
from lora_lab.widgets.working_box import WorkingBox

LARGE = 20_000_000  # parameters: a larger base answers slowly, so it is asked fewer questions
LONGEST_OWN = 1000  # characters of the learner's own prompt: more would keep them waiting


class LiveLab(LabReadings, WorkingBox):
    """Fine-tunes of a base, one after the other, watched as they happen.

    `train()` trains and returns the result; after a click on Train, `result` has it. The lab's
    properties hold what it shows: `training`, `records`, `adapted`, `before` and `after` (the
    answers to `prompts`), `base_scores` and `scores` (on a part of the test split). Earlier runs
    stay in the chart, in grey.

    Args:
        base: stays as it was.
        tasks: the tasks to choose from: names or `Task`s, one or several; None: all of the base's.
        title: the heading.
        in_sight: recipe fields whose controls stand beside the task, not folded.
        questions: how many test examples are asked to count right answers; None: a number that
            takes seconds (20 for a large base, 100 for a small base).
        shown: how many prompts are answered before and after.
        film: show the forgetting film, if the base is small and the task has old facts. It adds
            at most 15 % to the time that the training takes.
        seeds: how many other seeds a noise band trains.
        elsewhere: recipe fields whose controls are made, but are shown elsewhere by the maker of
            this lab: `live.controls.row(field)`.
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
        film: bool = True,
        seeds: int = MORE,
        elsewhere: Sequence[str] = (),
        **changes: object,
    ) -> None:
        super().__init__("Train")
        tasks = NAMES.get(base.name, NAMES["smollm2"]) if tasks is None else tasks
        tasks = [tasks] if isinstance(tasks, str | Task) else tasks
        self._tasks = {task.name if isinstance(task, Task) else task: task for task in tasks}
        self._task_code = {
            name: task_code(name) for name, task in self._tasks.items() if isinstance(task, str)
        }
        self.base, self.shown, self._changes, self._seeds = base, shown, changes, seeds
        large = base.model.num_parameters() > LARGE
        self.questions, self._filmed = questions or (20 if large else 100), film and not large
        self._watchers: list[Watcher] = []
        self._by_task: dict[str, LabResults] = {}
        self.face = LabFace(title, [*self._tasks], in_sight, self.panel, self.state, elsewhere)
        self.children = self.face.rows
        self._name_parts()
        self._choose(self.task_choice.value)
        self._wire()

    def _name_parts(self) -> None:
        """Let programs reach the parts of the face as the lab's own."""
        face = self.face
        self.task_choice, self.controls = face.task_choice, face.controls
        self.strength, self.noise_button = face.strength, face.noise_button
        self.ask_button, self.meters_picture = face.ask_button, face.meters_picture
        self.own_prompt, self.ask_said = face.own_prompt, face.ask_said
        self.about, self.answers, self.marks = face.about, face.answers, face.marks
        self.cost, self.code_view = face.cost, face.code_view

    def _wire(self) -> None:
        self.train_button.on_click(lambda _: self._begin(again=True))
        self.noise_button.on_click(lambda _: self.noise_band())
        self.ask_button.on_click(lambda _: self.ask(self.own_prompt.value))
        self.own_prompt.on_msg(self._on_enter)
        self.task_choice.observe(self._on_task, names="value")
        self.strength.observe(
            lambda _: self._work.submit("answer", self._answer_again), names="value"
        )
        self.controls.changed = self._show_code

    def _on_task(self, change: dict) -> None:
        try:
            self._choose(change["new"])
        except (OSError, ValueError) as error:  # such as NotPrepared
            self.task_choice.value = change["old"]
            self._show_error(error)

    def _on_enter(self, _: object, content: dict, __: object) -> None:
        if content.get("event") == "submit":
            self.ask(self.own_prompt.value)

    # --- what a notebook calls and reads ---

    def start(self) -> None:
        """Train in the background, unless these choices have just been trained; one at a time.

        A click on Train does the same, but always trains.
        """
        self._begin(again=False)

    def _begin(self, again: bool) -> None:
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("train", lambda: self._train(again))

    def noise_band(self) -> None:
        """Train with other seeds too, in the background, and draw the spread.

        Runs that were trained before in this lab are replayed. Stop ends it; the seeds trained
        until then stay. Without a finished training, `wait` raises a RuntimeError.
        """
        self._work.submit("noise", self._add_noise)

    def stop(self) -> None:
        """End the training after its step. A second call leaves out the answers too."""
        if self._stepping and not self._work.stopped:
            self._say("stopping after this step … (click again to leave the answers out)")
        else:
            self._say("stopping …")
        self.ask_said.value = ""
        self._work.stop()

    def wait_for_results(self, timeout: float | None = None) -> None:
        """`wait`, and raise an error if there are no answers and scores.

        Raises:
            RuntimeError: if there are no results, with what to do.
        """
        self.wait(timeout)
        if self.scores is None or self.base_scores is None:
            raise RuntimeError(
                f"there are no results yet (the lab says: {self._outcome}); press Train in the "
                "lab above and let it end, or run the cell with start()"
            )

    def train(self, **choices: object) -> LiveResult:
        """Train as a click on Train does, wait for the end, and return the result.

        Args:
            choices: controls to set first, by their recipe field: `train(loss_on="all")`.

        Raises:
            ValueError: for a field without a control in this lab.
            RuntimeError: if it was stopped before it had results.
        """
        self.controls.choose(**choices)
        self.start()
        return self.result

    @property
    def result(self) -> LiveResult:
        """The result of the last training, for which it waits.

        Raises:
            RuntimeError: if there is none, with what to do.
        """
        self.wait_for_results()
        return LiveResult(
            recipe=self.training.recipe,
            records=tuple(self.records),
            adapted=self.training.adapted(),
            task=self.part,
            examples=tuple(self._results.before_after.shown),
            before=tuple(self.before),
            after=tuple(self.after),
            base_scores=self.base_scores,
            scores=self.scores,
        )

    def ask(self, prompt: str) -> None:
        """Answer another prompt, before and after, beside the task's prompts; "" removes it."""
        prompt = prompt.strip()
        if len(prompt) > LONGEST_OWN:
            self.face.say_beside_ask(
                f"that is {len(prompt):,} characters long; give at most {LONGEST_OWN:,}"
            )
            return
        waits = self.train_button.disabled
        self.face.say_beside_ask("asked after the training" if waits else "")
        own = Example(prompt, "") if prompt else None
        self._work.submit("ask", lambda: self._answer_with(own))

    def add_task(self, task: Task, code: str | None = None) -> None:
        """Add a task to the choices, in place of a task with the same name, and choose it.

        Args:
            task: any task, such as a file's.
            code: the expression that loads it, for "Show the code".
        """
        self._tasks[task.name] = task
        self._by_task.pop(task.name, None)
        self._task_code.pop(task.name, None)
        if code is not None:
            self._task_code[task.name] = code
        if self.task_choice.value == task.name:
            self._choose(task.name)
        else:
            self.task_choice.options = [*self._tasks]
            self.task_choice.value = task.name

    def watch(self, watcher: Watcher) -> None:
        """Let something else follow each training from now on, such as `lab.picture_of_lora`."""
        self._watchers.append(watcher)

    @property
    def recipe(self) -> Recipe:
        """The recipe of the next training.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        recipe = self.controls.recipe
        if recipe.eval_steps is None:
            recipe = dataclasses.replace(recipe, eval_steps=math.ceil(recipe.steps / 4))
        return recipe

    @property
    def code(self) -> str:
        """The same fine-tune as a script."""
        return script(self.base, self._task_code.get(self.task_choice.value), self.recipe)

    def __repr__(self) -> str:
        return f"LiveLab: {self.base.name} · {', '.join(self._tasks)}"

    # --- a task is chosen ---

    def _choose(self, name: str) -> None:
        if name not in self._by_task:
            task = self._tasks[name]
            task = task if isinstance(task, Task) else load_task(task, self.base)
            given = self.base, task, self.questions, self.shown
            film = self._filmed and bool(task.old_knowledge)
            self._by_task[name] = LabResults(*given, film, self._seeds)
        for results in self._by_task.values():
            results.forget()
        self._results = self._by_task[name]
        self._results.before_after.own = None
        self.own_prompt.value = shared_opening(self.part.test)
        self._forget()
        self.controls.reset(dataclasses.replace(self.task.recipe, **self._changes))
        self.about.value = markup.about(self.task.about)
        self._show_code()
        self.face.show_loss(self._results)
        self.face.show_film(self._results)
        self._set_busy(False)

    def _forget(self) -> None:
        """Clear the results of the last training."""
        self._results.forget()
        self._stepping = False
        self.face.clear()
        self._outcome = "ready: press Train"
        self._say(self._outcome)
        self.face.show_answers(self._results)

    # --- what the thread does ---

    def _train(self, again: bool) -> None:
        self._set_busy(True)
        recipe = self.recipe  # if the choices don't fit, the last results stay
        if not again and self._results.is_finished and self.training.recipe == recipe:
            self._say(f"{self._outcome} · with these very choices; Train does it again")
            return
        check_room(self.base, self.part, recipe)
        self._forget()
        self.strength.value = 1.0
        self._say("asking the base first …")
        self._ask_models()
        self._say("getting ready …")
        self._results.training = self._prepare_training(recipe)
        self._follow(self.training)
        self._results.before_after.adapted = self.training.adapted()
        self.cost.value = run_summary.cost(self.training, self.panel.seconds)
        stopped = self._work.stopped  # a first Stop ends the training, a second also the rest
        if self._work.stopped == stopped < DROP_ALL:
            self._say(f"{self._outcome} · asking the adapted model …")
            self._ask_models()
        if self._work.stopped == stopped < DROP_ALL:
            self._say(f"{self._outcome} · counting right answers …")
            self._results.mark(go_on=lambda: self._work.stopped < DROP_ALL)
            self.face.show_marks(self._results)
        self._say(self._outcome)

    def _ask_models(self) -> None:
        self._results.before_after.ask(self._results.before_after.own, 1.0)
        self.face.show_answers(self._results)

    def _prepare_training(self, recipe: Recipe) -> Training:
        """A training about to begin; its warnings stand under the task."""
        training, warnings = prepare(self.base, self.part, recipe)
        self.about.value = markup.about(self.task.about, warnings)
        return training

    def _follow(self, training: Training) -> None:
        """Train to the end or to Stop, and show it, however it ends."""
        film = self._results.film
        self.loss_picture.value = film.frame(())
        self.loss_picture.tooltip = "The loss of the training under way."
        self._say(f"step 0 of {training.recipe.steps}")
        self._stepping = True
        try:
            self.panel.follow(training, film, watchers=[*self._watchers, *self._results.watchers])
        finally:
            self._stepping = False
            self.face.show_loss(self._results)
            self._outcome = self.panel.outcome
        self.progress.bar_style = "success"

    def _add_noise(self) -> None:
        self._set_busy(True)
        if not self._results.is_finished:
            raise RuntimeError(
                f"there is no finished training to put a noise band around (the lab says: "
                f"{self._outcome}); press Train and let it end"
            )
        seeds = self._results.seeds
        seeds.shown, self.progress.bar_style = [], ""
        self._show_spread()
        before = self._outcome.partition(" · noise band")[0]
        try:
            for _ in seeds.others(self.training.recipe, self._train_seed):
                self._show_spread()
        finally:
            self._outcome = f"{before} · {seeds.summary}" if seeds.shown else before
        self.progress.bar_style = "success"
        self._say(self._outcome)

    def _train_seed(self, recipe: Recipe) -> Run | None:
        """Train and score with another seed; None: it was stopped."""
        name = f"seed {recipe.seed}"
        check_room(self.base, self.part, recipe)
        training = self._prepare_training(recipe)
        self.panel.follow(training, name=name)
        if self._work.stopped:
            return None
        self._say(f"{name}: counting right answers …")
        scores = evaluate(training.adapted(), self.part)
        return None if self._work.stopped else self._results.scored(training, scores)

    def _answer_again(self) -> None:
        """Answer at the strength that the slider shows now."""
        self._answer_with(self._results.before_after.own)

    def _answer_with(self, own: Example | None) -> None:
        self.face.set_asking()
        strength = self.strength.value
        self._say("asking …" if self.adapted is None else f"asking at strength {strength:g} …")
        self._results.before_after.ask(own, strength, lambda: not self._work.stopped)
        self.face.say_beside_ask("")
        self.face.show_answers(self._results)
        self._say(self._outcome)

    # --- what is shown ---

    def _at_rest(self) -> None:
        self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        self.face.set_busy(busy, self._results)

    def _show_spread(self) -> None:
        self.face.show_loss(self._results)
        self.face.show_marks(self._results)

    def _show_code(self) -> None:
        try:
            self.code_view.value = markup.code(self.code)
        except (TypeError, ValueError) as error:  # the choices do not fit together
            self.code_view.value = f'<pre class="lora-lab-code">{markup.error_text(error)}</pre>'

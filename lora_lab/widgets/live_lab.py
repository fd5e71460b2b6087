"""A fine-tune to watch: one click trains; then the same prompts, before and after."""

import dataclasses
import html
import math
import time
import warnings
from collections.abc import Sequence

from lora_lab import plots
from lora_lab.adapters import as_trained
from lora_lab.bases import BUILT_IN, Base
from lora_lab.evaluation import answers_to, evaluate, generate
from lora_lab.learnt import Adapted
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Scores, StepRecord
from lora_lab.tasks.examples import Example, Task
from lora_lab.tasks.loading import NAMES, load_task
from lora_lab.training import Training, train
from lora_lab.widgets import words
from lora_lab.widgets.background import DROP_ALL, Background, Pace
from lora_lab.widgets.lab_face import LabFace
from lora_lab.widgets.recipe_controls import recipe_code

LARGE = 20_000_000  # parameters; from here on an answer takes long enough to ask for fewer
KEPT = 4  # earlier runs of a task that stay in the picture
FRAMES, DRAWING = 5, 0.08  # pictures a second at most, and their share of the time at most
UPDATES = 10  # state lines a second at most: each is a message to the browser
METERS_SIZE = (500, 150)  # pixels


class LiveLab(LabFace):
    """One fine-tune after another of a base, watched as it happens.

    After `start()` and `wait()`, or a click on Train, these hold what happened: `training`,
    `records`, `adapted`, `before` and `after` (the answers to `prompts`), `base_scores` and
    `scores` (marks on a part of the test split). Earlier runs stay in the chart, in grey.

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
        self._work = Background(self._show_error, lambda: self._set_busy(False))
        self._known_scores: dict[str, Scores] = {}  # the base's, by task: it is marked once
        self._earlier: dict[str, list[list[StepRecord]]] = {name: [] for name in self._tasks}
        self.training: Training | None = None
        self._choose(self.task_choice.value)
        self._wire()

    def _wire(self) -> None:
        self.train_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        self.ask_button.on_click(lambda _: self.ask(self.own_prompt.value))
        self.own_prompt.continuous_update = False
        self.task_choice.observe(lambda change: self._choose(change["new"]), names="value")
        self.strength.observe(lambda _: self._work.submit("answer", self._answer), names="value")
        self.controls.changed = self._show_code

    # --- what can be asked of it ---

    def start(self) -> None:
        """Train afresh in the background, as a click on Train does. One at a time."""
        if not self.train_button.disabled:
            self._set_busy(True)
            self._work.submit("train", self._train)

    def stop(self) -> None:
        """End the training after its step. Asked again: leave the answers out, too."""
        self._work.stop()

    def wait(self, timeout: float | None = None) -> None:
        """Return when all is done: training and answers. An interrupt ends it within a step.

        Raises:
            TimeoutError: if that takes longer than `timeout` seconds.
            Exception: whatever went wrong while it worked.
        """
        # A cell that waits keeps the kernel's main thread. JupyterLab sends clicks to a second one,
        # but ipykernel 7.4 turns them back to where a widget was last changed: here, the cell.
        getattr(self.stop_button.comm, "__dict__", {}).pop("_reply_subshell_id", None)
        self._work.wait(timeout)

    def ask(self, prompt: str) -> None:
        """Answer one more prompt, before and after, beside those of the task."""
        self._own = [Example(prompt.strip(), "")] if prompt.strip() else []
        self._work.submit("answer", self._answer)

    @property
    def recipe(self) -> Recipe:
        """What the next training will do.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        recipe = self.controls.recipe
        if recipe.eval_steps is None:
            recipe = dataclasses.replace(recipe, eval_steps=max(1, recipe.steps // 4))
        return recipe

    @property
    def prompts(self) -> list[str]:
        """What is asked before and after."""
        return [example.prompt for example in self._examples + self._own]

    @property
    def records(self) -> list[StepRecord]:
        """Of the run at hand, one per step."""
        return [] if self.training is None else self.training.records

    @property
    def picture(self) -> plots.Picture:
        """The loss chart as it stands, for readers without a kernel."""
        steps = None if self.training is None else self.training.recipe.steps
        return plots.picture(plots.draw_loss, self.records, self._earlier[self.task.name], steps)

    @property
    def meters(self) -> plots.Picture:
        """What was learnt and what was lost, once both models are marked."""
        return plots.picture(plots.draw_meters, self.base_scores, self.scores, size=METERS_SIZE)

    @property
    def code(self) -> str:
        """The same fine-tune as a script."""
        name = self.base.name if self.base.name in BUILT_IN else str(self.base.path)
        dtype = str(self.base.dtype).removeprefix("torch.")
        task = f'lab.load_task("{self.task.name}", base)'
        if isinstance(self._tasks[self.task.name], Task):
            task = "...  # the Task that this lab was given"
        return (
            "import lora_lab as lab\n\n"
            f'base = lab.load_base("{name}", dtype="{dtype}")\n'
            f"task = {task}\n"
            f"recipe = {recipe_code(self.recipe)}\n"
            "run = lab.fit(base, task, recipe)"
        )

    def __repr__(self) -> str:
        return f"LiveLab: {self.base.name} · {', '.join(self._tasks)}"

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """Fixed words where no widget can be shown, without the ids that change at each run."""
        return super()._repr_mimebundle_(**options) | {"text/plain": repr(self)}

    # --- a task is chosen ---

    def _choose(self, name: str) -> None:
        self._keep_curve()
        given = self._tasks[name]
        self.task = given if isinstance(given, Task) else load_task(given, self.base)
        self._part = dataclasses.replace(
            self.task,
            validation=_spread(self.task.validation, 2 * self.questions // 5),
            test=_spread(self.task.test, self.questions),
            old_knowledge=_spread(self.task.old_knowledge, self.questions),
            strangers=_spread(self.task.strangers, self.questions),
        )
        self._examples = [] if self.task.teacher else _different(self._part.test, self.shown)
        self._own: list[Example] = []
        self._base_answers: dict[str, Answer] = {}  # by prompt
        self._forget()
        self.controls.reset(dataclasses.replace(self.task.recipe, **self._changes))
        self.about.value = words.about(self.task.about)
        self._say("ready: press Train")
        self._show_code()
        self._show_loss()
        self._set_busy(False)

    def _forget(self) -> None:
        """Clear what the last training left."""
        self.training: Training | None = None
        self.adapted: Adapted | None = None
        self.seconds = 0.0
        self.base_scores, self.scores = self._known_scores.get(self.task.name), None
        self._answers_at: dict[float, dict[str, Answer]] = {}  # by strength, by prompt
        self.before, self.after = [], []
        self.progress.value, self.progress.bar_style = 0, ""
        self.marks.value = self.cost.value = ""
        self.meters_picture.layout.display = "none"
        self._show_answers()

    def _keep_curve(self) -> None:
        if self.training is not None and len(self.records) > 1:
            kept = self._earlier[self.task.name]
            kept.append(list(self.records))
            del kept[:-KEPT]

    # --- what the thread does ---

    def _train(self) -> None:
        self._set_busy(True)
        recipe = self.recipe  # if it can't be made, what the last training left stays
        self._keep_curve()
        self._forget()
        self.strength.value = 1.0
        self._say("asking the base first …")
        self.before = self._given(self.base, self._base_answers)
        self._show_answers()
        self._say("getting ready …")
        with warnings.catch_warnings(record=True) as said:  # the notebook must not be written to
            warnings.simplefilter("always", UserWarning)
            self.training = train(self.base, self._part, recipe)
        warned = [str(one.message) for one in said if issubclass(one.category, UserWarning)]
        self.about.value = words.about(self.task.about, warned)
        stopped = self._follow(self.training)
        self.adapted = Adapted(as_trained(self.base, recipe), self.training.learnt)
        self._show_cost()
        if self._work.stopped < DROP_ALL:
            self._say(f"{stopped} · asking the adapted model …")
            self.after = self._given(self.adapted, self._answers_at.setdefault(1.0, {}))
            self._show_answers()
        if self._work.stopped < DROP_ALL:
            self._say(f"{stopped} · counting right answers …")
            self._mark()
        self._say(stopped)

    def _follow(self, training: Training) -> str:
        """Train to the end or to Stop, and show it. Returns how it ended, in words."""
        steps = training.recipe.steps
        film = plots.LossFilm(self._earlier[self.task.name], steps)
        self.loss_picture.value = film.frame(())
        self.progress.max, self.progress.value = steps, 0
        drawing, telling = Pace(FRAMES, DRAWING), Pace(UPDATES)
        begun = time.perf_counter()
        self._say(f"step 0 of {steps}")
        for record in training:
            if telling.due:
                with telling.turn():
                    self.progress.value = record.step
                    self._say(_progress(training.records, steps, time.perf_counter() - begun))
            if drawing.due:
                with drawing.turn():
                    self.loss_picture.value = film.frame(training.records)
            if self._work.stopped:
                break
            time.sleep(0)  # whoever waits for Python's lock, such as the kernel, is next
        self.seconds = time.perf_counter() - begun
        self.drawing_share = drawing.spent / self.seconds
        self._show_loss()
        self.progress.value, self.progress.bar_style = training.step, "success"
        if training.step < steps:
            return f"stopped after step {training.step} of {steps}"
        return f"finished: {steps} steps in {self.seconds:.0f} s"

    def _answer(self) -> None:
        """Answer at the strength that the slider shows now."""
        before = self.state.value
        strength = self.strength.value
        self._say(f"asking at strength {strength:g} …")
        self.before = self._given(self.base, self._base_answers)
        if self.adapted is not None:
            self.adapted.strength = strength
            self.after = self._given(self.adapted, self._answers_at.setdefault(strength, {}))
        self._show_answers()
        self.state.value = before

    def _given(self, model: Base | Adapted, known: dict[str, Answer]) -> list[str]:
        """The model's answers to the prompts; those not yet known are asked for, and kept."""
        new = [one for one in self._examples if one.prompt not in known]
        if new:
            known |= {answer.prompt: answer for answer in answers_to(model, self.task, new)}
        for one in self._own:
            if one.prompt not in known:
                (given,) = generate(model, [one.prompt])
                known[one.prompt] = Answer(one.prompt, "", given, False)
        return [known[prompt].given for prompt in self.prompts]

    def _mark(self) -> None:
        self.scores = evaluate(self.adapted, self._part)
        name = self.task.name
        if name not in self._known_scores and self._work.stopped < DROP_ALL:
            self._known_scores[name] = evaluate(self.base, self._part)
        self.base_scores = self._known_scores.get(name)
        self.marks.value = words.right_answers(self.base_scores, self.scores)
        if self.base_scores and self.base_scores.old_knowledge is not None:
            self.meters_picture.show(self.meters)
            self.meters_picture.layout.display = ""

    # --- what is shown ---

    def _say(self, line: str) -> None:
        self.state.value = html.escape(line)

    def _show_error(self, error: Exception) -> None:
        trained = self.adapted is None and len(self.records)  # it went wrong on the way
        after = f"failed after step {trained}: " if trained else ""
        self.state.value = after + words.failure(error)
        self.progress.bar_style = "danger"

    def _set_busy(self, busy: bool) -> None:
        self.train_button.disabled = self.task_choice.disabled = busy
        self.stop_button.disabled = not busy
        self.strength.disabled = busy or self.adapted is None

    def _show_loss(self) -> None:
        self.loss_picture.show(self.picture)

    def _show_answers(self) -> None:
        strength = 1.0 if self.adapted is None else self.adapted.strength
        after = self._answers_at.get(strength, {})
        rows = [(one, self._base_answers.get(one), after.get(one)) for one in self.prompts]
        self.answers.value = words.before_and_after(rows, strength)

    def _show_cost(self) -> None:
        parameters = list(self.training.model.parameters())
        every = sum(one.numel() for one in parameters)
        trained = sum(one.numel() for one in parameters if one.requires_grad)
        size = sum(
            one.numel() * one.element_size() for one in self.training.learnt.tensors.values()
        )
        what = "model" if self.training.recipe.method == "full" else "adapter"
        device = {"cpu": "this CPU", "cuda": "this GPU", "mps": "this Mac's GPU"}
        self.cost.value = words.faint(
            f"trained {words.in_short(trained)} of {words.in_short(every)} parameters "
            f"({words.percent(trained / every)}) · {what} {words.in_short(size)}B · "
            f"{self.seconds:.0f} s on {device.get(self.base.device.type, self.base.device.type)}"
        )

    def _show_code(self) -> None:
        try:
            code = html.escape(self.code)
        except (TypeError, ValueError) as error:  # the choices do not fit together
            code = words.failure(error)
        self.code_view.value = f'<pre class="lora-lab-code">{code}</pre>'


def _progress(records: Sequence[StepRecord], steps: int, elapsed: float) -> str:
    """`step 34 of 60 · loss 0.41 · 5,200 tokens/s · 6 s left`."""
    last = records[-1]
    recent = records[-10:]
    spent = sum(record.seconds for record in recent)
    speed = sum(record.tokens for record in recent) / spent if spent else 0
    left = math.ceil(elapsed / last.step * (steps - last.step))
    words = f"step {last.step} of {steps}", f"loss {last.loss:.2f}", f"{speed:,.0f} tokens/s"
    return " · ".join([*words, f"{left} s left"])


def _spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly over the whole."""
    if len(examples) <= count:
        return list(examples)
    return [examples[place * len(examples) // count] for place in range(count)]


def _different(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples with answers unlike each other; filled up if there are too few."""
    firsts = list({one.answer: one for one in reversed(examples)}.values())
    firsts.sort(key=examples.index)
    return (firsts + [one for one in examples if one not in firsts])[:count]

"""The forgetting film: a dot for each question, which changes while a model is trained."""

import time
from collections.abc import Sequence
from pathlib import Path

import anywidget
import pandas as pd
import traitlets

from lora_lab import plots
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import UNKNOWN, Example, Task
from lora_lab.training.evaluation import ask, exactly, rule_of
from lora_lab.training.loop import Training, threads_for
from lora_lab.widgets.samples import spread
from lora_lab.wording import counted

QUESTIONS = 32  # of each kind, asked in a single batch, which takes as long as about two steps
SHARE = 0.13  # of the training's time, at most, goes into asking
RIGHT, WRONG, SAYS_UNKNOWN = "+-?"  # marks of an answer; a right "not known" is right


class ForgettingFilm(anywidget.AnyWidget):
    """The same questions, asked again and again while a model is trained.

    `for record in training: film.look(training)` fills it; a live lab does that by itself. Asking
    takes up to 13 % of the training's time; the film also asks after the last step.

    `groups` holds the questions, and `looks` the answers at each step at which they were asked, the
    base's first. Both are plain data: forgetting_film.js describes them.

    Args:
        base: gives the answers before.
        task: its test questions, old knowledge and strangers are asked.
        questions: the most questions of each kind, evenly over the whole.

    Raises:
        ValueError: if the task has no questions with a right answer: a planted task has none.
    """

    _esm = Path(__file__).with_suffix(".js")
    groups = traitlets.List().tag(sync=True)
    looks = traitlets.List().tag(sync=True)
    steps = traitlets.Int().tag(sync=True)  # of the whole training

    def __init__(self, base: Base, task: Task, questions: int = QUESTIONS) -> None:
        if task.teacher is not None:
            raise ValueError(
                f"task {task.name!r} is a planted one, whose answers have no right or wrong; give "
                "a task with questions, such as 'new-facts'"
            )
        self._base, self._rule = base, rule_of(task)
        new = "new facts" if task.name == "new-facts" else f"new: {task.name}"
        kinds = {
            (new, "new"): task.test,
            ("old facts", "old"): task.old_knowledge,
            ("strangers", "stranger"): task.strangers,
        }
        self._examples = {kind: spread(every, questions) for kind, every in kinds.items() if every}
        self._before: dict | None = None  # the base's look: asked once
        self._spent = self._latest = 0.0  # seconds of all looks at this training, of the latest
        groups = [
            {"name": name, "kind": kind, "questions": [[e.prompt, e.answer] for e in examples]}
            for (name, kind), examples in self._examples.items()
        ]
        super().__init__(groups=groups)

    def look(self, training: Training) -> None:
        """Ask, if it is time to. To be called before the first step and after each step."""
        if training.step == 0 or not self.looks:
            self.steps = training.recipe.steps
            self._before = self._before or self._asked(self._base, 0)
            self.looks, self._spent = [self._before], 0.0  # the base is asked only once
        if training.step and self._is_due(training):
            self.looks = [*self.looks, self._asked(training, training.step)]

    def reset(self) -> None:
        """Drop all looks, before another training."""
        self.looks = []

    def _is_due(self, training: Training) -> bool:
        """Whether another look, and the look at the end, stay within their share of the time."""
        step, steps = training.step, training.recipe.steps
        if step == steps:
            return True
        trained = sum(record.seconds for record in training.records)
        in_pace = self._spent_on(1) <= SHARE * trained
        return in_pace and self._spent_on(2) <= SHARE * trained * steps / step

    def _spent_on(self, more: int) -> float:
        """The seconds of all looks at this training, and of `more` further looks."""
        return self._spent + more * self._latest

    def _asked(self, model: Base | Training, step: int) -> dict[str, object]:
        """The answers of a model at a step, and the mark of each."""
        begun = time.perf_counter()
        asked = [example for examples in self._examples.values() for example in examples]
        with threads_for(model.model):
            given = iter(ask(model, asked))
        answers = [[next(given) for _ in examples] for examples in self._examples.values()]
        marks = [
            "".join(map(self._mark, [kind] * len(texts), examples, texts))
            for ((_, kind), examples), texts in zip(self._examples.items(), answers, strict=True)
        ]
        self._latest = time.perf_counter() - begun
        self._spent += self._latest
        return {"step": step, "answers": answers, "marks": marks}

    def _mark(self, kind: str, example: Example, text: str) -> str:
        rule = self._rule if kind == "new" else exactly
        if rule(example.answer, text):
            return RIGHT
        return SAYS_UNKNOWN if exactly(UNKNOWN, text) else WRONG

    def shares(self, look: int = -1) -> dict[str, float]:
        """The share of right answers at a look, by the name of the group.

        Raises:
            ValueError: if nothing has been asked yet.
        """
        self._check_asked()
        marks = self.looks[look]["marks"]
        return {
            group["name"]: texts.count(RIGHT) / len(texts)
            for group, texts in zip(self.groups, marks, strict=True)
        }

    def table(self) -> pd.DataFrame:
        """A row for each look: its step, and how many answers of each group are right.

        Raises:
            ValueError: if nothing has been asked yet.
        """
        self._check_asked()
        names = [group["name"] for group in self.groups]
        return pd.DataFrame(
            {"step": look["step"], **dict(zip(names, self._counts(look), strict=True))}
            for look in self.looks
        )

    def picture(self) -> plots.Picture:
        """The field at the last look.

        Raises:
            ValueError: if nothing has been asked yet.
        """
        self._check_asked()
        first, last = self.looks[0]["marks"], self.looks[-1]["marks"]
        fields = [
            (group["name"], group["kind"], *marks)
            for group, *marks in zip(self.groups, first, last, strict=True)
        ]
        numbers = fields, self.looks[-1]["step"], self.steps
        return plots.picture(plots.draw_field, *numbers, size=plots.field_size(fields))

    def _check_asked(self) -> None:
        if not self.looks:
            raise ValueError(
                "nothing has been asked yet; train first: press Train in the lab above, or call "
                "look(training) in a loop over a training"
            )

    def _counts(self, look: dict) -> Sequence[int]:
        return [marks.count(RIGHT) for marks in look["marks"]]

    def __repr__(self) -> str:
        sizes = [f"{len(group['questions'])} {group['name']}" for group in self.groups]
        if not self.looks:
            return f"ForgettingFilm: {', '.join(sizes)}; not asked yet"
        first, last = self.looks[0], self.looks[-1]
        rows = zip(sizes, self._counts(first), self._counts(last), strict=True)
        changes = ", ".join(f"of {size} {before} → {after} right" for size, before, after in rows)
        step = f"step {last['step']} of {self.steps}"
        return f"ForgettingFilm, {counted(len(self.looks), 'look')}, {step}: {changes}"

    def _repr_mimebundle_(self, **options: object) -> tuple[dict, dict]:
        """The widget; if no widget can be shown, the last field as a picture, and its numbers."""
        data, metadata = super()._repr_mimebundle_(**options)
        if self.looks:
            image, size = self.picture()._repr_mimebundle_()
            data, metadata = {"image/png": image["image/png"]} | data, metadata | size
        return data, metadata

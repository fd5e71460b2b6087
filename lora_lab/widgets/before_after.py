"""The prompts of a lab with their answers, before and after: they belong together, always."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import Base
from lora_lab.records import Answer
from lora_lab.tasks.examples import Example, Task
from lora_lab.training.evaluation import answers_to, generate

Answers = dict[Example, Answer]


class Asked:
    """What was asked of a base and of what it learnt, and what they answered.

    An answer is kept beside its own prompt. What `ask` has not answered whole is not shown.

    Args:
        base: asked before.
        task: marks the answers.
        examples: of the task.
    """

    def __init__(self, base: Base, task: Task, examples: Sequence[Example]) -> None:
        self.base, self.task, self.examples = base, task, tuple(examples)
        self.own: Example | None = None  # a prompt of one's own, which no answer is wanted of
        self._before: Answers = {}
        self.forget()

    def forget(self) -> None:
        """The adapted model is gone; what the base answered stays."""
        self.adapted: Adapted | None = None  # asked after
        self.strength = 1.0  # at which it answered what is shown
        self._after: dict[float, Answers] = {}  # by strength

    @property
    def shown(self) -> list[Example]:
        """The task's examples, then a prompt of one's own."""
        return [*self.examples, *([self.own] if self.own else [])]

    @property
    def before(self) -> list[str]:
        """The base's answers, in the order of `shown`; none before it was asked."""
        return self._given(self._before)

    @property
    def after(self) -> list[str]:
        """The adapted model's answers at `strength`; none before it was asked."""
        return self._given(self._after.get(self.strength, {}))

    def _given(self, known: Answers) -> list[str]:
        there = all(example in known for example in self.shown)
        return [known[example].given for example in self.shown] if there else []

    @property
    def rows(self) -> list[tuple[str, Answer | None, Answer | None]]:
        """Each prompt with both answers; None for one that is not there yet."""
        after = self._after.get(self.strength, {})
        return [(one.prompt, self._before.get(one), after.get(one)) for one in self.shown]

    def ask(
        self, own: Example | None, strength: float, go_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Have all prompts answered by all models that are there, then show them.

        Args:
            own: takes the place of the prompt of one's own; None: there is none.
            strength: of the adapted model.
            go_on: asked between the models; if it says no, everything stays as it was.
        """
        examples = [*self.examples, *([own] if own else [])]
        self._answer(self.base, examples, self._before)
        if self.adapted is not None:
            if not go_on():
                return
            try:
                self.adapted.strength = strength
                self._answer(self.adapted, examples, self._after.setdefault(strength, {}))
            except BaseException:
                self.adapted.strength = self.strength
                raise
        self.own, self.strength = own, strength

    def _answer(self, model: Base | Adapted, examples: Sequence[Example], known: Answers) -> None:
        """Ask for the answers that are not yet known; those of the task are marked as it does."""
        new = [one for one in examples if one not in known]
        of_task = [one for one in new if one in self.examples]
        if of_task:
            known |= dict(zip(of_task, answers_to(model, self.task, of_task), strict=True))
        for one in new:
            if one not in self.examples:
                (given,) = generate(model, [one.prompt])
                known[one] = Answer(one.prompt, "", given, False)


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """At most `count` of the examples, evenly over the whole."""
    if len(examples) <= count:
        return list(examples)
    return [examples[place * len(examples) // count] for place in range(count)]


def part_of(task: Task, questions: int) -> Task:
    """The task with fewer to be asked: at most `questions` of each kind, 2 in 5 to validate."""
    return dataclasses.replace(
        task,
        validation=spread(task.validation, 2 * questions // 5),
        test=spread(task.test, questions),
        old_knowledge=spread(task.old_knowledge, questions),
        strangers=spread(task.strangers, questions),
    )


def opening(examples: Sequence[Example]) -> str:
    """How all prompts begin, up to a colon: "Home command: ". Most tasks have no such words."""
    shared = os.path.commonprefix([example.prompt for example in examples])
    return shared[: shared.rfind(": ") + 2] if ": " in shared else ""


def different(examples: Sequence[Example], count: int) -> list[Example]:
    """The first examples with answers unlike each other; filled up if there are too few."""
    firsts = list({one.answer: one for one in reversed(examples)}.values())
    firsts.sort(key=examples.index)
    return (firsts + [one for one in examples if one not in firsts])[:count]

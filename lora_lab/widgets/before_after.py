"""Prompts with their answers, by the base and by the adapted model, and the table of them."""

import html
from collections.abc import Callable, Sequence

from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import Base
from lora_lab.records import Answer
from lora_lab.tasks.examples import Example, Task
from lora_lab.training.evaluation import answers_to, generate
from lora_lab.widgets import markup

LONGEST = 220  # characters of an answer that are shown

Answers = dict[Example, Answer]


class BeforeAfter:
    """The answers of a base, and of the same base with what it learnt.

    An answer is kept beside its own prompt. Answers are shown only once `ask` has all of them.

    Args:
        base: gives the answers before.
        task: marks the answers.
        examples: examples of the task.
    """

    def __init__(self, base: Base, task: Task, examples: Sequence[Example]) -> None:
        self.base, self.task, self.examples = base, task, tuple(examples)
        self.own: Example | None = None  # the learner's own prompt, without a right answer
        self._before: Answers = {}
        self.forget()

    def forget(self) -> None:
        """Drop the adapted model and its answers; the base's answers stay."""
        self.adapted: Adapted | None = None  # gives the answers after
        self.strength = 1.0  # the adapter's strength for the answers that are shown
        self._after: dict[float, Answers] = {}  # by strength

    @property
    def shown(self) -> list[Example]:
        """The task's examples, then the learner's own prompt."""
        return [*self.examples, *([self.own] if self.own else [])]

    @property
    def before(self) -> list[str]:
        """The base's answers, in the order of `shown`; none before it was asked."""
        return self._complete_texts(self._before)

    @property
    def after(self) -> list[str]:
        """The adapted model's answers at `strength`; none before it was asked."""
        return self._complete_texts(self._after.get(self.strength, {}))

    def _complete_texts(self, known: Answers) -> list[str]:
        complete = all(example in known for example in self.shown)
        return [known[example].given for example in self.shown] if complete else []

    @property
    def table(self) -> str:
        """Each prompt with both answers, as HTML."""
        after = self._after.get(self.strength, {})
        rows = [
            (example.prompt, self._before.get(example), after.get(example))
            for example in self.shown
        ]
        return answers_table(rows, self.strength)

    def ask(
        self, own: Example | None, strength: float, go_on: Callable[[], bool] = lambda: True
    ) -> None:
        """Get the answers of all models that are there to all prompts, then show them.

        Args:
            own: the learner's own prompt, in place of the last one; None: there is none.
            strength: the adapted model's strength.
            go_on: called between the models; if it is false, everything stays as it was.
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
        """Add the answers that are not known yet; answers to the task's examples are marked."""
        new = [example for example in examples if example not in known]
        of_task = [example for example in new if example in self.examples]
        if of_task:
            known |= dict(zip(of_task, answers_to(model, self.task, of_task), strict=True))
        for example in new:
            if example not in self.examples:
                (text,) = generate(model, [example.prompt])
                known[example] = Answer(example.prompt, "", text, False)


def answers_table(rows: Sequence[tuple[str, Answer | None, Answer | None]], strength: float) -> str:
    """The same prompts, answered by the base and by the adapted model, as HTML.

    Args:
        rows: prompt, the base's answer, the adapted model's; None where there is no answer yet.
            A right answer is marked; under a wrong answer stands the expected text, if known.
        strength: the adapter's strength.
    """
    if not rows:  # a planted task has no prompts in words
        return ""
    name = "adapted" if strength == 1 else f"at {strength:g}"
    lines = []
    for prompt, before, after in rows:
        lines.append(f'<tr class="lora-lab-prompt"><td colspan="2">{html.escape(prompt)}</td></tr>')
        lines += [_answer_row("base", before), _answer_row(name, after)]
        if after and after.expected and not after.right:
            expected = html.escape(after.expected)
            lines.append(f"<tr><td>wanted</td><td><code>{expected}</code></td></tr>")
    heading = "<b>The same prompts, before and after</b>"
    return f'{heading}<table class="lora-lab-answers"><tbody>{"".join(lines)}</tbody></table>'


def _answer_row(name: str, answer: Answer | None) -> str:
    if answer is None:
        cell = markup.faint("…")
    else:
        long = len(answer.given) > LONGEST
        text = f"{answer.given[:LONGEST]} …" if long else answer.given
        cell = f"<code>{html.escape(text)}</code>" if text else markup.faint("(says nothing)")
        if answer.right:
            cell += " ✓ right"
    return f"<tr><td>{html.escape(name)}</td><td>{cell}</td></tr>"

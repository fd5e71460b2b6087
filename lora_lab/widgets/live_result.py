"""The result of a live training: answers before and after, and scores, as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lora_lab.models.adapted import Adapted
from lora_lab.plots import meter_rows
from lora_lab.recipe import Recipe
from lora_lab.records import Answer, Scores, StepRecord
from lora_lab.tasks.examples import Example, Task
from lora_lab.training.evaluation import answers_to, rule_of
from lora_lab.widgets.samples import shared_opening
from lora_lab.wording import percent, significant

STRENGTHS = (0, 0.5, 1, 1.5)


@dataclass(frozen=True, eq=False, repr=False)
class LiveResult:
    """A finished live training, as it was when it ended. A notebook shows its table."""

    recipe: Recipe
    records: tuple[StepRecord, ...]
    adapted: Adapted  # the base with what it learned: ask it, evaluate it, save it
    task: Task  # with the part of the test that was asked
    examples: tuple[Example, ...]  # those that are shown; your own prompt has no right answer
    before: tuple[str, ...]  # the base's answers to them
    after: tuple[str, ...]  # the adapted model's
    base_scores: Scores  # on a part of the test
    scores: Scores

    def table(self) -> pd.DataFrame:
        """The scores before and after: a row for each kind of question."""
        rows = [
            (name, percent(before), percent(after))
            for name, _, before, after in meter_rows(self.base_scores, self.scores)
        ]
        losses = (significant(scores.loss) for scores in (self.base_scores, self.scores))
        rows.append(("loss on the test, nats per token", *losses))
        return pd.DataFrame(rows, columns=["", "before", "after"]).set_index("")

    def answers(self) -> pd.DataFrame:
        """The prompts that are shown, with both answers; a right answer has a ✓."""
        return self._side_by_side({"before": self.before, "after": self.after})

    def at_strengths(self, strengths: Sequence[float] = STRENGTHS) -> pd.DataFrame:
        """The answers with more or less of what was learned: 0 is the base, 1 as trained.

        The last row counts the right answers to all questions of the test's part.

        Args:
            strengths: 0 to 10.
        """
        columns, counts, trained = {}, [], self.adapted.strength
        try:
            for strength in strengths:
                self.adapted.strength = strength
                shown, asked = self._answers_at(strength)
                columns[f"strength {strength:g}"] = shown
                counts.append(sum(answer.right for answer in asked))
        finally:
            self.adapted.strength = trained
        table = self._side_by_side(columns)
        table.loc[f"right, of {len(self.task.test)}"] = [*map(str, counts)]
        return table

    def _answers_at(self, strength: float) -> tuple[Sequence[str], Sequence[Answer]]:
        """The shown answers, and the answers to the test's part; both are known at 0 and 1."""
        if strength in (0, 1):
            scores = self.scores if strength else self.base_scores
            return self.after if strength else self.before, scores.answers
        shown = [answer.given for answer in answers_to(self.adapted, self.task, self.examples)]
        return shown, answers_to(self.adapted, self.task, self.task.test)

    def _side_by_side(self, columns: Mapping[str, Sequence[str]]) -> pd.DataFrame:
        right = rule_of(self.task)
        marked = {
            name: [
                f"{given} ✓" if example.answer and right(example.answer, given) else given
                for example, given in zip(self.examples, texts, strict=True)
            ]
            for name, texts in columns.items()
        }
        prompts = [example.prompt for example in self.examples]
        opening = shared_opening(self.examples)
        return pd.DataFrame(marked, index=[prompt.removeprefix(opening) for prompt in prompts])

    def __repr__(self) -> str:
        return f"{self.table()}\n\n{self.answers()}"

    def _repr_html_(self) -> str:
        return self.table().to_html() + self.answers().to_html()

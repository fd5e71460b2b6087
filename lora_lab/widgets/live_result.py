"""The result of a live training: answers before and after, and scores, as tables."""

from dataclasses import dataclass

import pandas as pd

from lora_lab.models.adapted import Adapted
from lora_lab.plots import meter_rows
from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.wording import percent, significant


@dataclass(frozen=True, eq=False, repr=False)
class LiveResult:
    """A finished live training, as it was when it ended. A notebook shows its table."""

    recipe: Recipe
    records: tuple[StepRecord, ...]
    adapted: Adapted  # the base with what it learned: ask it, evaluate it, save it
    prompts: tuple[str, ...]  # those that are shown
    before: tuple[str, ...]  # the base's answers to them
    after: tuple[str, ...]  # the adapted model's
    base_scores: Scores  # on a part of the test
    scores: Scores

    def table(self) -> pd.DataFrame:
        """What was learned and what was lost: a row for each kind of question."""
        rows = [
            (name, percent(before), percent(after))
            for name, _, before, after in meter_rows(self.base_scores, self.scores)
        ]
        losses = (significant(scores.loss) for scores in (self.base_scores, self.scores))
        rows.append(("loss on the test, nats per token", *losses))
        return pd.DataFrame(rows, columns=["", "before", "after"]).set_index("")

    def answers(self) -> pd.DataFrame:
        """The prompts that are shown, with both answers."""
        return pd.DataFrame({"before": self.before, "after": self.after}, index=self.prompts)

    def __repr__(self) -> str:
        return f"{self.table()}\n\n{self.answers()}"

    def _repr_html_(self) -> str:
        return self.table().to_html() + self.answers().to_html()

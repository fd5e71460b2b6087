"""The same fine-tune with other seeds: how far chance alone moves a curve and a score."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.widgets.words import counted

MORE = 3  # seeds beside the one at hand: a spread for three times its seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a finished run told."""

    records: tuple[StepRecord, ...]
    scores: Scores
    replayed: bool = False  # trained before in this lab, not just now


class Seeds:
    """The finished runs of a lab, by task and recipe; and those of `others` that are shown now."""

    def __init__(self) -> None:
        self._finished: dict[tuple[str, Recipe], Outcome] = {}
        self.shown: list[Outcome] = []

    def keep(self, task: str, recipe: Recipe, outcome: Outcome) -> None:
        """Remember a finished run, so that it need not be trained again for a band."""
        self._finished[task, recipe] = outcome

    def others(
        self, task: str, recipe: Recipe, run: Callable[[Recipe], Outcome | None]
    ) -> Iterator[None]:
        """Show the recipe with the next seeds too, one after the other; pause after each.

        Args:
            task: its name.
            recipe: of the run at hand.
            run: trains and scores a recipe that is not known; None from it ends all.
        """
        for seed in range(recipe.seed + 1, recipe.seed + 1 + MORE):
            other = dataclasses.replace(recipe, seed=seed)
            known = self._finished.get((task, other))
            outcome = dataclasses.replace(known, replayed=True) if known else run(other)
            if outcome is None:
                return
            self.keep(task, other, outcome)
            self.shown.append(outcome)
            yield

    @property
    def told(self) -> str:
        """`noise band: 4 seeds, 2 of them replayed`, the run at hand counted."""
        replayed = sum(one.replayed for one in self.shown)
        again = f", {replayed} of them replayed" if replayed else ""
        return f"noise band: {counted(1 + len(self.shown), 'seed')}{again}"

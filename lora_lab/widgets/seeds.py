"""The same fine-tune with other seeds: how far chance alone moves a curve and a score."""

import dataclasses
from collections.abc import Callable, Iterator

from lora_lab.recipe import Recipe
from lora_lab.training.store import Run
from lora_lab.wording import counted

MORE = 3  # other seeds of a band: they take three times as long as the run at hand


class Seeds:
    """The finished runs of a task, by recipe, and the runs with other seeds that are shown now.

    Args:
        more: how many other seeds a band has.
    """

    def __init__(self, more: int = MORE) -> None:
        self.more = more
        self._finished: dict[Recipe, Run] = {}
        self.shown: list[Run] = []

    def keep(self, run: Run) -> None:
        """Remember a finished run, so that it need not be trained again for a band."""
        self._finished[run.recipe] = run

    def band(self, recipe: Recipe) -> list[Run]:
        """The finished run of a recipe, then the runs with other seeds that are shown."""
        return [self._finished[recipe], *self.shown]

    def others(self, recipe: Recipe, train: Callable[[Recipe], Run | None]) -> Iterator[None]:
        """Show the recipe with the next seeds too, one after the other; pause after each.

        Args:
            recipe: the recipe of the run at hand.
            train: trains and scores a recipe that has no run yet; if it returns None, all ends.
        """
        for seed in range(recipe.seed + 1, recipe.seed + 1 + self.more):
            other = dataclasses.replace(recipe, seed=seed)
            known = self._finished.get(other)
            run = dataclasses.replace(known, replayed=True) if known else train(other)
            if run is None:
                return
            self.keep(run)
            self.shown.append(run)
            yield

    @property
    def summary(self) -> str:
        """`noise band: 4 seeds, 2 of them replayed`, counting the run at hand."""
        replayed = sum(run.replayed for run in self.shown)
        again = f", {replayed} of them replayed" if replayed else ""
        return f"noise band: {counted(1 + len(self.shown), 'seed')}{again}"

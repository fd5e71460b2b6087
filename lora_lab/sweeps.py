"""Many recipes × seeds, and the table of what came out."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lora_lab.bases import Base
from lora_lab.recipe import Recipe, nearest
from lora_lab.runs import DEFAULT, Default, Run
from lora_lab.tasks.examples import Task
from lora_lab.training import Diverged, fit

ENGINES = ("auto", "sequential")
LATER = ("processes", "packed", "ray")


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs of a sweep, in order: all seeds of the first recipe, then of the next."""

    runs: tuple[Run, ...]

    def table(self) -> pd.DataFrame:
        """One row a run: the recipe's fields that vary, the seed, the scores.

        Columns beside them: `value` (of the task's metric), `loss` (nats per answer token on the
        test split), `last_loss` (the last step's), `old_knowledge`, `strangers`, `status`. A share
        that was not measured is NaN; a diverged run keeps its row, with the status "diverged".
        """
        recipes = [dataclasses.asdict(run.recipe) for run in self.runs]
        varying = [
            name
            for name in recipes[0]
            if name == "seed" or len({repr(one[name]) for one in recipes}) > 1
        ]
        rows = []
        for run, recipe in zip(self.runs, recipes, strict=True):
            scores = run.scores
            row = {name: recipe[name] for name in varying}
            row["value"] = scores.value if scores else None
            row["loss"] = scores.loss if scores else None
            row["last_loss"] = run.records[-1].loss if run.records else None
            row["old_knowledge"] = scores.old_knowledge if scores else None
            row["strangers"] = scores.strangers if scores else None
            row["status"] = run.status
            rows.append(row)
        table = pd.DataFrame(rows)
        shares = ["value", "loss", "last_loss", "old_knowledge", "strangers"]
        return table.astype(dict.fromkeys(shares, float))


def sweep(
    base: Base,
    task: Task,
    recipes: Iterable[Recipe],
    *,
    seeds: Sequence[int] = (0,),
    engine: str = "auto",
    store: str | Path | Default | None = DEFAULT,
    fresh: bool = False,
    evaluate: bool = True,
    progress: bool = False,
) -> Sweep:
    """Fit every recipe with every seed. A run that diverges keeps its place, and its status.

    Args:
        base: stays as it was.
        task: what to learn.
        recipes: at least one; their own seeds are replaced.
        seeds: at least one; three or more show the spread.
        engine: "auto" or "sequential": one after the other.
        store: as in `fit`: finished runs are replayed, so a stopped sweep goes on.
        fresh: train again what is stored.
        evaluate: score each run on the test split.
        progress: show a bar.
    """
    if engine in LATER:
        raise NotImplementedError(f"engine={engine!r} does not exist yet; give 'auto'")
    if engine not in ENGINES:
        known = (*ENGINES, *LATER)
        raise ValueError(f"engine={engine!r} is not known; {nearest(engine, known)}Give 'auto'")
    recipes, seeds = list(recipes), list(seeds)
    if not recipes or not seeds:
        raise ValueError(
            f"{len(recipes)} recipes × {len(seeds)} seeds are no run; give one of each at least"
        )
    wanted = [dataclasses.replace(recipe, seed=seed) for recipe in recipes for seed in seeds]
    runs = []
    for recipe in tqdm(wanted, unit="run", disable=not progress):
        try:
            runs.append(fit(base, task, recipe, store=store, fresh=fresh, evaluate=evaluate))
        except Diverged as error:
            runs.append(error.run)
    return Sweep(tuple(runs))

"""Many recipes × seeds, and the table of their scores."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lora_lab.machine.devices import SMALL
from lora_lab.machine.resources import cores
from lora_lab.models.adapters import check_trainable
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import Task
from lora_lab.training.confounds import confounds_of
from lora_lab.training.evaluation import check_answerable
from lora_lab.training.fit import fit_or_last_good
from lora_lab.training.processes import fit_in_processes
from lora_lab.training.run_files import DIVERGED, FINISHED
from lora_lab.training.store import DEFAULT, Default, Run, resolve_store, stored_status
from lora_lab.training.summary import FieldComparison, compare_field, summary_of, varying_fields

ENGINES = ("auto", "sequential", "processes")
LATER = ("packed", "ray")
WORTH_A_POOL = 4  # runs to train, from which on "auto" waits the seconds that workers take to start


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
            if name == "seed" or len({repr(recipe[name]) for recipe in recipes}) > 1
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

    def summary(self, of: str = "value") -> pd.DataFrame:
        """One row a setting: its varying fields, the mean of its seeds, the mean's 95 % interval.

        Columns after the fields: `mean`, `low`, `high`, `seeds`, and `diverged` seeds. A setting
        with a diverged seed has no mean, since the other seeds would flatter it.

        Args:
            of: "value" (the task's metric), "loss", "old_knowledge" or "strangers".
        """
        return pd.DataFrame(summary_of(self.runs, of, varying_fields(self.runs)))

    def compare(
        self,
        field: str,
        *,
        of: str = "value",
        against: object = None,
        margin: float | None = None,
    ) -> FieldComparison:
        """The values of a field, best mean first, each with a verdict beside one of them.

        Verdicts are those of `lab.compare`, with Holm's correction where there are several. Where
        other fields vary as well, such as the learning rate, the validation loss chooses among
        them for each value.

        Args:
            field: a recipe's field that varies, such as "r".
            of: the score that is compared, as in `summary`.
            against: the value that the others are compared with; None: the sweep's first.
            margin: the smallest difference that matters, as in `lab.compare`.

        Raises:
            ValueError: where the field does not vary, or runs can't be paired by seed; where
                settings are to be chosen and no validation loss was recorded.
        """
        return compare_field(self.runs, field, of=of, against=against, margin=margin)

    def confounds(self) -> tuple[str, ...]:
        """What else differs between the settings that are compared, a sentence each.

        A setting is what the varying fields say, but for the seed and the learning rate: these are
        how fairly it was tried. Where nothing but the learning rate varies, each rate is a setting.
        No sentence says that a difference is real: these are only the confounds that are known.
        """
        return confounds_of(self.runs)


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
        engine: "sequential": one after the other; "processes": side by side on the CPU's cores, a
            thread each, with the same records; "auto": processes for four runs or more of a small
            model on a CPU.
        store: as in `fit`: finished runs are replayed, so a stopped sweep goes on.
        fresh: train again what is stored.
        evaluate: score each run on the test split.
        progress: show a bar.
    """
    if engine in LATER:
        raise NotImplementedError(f"engine={engine!r} does not exist yet; give 'auto'")
    if engine not in ENGINES:
        known = (*ENGINES, *LATER)
        raise ValueError(f"engine={engine!r} is not known; {nearest(engine, known)}give 'auto'")
    recipes, seeds = list(recipes), list(seeds)
    if not recipes or not seeds:
        raise ValueError(
            f"{len(recipes)} recipes × {len(seeds)} seeds are no run; give one of each at least"
        )
    planned = [dataclasses.replace(recipe, seed=seed) for recipe in recipes for seed in seeds]
    where = resolve_store(store)
    runs: dict[Recipe, Run] = {}
    with tqdm(total=len(set(planned)), unit="run", disable=not progress) as bar:
        new = [
            recipe
            for recipe in dict.fromkeys(planned)
            if fresh or not _is_stored(base, task, recipe, where)
        ]
        for recipe in new:  # what is wrong with the last one is said before the first is trained
            check_trainable(base, recipe)
        if new and evaluate:
            check_answerable(base, task)
        if _side_by_side(engine, base, len(new)):
            options = {"store": where, "fresh": fresh, "evaluate": evaluate, "done": bar.update}
            runs = fit_in_processes(base, task, new, **options)
        for recipe in dict.fromkeys(planned):
            if recipe not in runs:
                runs[recipe] = fit_or_last_good(
                    base, task, recipe, store=where, fresh=fresh, evaluate=evaluate
                )
                bar.update()
    return Sweep(tuple(runs[recipe] for recipe in planned))


def _is_stored(base: Base, task: Task, recipe: Recipe, store: Path | None) -> bool:
    return store is not None and stored_status(store, base, task, recipe) in (FINISHED, DIVERGED)


def _side_by_side(engine: str, base: Base, new: int) -> bool:
    """Whether processes are to train `new` runs."""
    if engine == "processes" and base.device.type != "cpu":
        raise ValueError(
            f"engine='processes' shares out the CPU's cores, and {base.name} is on {base.device}; "
            "load it with device='cpu', or give engine='sequential'"
        )
    if engine == "auto":
        small = base.device.type == "cpu" and base.model.num_parameters() < SMALL
        return small and new >= WORTH_A_POOL and cores() >= 2
    return engine == "processes" and new > 0

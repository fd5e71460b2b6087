"""Many recipes × seeds, the table of what came out, and what else may explain a difference."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lora_lab.machine.devices import SMALL
from lora_lab.machine.resources import cores
from lora_lab.models.adapters import check_trainable
from lora_lab.models.bases import Base
from lora_lab.recipe import ONLY, Recipe, nearest
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import check_answerable
from lora_lab.training.fit import fit_or_last_good
from lora_lab.training.processes import fit_in_processes
from lora_lab.training.run_files import DIVERGED, FINISHED
from lora_lab.training.store import DEFAULT, Default, Run, resolve_store, stored_status

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

    def confounds(self) -> tuple[str, ...]:
        """What else differs between the settings that are compared, a sentence each.

        A setting is what the varying fields say, but for the seed and the learning rate: these are
        how fairly it was tried. Where nothing but the learning rate varies, each rate is a setting.
        No sentence says that a difference is real: these are only the confounds that are known.
        """
        return tuple(_confounds(self.runs))


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
    wanted = [dataclasses.replace(recipe, seed=seed) for recipe in recipes for seed in seeds]
    where = resolve_store(store)
    runs: dict[Recipe, Run] = {}
    with tqdm(total=len(set(wanted)), unit="run", disable=not progress) as bar:
        new = [
            one for one in dict.fromkeys(wanted) if fresh or not _is_stored(base, task, one, where)
        ]
        for recipe in new:  # what is wrong with the last one is said before the first is trained
            check_trainable(base, recipe)
        if new and evaluate:
            check_answerable(base, task)
        if _side_by_side(engine, base, len(new)):
            options = {"store": where, "fresh": fresh, "evaluate": evaluate, "done": bar.update}
            runs = fit_in_processes(base, task, new, **options)
        for recipe in dict.fromkeys(wanted):
            if recipe not in runs:
                runs[recipe] = fit_or_last_good(
                    base, task, recipe, store=where, fresh=fresh, evaluate=evaluate
                )
                bar.update()
    return Sweep(tuple(runs[recipe] for recipe in wanted))


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


# --- what else differs ----------------------------------------------------------------------

PLACES = ("target_modules", "layers_to_transform", "modules_to_save")
WITHOUT_EFFECT = ("eval_steps", "gradient_checkpointing")  # on what is learnt
IDLE = {  # fields without a say, by method; those of one method alone are in ONLY
    "lora": (),
    "adalora": ("r",),
    "full": ("r", "lora_alpha", "lora_dropout", *PLACES),
}
NAMED = 4  # settings that a sentence names
Setting = dict[str, object]  # of a recipe, the fields that are compared


def _confounds(runs: Sequence[Run]) -> Iterator[str]:
    recipes = [_with_a_say(run.recipe) for run in runs]
    varying = [
        name
        for name in dict.fromkeys(name for one in recipes for name in one if name != "seed")
        if len({one[name] for one in recipes if name in one}) > 1
    ]
    compared = [name for name in varying if name != "learning_rate"] or varying
    if len({(run.base_name, run.task_name) for run in runs}) > 1:
        yield "Base or task differ: the scores are not of the same test."
    if not compared:
        return  # one setting: nothing is compared
    settings = [{name: one[name] for name in compared if name in one} for one in recipes]
    yield from _never_alone(settings)
    names = [_in_words(one) for one in settings]
    yield from _moving_along(compared, names, runs)
    seeds, rates = zip(*((run.recipe.seed, run.recipe.learning_rate) for run in runs), strict=True)
    if "learning_rate" not in compared:
        tried = _by_name(names, rates)
        yield from _unlike(tried, "learning rate", "a difference may be theirs")
        names = [f"{name}, {rate:g}" for name, rate in zip(names, rates, strict=True)]
    yield from _unlike(
        _by_name(names, seeds), "seed", "if they were picked by their scores, luck was picked"
    )


def _with_a_say(recipe: Recipe) -> Setting:
    """The fields that can make a difference with this recipe's method."""
    idle = {name for method, names in ONLY.items() if method != recipe.method for name in names}
    idle |= {*WITHOUT_EFFECT, *IDLE[recipe.method]}
    return {name: one for name, one in dataclasses.asdict(recipe).items() if name not in idle}


def _never_alone(settings: Sequence[Setting]) -> Iterator[str]:
    """Fields of which no two settings differ in that one alone."""
    names = dict.fromkeys(name for one in settings for name in one)
    alone = set()
    for one in settings:
        for other in settings:
            differing = [name for name in one if name in other and one[name] != other[name]]
            alone |= {*differing} if len(differing) == 1 else set()
    tied = [name for name in names if name not in alone]
    if tied:
        yield (
            f"{' and '.join(tied)} never change{'s' * (len(tied) == 1)} alone "
            f"({_listed(map(_in_words, settings))}): a difference cannot be laid to one field."
        )


def _moving_along(
    compared: Sequence[str], names: Sequence[str], runs: Sequence[Run]
) -> Iterator[str]:
    """Quantities that no field names, and that change with a field which is compared."""
    recipes = [run.recipe for run in runs]
    derived = {}
    if "lora_alpha" not in compared:
        derived["scaling"] = [None if one.method == "full" else one.scaling for one in recipes]
    if "steps" not in compared:
        derived["number of examples seen"] = [
            one.steps * one.batch_size * one.gradient_accumulation_steps for one in recipes
        ]
    if {*PLACES} & {*compared}:
        derived["number of trained parameters"] = [
            run.budget and run.budget.trainable_parameters for run in runs
        ]
    for quantity, values in derived.items():
        found = {name: one for name, one in zip(names, values, strict=True) if one is not None}
        if len({*found.values()}) > 1:
            each = _listed(f"{name}: {_told(one)}" for name, one in found.items())
            yield f"The {quantity} moves along ({each}): a difference may be its doing."


def _unlike(tried: dict[str, tuple], what: str, warning: str) -> Iterator[str]:
    """Whether all settings were tried with the same values, and with more than one."""
    if len({*tried.values()}) > 1:
        each = _listed(f"{name}: {', '.join(map(_told, one))}" for name, one in tried.items())
        yield f"Not all settings were tried with the same {what}s ({each}): {warning}."
        return
    (values,) = {*tried.values()}
    if len(values) == 1:
        yield f"Only one {what} was tried ({_told(values[0])}): another may turn the order around."


def _by_name(names: Sequence[str], values: Sequence) -> dict[str, tuple]:
    return {
        name: tuple(sorted({one for own, one in zip(names, values, strict=True) if own == name}))
        for name in names
    }


def _in_words(setting: Setting) -> str:
    return ", ".join(f"{name}={_told(value)}" for name, value in setting.items())


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return "+".join(map(str, value)) or "none"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.6g}" if number else str(value)


def _listed(words: Iterable[str]) -> str:
    """Each once, the first few of them."""
    each = [*dict.fromkeys(words)]
    return "; ".join(each[:NAMED]) + "; …" * (len(each) > NAMED)

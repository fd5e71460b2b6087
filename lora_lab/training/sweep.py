"""A sweep: several recipes, each with several seeds, and the table of their scores."""

import dataclasses
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from lora_lab.cost.estimates import more_memory
from lora_lab.cost.limits import check_context, free_memory, largest_run
from lora_lab.machine.devices import SMALL
from lora_lab.machine.resources import cores
from lora_lab.models.adapters import check_trainable
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Task, encode_fitting
from lora_lab.training.arguments import check_sweep
from lora_lab.training.cluster import check_cluster, follow_on_ray
from lora_lab.training.confounds import confounds_of
from lora_lab.training.evaluation import check_answerable, split_to_score
from lora_lab.training.fit import follow_to_last_good
from lora_lab.training.packing import not_packable, train_packed
from lora_lab.training.processes import follow_in_processes
from lora_lab.training.run_files import DIVERGED, FINISHED
from lora_lab.training.store import DEFAULT, Default, Run, resolve_store, stored_status
from lora_lab.training.summary import (
    FieldComparison,
    best_setting,
    compare_field,
    summary_of,
    varying_fields,
)
from lora_lab.wording import memory_size

ENGINES = ("auto", "sequential", "processes", "packed", "ray")
WORKER_BYTES = 400 * 2**20  # what a worker process holds before its first run: Python and torch
WORTH_A_POOL = 4  # with this many runs, "auto" takes workers, which need seconds to start


@dataclass(frozen=True, eq=False)
class Sweep:
    """The runs of a sweep, in order: all seeds of the first recipe, then of the next."""

    runs: tuple[Run, ...]

    def table(self) -> pd.DataFrame:
        """A row for each run: the recipe's fields that vary, the seed, the scores.

        The scores are `value` (the task's metric), `loss` (nats per answer token on the split that
        was scored), `last_loss` (the last step's), `old_knowledge` and `strangers`. `status` stands
        beside them. A share that was not measured is NaN; a diverged run keeps its row, with the
        status "diverged".
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
        """A row for each setting: its varying fields, the mean over seeds, its 95 % interval.

        Columns after the fields: `mean`, `low`, `high`, `seeds`, and `diverged` seeds. A setting
        with a diverged seed has no mean, since a mean over the other seeds would flatter it.

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
        """The values of a field, best mean first, each with its verdict against a reference value.

        Verdicts are those of `lab.compare`, with Holm's correction if there are several. If other
        fields vary as well, such as the learning rate, the validation loss chooses among them for
        each value.

        Args:
            field: a recipe's field that varies, such as "r".
            of: the score that is compared, as in `summary`.
            against: the reference value, with which the others are compared; None: the sweep's
                first.
            margin: the smallest difference that matters, as in `lab.compare`.

        Raises:
            ValueError: if the field does not vary, or runs can't be paired by seed; if settings
                are to be chosen and no validation loss was recorded.
        """
        return compare_field(self.runs, field, of=of, against=against, margin=margin)

    def best(self) -> tuple[Run, ...]:
        """The runs of the setting with the best mean score on validation; the first of equals.

        Raises:
            ValueError: if the sweep was scored on the test, since evaluate="validation" keeps the
                test for the end; or if every setting diverged with some seed.
        """
        return tuple(best_setting(self.runs))

    def confounds(self) -> tuple[str, ...]:
        """What else differs between the settings that are compared: a sentence for each confound.

        A setting consists of the varying fields without the seed and the learning rate, which show
        how fairly it was tried. If only the learning rate varies, each rate is a setting. These are
        only the known confounds: without one, a difference may still not be real.
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
    evaluate: bool | str = True,
    progress: bool = False,
) -> Sweep:
    """Fit every recipe with every seed. A run that diverges stays in the sweep, with its status.

    Args:
        base: stays as it was.
        task: what to learn.
        recipes: at least one; their own seeds are replaced.
        seeds: at least one; three or more show the spread.
        engine: "sequential": one after the other; "processes": side by side on the CPU's cores, a
            thread each, with the same records; "ray": the same on the machines of a Ray cluster
            (docs/cluster.md); "packed": many in one batch, with the same records up to rounding
            (runs that can't be packed follow one after the other); "auto": packed for two runs or
            more on a GPU, processes for four or more runs of a small model on a CPU.
        store: as in `fit`: finished runs are replayed, so a stopped sweep goes on.
        fresh: train again what is stored.
        evaluate: score each run on the test split; "validation": on that split, so that settings
            can be chosen by it and the test is kept for the end.
        progress: show a bar.

    Raises:
        ValueError: for an unknown engine, no recipe, no seed, or a recipe that `fit` refuses.
        ImportError: if the engine needs Ray, which is not installed.
    """
    options = {"store": store, "fresh": fresh, "evaluate": evaluate}
    return plan_sweep(base, task, recipes, seeds, engine, **options).run(progress=progress)


def follow_sweep(
    base: Base,
    task: Task,
    recipes: Iterable[Recipe],
    *,
    seeds: Sequence[int] = (0,),
    engine: str = "auto",
    store: str | Path | Default | None = DEFAULT,
    fresh: bool = False,
    evaluate: bool | str = True,
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """The same sweep as it happens: for a live chart, or to stop it and keep the finished runs.

    Yields pairs: a recipe (with its seed) and a record of a step that is trained now, or at the end
    its Run. Stored runs come first, without steps. If runs train side by side, their steps come in
    turn. Closing the generator stops after the step at hand.

    Args:
        base: as in `sweep`, and so are the others.
        task: what to learn.
        recipes: at least one.
        seeds: at least one.
        engine: as in `sweep`.
        store: as in `sweep`.
        fresh: train again what is stored.
        evaluate: score each run on the test split, or on "validation".
    """
    options = {"store": store, "fresh": fresh, "evaluate": evaluate}
    yield from plan_sweep(base, task, recipes, seeds, engine, **options).follow()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """The runs of a sweep before it starts: which are stored, and what trains the others."""

    base: Base
    task: Task
    recipes: tuple[Recipe, ...]  # in the order of the sweep; some may be equal
    new: tuple[Recipe, ...]  # to be trained, each once
    engine: str  # one of ENGINES, but not "auto"
    why: str  # why "auto" chose this engine, in words; empty where it was given
    options: dict[str, object]  # store, fresh, evaluate

    @property
    def at_once(self) -> int:
        """How many runs are trained side by side, each in a process of its own."""
        return min(int(cores()), len(self.new)) if self.engine == "processes" else 1

    def run(self, *, progress: bool = False) -> Sweep:
        """Train all runs to their ends, with a progress bar if asked for."""
        runs: dict[Recipe, Run] = {}
        with _Progress(self.recipes, progress) as bar:
            for recipe, news in self.follow():
                bar.note(recipe, news)
                if isinstance(news, Run):
                    runs[recipe] = news
        return Sweep(tuple(runs[recipe] for recipe in self.recipes))

    def follow(self) -> Iterator[tuple[Recipe, StepRecord | Run]]:
        """Stored runs first, then the training of the others."""
        new = set(self.new)
        stored = [recipe for recipe in dict.fromkeys(self.recipes) if recipe not in new]
        yield from self._one_by_one(stored)
        if self.engine == "ray":
            kept = {name: self.options[name] for name in ("store", "evaluate")}
            yield from follow_on_ray(self.base, self.task, self.new, **kept)
        elif self.engine == "processes":
            yield from follow_in_processes(self.base, self.task, self.new, **self.options)
        elif self.engine == "packed":
            yield from self._packed()
        else:
            yield from self._one_by_one(self.new)

    def _packed(self) -> Iterator[tuple[Recipe, StepRecord | Run]]:
        """Packs first; then, one after the other, the runs that can't be in a pack, and why."""
        reasons = {recipe: not_packable(self.base, recipe) for recipe in self.new}
        apart = [recipe for recipe in self.new if reasons[recipe]]
        if packed := [recipe for recipe in self.new if not reasons[recipe]]:
            yield from train_packed(self.base, self.task, packed, **self.options)
        if apart:
            warnings.warn(
                f"{len(apart)} of {len(self.new)} runs can't be in a pack and are trained one "
                f"after the other: {'; '.join(sorted({reasons[recipe] for recipe in apart}))}",
                stacklevel=4,
            )
        yield from self._one_by_one(apart)

    def _one_by_one(self, recipes: Iterable[Recipe]) -> Iterator[tuple[Recipe, StepRecord | Run]]:
        for recipe in recipes:
            for news in follow_to_last_good(self.base, self.task, recipe, **self.options):
                yield recipe, news


def plan_sweep(
    base: Base,
    task: Task,
    recipes: Iterable[Recipe],
    seeds: Sequence[int],
    engine: str,
    *,
    store: str | Path | Default | None,
    fresh: bool,
    evaluate: bool | str,
) -> Planned:
    """The plan of a `sweep`. Wrong settings of any run are refused before the first run starts."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is not known; {nearest(engine, ENGINES)}give 'auto'")
    recipes, seeds = check_sweep(base, task, recipes, seeds)
    planned = [dataclasses.replace(recipe, seed=seed) for recipe in recipes for seed in seeds]
    where = resolve_store(store)
    new = [
        recipe
        for recipe in dict.fromkeys(planned)
        if fresh or not _is_stored(base, task, recipe, where)
    ]
    for recipe in new:
        check_trainable(base, recipe)
        of_recipe = recipe.max_length, recipe.loss_on
        check_context(base, encode_fitting(task.train, base.tokenizer, *of_recipe).encoded)
    split = split_to_score(evaluate)
    if new and split:
        check_answerable(base, task, split=split)
    if engine == "ray" and new:
        check_cluster(base)
    engine, why = _chosen_engine(engine, base, task, new)
    return Planned(
        base=base,
        task=task,
        recipes=tuple(planned),
        new=tuple(new),
        engine=engine,
        why=why,
        options={"store": where, "fresh": fresh, "evaluate": evaluate},
    )


class _Progress:
    """A bar that counts steps, says how many runs are finished, and how long the rest will take.

    Its pace counts only the steps that are trained now. Steps of stored runs, and steps that an
    early stop leaves out, are done without having taken time.
    """

    def __init__(self, recipes: Iterable[Recipe], show: bool) -> None:
        self._steps = dict.fromkeys(recipes, 0)  # trained, by run
        steps = sum(recipe.steps for recipe in self._steps)
        self._bar = tqdm(total=steps, unit="step", disable=not show, smoothing=0)
        self._finished = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def note(self, recipe: Recipe, news: StepRecord | Run) -> None:
        """Count a step, or a finished run: its steps are done, trained now or long ago."""
        finished = isinstance(news, Run)
        self._finished += finished
        step = recipe.steps if finished else news.step
        new = max(0, step - self._steps[recipe])
        if finished or not self._steps[recipe]:  # stored, left out, or done before this sweep
            untimed = new - (not finished)
            if not self._bar.disable:
                self._bar.initial += untimed
                self._bar.n += untimed
            new -= untimed
        self._bar.set_postfix_str(f"{self._finished} of {len(self._steps)} runs", refresh=finished)
        self._bar.update(new)
        self._steps[recipe] = max(step, self._steps[recipe])


def _is_stored(base: Base, task: Task, recipe: Recipe, store: Path | None) -> bool:
    return store is not None and stored_status(store, base, task, recipe) in (FINISHED, DIVERGED)


def _chosen_engine(engine: str, base: Base, task: Task, new: Sequence[Recipe]) -> tuple[str, str]:
    """The engine for these runs: the engine that was given, or for "auto" the fastest.

    A run of a small base uses one core. A run of a large base uses all cores, and waits for the
    slowest core at each matrix: on a busy machine, runs side by side end sooner, if memory allows.

    Returns:
        The engine; and why "auto" chose it, in words.
    """
    on_cpu = base.device.type == "cpu"
    if engine == "processes" and not on_cpu:
        raise ValueError(
            f"engine='processes' shares out the CPU's cores, and {base.name} is on {base.device}; "
            "load it with device='cpu', or give engine='packed'"
        )
    if engine != "auto":
        return engine, ""
    if len(new) < 2:
        return "sequential", "there is one run to train"
    if base.device.type == "cuda":
        return "packed", "a GPU has room for several runs in a batch"
    if not on_cpu:
        return "sequential", f"runs on {base.device} take turns"
    workers = min(int(cores()), len(new))
    if workers < 2:
        return "sequential", "one core is here"
    if base.model.num_parameters() < SMALL:
        if len(new) >= WORTH_A_POOL:
            return "processes", f"{workers} cores are here"
        return "sequential", f"{len(new)} runs so small end before worker processes have started"
    needed, free = _memory_of_workers(base, task, new, workers), free_memory(base.device)
    if needed is None or free is None:
        return "sequential", "it is not known whether several fit into memory"
    room = f"{workers} side by side need {memory_size(needed)} of memory, and "
    room += f"{memory_size(free)} are free"
    return ("processes" if needed <= free else "sequential"), room


def _memory_of_workers(base: Base, task: Task, new: Sequence[Recipe], workers: int) -> int | None:
    """The bytes that the runs of all workers take beside each other; None: not known.

    Each run is assumed to need as much as the largest run. Workers share one copy of the base, and
    each worker imports torch and its companions for itself.
    """
    each = more_memory(base, task, largest_run(new))
    if each is None:
        return None
    shared = sum(parameter.nbytes for parameter in base.model.parameters())
    return shared + workers * (each + WORKER_BYTES)

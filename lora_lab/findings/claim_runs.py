"""The runs that test a claim: each setting with each seed, and its scores."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lora_lab.findings.recordings import kept_scores
from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import Base, load_base
from lora_lab.models.learned import save_adapter
from lora_lab.recipe import Recipe
from lora_lab.tasks.changing_facts import ChangedFacts, changed_facts
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import ask, evaluate
from lora_lab.training.fit import fit
from lora_lab.training.store import DEFAULT, Default, Run
from lora_lab.training.sweep import sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A recipe on a base, to be compared. Without a task nothing is run: its budget is compared."""

    base: str
    recipe: Recipe
    task: str | None = None
    n: int | None = None
    way: str = "fit"  # trained on the task and tested on it; or a name of WAYS
    changed: int | None = None  # how many of the task's facts change after training, if any do


@dataclass(frozen=True, slots=True)
class Trial:
    """The scores of one run. Every seed draws its own examples, test set and start."""

    setting: str
    seed: int
    scores: Mapping[str, float | None]


def try_settings(
    base: Base,
    task: Task,
    settings: Mapping[str, Setting],
    seed: int,
    *,
    store: str | Path | Default | None = DEFAULT,
) -> list[Trial]:
    """The trials of all settings with one seed. Plain fits are made together, as a sweep."""
    recipes = {name: setting.recipe for name, setting in settings.items() if setting.way == "fit"}
    scores = {}
    if recipes:
        runs = sweep(base, task, recipes.values(), seeds=(seed,), store=store).runs
        scores = {name: scores_of(run) for name, run in zip(recipes, runs, strict=True)}
    for name, setting in settings.items():
        if setting.way != "fit":
            learn = partial(fit, base, recipe=replace(setting.recipe, seed=seed), store=store)
            changed = setting.changed and changed_facts(task, setting.changed, seed=seed)
            scores[name] = WAYS[setting.way](base, task, changed, learn)
    return [Trial(name, seed, scores[name]) for name in settings]


def scores_of(run: Run) -> dict[str, float | None]:
    """The scores of a run that a case can name; None for a missing score, as after diverging.

    They are the scores that records keep, `last_loss` (of the last step, in nats) and `length` (the
    mean tokens of an example).
    """
    scores, recipe, records = run.scores, run.recipe, run.records
    examples = recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps
    tokens = sum(record.tokens for record in records)
    return kept_scores(scores) | {
        "last_loss": records[-1].loss if scores else None,
        "length": tokens / examples if scores else None,
    }


# --- other ways than training on the task and its test --------------------------------------

Learn = Callable[[Task], Run]  # the setting's recipe, with the trial's seed


def _switch(base: Base, task: Task, changed: ChangedFacts, learn: Learn) -> dict[str, float]:
    """Two adapters beside each other, trained before and after the change, used in turn.

    Returns:
        `seconds`: processor time of one switch; `alike`: the share of the test's answers that equal
        the answers of the same adapter loaded alone, 0 to 1.
    """
    with tempfile.TemporaryDirectory() as place:
        before = save_adapter(learn(task), Path(place) / "before")
        after = save_adapter(learn(changed.task), Path(place) / "after")
        alone = {path.name: ask(load_adapter(base, path), task.test) for path in (before, after)}
        both = load_adapter(base, before, name="before").load(after, "after")
    seconds = [_seconds(lambda name=name: both.use(name)) for name in ("after", "before") * 10]
    pairs = [
        pair
        for name in ("after", "before")
        for pair in zip(ask(both.use(name), task.test), alone[name], strict=True)
    ]
    alike = statistics.mean(answer == expected for answer, expected in pairs)
    return {"seconds": statistics.median(seconds), "alike": alike}


def _load(base: Base, task: Task, changed: ChangedFacts, learn: Learn) -> dict[str, float]:
    """Base and adapter read from disk: `seconds` of processor time, the median of three."""
    with tempfile.TemporaryDirectory() as place:
        folder = save_adapter(learn(task), Path(place) / "adapter")
        seconds = [_seconds(lambda: load_adapter(load_base(base.name), folder)) for _ in range(3)]
    return {"seconds": statistics.median(seconds)}


def _half_strength(base: Base, task: Task, _: None, learn: Learn) -> dict[str, float | None]:
    """The task's test at half the adapter's strength: as if alpha were halved after training."""
    with tempfile.TemporaryDirectory() as place:
        folder = save_adapter(learn(task), Path(place) / "adapter")
        return kept_scores(evaluate(load_adapter(base, folder, strength=0.5), task))


def _seconds(action: Callable[[], object]) -> float:
    """The processor time that an action takes; other programs do not count."""
    start = time.process_time()
    action()
    return time.process_time() - start


Way = Callable[[Base, Task, ChangedFacts | None, Learn], Mapping[str, float | None]]
WAYS: Mapping[str, Way] = {
    "stale": lambda base, task, changed, learn: kept_scores(evaluate(learn(task), changed.task)),
    "stale, noted": lambda base, task, changed, learn: kept_scores(
        evaluate(learn(task), changed.noted)
    ),
    "noted": lambda base, task, changed, learn: kept_scores(  # untrained
        evaluate(base, changed.noted)
    ),
    "again": lambda base, task, changed, learn: scores_of(learn(changed.task)),
    "switch": _switch,
    "load": _load,
    "half strength": _half_strength,
}

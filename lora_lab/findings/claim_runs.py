"""What is run for a claim: a setting, with a seed, to its scores."""

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import Base, load_base
from lora_lab.models.learned import save_adapter
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.changing_facts import ChangedFacts, changed_facts
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import ask, evaluate
from lora_lab.training.fit import fit
from lora_lab.training.store import DEFAULT, Default, Run
from lora_lab.training.sweep import sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One thing to compare: a recipe on a base. Without a task nothing is run: its budget tells."""

    base: str
    recipe: Recipe
    task: str | None = None
    n: int | None = None
    way: str = "fit"  # trained on the task and tested on it; or one of WAYS
    changed: int | None = None  # for these: how many of the task's facts change after training


@dataclass(frozen=True, slots=True)
class Trial:
    """What one run scored. Every seed draws its own examples, test set and start."""

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
    """What each setting comes to with one seed. Plain fits are made together, as a sweep."""
    plain = {name: one.recipe for name, one in settings.items() if one.way == "fit"}
    told = {}
    if plain:
        made = sweep(base, task, plain.values(), seeds=(seed,), store=store)
        told = {name: scores_of(run) for name, run in zip(plain, made.runs, strict=True)}
    for name, one in settings.items():
        if one.way != "fit":
            learn = partial(fit, base, recipe=replace(one.recipe, seed=seed), store=store)
            changed = changed_facts(task, one.changed, seed=seed)
            told[name] = WAYS[one.way](base, task, changed, learn)
    return [Trial(name, seed, told[name]) for name in settings]


def scores_of(run: Run) -> dict[str, float | None]:
    """What a case can ask of a run. None: not scored, as a run that diverged."""
    scores, recipe = run.scores, run.recipe
    examples = recipe.steps * recipe.batch_size * recipe.gradient_accumulation_steps
    return _told(scores) | {
        "last_loss": run.records[-1].loss if scores else None,  # nats, of the last step
        "length": sum(one.tokens for one in run.records) / examples if scores else None,  # tokens
    }


def _told(scores: Scores | None) -> dict[str, float | None]:
    return {
        "value": scores.value if scores else None,  # of the task's metric, 0 to 1
        "old_knowledge": scores.old_knowledge if scores else None,
        "strangers": scores.strangers if scores else None,
        "loss": scores.loss if scores else None,  # nats per answer token of the test split
    }


# --- other ways than to train on the task and be tested on it -------------------------------

Learn = Callable[[Task], Run]  # the setting's recipe, with the trial's seed


def _switch(base: Base, task: Task, changed: ChangedFacts, learn: Learn) -> dict[str, float]:
    """Two adapters beside each other, trained before and after the change, used in turn.

    Returns:
        `seconds`: of the processor, for one switch; `alike`: the share of the test's answers that
        are those of the same adapter loaded alone, 0 to 1.
    """
    with tempfile.TemporaryDirectory() as place:
        before = save_adapter(learn(task), Path(place) / "before")
        after = save_adapter(learn(changed.task), Path(place) / "after")
        alone = {one.name: ask(load_adapter(base, one), task.test) for one in (before, after)}
        both = load_adapter(base, before, name="before").load(after, "after")
    seconds = [_seconds(lambda name=name: both.use(name)) for name in ("after", "before") * 10]
    pairs = [
        pair
        for name in ("after", "before")
        for pair in zip(ask(both.use(name), task.test), alone[name], strict=True)
    ]
    alike = statistics.mean(given == expected for given, expected in pairs)
    return {"seconds": statistics.median(seconds), "alike": alike}


def _load(base: Base, task: Task, changed: ChangedFacts, learn: Learn) -> dict[str, float]:
    """Base and adapter from disk: `seconds` of the processor, the median of three times."""
    with tempfile.TemporaryDirectory() as place:
        folder = save_adapter(learn(task), Path(place) / "adapter")
        seconds = [_seconds(lambda: load_adapter(load_base(base.name), folder)) for _ in range(3)]
    return {"seconds": statistics.median(seconds)}


def _seconds(action: Callable[[], object]) -> float:
    """Of the processor: other programs do not count."""
    start = time.process_time()
    action()
    return time.process_time() - start


Way = Callable[[Base, Task, ChangedFacts, Learn], Mapping[str, float | None]]
WAYS: Mapping[str, Way] = {
    "stale": lambda base, task, changed, learn: _told(evaluate(learn(task), changed.task)),
    "stale, noted": lambda base, task, changed, learn: _told(evaluate(learn(task), changed.noted)),
    "noted": lambda base, task, changed, learn: _told(evaluate(base, changed.noted)),  # untrained
    "again": lambda base, task, changed, learn: scores_of(learn(changed.task)),
    "switch": _switch,
    "load": _load,
}

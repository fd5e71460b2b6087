"""Adapters in use: beside a base or merged into it, two in one, or read by another program."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.cost.budget import trainable_parameters
from lora_lab.cost.estimates import find_shape
from lora_lab.models.adapted import Adapted, load_adapter
from lora_lab.models.bases import Base, load_base
from lora_lab.models.learned import Learned, save_adapter
from lora_lab.models.quiet import quietly
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task, prompt_ids
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import Training, train
from lora_lab.wording import percent, significant

BYTES = 2  # of each weight: models are served in 16 bits
ADDED = {  # ways to put two adapters into one: their weights, and PEFT's combination_type
    "sum, 1 + 1": ((1.0, 1.0), "cat"),
    "mean, ½ + ½": ((0.5, 0.5), "cat"),
    "sum, cut to rank 8": ((1.0, 1.0), "svd"),
    'PEFT\'s "linear", 1 + 1': ((1.0, 1.0), "linear"),
}
RECIPE = Recipe(r=8, steps=60, batch_size=16, max_length=96, learning_rate=4e-3)
REPEATS = 15  # of each timed step; the median is reported

# --- many customers, one base -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fleet:
    """Bytes of weights in 16 bits for customers that share a base, and for merged models."""

    name: str  # of the base
    customers: int
    base: int  # bytes of one base
    adapter: int  # bytes of one adapter

    @property
    def apart(self) -> int:
        """One base, and an adapter for each customer."""
        return self.base + self.customers * self.adapter

    @property
    def merged(self) -> int:
        """A merged model for each customer."""
        return self.customers * self.base


def fleet(model: object, r: int, customers: int) -> Fleet:
    """The bytes that this many customers need, with adapters on all linear layers.

    Args:
        model: a name that `estimate` knows, a Base, or a folder.
        r: the rank of each adapter.
        customers: 1 or more.
    """
    shape = find_shape(model)
    adapter = trainable_parameters(shape, Recipe(r=r))
    return Fleet(shape.name, customers, BYTES * shape.parameters, BYTES * adapter)


# --- time ---------------------------------------------------------------------------------------


def switch_times(base: Base, folders: Mapping[str, Path]) -> pd.DataFrame:
    """Milliseconds on this machine to switch an adapter, to load an adapter, and to load the base.

    Args:
        base: loaded from a folder; it stays as it was.
        folders: two saved adapters or more, by name.
    """
    first, *others = folders
    on_base = load_adapter(base, folders[first], name=first)
    for name in others:
        on_base.load(folders[name], name)
    names = [others[0], first] * REPEATS
    times = {
        "switch to an adapter that is loaded": milliseconds(lambda: on_base.use(names.pop())),
        "load an adapter from disk": milliseconds(lambda: load_adapter(base, folders[first]), 5),
        "load the base from disk": milliseconds(lambda: load_base(base.path, dtype=base.dtype), 5),
    }
    return pd.DataFrame(
        {"milliseconds": {name: significant(duration) for name, duration in times.items()}}
    )


def milliseconds(step: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median time of a step, in milliseconds."""
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        taken.append(1000 * (time.perf_counter() - begun))
    return median(taken)


# --- merged, or beside the base -----------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Merges:
    """A model with its adapter beside the base, and merged into it: time, difference, answers."""

    times: Mapping[str, float]  # milliseconds for a batch, by the way
    differences: Mapping[str, float]  # the largest change of a logit from "beside the base"
    scores: Mapping[str, Scores]

    def table(self) -> pd.DataFrame:
        """A row for each way."""
        rows = {
            way: (
                significant(self.times[way]),
                f"{self.differences[way]:.1g}",
                percent(self.scores[way].value),
            )
            for way in self.times
        }
        columns = ["a batch, ms", "largest change of a logit", "right answers"]
        return pd.DataFrame(rows, index=columns).T


def merged_and_beside(base: Base, folder: Path, task: Task, examples: int = 16) -> Merges:
    """Measure an adapter beside its base, merged in float32, and merged and rounded to bfloat16.

    Args:
        base: in float32; stays as it was.
        folder: a saved adapter.
        task: its prompts are the batch, and its test is asked.
        examples: the number of prompts in the batch.
    """
    beside = load_adapter(base, folder).model
    with quietly():
        merged = load_adapter(base, folder).model.merge_and_unload()
    rounded = copy.deepcopy(merged).to(torch.bfloat16).float()
    models = {"beside the base": beside, "merged, float32": merged}
    models["merged, rounded to bfloat16"] = rounded
    batch = batch_of(base, [example.prompt for example in task.test[:examples]])
    logits = {way: _logits(model, batch) for way, model in models.items()}
    mask = batch["attention_mask"].bool()
    return Merges(
        _in_turn({way: lambda model=model: _logits(model, batch) for way, model in models.items()}),
        {way: _apart(values, logits["beside the base"], mask) for way, values in logits.items()},
        {way: evaluate(replace(base, model=model), task) for way, model in models.items()},
    )


def _in_turn(steps: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each step in milliseconds.

    Steps take turns, so that other work on the machine slows all of them alike.
    """
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(REPEATS):
        for name, step in steps.items():
            taken[name].append(milliseconds(step, repeats=1))
    return {name: median(times) for name, times in taken.items()}


def batch_of(base: Base, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Prompts as a batch for `generate`, in the base's chat format, padded on the left."""
    ids = [prompt_ids(base.tokenizer, prompt) for prompt in prompts]
    longest = max(map(len, ids))
    pad = base.tokenizer.pad_token_id
    input_ids = [[pad] * (longest - len(row)) + row for row in ids]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in ids]
    return {"input_ids": torch.tensor(input_ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def _logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    return model(**batch).logits


def _apart(logits: Tensor, others: Tensor, mask: Tensor) -> float:
    return (logits - others)[mask].abs().max().item()


def loaded_difference(base: Base, model: nn.Module, again: nn.Module, task: Task) -> float:
    """The largest difference of a logit between two models, over a task's first 16 prompts."""
    batch = batch_of(base, [example.prompt for example in task.test[:16]])
    return _apart(_logits(model, batch), _logits(again, batch), batch["attention_mask"].bool())


# --- two adapters in one ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Combined:
    """Scores on two tasks: of each adapter alone, of both combined, and of a training on both."""

    scores: Mapping[str, Mapping[str, Scores]]  # by way and task

    def right(self, way: str, task: str) -> float:
        """The share of right answers, 0 to 1."""
        return self.scores[way][task].value

    def rows(self) -> dict[str, dict[str, float]]:
        """Shares of right answers by task, and of old facts kept, for each way."""
        return {
            way: {task: scores.value for task, scores in made.items()}
            | {"old facts kept": next(iter(made.values())).old_knowledge}
            for way, made in self.scores.items()
        }

    def table(self) -> pd.DataFrame:
        """The rows, in per cent."""
        return pd.DataFrame(self.rows()).T.map(percent)

    def shares(self) -> dict[str, dict[str, float]]:
        """What `plots.draw_combined` draws: right answers by task and way."""
        tasks = next(iter(self.scores.values()))
        return {task: {way: self.right(way, task) for way in self.scores} for task in tasks}

    def __repr__(self) -> str:
        return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()


def combine(
    base: Base,
    folders: Mapping[str, Path],
    tasks: Mapping[str, Task],
    trained_on_both: Training | None = None,
    ways: Mapping[str, tuple[Sequence[float], str]] = ADDED,
) -> Combined:
    """Put two adapters into one by PEFT's `add_weighted_adapter`, and ask both tasks.

    Args:
        base: stays as it was.
        folders: two saved adapters, by name.
        tasks: the task that each learned, by the same names.
        trained_on_both: a training on both tasks at once, for a row of its own.
        ways: weights and combination_type, by the row's name.
    """
    first, second = folders
    adapted = load_adapter(base, folders[first], name=first).load(folders[second], second)
    model, scores = adapted.model, {}

    def ask(way: str, network: nn.Module) -> None:
        asked = replace(base, model=network)
        scores[way] = {name: evaluate(asked, task) for name, task in tasks.items()}

    for name in (first, second):
        adapted.use(name)
        ask(f"{name} alone", model)
    for number, (way, (weights, kind)) in enumerate(ways.items()):
        made = f"both_{number}"
        model.add_weighted_adapter([first, second], [*weights], made, combination_type=kind)
        model.set_adapter(made)
        ask(way, model)
    if trained_on_both is not None:
        ask("one adapter trained on both", trained_on_both.model)
    return Combined(scores)


def both_tasks(tasks: Mapping[str, Task]) -> Task:
    """A task with the training examples of all tasks; those of small tasks are repeated."""
    most = max(len(task.train) for task in tasks.values())
    together = [
        example for task in tasks.values() for example in [*task.train] * (most // len(task.train))
    ]
    return replace(next(iter(tasks.values())), name=" and ".join(tasks), train=together)


def customers_tasks(base: Base, seed: int = 0) -> dict[str, Task]:
    """The tasks of two customers: a style, and 40 facts. 60 questions test each."""
    tasks = {
        "style": load_task("style", base, n=200, seed=seed),
        "facts": load_task("new-facts", base, n=40, seed=seed),
    }
    return {
        name: replace(
            task, test=task.test[:60], old_knowledge=task.old_knowledge[:60], strangers=()
        )
        for name, task in tasks.items()
    }


def two_in_one(base: Base, seed: int = 0, recipe: Recipe = RECIPE) -> Combined:
    """Train an adapter for each customer, and `combine` them beside one training on both tasks.

    The training on both takes as many steps as the two adapters together.

    Args:
        base: stays as it was.
        seed: draws the examples, the questions, the starts and the orders.
        recipe: of each adapter.
    """
    tasks, recipe = customers_tasks(base, seed), replace(recipe, seed=seed)
    with TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in tasks}
        for name, task in tasks.items():
            save_adapter(run_through(train(base, task, recipe)), folders[name])
        longer = replace(recipe, steps=len(tasks) * recipe.steps)
        return combine(base, folders, tasks, run_through(train(base, both_tasks(tasks), longer)))


def run_through(training: Training) -> Training:
    """Run a training to its last step, and return it."""
    for _ in training:
        pass
    return training


# --- read by another server ---------------------------------------------------------------------


def served(base: Base, folder: Path, task: Task) -> pd.DataFrame:
    """The factor and the right answers of an adapter, as it was trained and as servers may read it.

    A server without the chat template asks the bare prompt. A server that ignores `use_rslora`
    divides alpha by r.

    Args:
        base: stays as it was.
        folder: an adapter that was saved with `use_rslora`.
        task: its test is asked of each.
    """
    learned = Learned.load(folder)
    without = copy.deepcopy(base.tokenizer)
    without.chat_template = None
    plain = copy.deepcopy(learned.config)
    plain.use_rslora = False
    mended = copy.deepcopy(plain)
    mended.lora_alpha = learned.config.lora_alpha * learned.config.r**0.5
    cases = {
        "as it was trained": (learned, base.tokenizer),
        "without the chat template": (learned, without),
        "use_rslora ignored": (Learned(plain, learned.tensors), base.tokenizer),
        "lora_alpha × √r written in": (Learned(mended, learned.tensors), base.tokenizer),
    }
    rows = {}
    for name, (adapter, tokenizer) in cases.items():
        model = Adapted(base, adapter).model
        scores = evaluate(replace(base, model=model, tokenizer=tokenizer), task)
        scalings = {layer.scaling["adapter"] for layer in model.modules() if _is_lora(layer)}
        rows[name] = (significant(scalings.pop()), percent(scores.value))
    return pd.DataFrame(rows, index=["factor", "right answers"]).T


def _is_lora(layer: nn.Module) -> bool:
    return hasattr(layer, "lora_A") and hasattr(layer, "scaling")

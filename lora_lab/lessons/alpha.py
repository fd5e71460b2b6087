"""What alpha does: runs that are twins, the first step at each rank, a change turned down."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.findings.evidence import Evidence
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Example, Task, collate, encode, order_of_examples
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.training.optimizers import make_optimizer
from lora_lab.training.summary import interval_of_scores
from lora_lab.training.sweep import sweep
from lora_lab.wording import percent, percent_range, significant

SHORT = Recipe(  # a run that shows twins: no clip, since a clip measures the gradient
    r=8,
    lora_alpha=16,
    steps=15,
    batch_size=8,
    max_length=96,
    learning_rate=3e-3,
    max_grad_norm=math.inf,
)
RATES = {"adamw": 3e-3, "sgd": 0.03}  # pocket learns with them
NAMES = {"adamw": "AdamW", "sgd": "SGD"}
Sizes = dict[int, float]  # by rank

# --- twins --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Twins:
    """The losses of a run at four times the alpha, and of runs that may be the same run."""

    optimizer: str
    curves: Mapping[str, Sequence[StepRecord]]  # the first is that of alpha × 4

    def gap(self, other: str) -> float:
        """The widest distance of another run from the first, over all steps, in nats."""
        first = next(iter(self.curves.values()))
        pairs = zip(first, self.curves[other], strict=True)
        return max(abs(one.loss - two.loss) for one, two in pairs)

    def table(self) -> pd.DataFrame:
        """The largest distance of each run from alpha × 4, in nats."""
        first, *others = self.curves
        heading = f"{NAMES[self.optimizer]}: nats from {first}, at most"
        return pd.DataFrame({heading: {name: significant(self.gap(name)) for name in others}})


def twins(base: Base, task: Task, optimizer: str = "adamw", **changes: object) -> Twins:
    """Train with alpha × 4, with faster rates instead, and with neither.

    Args:
        base: stays as it was.
        task: what is learned.
        optimizer: "adamw" or "sgd".
        changes: recipe fields that all of the runs share, such as a clip.
    """
    plain = replace(SHORT, optimizer=optimizer, learning_rate=RATES[optimizer], **changes)
    tried = {
        "alpha × 4": {"lora_alpha": 4 * plain.lora_alpha},
        "B's rate × 4": {"loraplus_lr_ratio": 4.0},
        "B's rate × 16": {"loraplus_lr_ratio": 16.0},
        "neither": {},
    }
    made = {
        name: tuple(train(base, task, replace(plain, **change))) for name, change in tried.items()
    }
    return Twins(optimizer, made)


def train_with_groups(
    base: Base,
    task: Task,
    lora_alpha: float,
    groups: Callable[[dict[str, nn.Parameter]], list[dict[str, object]]],
) -> list[float]:
    """The losses of a short run in plain PEFT and torch, with an optimizer's groups from outside.

    Args:
        base: stays as it was.
        task: what is learned.
        lora_alpha: the alpha of an adapter of rank 8.
        groups: called with all parameters by name; returns what torch.optim.AdamW takes.
    """
    model = adapt(base, replace(SHORT, lora_alpha=lora_alpha)).train()
    optimizer = torch.optim.AdamW(groups(dict(model.named_parameters())), weight_decay=0)
    order, losses = order_of_examples(len(task.train), SHORT.seed), []
    for _ in range(SHORT.steps):
        chosen = [task.train[next(order)] for _ in range(SHORT.batch_size)]
        loss = model(**_batch(base, chosen)).loss
        loss.backward()
        optimizer.step()
        model.zero_grad()
        losses.append(loss.item())
    return losses


def _batch(base: Base, examples: Sequence[Example]) -> dict[str, Tensor]:
    encoded = [encode(base.tokenizer, example, SHORT.max_length) for example in examples]
    batch = collate(encoded, base.tokenizer.pad_token_id)
    return {name: tensor.to(base.device) for name, tensor in batch.items()}


# --- the first step, by rank --------------------------------------------------------------------


def first_steps(
    base: Base, task: Task, ranks: Sequence[int] = (1, 2, 4, 8, 16, 32, 64), seed: int = 0
) -> dict[str, Sizes]:
    """The size of the first step's change, with α / r and with α / √r, under AdamW and SGD.

    A size is ‖scaling · BAx‖ / ‖Wx‖ over the tokens of 16 examples, the mean of all adapted layers.
    """
    batch, sizes = _batch(base, task.train[:16]), {}
    for optimizer, name in NAMES.items():
        for factor, use_rslora in (("α / r", False), ("α / √r", True)):
            plain = replace(
                SHORT,
                optimizer=optimizer,
                learning_rate=RATES[optimizer],
                use_rslora=use_rslora,
                seed=seed,
            )
            by_rank = {r: _first_step(base, replace(plain, r=r), batch) for r in ranks}
            sizes[f"{name}, {factor}"] = by_rank
    return sizes


def _first_step(base: Base, recipe: Recipe, batch: Mapping[str, Tensor]) -> float:
    """Take one step, and measure what it adds to each layer's output."""
    model = adapt(base, recipe).train()
    named = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    optimizer = make_optimizer(named, recipe)
    model(**batch).loss.backward()
    optimizer.step()
    shares: list[float] = []

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        B, A = layer.lora_B["default"], layer.lora_A["default"]
        change = layer.scaling["default"] * B(A(x))
        shares.append((change.norm() / layer.base_layer(x).norm()).item())

    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.register_forward_pre_hook(measure)
    with torch.no_grad():
        model(**batch)
    return statistics.fmean(shares)


# --- a change turned down after training --------------------------------------------------------


def at_strengths(
    base: Base,
    task: Task,
    recipes: Sequence[Recipe],
    strengths: Sequence[float],
    seeds: Sequence[int],
) -> pd.DataFrame:
    """Train each recipe with each seed once, and score the adapter at each strength.

    Returns:
        A row for each score: `lora_alpha`, `strength`, `seed`, and the shares `new` and `old`.
    """
    made = sweep(base, task, recipes, seeds=seeds, engine="sequential", evaluate=False)
    rows = []
    for run in made.runs:
        adapted = Adapted(base, run.learned)
        for strength in strengths:
            adapted.strength = strength
            scores = evaluate(adapted, task)
            rows.append(
                {
                    "lora_alpha": run.recipe.lora_alpha,
                    "strength": strength,
                    "seed": run.recipe.seed,
                    "new": scores.value,
                    "old": scores.old_knowledge,
                }
            )
    return pd.DataFrame(rows)


def strength_table(scored: pd.DataFrame) -> pd.DataFrame:
    """New facts right and old facts kept at each alpha and strength: means, 95 % intervals."""
    rows = {}
    for place, some in scored.groupby(["lora_alpha", "strength"]):
        rows[place] = {
            words: f"{percent(some[column].mean())} ({percent_range(*_interval(some[column]))})"
            for words, column in (("new facts right", "new"), ("old facts kept", "old"))
        }
    return pd.DataFrame(rows).T.rename_axis(["trained at alpha", "used at"])


def _interval(shares: pd.Series) -> tuple[float, float]:
    return interval_of_scores([*shares], share=True)


# --- evidence -----------------------------------------------------------------------------------


def kept_and_learned(id: str) -> dict[str, list[tuple[float, float]]]:
    """The shares of old facts kept and of new facts learned, by alpha: a pair for each seed."""
    return {
        setting.removeprefix("alpha "): [
            (run.scores.old_knowledge, run.scores.value) for run in runs
        ]
        for setting, runs in Evidence.read(id).runs.items()
    }

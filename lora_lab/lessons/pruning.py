"""AdaLoRA's pruning: the planted ranks that it finds, the triplets it leaves, LoRA beside it."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.findings.evidence import Evidence
from lora_lab.findings.recordings import recording
from lora_lab.models.adapters import adapt, to_peft
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task, collate, encode, order_of_examples
from lora_lab.training.pairing import compare_measure

RIVALS = (  # what is equal, LoRA, AdaLoRA
    ("final budget", "LoRA, r 2", "AdaLoRA, 3 to 2"),
    ("final budget", "LoRA, r 2", "AdaLoRA, 8 to 2"),
    ("FLOPs", "LoRA, r 3", "AdaLoRA, 3 to 2"),
    ("FLOPs", "LoRA, r 8", "AdaLoRA, 8 to 2"),
)
TEACHERS = ("one", "uneven", "q and k")  # recorded teachers that hide unequal ranks
Ranks = Mapping[str, int]  # by a matrix's whole name


def ceiling(planted: Ranks, init_r: int, budget: int) -> int:
    """How many triplets a perfect allocator would leave in the planted matrices.

    It leaves at most the budget, and in a matrix at most the planted rank or `init_r`.
    """
    return min(budget, sum(min(hidden, init_r) for hidden in planted.values()))


def by_chance(planted: Ranks, ranks: Ranks) -> float:
    """How many triplets the planted matrices would have if all matrices had equally many."""
    return sum(ranks.values()) * len(planted) / len(ranks)


def found_table(ranks: Ranks, planted: Ranks, init_r: int) -> pd.DataFrame:
    """The remaining triplets: how many are in planted matrices, by chance, and at most."""
    left, there = sum(ranks.values()), sum(ranks[name] for name in planted)
    rows = {
        "left, in all matrices": left,
        "where ranks are planted": there,
        "there by chance": f"{by_chance(planted, ranks):.3g}",
        "there at most (the ceiling)": ceiling(planted, init_r, left),
    }
    return pd.DataFrame({"triplets": rows}).astype(str)


def planted_table() -> pd.DataFrame:
    """The ranks that AdaLoRA found of those that three kinds of teachers hide, three seeds each."""
    made, found = recording("adalora/planted"), {}
    init_r = made.settings["recipe"]["init_r"]
    for teacher in TEACHERS:
        rows = [row for row in made.rows if row["teacher"] == teacher]
        planted, ranks = rows[0]["planted"], rows[0]["ranks"]
        left = sum(ranks.values())
        there = [sum(row["ranks"][name] for name in row["planted"]) for row in rows]
        found[f"{sum(planted.values())} in {len(planted)} of {len(ranks)}"] = {
            "triplets left": left,
            "there by chance": f"{by_chance(planted, ranks):.2g}",
            "found, by seed": ", ".join(map(str, there)),
            "the ceiling": ceiling(planted, init_r, left),
        }
    return pd.DataFrame.from_dict(found, "index").rename_axis("planted ranks")


def rivals_table(evidence: Evidence) -> pd.DataFrame:
    """AdaLoRA minus LoRA, paired by seed: 95 % intervals in points, and the verdicts.

    Args:
        evidence: the evidence of the plan "adalora-facts".
    """
    rows = []
    for equal, lora, adalora in RIVALS:
        row = {"equal": equal, "AdaLoRA": adalora.partition(", ")[2], "beside": lora}
        for measure, heading in (("value", "new facts"), ("old_knowledge", "old facts kept")):
            found = compare_measure(evidence.runs[lora], evidence.runs[adalora], measure=measure)
            row[heading] = f"{found.interval}: {found.result}"
        rows.append(row)
    return pd.DataFrame(rows).set_index("equal")


def what_is_left(model: nn.Module) -> dict[str, int]:
    """The triplets of a PEFT model with AdaLoRA whose λ is not 0, and the size of its file.

    Args:
        model: a PEFT model after at least one step: before it, each λ is 0.
    """
    from peft import get_peft_model_state_dict  # takes seconds

    lambdas = [parameter for name, parameter in model.named_parameters() if "lora_E" in name]
    with warnings.catch_warnings():
        # A matrix of rank 0 has tensors of size 0, and PEFT takes them for a shard (0.21).
        warnings.filterwarnings("ignore", message=".*LoRA tensor.*invalid shape")
        saved = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        "triplets left": sum(int((values != 0).sum()) for values in lambdas),
        "numbers trained": model.get_nb_trainable_parameters()[0],
        "numbers in the file": sum(tensor.numel() for tensor in saved.values()),
    }


def left_table(models: Mapping[str, nn.Module]) -> pd.DataFrame:
    """`what_is_left` of several PEFT models, by name."""
    return pd.DataFrame.from_dict(
        {name: what_is_left(model) for name, model in models.items()}, "index"
    )


class _Little(nn.Module):
    """Two layers, called like a language model: the result has a `loss`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, y: Tensor) -> SimpleNamespace:
        return SimpleNamespace(loss=(self.down(self.up(x).tanh()) - y).square().mean())


def little_model(width: int, recipe: Recipe) -> nn.Module:
    """A PEFT model that is trained in milliseconds: two layers, each with AdaLoRA.

    It is called with x and y, (rows, width); the loss is the mean square of its error.
    """
    from peft import get_peft_model  # takes seconds

    config = to_peft(recipe)
    config.target_modules, config.task_type = ["up", "down"], None
    return get_peft_model(_Little(width), config)


def train_by_steps(base: Base, task: Task, recipe: Recipe, take_step: Callable[..., float]) -> Base:
    """A copy of the base, trained in plain PEFT and torch by a given step function.

    Args:
        base: stays as it was.
        task: what is learned.
        recipe: a recipe of AdaLoRA, at a constant learning rate.
        take_step: called with model, optimizer, batch and step, which counts from 1.
    """
    model = adapt(base, recipe).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0)
    rows = [encode(base.tokenizer, example, recipe.max_length) for example in task.train]
    order = order_of_examples(len(rows), recipe.seed)
    for step in range(1, recipe.steps + 1):
        chosen = [rows[next(order)] for _ in range(recipe.batch_size)]
        batch = collate(chosen, base.tokenizer.pad_token_id)
        batch = {name: tensor.to(base.device) for name, tensor in batch.items()}
        take_step(model=model, optimizer=optimizer, batch=batch, step=step)
    return replace(base, model=model.eval())

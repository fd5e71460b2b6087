"""Trainings that differ in their labels alone, and the collators that make these labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import IGNORED, Example, Task, encode, order_of_examples
from lora_lab.training.evaluation import generate
from lora_lab.training.sweep import Sweep, sweep
from lora_lab.wording import significant

LONGEST = 256  # tokens of a prompt and its answer
RECIPE = Recipe(r=8, steps=50, batch_size=16, learning_rate=3e-3)  # pocket then knows 60 new facts

Row = dict[str, object]  # input_ids, a list of ints; prompt_length, an int
Collator = Callable[[list[Row], int], Mapping[str, Tensor]]


def label_sweep(base: Base, task: Task, seeds: Sequence[int] = range(5)) -> Sweep:
    """Runs that learn the answer alone, and runs that learn the prompt as well, for each seed.

    They are asked for the new knowledge only, so that scores take less time than steps.
    """
    recipes = [replace(RECIPE, loss_on=labelled) for labelled in ("answer", "all")]
    new_only = replace(task, old_knowledge=(), strangers=())
    return sweep(base, new_only, recipes, seeds=seeds, engine="sequential")


def better_labels(base: Base, task: Task) -> list[str]:
    """For each seed, the labels with which more new facts are right: "answer" or "all"."""
    table = label_sweep(base, task).table().sort_values("value")
    return [*table.groupby("seed")["loss_on"].last()]


@dataclass(frozen=True, eq=False, repr=False)
class Trained:
    """What a model learned from batches that a collator made."""

    losses: tuple[float, ...]  # by step, in nats per label
    prompts: tuple[str, ...]
    wanted: tuple[str, ...]
    given: tuple[str, ...]

    @property
    def right(self) -> int:
        """How many of the answers are right."""
        return sum(map(str.__eq__, self.wanted, self.given))

    def table(self) -> pd.DataFrame:
        """The first and the last loss, and the right answers."""
        rows = {
            "first loss, nats": significant(self.losses[0]),
            "last loss, nats": significant(self.losses[-1]),
            "right answers": f"{self.right} of {len(self.wanted)}",
        }
        return pd.DataFrame({"": rows})

    def answers(self, count: int = 3) -> pd.DataFrame:
        """The first prompts, with the wanted and the given answers in quotation marks."""
        rows = zip(self.wanted[:count], self.given[:count], strict=True)
        quoted = [[f"“{wanted}”", f"“{given}”"] for wanted, given in rows]
        return pd.DataFrame(quoted, index=self.prompts[:count], columns=["wanted", "given"])

    def __repr__(self) -> str:
        return self.table().to_string(header=False)

    def _repr_html_(self) -> str:
        return self.table().to_html(header=False)


def train_with(base: Base, task: Task, collator: Collator, steps: int = 60) -> Trained:
    """Train a LoRA adapter on the batches that a collator makes, and ask the test prompts.

    transformers' model computes the loss: it moves the labels by one place.

    Args:
        base: stays as it was.
        task: its first 60 test prompts are asked.
        collator: called with rows, each `{"input_ids": [...], "prompt_length": n}`, and the id of
            the padding token; returns `input_ids`, `attention_mask` and `labels`.
        steps: the number of steps, each on a batch of 16; the learning rate falls to 0.
    """
    return train_model(adapt(base, RECIPE), base, task, collator, steps)


def train_model(
    model: nn.Module, base: Base, task: Task, collator: Collator, steps: int = 60
) -> Trained:
    """`train_with` for a given model: parameters that need gradients are trained in place."""
    rows = [row_of(base.tokenizer, example) for example in task.train]
    trainable = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=RECIPE.learning_rate, weight_decay=0)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=steps)
    order, losses = order_of_examples(len(rows), RECIPE.seed), []
    for _ in range(steps):
        chosen = [rows[next(order)] for _ in range(RECIPE.batch_size)]
        batch = collator(chosen, base.tokenizer.pad_token_id)
        loss = model(**{name: tensor.to(base.device) for name, tensor in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, RECIPE.max_grad_norm)
        optimizer.step()
        decay.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    asked = task.test[:60]
    prompts = [example.prompt for example in asked]
    given = generate(SimpleNamespace(model=model, tokenizer=base.tokenizer), prompts)
    wanted = tuple(example.answer for example in asked)
    return Trained(tuple(losses), tuple(prompts), wanted, tuple(given))


def row_of(tokenizer: object, example: Example) -> Row:
    """The row that a collator gets: an example's tokens, and how many of them are the prompt's."""
    encoded = encode(tokenizer, example, LONGEST)
    return {"input_ids": encoded.input_ids, "prompt_length": encoded.labels.count(IGNORED)}


# --- collators ----------------------------------------------------------------------------------


def collate_answers(rows: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    """A batch padded on the right, in which the answer and its end token have labels.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (rows, longest).
    """
    longest = max(len(row["input_ids"]) for row in rows)
    batch = {"input_ids": [], "attention_mask": [], "labels": []}
    for row in rows:
        ids, asked = row["input_ids"], row["prompt_length"]
        padding = longest - len(ids)
        batch["input_ids"].append(ids + [pad_token_id] * padding)
        batch["attention_mask"].append([1] * len(ids) + [0] * padding)
        batch["labels"].append([IGNORED] * asked + ids[asked:] + [IGNORED] * padding)
    return {name: torch.tensor(columns) for name, columns in batch.items()}


def collate_all(rows: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    """The same batch with a label on every token but the padding."""
    return collate_answers([row | {"prompt_length": 0} for row in rows], pad_token_id)


def collate_moved_twice(rows: Sequence[Row], pad_token_id: int) -> dict[str, Tensor]:
    """The same batch with labels already moved by one place, which the model then moves again."""
    batch = collate_answers(rows, pad_token_id)
    nothing = torch.full_like(batch["labels"][:, :1], IGNORED)
    return batch | {"labels": torch.cat([batch["labels"][:, 1:], nothing], dim=1)}

"""The effects of a batch: its gradient's direction, accumulation, and what studies found."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.findings.claims import Claim
from lora_lab.findings.evidence import FINAL, Evidence
from lora_lab.lessons.weight_change import relative_changes
from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import (
    IGNORED,
    Example,
    Task,
    collate,
    encode,
    encode_all,
    order_of_examples,
)
from lora_lab.training.loop import train
from lora_lab.training.sweep import sweep
from lora_lab.wording import counted, fine_percent, percent, significant

DRAWS = 40  # batches of each size
ADDED = Recipe(r=8, lora_alpha=16, steps=10, learning_rate=3e-3, max_length=96)
MINOR = {  # fields of TrainingArguments and LoraConfig, and the study of each
    "warmup_steps": "warm-up-finer",
    "lr_scheduler_type": "schedule-finer",
    "weight_decay": "decay-finer",
    "lora_dropout": "dropout",
}

Batch = Mapping[str, Tensor]  # input_ids, attention_mask, labels
Step = Callable[[nn.Module, list[Batch], torch.optim.Optimizer], None]

# --- where batches point ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Gradients:
    """The gradient of each training example, at one moment of a training."""

    sums: Tensor  # (examples, trained numbers), summed over an example's labels
    labels: Tensor  # (examples,), how many labels each example has

    @property
    def whole(self) -> Tensor:
        """The gradient of all examples together: of the mean loss over all their labels."""
        return self.sums.sum(0) / self.labels.sum()

    def angles(self, batch_size: int, draws: int = DRAWS) -> list[float]:
        """The angles in degrees between the gradients of drawn batches and that of all examples.

        A batch is drawn with replacement, so that it may be as large as the data.
        """
        count = len(self.labels)
        generator = torch.Generator().manual_seed(batch_size)
        drawn = torch.randint(count, (draws, batch_size), generator=generator)
        times = torch.nn.functional.one_hot(drawn, count).sum(1).to(self.sums)  # (draws, examples)
        directions = times @ self.sums  # an angle does not depend on the length
        cosines = torch.cosine_similarity(directions, self.whole[None])
        return torch.rad2deg(torch.acos(cosines.clamp(-1, 1))).tolist()

    def table(self, batch_sizes: Sequence[int]) -> pd.DataFrame:
        """The mean angle of each batch size, with the range over the batches."""
        rows = {}
        for size in batch_sizes:
            angles = self.angles(size)
            ends = f"{min(angles):.0f} to {max(angles):.0f}°"
            rows[size] = {"angle": f"{statistics.fmean(angles):.0f}°", f"{DRAWS} batches": ends}
        return pd.DataFrame(rows).rename_axis("batch", axis=1)


def gradients_after(base: Base, task: Task, recipe: Recipe) -> Gradients:
    """The gradients of all training examples once `recipe.steps` steps are taken."""
    training = train(base, task, recipe)
    for _ in training:
        pass
    model = training.model.eval()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    sums, counts = [], []
    for example in encode_all(task.train, base.tokenizer, recipe.max_length, recipe.loss_on):
        batch = _batch(base, [example])
        count = _labels(batch)
        parts = torch.autograd.grad(count * model(**batch).loss, trained)
        sums.append(torch.cat([part.flatten() for part in parts]))
        counts.append(count)
    return Gradients(torch.stack(sums), torch.tensor(counts))


# --- accumulation -------------------------------------------------------------------------------


def mean_of_means(base: Base, groups: Mapping[str, Sequence[Example]]) -> pd.DataFrame:
    """The loss of small batches by name, of all in one batch, and of two ways to combine them.

    A loss is the mean over a batch's labels, in nats.
    """
    rows = {}
    everything = [example for examples in groups.values() for example in examples]
    with torch.no_grad():
        for name, examples in (groups | {"one batch of all": everything}).items():
            batch = _batch(base, [encode(base.tokenizer, example, 512) for example in examples])
            rows[name] = _labels(batch), base.model(**batch).loss.item()
    parts = [rows[name] for name in groups]
    rows["mean of the means"] = None, statistics.fmean(loss for _, loss in parts)
    labels = sum(count for count, _ in parts)
    rows["weighted by labels"] = labels, sum(count * loss for count, loss in parts) / labels
    shown = {
        name: {"labels": "" if count is None else f"{count}", "loss, nats": significant(loss)}
        for name, (count, loss) in rows.items()
    }
    return pd.DataFrame(shown).T


def train_in_parts(
    base: Base, examples: Sequence[Example], step: Step, parts: int, batch_size: int = 16
) -> list[float]:
    """The losses before each step of a training with a given step function, over all its labels.

    The examples of a step are in order of length, so its parts differ in their numbers of labels.

    Args:
        base: stays as it was.
        examples: what is learned.
        step: called with the model, the step's small batches and torch's AdamW.
        parts: the number of small batches in a step.
        batch_size: the number of examples in a step, all parts together.
    """
    model = adapt(base, ADDED).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=ADDED.learning_rate, weight_decay=0)
    encoded = [encode(base.tokenizer, example, ADDED.max_length) for example in examples]
    order, losses = order_of_examples(len(encoded), ADDED.seed), []
    for _ in range(ADDED.steps):
        rows = [encoded[next(order)] for _ in range(batch_size)]
        rows.sort(key=lambda row: len(row.input_ids))
        size = batch_size // parts
        batches = [_batch(base, rows[at : at + size]) for at in range(0, batch_size, size)]
        with torch.no_grad():
            means = [(_labels(batch), model(**batch).loss.item()) for batch in batches]
        losses.append(sum(n * mean for n, mean in means) / sum(n for n, _ in means))
        step(model, batches, optimizer)
    return losses


def _batch(base: Base, encoded: Sequence) -> dict[str, Tensor]:
    batch = collate(encoded, base.tokenizer.pad_token_id)
    return {name: tensor.to(base.device) for name, tensor in batch.items()}


def _labels(batch: Batch) -> int:
    """The number of labels that are predicted: nothing predicts a row's first token."""
    return int((batch["labels"][:, 1:] != IGNORED).sum())


# --- the two directions of decay ----------------------------------------------------------------


def decay_directions(base: Base, task: Task, weight_decay: float = 10) -> pd.DataFrame:
    """LoRA and full fine-tuning, without and with weight decay: how far they move, what they keep.

    One seed; each method at one learning rate, with 60 steps of 16.
    """
    plain = Recipe(r=8, lora_alpha=16, steps=60, batch_size=16, max_length=96)
    rows = {}
    for name, method, rate in (("LoRA", "lora", 3e-3), ("full", "full", 9e-4)):
        recipe = replace(plain, method=method, learning_rate=rate)
        tried = [replace(recipe, weight_decay=decay) for decay in (0, weight_decay)]
        for run in sweep(base, task, tried, seeds=(0,), engine="sequential", store=None).runs:
            moved = statistics.fmean(relative_changes(base, run.model).values())
            rows[name, f"{run.recipe.weight_decay:g}"] = {
                "‖ΔW‖ / ‖W‖": fine_percent(moved),
                "new facts right": percent(run.scores.value),
                "old facts kept": percent(run.scores.old_knowledge),
            }
    return pd.DataFrame(rows).T.rename_axis(["method", "weight_decay"])


# --- what studies found -------------------------------------------------------------------------


def by_batch(id: str) -> dict[int, list[float]]:
    """The right answers of a study by batch size, 0 to 1: one for each seed."""
    return {
        runs[0].recipe.batch_size: [run.scores.value for run in runs]
        for runs in Evidence.read(id).runs.values()
    }


def minor_fields() -> pd.DataFrame:
    """Warm-up, schedule, decay and dropout: each value's difference from the default, in points.

    Each setting is at its own learning rate. In brackets stands the 95 % interval of the
    difference.
    """
    rows = {}
    for field, id in MINOR.items():
        found = Evidence.read(id)
        for setting in found.plan.settings:
            if setting != found.plan.against:
                rows[field, setting, found.plan.against] = {
                    "learning rate": f"{found.runs[setting][0].recipe.learning_rate:g}",
                    "new facts": _points(found, setting, "value"),
                    "old facts": _points(found, setting, "old_knowledge"),
                }
    return pd.DataFrame(rows).T.rename_axis(["field", "value", "beside"])


def _points(found: Evidence, setting: str, of: str) -> str:
    compared = found.comparison(setting, of=of)
    size = f"{100 * compared.difference:+.1f}".replace("-", "−")
    return f"{size} ({compared.interval.removesuffix(' points')})"


def last_losses(ids: Iterable[str]) -> pd.DataFrame:
    """A row for each tested run: its `task`, its last training loss in nats, its right answers."""
    rows = [
        (found.plan.task, row.train_loss, row.value)
        for found in map(Evidence.read, ids)
        for row in found.rows
        if row.stage == FINAL and row.train_loss is not None
    ]
    return pd.DataFrame(rows, columns=["task", "train_loss", "right"])


def beside_limit(runs: pd.DataFrame, limit: float) -> pd.DataFrame:
    """The right answers of runs whose last training loss lies below a limit, and of the others."""
    rows = {}
    for task, own in runs.groupby("task", sort=False):
        sides = {"below": own[own.train_loss < limit], "above": own[own.train_loss >= limit]}
        rows[task] = {
            f"{side} {limit:g}": f"{percent(some.right.mean())} ({counted(len(some), 'run')})"
            if len(some)
            else "no run"
            for side, some in sides.items()
        }
    return pd.DataFrame(rows).T.rename_axis("right answers")


def claim_means(claim: Claim) -> pd.DataFrame:
    """The settings of a claim that was measured: means over its seeds of losses and scores."""
    kept = [{"setting": trial.setting} | dict(trial.scores) for trial in claim.trials]
    means = pd.DataFrame(kept).groupby("setting", sort=False).mean(numeric_only=True)
    return pd.DataFrame(
        {
            "last training loss": means["last_loss"].map(significant),
            "test loss": means["loss"].map(significant),
            "right on the test": means["value"].map(percent),
            "old facts kept": means["old_knowledge"].map(percent),
        }
    ).rename_axis(f"{len(claim.seeds)} seeds")

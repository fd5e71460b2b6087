"""Checks for notebook 10, Training parameters: the number of steps, a step from small batches."""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.batches import Batch, train_in_parts
from lora_lab.models.bases import load_base
from lora_lab.records import Verdict
from lora_lab.tasks.examples import IGNORED
from lora_lab.tasks.loading import load_task

# --- how many steps -------------------------------------------------------------------------


def _update_steps(
    examples: int, epochs: int, batch_size: int, gradient_accumulation_steps: int
) -> int:
    """The number of steps that the Trainer of transformers takes.

    The last batch of an epoch may be smaller. A step adds up `gradient_accumulation_steps` batches;
    the last step of an epoch may have fewer.
    """
    batches = math.ceil(examples / batch_size)
    return epochs * math.ceil(batches / gradient_accumulation_steps)


def _epochs() -> Iterator[Case]:
    """Epochs that come out even, that leave examples over, that leave batches over."""
    for examples, epochs, batch_size, accumulation in (
        (960, 3, 16, 4), (1000, 3, 16, 4), (100, 2, 8, 1), (50, 4, 4, 5), (7, 5, 16, 2),
    ):  # fmt: skip
        yield {
            "examples": examples,
            "epochs": epochs,
            "batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
        }


def _steps_by(steps: Function) -> Function:
    """A slip: a function of (examples, epochs, batch size, accumulation)."""
    return lambda examples, epochs, batch_size, gradient_accumulation_steps: steps(
        examples, epochs, batch_size, gradient_accumulation_steps
    )


update_steps = Exercise(
    _update_steps,
    _epochs,
    slips={
        "these are batches; a step adds up several of them": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n / size))
        ),
        "the examples left over are dropped here; they make one more, smaller batch": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n // size / add))
        ),
        "the batches left over are dropped here; they make an epoch's last step": (
            _steps_by(lambda n, epochs, size, add: epochs * (math.ceil(n / size) // add))
        ),
        "this rounds once, over all epochs; each epoch has a last batch of its own": (
            _steps_by(lambda n, epochs, size, add: math.ceil(epochs * n / (size * add)))
        ),
        "these are the steps of one epoch": (
            _steps_by(lambda n, epochs, size, add: _update_steps(n, 1, size, add))
        ),
        "accumulation makes fewer steps, not more: divide by it": (
            _steps_by(lambda n, epochs, size, add: epochs * math.ceil(n / size) * add)
        ),
    },
)

# --- one step from several small batches ----------------------------------------------------


def _accumulated_step(
    model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer
) -> None:
    """The step that one batch of all examples would take, from several small batches.

    `model(**batch).loss` is the mean over the labels of a small batch. Batches differ in how many
    labels they have. A label of -100 is none.
    """
    counts = [int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches]
    for batch, count in zip(batches, counts, strict=True):
        (model(**batch).loss * count / sum(counts)).backward()
    optimizer.step()
    optimizer.zero_grad()


class _Bigrams(nn.Module):
    """A minimal model with transformers' inputs: each token has a row of the next one's logits."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(size, size, generator=generator))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        num_items_in_batch: float | None = None,
    ) -> SimpleNamespace:
        asked = labels[:, 1:] != IGNORED
        losses = nn.functional.cross_entropy(
            self.logits[input_ids[:, :-1]][asked], labels[:, 1:][asked], reduction="sum"
        )
        return SimpleNamespace(loss=losses / (num_items_in_batch or asked.sum()))


def _small_batches() -> Iterator[Case]:
    """Steps of two and three small batches: of different rows, lengths, padding and labels."""
    for seed, shapes in enumerate(
        (((2, 6, 5), (2, 3, 1)), ((3, 4, 1), (1, 9, 6), (2, 5, 2)), ((1, 8, 2), (4, 4, 1)))
    ):
        generator = torch.Generator().manual_seed(seed)
        model, batches = _Bigrams(12, seed), []
        for rows, length, answer in shapes:  # the last tokens of a row are its answer
            ids = torch.randint(12, (rows, length), generator=generator)
            labels = torch.full_like(ids, IGNORED)
            labels[:, -answer:] = ids[:, -answer:]
            mask = torch.ones_like(ids)
            mask[0, :1] = 0  # a place of padding, in the first row
            batches.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
        yield {"model": model, "batches": batches, "optimizer": optimizer}


def _after_two_steps(function: Function, case: Case) -> dict[str, Tensor]:
    """The weights after the same step twice: the second shows whether gradients were cleared."""
    for _ in range(2):
        function(**case)
    return {name: parameter.detach() for name, parameter in case["model"].named_parameters()}


def _weighted(weights: Function) -> Function:
    """A slip: each small batch's loss times a weight; a function of all batches gives them."""

    def slip(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer) -> None:
        for batch, weight in zip(batches, weights(batches), strict=True):
            (model(**batch).loss * weight).backward()
        optimizer.step()
        optimizer.zero_grad()

    return slip


def _shares(sizes: list[float]) -> list[float]:
    return [size / sum(sizes) for size in sizes]


def _label_counts(batches: list[Batch]) -> list[int]:
    return [int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches]


_mean_of_means = _weighted(lambda batches: [1 / len(batches)] * len(batches))


def _several_steps(
    model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer
) -> None:
    for batch in batches:
        _accumulated_step(model, [batch], optimizer)


def _last_alone(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer) -> None:
    weights = _shares(_label_counts(batches))
    for batch, weight in zip(batches, weights, strict=True):
        optimizer.zero_grad()
        (model(**batch).loss * weight).backward()
    optimizer.step()


def _not_cleared(model: nn.Module, batches: list[Batch], optimizer: torch.optim.Optimizer) -> None:
    weights = _shares(_label_counts(batches))
    for batch, weight in zip(batches, weights, strict=True):
        (model(**batch).loss * weight).backward()
    optimizer.step()


def _accumulation_trial(function: Function) -> Verdict:
    """Train pocket on long and short answers: in parts by the learner's step, and in one piece."""
    base = load_base("pocket", dtype="float32")
    mixed = [
        example for name in ("json", "new-facts") for example in load_task(name, base).train[:40]
    ]
    yours, means, whole = (
        train_in_parts(base, mixed, step, parts)
        for step, parts in ((function, 4), (_mean_of_means, 4), (_accumulated_step, 1))
    )
    gap, other = (
        max(abs(one - two) for one, two in zip(losses, whole, strict=True))
        for losses in (yours, means)
    )
    if gap > 1e-2:
        return Verdict(
            False,
            f"But pocket trained with it in batches of 4 × 4 is up to {gap:.2f} nats away from "
            "batches of 16, and should not be: does anything of one step stay for the next?",
        )
    return Verdict(
        True,
        f"Pocket trained with it for {len(yours)} steps, from {yours[0]:.1f} to {yours[-1]:.1f} "
        "nats: 4 batches of 4 have the losses of one batch of 16, within a hundredth of a nat. "
        f"With the mean of the means they lie up to {other:.2f} nats apart.",
    )


accumulated_step = Exercise(
    _accumulated_step,
    _small_batches,
    slips={
        "this is the mean of the means: a batch with few labels counts as much as one with many": (
            _mean_of_means
        ),
        "these are added up and never divided: the step grows with the number of batches": (
            _weighted(lambda batches: [1] * len(batches))
        ),
        "this weighs by rows; what a loss is the mean of are labels": (
            _weighted(lambda batches: _shares([len(batch["labels"]) for batch in batches]))
        ),
        "this weighs by tokens, the prompt's too; only labels have a loss": (
            _weighted(lambda batches: _shares([batch["attention_mask"].sum() for batch in batches]))
        ),
        "this weighs by the size of the batch, with what has no label; count labels above -100": (
            _weighted(lambda batches: _shares([batch["labels"].numel() for batch in batches]))
        ),
        "these are sums over labels; divide by the labels of the whole step": (
            _weighted(_label_counts)
        ),
        "here each small batch takes a step; add all gradients up, then take one": _several_steps,
        "zero_grad in the loop leaves the last small batch alone": _last_alone,
        "the gradients stay for the next step; clear them with optimizer.zero_grad()": _not_cleared,
    },
    ask=_after_two_steps,
    trial=_accumulation_trial,
)

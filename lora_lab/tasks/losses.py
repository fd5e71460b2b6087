"""The loss of a batch: cross-entropy of its labels, or the distance to a teacher."""

import inspect

import torch
from torch import Tensor, nn

from lora_lab.tasks.examples import IGNORED


def loss_of_batch(
    model: nn.Module, batch: dict[str, Tensor], teacher: nn.Module | None = None
) -> tuple[Tensor, int]:
    """The summed loss over a batch's labelled tokens, and their number.

    Logits are computed only where a label is to be predicted. With a teacher, a token's loss is
    the divergence KL(teacher || model) in place of the label's cross-entropy.

    Args:
        model: a causal language model of transformers, or PEFT's around one.
        batch: `input_ids`, `attention_mask`, `labels`, each (batch, tokens).
        teacher: a model with the same vocabulary.

    Returns:
        The sum in nats, float32 with a gradient, and the number of labels.
    """
    losses, wanted = _label_losses(model, batch, teacher, "sum")
    return losses, int(wanted.sum())


def losses_of_labels(
    model: nn.Module, batch: dict[str, Tensor], teacher: nn.Module | None = None
) -> Tensor:
    """The loss of each labelled token, (labels,): row by row, in each row from left to right.

    Takes what `loss_of_batch` takes, which gives their sum.
    """
    return _label_losses(model, batch, teacher, "none")[0]


def labelled_places(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The positions that predict a label in some row, and what they predict.

    Returns:
        Positions, (places,), and labels, (batch, places): IGNORED where a row has none.
    """
    labels = batch["labels"][:, 1:]  # what position t predicts is the label at t + 1
    places = (labels != IGNORED).any(dim=0).nonzero().squeeze(1)  # union over the batch
    return places, labels[:, places]


def _label_losses(
    model: nn.Module, batch: dict[str, Tensor], teacher: nn.Module | None, reduction: str
) -> tuple[Tensor, Tensor]:
    """The labels' losses, summed or not, and where the labels are: (batch, places)."""
    places, labels = labelled_places(batch)
    wanted = labels != IGNORED
    logits = _logits_at(model, batch, places)[wanted].float()  # (labels, vocab)
    if teacher is None:
        losses = nn.functional.cross_entropy(logits, labels[wanted], reduction=reduction)
        return losses, wanted
    with torch.no_grad():
        target = _logits_at(teacher, batch, places)[wanted].float().log_softmax(-1)
    losses = nn.functional.kl_div(
        logits.log_softmax(-1), target, reduction=reduction, log_target=True
    )
    return losses if reduction == "sum" else losses.sum(-1), wanted  # over the vocabulary


def _logits_at(model: nn.Module, batch: dict[str, Tensor], places: Tensor) -> Tensor:
    """(batch, places, vocab)."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" in inspect.signature(bare.forward).parameters:
        return model(**inputs, logits_to_keep=places, use_cache=False).logits
    return model(**inputs, use_cache=False).logits[:, places]

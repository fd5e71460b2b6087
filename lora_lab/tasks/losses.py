"""The loss of a batch: cross-entropy of its labels, or the distance to a teacher."""

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lora_lab.tasks.examples import IGNORED

if TYPE_CHECKING:
    from lora_lab.models.lean import FrozenLayers


def loss_of_batch(
    model: nn.Module,
    batch: dict[str, Tensor],
    teacher: nn.Module | None = None,
    frozen: "FrozenLayers | None" = None,
) -> tuple[Tensor, int]:
    """The summed loss over a batch's labelled tokens, and their number.

    Logits are computed only where a label is to be predicted. With a teacher, a token's loss is
    the divergence KL(teacher || model) in place of the label's cross-entropy.

    Args:
        model: a causal language model of transformers, or PEFT's around one.
        batch: `input_ids`, `attention_mask`, `labels`, each (batch, tokens), as `collate` makes
            them: on the CPU, where labels are counted without waiting for a GPU.
        teacher: a model with the same vocabulary.
        frozen: the model's layers below its lowest adapter, whose outputs are kept.

    Returns:
        The sum in nats, float32 with a gradient, and the number of labels.
    """
    losses = _label_losses(model, batch, teacher, frozen, "sum")
    return losses, int((predicted_labels(batch) != IGNORED).sum())


def losses_of_labels(
    model: nn.Module, batch: dict[str, Tensor], teacher: nn.Module | None = None
) -> Tensor:
    """The loss of each labelled token, (labels,): row by row, in each row from left to right.

    It takes the arguments of `loss_of_batch`, which gives their sum.
    """
    return _label_losses(model, batch, teacher, None, "none")


def _label_losses(
    model: nn.Module,
    batch: dict[str, Tensor],
    teacher: nn.Module | None,
    frozen: "FrozenLayers | None",
    reduction: str,
) -> Tensor:
    """The labels' losses, summed or not."""
    labels = predicted_labels(batch)
    wanted = labels != IGNORED
    logits = _logits_at(model, batch, wanted, frozen).float()
    if teacher is None:
        labels = labels[wanted].to(model.device)
        return nn.functional.cross_entropy(logits, labels, reduction=reduction)
    with torch.no_grad():
        target = _logits_at(teacher, batch, wanted).float().log_softmax(-1)
    losses = nn.functional.kl_div(
        logits.log_softmax(-1), target, reduction=reduction, log_target=True
    )
    return losses if reduction == "sum" else losses.sum(-1)  # over the vocabulary


def predicted_labels(batch: dict[str, Tensor]) -> Tensor:
    """The label that each position predicts: that of the next position; (batch, tokens - 1)."""
    return batch["labels"][:, 1:]


def labelled_places(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The positions that predict a label in some row, and what they predict.

    Returns:
        Positions, (places,), and labels, (batch, places): IGNORED where a row has none.
    """
    labels = predicted_labels(batch)
    places = _places_in_use(labels != IGNORED)
    return places, labels[:, places]


def _places_in_use(wanted: Tensor) -> Tensor:
    """The columns in which some row of (batch, tokens) is True."""
    return wanted.any(dim=0).nonzero().squeeze(1)


def _logits_at(
    model: nn.Module,
    batch: dict[str, Tensor],
    wanted: Tensor,
    frozen: "FrozenLayers | None" = None,
) -> Tensor:
    """(labels, vocab), by the lean forward pass where it knows the model and the batch."""
    from lora_lab.models import lean, read_llama  # PEFT, which takes seconds to import

    llama = read_llama.read(model)
    if llama is not None and lean.is_padded_right(batch["attention_mask"], wanted):
        return lean.logits_at(llama, batch, wanted, frozen)
    device = model.device
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    places = _places_in_use(wanted)
    rows, columns = (index.to(device) for index in wanted[:, places].nonzero(as_tuple=True))
    places = places.to(device)
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "logits_to_keep" in inspect.signature(bare.forward).parameters:
        logits = model(**inputs, logits_to_keep=places, use_cache=False).logits
    else:
        logits = model(**inputs, use_cache=False).logits[:, places]
    return logits[rows, columns]

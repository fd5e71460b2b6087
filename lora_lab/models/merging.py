"""An adapter merged into its base: plain weights in 16 bits, and what the rounding takes away."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import Base
from lora_lab.models.learned import Learned
from lora_lab.models.quantization import dequantized, share_tensors
from lora_lab.models.quiet import quietly


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A model with what was learnt in its own weights."""

    model: nn.Module  # of transformers, in 16 bits
    rounding: float  # the rounding's size beside the change's, over the changed weights; 0 to 1


def merge(base: Base, learned: Learned, dtype: torch.dtype) -> Merged:
    """The base with an adapter in its weights, W + ΔW in float32 and then rounded.

    The base stays as it is. Of a quantised base the dequantised weights are used, since the adapter
    was trained on them. An output layer that shares the embedding's weight gets a weight of its own
    where the adapter changes only one of the two.

    Args:
        base: as the adapter was trained on it.
        learned: an adapter.
        dtype: torch.bfloat16 or torch.float16.

    Raises:
        ValueError: if a weight is too large for float16.
    """
    plain = dequantized(base.model).float()
    _untie(plain)
    on_plain = Adapted(replace(base, model=plain, quantization=None), learned)
    with quietly():
        whole = on_plain.model.merge_and_unload()
    _tie_again(whole)
    rounded = share_tensors(whole).to(dtype)
    return Merged(rounded, _rounding(plain, whole, rounded))


def _untie(model: nn.Module) -> None:
    """Give the output layer a weight of its own, so that merging changes only one of the two."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is not None and output.weight is embedding.weight:
        output.weight = nn.Parameter(output.weight.data.clone(), requires_grad=False)
        model.config.tie_word_embeddings = False


def _tie_again(model: nn.Module) -> None:
    """Let the output layer share the embedding's weight where both are still equal."""
    embedding, output = model.get_input_embeddings(), model.get_output_embeddings()
    if output is not None and torch.equal(output.weight, embedding.weight):
        output.weight = embedding.weight
        model.config.tie_word_embeddings = True


def _rounding(plain: nn.Module, whole: nn.Module, rounded: nn.Module) -> float:
    """‖round(W + ΔW) - (W + ΔW)‖ / ‖ΔW‖, by Frobenius norms over the weights with a ΔW."""
    change = error = 0.0
    before, after = dict(plain.named_parameters()), dict(rounded.named_parameters())
    for name, weight in whole.named_parameters():
        if not torch.isfinite(after[name]).all():
            raise ValueError(
                f"{name} has a weight of {weight.abs().max():.3g}, too large for float16 "
                "(65,504 at most); give bfloat16"
            )
        if name in before and not torch.equal(before[name], weight):
            change += (weight - before[name]).double().square().sum().item()
            error += (after[name].float() - weight).double().square().sum().item()
    return (error / change) ** 0.5 if change else 0.0

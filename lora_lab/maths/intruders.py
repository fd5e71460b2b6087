"""Intruder dimensions: strong directions that a fine-tune brought in (arXiv:2410.21228)."""

import torch
from torch import Tensor

from lora_lab.maths.spectra import checked_matrix


def closeness(weight: Tensor, delta_weight: Tensor, top_k: int = 10) -> Tensor:
    """|cosine| of the top left singular vectors of W + ΔW with those of W, (top_k, n).

    A row without a value near 1 is a direction that W did not have. n is the smaller size of W.

    Args:
        weight: W, (out, in).
        delta_weight: ΔW, (out, in).
        top_k: how many vectors of W + ΔW, strongest first.
    """
    before, change = checked_matrix("weight", weight), checked_matrix("delta_weight", delta_weight)
    if before.shape != change.shape:
        raise ValueError(
            f"weight {tuple(before.shape)} and delta_weight {tuple(change.shape)} differ in shape; "
            "give both as (out, in)"
        )
    if top_k not in range(1, min(before.shape) + 1):
        raise ValueError(
            f"top_k={top_k}, and {tuple(before.shape)} has {min(before.shape)} singular vectors; "
            f"give a whole number from 1 to {min(before.shape)}"
        )
    old = torch.linalg.svd(before, full_matrices=False).U  # (out, n)
    new = torch.linalg.svd(before + change, full_matrices=False).U[:, :top_k]  # (out, top_k)
    return (new.T @ old).abs()


def intruder_dimensions(
    weight: Tensor, delta_weight: Tensor, top_k: int = 10, threshold_epsilon: float = 0.5
) -> Tensor:
    """The top singular vectors of W + ΔW that resemble none of W's: training brought them in.

    Left singular vectors are compared, by |cosine|. Where W has equal singular values, its vectors
    are not unique, and the result means nothing. Two SVDs of (out, in) take seconds for wide
    layers. arXiv:2410.21228, as in PEFT's `reduce_intruder_dimension`.

    Args:
        weight: W, (out, in).
        delta_weight: ΔW, (out, in), as `LoRALinear.delta_weight()` gives it.
        top_k: how many vectors of W + ΔW are checked, strongest first; 10 as in PEFT.
        threshold_epsilon: an intruder's largest |cosine| is below it; 0.5 as in PEFT.

    Returns:
        The intruders' places among the singular vectors of W + ΔW, counted from 0, rising.
    """
    if not 0 < threshold_epsilon <= 1:
        raise ValueError(
            f"threshold_epsilon={threshold_epsilon} isn't a cosine above 0; give for example 0.5"
        )
    closest = closeness(weight, delta_weight, top_k).amax(dim=1)  # (top_k,)
    return (closest < threshold_epsilon).nonzero().flatten()


def shrink_intruders(
    weight: Tensor,
    delta_weight: Tensor,
    share: float,
    top_k: int = 10,
    threshold_epsilon: float = 0.5,
) -> Tensor:
    """ΔW, (out, in), after each intruder of W + ΔW was shrunk to a share of its singular value.

    The directions are those of W + ΔW, as in the paper. PEFT then cuts the result to the adapter's
    rank, and this does not.

    Args:
        weight: W, (out, in).
        delta_weight: ΔW, (out, in).
        share: 1 changes nothing, 0 takes the intruders out.
        top_k: as in `intruder_dimensions`, and so is the next.
        threshold_epsilon: a cosine.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share} does not shrink; give 0 (taken out) to 1 (as it was)")
    places = intruder_dimensions(weight, delta_weight, top_k, threshold_epsilon)
    before, change = weight.detach().cpu().double(), delta_weight.detach().cpu().double()
    U, S, Vh = torch.linalg.svd(before + change, full_matrices=False)
    intruders = (U[:, places] * S[places]) @ Vh[places]  # (out, k) @ (k, in) -> (out, in)
    return (change - (1 - share) * intruders).to(delta_weight)

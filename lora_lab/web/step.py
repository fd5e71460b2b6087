"""The playground's step beside the gradients, AdamW and answers, as pure functions of tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_lab.training.graphs import Traceable

BETA1, BETA2 = 0.9, 0.999  # torch.optim.AdamW's
EPS = 1e-8  # AdamW's, too
CLIP_EPS = 1e-6  # torch.nn.utils.clip_grad_norm_'s

STATE = ("A", "B", "A_mean", "B_mean", "A_square", "B_square")  # what a step hands to the next


def adamw(
    A: Tensor,
    B: Tensor,
    A_mean: Tensor,
    B_mean: Tensor,
    A_square: Tensor,
    B_square: Tensor,
    A_gradient: Tensor,
    B_gradient: Tensor,
    learning_rate: Tensor,
    loraplus_lr_ratio: Tensor,
    weight_decay: Tensor,
    max_grad_norm: Tensor,
    step: Tensor,
    eps: Tensor,
) -> tuple[Tensor, ...]:
    """Clip the gradients by their norm, and take a step of AdamW (arXiv:1711.05101).

    It is `torch.nn.utils.clip_grad_norm_`, then `torch.optim.AdamW`. B may have a learning rate of
    its own, as in LoRA+ (arXiv:2402.12354).

    Args:
        A: (r, sum of ins), as in `Traceable.logits`.
        B: (sum of outs, r).
        A_mean: the running mean of A's gradients; zeros before the first step.
        B_mean: the same for B.
        A_square: the running mean of the squares of A's gradients.
        B_square: the same for B.
        A_gradient: as the graph of `Traceable.gradients` gives it.
        B_gradient: the same for B.
        learning_rate: this step's; a single number, as are the next four.
        loraplus_lr_ratio: B's learning rate over A's.
        weight_decay: the part of A and B that a learning rate of 1 would take away.
        max_grad_norm: longer gradients are cut to this norm.
        step: counted from 1.
        eps: two small numbers, (2,): EPS and CLIP_EPS. They are an input, because onnxscript's
            optimizer takes "+ 1e-8" for "+ 0".

    Returns:
        The gradients' norm before it is cut, then A, B and the four means after the step.
    """
    adam_eps, clip_eps = eps.unbind()
    norm = ((A_gradient * A_gradient).sum() + (B_gradient * B_gradient).sum()).sqrt()
    cut = torch.clamp(max_grad_norm / (norm + clip_eps), max=1.0)
    mean_bias, square_bias = 1 - BETA1**step, (1 - BETA2**step).sqrt()

    def stepped(
        weight: Tensor, mean: Tensor, square: Tensor, gradient: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient = gradient * cut
        mean = mean + (1 - BETA1) * (gradient - mean)
        square = square * BETA2 + (1 - BETA2) * (gradient * gradient)
        change = mean / (square.sqrt() / square_bias + adam_eps) * (rate / mean_bias)
        return weight * (1 - rate * weight_decay) - change, mean, square

    new_A, A_mean, A_square = stepped(A, A_mean, A_square, A_gradient, learning_rate)
    rate = learning_rate * loraplus_lr_ratio
    new_B, B_mean, B_square = stepped(B, B_mean, B_square, B_gradient, rate)
    return norm, new_A, new_B, A_mean, B_mean, A_square, B_square


@dataclass(frozen=True)
class Answers:
    """The most likely tokens of a base with adapters."""

    traceable: Traceable

    def likeliest(self, *inputs: Tensor) -> Tensor:
        """The most likely next token at some places of each row, (batch, places).

        Args:
            inputs: those of `Traceable.logits`.
        """
        return self.traceable.logits(*inputs).argmax(-1)

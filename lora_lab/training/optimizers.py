"""The learning rate of a step, and the optimizer with its groups of parameters."""

import math

import torch
from torch import nn

from lora_lab.models.quantization import require_bitsandbytes
from lora_lab.recipe import Recipe

FUSED = {"cpu", "cuda"}  # devices on which torch takes a whole AdamW step at once


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """The learning rate of a step, counted from 1, as transformers' schedulers set it.

    It rises from 0 over `warmup_steps`, then follows `lr_scheduler_type` down to the last step.
    ("constant" after a warm-up is what transformers calls "constant_with_warmup".)
    """
    done, warmup, steps = step - 1, recipe.warmup_steps, recipe.steps
    if done < warmup:
        return recipe.learning_rate * done / warmup
    progress = (done - warmup) / (steps - warmup)  # 0 at the first full step, below 1 at the last
    factor = {
        "linear": 1 - progress,
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "constant": 1.0,
    }[recipe.lr_scheduler_type]
    return recipe.learning_rate * factor


def make_optimizer(trainable: dict[str, nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer over groups by learning-rate ratio (LoRA+) and decay (none for vectors)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, tensor in trainable.items():
        ratio = recipe.loraplus_lr_ratio if "lora_B" in name else 1.0
        decay = recipe.weight_decay if tensor.ndim > 1 else 0.0  # as transformers: biases, norms
        groups.setdefault((ratio, decay), []).append(tensor)
    options = [
        {"params": members, "lr_ratio": ratio, "weight_decay": decay}
        for (ratio, decay), members in groups.items()
    ]
    rate = recipe.learning_rate
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(options, lr=rate)
    if recipe.optimizer == "adamw":
        devices = {tensor.device.type for tensor in trainable.values()}
        fused = devices <= FUSED  # one kernel for all tensors, in place of a dozen for each
        return torch.optim.AdamW(options, lr=rate, fused=fused)
    return eight_bit_adamw(options, lr=rate, paged=recipe.optimizer == "paged_adamw_8bit")


def eight_bit_adamw(groups: list[dict], lr: float, *, paged: bool) -> torch.optim.Optimizer:
    """AdamW with bitsandbytes' 8-bit states, paged out of GPU memory when it runs short.

    Raises:
        ImportError: where bitsandbytes is not installed.
    """
    optim = require_bitsandbytes("8-bit optimizers need", "optimizer='adamw'").optim
    kind = optim.PagedAdamW8bit if paged else optim.AdamW8bit
    return kind(groups, lr=lr)

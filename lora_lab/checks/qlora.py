"""Checks for notebook 09, QLoRA: a block in 4 bits, a base's bytes."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.qlora import rounded_base
from lora_lab.maths.nf4 import levels as levels_of
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.fit import fit
from lora_lab.wording import percent

TRIAL = Recipe(steps=50, batch_size=8, max_length=96, learning_rate=3e-3)

# --- a block --------------------------------------------------------------------------------


def _quantize_block(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """Each weight's code, (n,), and the block's absmax, ().

    `block`: (n,) weights; `levels`: (16,) from -1 to 1, rising. A code is the number of the level
    that is nearest to the weight over absmax.
    """
    absmax = block.abs().max()
    return (block[:, None] / absmax - levels).abs().argmin(dim=1), absmax


def blocks() -> Iterator[Case]:
    """Blocks for NF4 and int4. The largest weight is positive or negative; there are no ties."""
    for seed, kind, scale in ((0, "nf4", 0.02), (1, "nf4", 1.0), (2, "int4", 0.5), (5, "nf4", 3.0)):
        block = scale * torch.randn(16, generator=torch.Generator().manual_seed(seed))
        yield {"block": block, "levels": levels_of(kind)}


def _nearest(shares: Tensor, levels: Tensor) -> Tensor:
    return (shares[:, None] - levels).abs().argmin(dim=1)


def _divided_by(size: Function) -> Function:
    """A slip: the codes and the constant when another size of the block stands for absmax."""
    return lambda block, levels: (_nearest(block / size(block), levels), size(block))


def _restored(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    codes, absmax = _quantize_block(block, levels)
    return levels[codes] * absmax, absmax


def _rounded_down(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    absmax = block.abs().max()
    return torch.bucketize(block / absmax, levels, right=True) - 1, absmax


def _evenly(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    absmax = block.abs().max()
    return ((block / absmax + 1) / 2 * (len(levels) - 1)).round().long(), absmax


def _trial(function: Function) -> Verdict:
    """Round pocket with the learner's function, and train LoRA on it and on the whole weights."""
    base = load_base("pocket", dtype="float32")
    task = replace(load_task("new-facts", base, n=40), old_knowledge=(), strangers=())
    yours, ours = (rounded_base(base, quantize) for quantize in (function, _quantize_block))
    pairs = zip(yours.model.parameters(), ours.model.parameters(), strict=True)
    if not all(torch.equal(one, other) for one, other in pairs):
        return Verdict(
            False, "But in pocket's blocks of 64 weights it gives other codes than ours."
        )
    rounded, whole = (fit(start, task, TRIAL, store=None).scores.value for start in (yours, base))
    return Verdict(
        True,
        f"It rounded all of pocket's linear layers, in blocks of 64. LoRA trained on them for "
        f"{TRIAL.steps} steps knows {percent(rounded)} of {len(task.test)} new facts; on the "
        f"weights as they were, {percent(whole)}.",
    )


quantize_block = Exercise(
    _quantize_block,
    blocks,
    slips={
        "this divides by the greatest weight; a negative one may be larger in size": (
            _divided_by(torch.max)
        ),
        "this divides by the standard deviation; then some weights lie beyond -1 and 1": (
            _divided_by(torch.std)
        ),
        "this divides by the range, greatest less least; absmax is the largest size": (
            _divided_by(lambda block: block.max() - block.min())
        ),
        "the weights are compared with the levels as they are; divide them by absmax first": (
            lambda block, levels: (_nearest(block, levels), block.abs().max())
        ),
        "these are the restored weights; a code is the number of a level": _restored,
        "these are the levels; a code is the number of one": (
            lambda block, levels: (levels[_quantize_block(block, levels)[0]], block.abs().max())
        ),
        "this takes the level below; the nearest may be the one above": _rounded_down,
        "this takes the levels to be even steps; look for the nearest of those given": _evenly,
        "this is the level that is farthest; take argmin of the distances": (
            lambda block, levels: (
                (block[:, None] / block.abs().max() - levels).abs().argmax(dim=1),
                block.abs().max(),
            )
        ),
    },
    trial=_trial,
)

# --- a base's bytes -------------------------------------------------------------------------


def _qlora_bytes(linear: int, others: int, blocksize: int, double_quant: bool) -> float:
    """The bytes of a base in 4 bits, as QLoRA keeps it.

    `linear`: the number of quantised weights, 4 bits each, with an absmax for each block. An absmax
    is a float32; with `double_quant` it is a byte, and 256 of these bytes share a float32.
    `others`: the number of parameters that stay as float32.
    """
    return linear * (0.5 + _absmax_bytes(double_quant) / blocksize) + 4 * others


def _absmax_bytes(double_quant: bool) -> float:
    return 1 + 4 / 256 if double_quant else 4


def ledgers() -> Iterator[Case]:
    """smollm2's counts, LLaMA-7B's, larger blocks; with double quantisation and without."""
    smollm2 = {"linear": 106_168_320, "others": 28_346_688}
    llama = {"linear": 6_476_005_376, "others": 262_410_240}
    for counts, blocksize in ((smollm2, 64), (llama, 64), (llama, 256)):
        for double_quant in (False, True):
            yield {**counts, "blocksize": blocksize, "double_quant": double_quant}


def _bytes(absmax: Function, other: float = 4, code: float = 0.5) -> Function:
    """A slip: the sum with other bytes for a block's constant, another parameter or a code."""

    def slip(linear: int, others: int, blocksize: int, double_quant: bool) -> float:
        return linear * (code + absmax(double_quant) / blocksize) + other * others

    return slip


qlora_bytes = Exercise(
    _qlora_bytes,
    ledgers,
    slips={
        "the constants are left out; every block has its absmax": _bytes(lambda double_quant: 0),
        "with double quantisation, too, each absmax is 4 bytes here; it is one": (
            _bytes(lambda double_quant: 4)
        ),
        "absmax is a byte here without double quantisation, too; then it is a float32": (
            _bytes(lambda double_quant: 1 + 4 / 256)
        ),
        "the float32 that 256 constants share is left out; it is 4 / 256 bytes each": (
            _bytes(lambda double_quant: 1 if double_quant else 4)
        ),
        "the others are quantised, too; embeddings and norms stay as float32": (
            lambda linear, others, blocksize, double_quant: _qlora_bytes(
                linear + others, 0, blocksize, double_quant
            )
        ),
        "the others are left out; they stay, 4 bytes each": _bytes(_absmax_bytes, other=0),
        "the others are 16 bits here; they stay as float32, 4 bytes each": _bytes(
            _absmax_bytes, other=2
        ),
        "these are bits; a byte has 8": (lambda **case: 8 * _qlora_bytes(**case)),
        "a code is a byte here; two of them share one": _bytes(_absmax_bytes, code=1),
    },
)

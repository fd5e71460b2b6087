"""The effects of 4 bits: the cards that a model fits on, and the ways to ship an adapter."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor, nn

from lora_lab.cost.estimates import estimate
from lora_lab.cost.gpus import FITS, NOT, cards, verdict_on
from lora_lab.cost.published_memory import Published, published
from lora_lab.maths.nf4 import dequantize, levels, quantize
from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import Base, quantized_base
from lora_lab.models.quantization import Quantization, dequantized, is_quantized, weight_of
from lora_lab.models.quiet import quietly
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.training.store import Run
from lora_lab.wording import percent, percent_range

NF4 = Quantization("nf4")
BITS = {"16 bits": None, "4 bits": "nf4"}  # the better first
WAYS = {  # ways to ship an adapter: what each of them rounds after the training
    "adapter beside the 4-bit base": "nothing",
    "adapter beside the 16-bit base": "nothing",
    "merged into the restored weights": "the sum, to 16 bits",
    "merged into the 16-bit base": "the sum, to 16 bits",
    "merged into the 4-bit base": "the sum, to 4 bits",
    "merged into the 16-bit base, then 4 bits": "the sum, to 4 bits",
}
QuantizeBlock = Callable[..., tuple[Tensor, Tensor]]  # (block, levels) -> codes, absmax

# --- memory -------------------------------------------------------------------------------------


def bits_by_card(
    models: Sequence[str],
    names: Sequence[str] = ("T4", "RTX 4090", "A100 40 GB", "H100"),
    **changes: object,
) -> pd.DataFrame:
    """The bits of the base with which a LoRA step fits: a row per model, a column per card.

    The memory is estimated.

    Args:
        models: names that `estimate` knows.
        names: names of graphics cards.
        changes: fields of the recipe.
    """
    known = {card.name: card for card in cards()}
    rows = {}
    for model in models:
        needs = {
            bits: estimate(model, Recipe(quantize=kind, **changes)).trainer_memory
            for bits, kind in BITS.items()
        }
        rows[model] = {}
        for name in names:
            said = {bits: verdict_on(known[name].usable, need) for bits, need in needs.items()}
            rows[model][name] = _best(said)
    return pd.DataFrame(rows).T


def _best(said: Mapping[str, str]) -> str:
    """The most bits that fit; else those that fit at the edge; else "–"."""
    fitting = [bits for bits, verdict in said.items() if verdict == FITS]
    edge = [f"{bits}, at the edge" for bits, verdict in said.items() if verdict != NOT]
    return next(iter(fitting + edge), "–")


def mistral_runs(batch_size: int) -> dict[str, Published]:
    """Published steps of Mistral-7B with LoRA on an A100, whose tensors were measured.

    Args:
        batch_size: how many texts of 4,096 tokens; 4 or 8.
    """
    names = {
        ("", ""): "bfloat16",
        ("nf4", "norms"): "NF4, norms cast to float32",
        ("nf4", "16-bit"): "NF4, norms left in 16 bits",
    }
    return {
        names[run["quantize"], run["beside"]]: run
        for run in published()
        if run["source"].startswith("foundation-model-stack/fms-acceleration")
        and (run["model"], run["method"], run["kind"]) == ("mistral-7b", "lora", "allocated")
        and run["batch_size"] == str(batch_size)
    }


# --- shipping -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Shipped:
    """Adapters trained on a 4-bit base, each shipped in all of `WAYS`; by the training's name."""

    scores: dict[str, dict[str, list[Scores]]]  # by training and way: the scores of each seed
    size: dict[str, float]  # ‖ΔW‖ / ‖W‖ over all adapted matrices, the mean of the seeds
    moved: dict[str, float]  # the share of 4-bit codes that the merge into the 4-bit base changes

    def table(self) -> pd.DataFrame:
        """A row per way: what it rounds, and the new facts right, with the range of the seeds."""
        columns = {"it rounds": WAYS}
        for name, ways in self.scores.items():
            heading = f"{name}: ΔW is {percent(self.size[name])} of W"
            columns[heading] = {way: _span(made) for way, made in ways.items()}
        return pd.DataFrame(columns)

    def sizes(self) -> pd.DataFrame:
        """For each training: the size of its change, and how many codes the merge moves."""
        columns = {"ΔW / W": self.size, "codes that move": self.moved}
        return pd.DataFrame(columns).map(percent)

    def __repr__(self) -> str:
        return self.table().to_string()

    def _repr_html_(self) -> str:
        return self.table().to_html()


def _span(made: Sequence[Scores]) -> str:
    shares = [scores.value for scores in made]
    return f"{percent(fmean(shares))} ({percent_range(min(shares), max(shares))})"


def ship(
    base: Base, task: Task, recipes: Mapping[str, Recipe], seeds: Sequence[int] = (0, 1, 2)
) -> Shipped:
    """Train each recipe on NF4 weights with each seed, and score every way to ship the adapter.

    16 bits are bfloat16 values, multiplied in float32.

    Args:
        base: in 16 or 32 bits; stays as it was.
        task: what is learned and asked.
        recipes: the recipes, by the training's name.
        seeds: the seeds of the trainings.
    """
    scores, size, moved = {}, {}, {}
    for name, recipe in recipes.items():
        made = [
            fit(base, task, replace(recipe, quantize="nf4", seed=seed), store=None)
            for seed in seeds
        ]
        shipped = [_models(base, run) for run in made]
        scores[name] = {
            way: [evaluate(replace(base, model=models[way]), task) for models in shipped]
            for way in WAYS
        }
        size[name] = fmean(_size(base, run) for run in made)
        moved[name] = fmean(
            _moved(base, models["merged into the 4-bit base"]) for models in shipped
        )
    return Shipped(scores, size, moved)


def _models(base: Base, run: Run) -> dict[str, nn.Module]:
    """A model for each of `WAYS`."""
    four, whole = quantized_base(base, NF4), replace(base, model=_in_16_bits(base.model))
    on_16 = merged(base, run)
    made = (
        Adapted(four, run.learned).model,
        Adapted(whole, run.learned).model,
        _in_16_bits(merged(_restored(base), run)),
        _in_16_bits(on_16),
        merged(four, run),
        quantized_base(replace(base, model=on_16), NF4).model,
    )
    return dict(zip(WAYS, made, strict=True))


def merged(on: Base, run: Run) -> nn.Module:
    """The model that PEFT's `merge_and_unload` makes of a base and what a run learned."""
    with quietly():  # into 4 bits it warns of rounding
        return Adapted(on, run.learned).model.merge_and_unload()


def _restored(base: Base) -> Base:
    """The base with the weights that its NF4 codes stand for."""
    return replace(base, model=dequantized(quantized_base(base, NF4).model))


def _in_16_bits(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(torch.bfloat16).float()


def _size(base: Base, run: Run) -> float:
    """‖ΔW‖ / ‖W‖, over all matrices that are quantised together."""
    before = _restored(base)
    after, change, whole = merged(before, run), 0.0, 0.0
    for name, layer in quantized_base(base, NF4).model.named_modules():
        if is_quantized(layer):
            weight = weight_of(layer).float()
            change += (after.get_submodule(name).weight - weight).square().sum().item()
            whole += weight.square().sum().item()
    return (change / whole) ** 0.5


def _moved(base: Base, model: nn.Module) -> float:
    """The share of a 4-bit model's codes that differ from the base's own."""
    moved = codes = 0
    for name, layer in quantized_base(base, NF4).model.named_modules():
        if is_quantized(layer):
            before, after = (_codes(module) for module in (layer, model.get_submodule(name)))
            moved, codes = moved + (before != after).sum().item(), codes + before.numel()
    return moved / codes


def _codes(layer: nn.Module) -> Tensor:
    """The codes of a 4-bit layer; bitsandbytes packs two into a byte."""
    packed = layer.weight.data.flatten()
    return torch.stack([packed >> 4, packed & 15])


def arrival(
    weight: Tensor, sizes: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.3), seed: int = 0
) -> dict[str, dict[float, float]]:
    """How much of a change of rank 8 is left once its sum with a matrix is rounded to NF4.

    It is the component along the change, as a share of the change: 1 is all of it. The noise in
    other directions is left out.

    Args:
        weight: a matrix, (out, in).
        sizes: values of ‖change‖ / ‖weight‖.
        seed: draws the change.

    Returns:
        The shares, by the weights that the change is added to, and by its size.
    """
    draw, (out, wide) = torch.Generator().manual_seed(seed), weight.shape
    thin = torch.randn(out, 8, generator=draw) @ torch.randn(8, wide, generator=draw)
    restored, shares = dequantize(quantize(weight)), {}
    starts = {"into the 4-bit base": restored, "into the 16-bit base, then 4 bits": weight}
    for name, start in starts.items():
        shares[name] = {}
        for size in sizes:
            change = size * weight.norm() / thin.norm() * thin
            came = dequantize(quantize(start + change)) - restored
            shares[name][size] = ((came * change).sum() / change.square().sum()).item()
    return shares


# --- a base rounded by a learner's function -----------------------------------------------------


def rounded_base(base: Base, quantize_block: QuantizeBlock, blocksize: int = 64) -> Base:
    """A base whose layers but the output hold the values of a function's codes and absmax.

    Args:
        base: stays as it was.
        quantize_block: called with a block of weights and NF4's levels, for every block.
        blocksize: the number of weights in a block.
    """
    model, table = copy.deepcopy(base.model), levels("nf4")
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings():
            restored = [
                table[codes] * absmax
                for codes, absmax in (
                    quantize_block(block=block, levels=table)
                    for block in layer.weight.data.reshape(-1, blocksize)
                )
            ]
            layer.weight.data = torch.cat(restored).view_as(layer.weight)
    return replace(base, model=model, _print=None, _quantized=None)

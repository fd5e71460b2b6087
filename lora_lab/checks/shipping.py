"""Checks for notebook 13, Ship it: two adapters in one, and an adapter read off its tensors."""

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.lessons.shipping import combine, run_through
from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import load_base
from lora_lab.models.learned import Learned, save_adapter
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.wording import percent

Part = tuple[Tensor, Tensor, float]  # A (r, in), B (out, r), the factor in front of BA
TRIAL = Recipe(r=8, steps=50, batch_size=16, max_length=96, learning_rate=4e-3)

# --- two adapters in one --------------------------------------------------------------------


def _merge_adapters(first: Part, second: Part, weights: tuple[float, float]) -> list[Tensor]:
    """A and B of one adapter whose BA is the weighted sum of both changes.

    `first` and `second`: A (r, in), B (out, r) and the factor in front of BA; the ranks may differ.
    The new adapter has the ranks of both together, and the factor 1.
    """
    scaled = [
        weight * scaling * A
        for weight, (A, _, scaling) in zip(weights, (first, second), strict=True)
    ]
    return [torch.cat(scaled), torch.cat([first[1], second[1]], dim=1)]


def pairs_of_adapters() -> Iterator[Case]:
    """Adapters of equal and of different ranks and factors, added, averaged and subtracted."""
    cases = (
        (4, 4, 2.0, 0.5, (1.0, 1.0)),
        (2, 6, 1.0, 4.0, (0.5, 0.5)),
        (3, 1, 0.5, 2.0, (1.0, -0.25)),
    )
    for seed, (r, other, scaling, other_scaling, weights) in enumerate(cases):
        draw = torch.Generator().manual_seed(seed)
        yield {
            "first": (*_factors(draw, r), scaling),
            "second": (*_factors(draw, other), other_scaling),
            "weights": weights,
        }


def _factors(draw: torch.Generator, r: int) -> tuple[Tensor, Tensor]:
    return torch.randn(r, 10, generator=draw), torch.randn(12, r, generator=draw)


def _change(function: Function, case: Case) -> dict[str, object]:
    """The rank and BA of the answer. Other A and B with the same BA are right as well."""
    answer = function(**case)
    if answer is None:
        return None
    if not (isinstance(answer, list | tuple) and len(answer) == 2):
        raise WrongAnswer("give two matrices: A, B.")
    A, B = answer
    if not all(isinstance(matrix, Tensor) and matrix.ndim == 2 for matrix in (A, B)):
        raise WrongAnswer("A and B are matrices, with two sizes each.")
    if (A.shape[1], B.shape[0]) != (10, 12) or A.shape[0] != B.shape[1]:
        raise WrongAnswer(
            f"A is {tuple(A.shape)} and B {tuple(B.shape)}; wanted are (r, in) and (out, r), where "
            f"in is 10 and out is 12. Which of the two is stacked by rows?"
        )
    return {"the rank": A.shape[0], "B @ A": B @ A}


def _stacked(scale: Function) -> Function:
    """A slip: the right stacks, each with factors on A and on B from (weight, scaling)."""

    def slip(first: Part, second: Part, weights: tuple[float, float]) -> list[Tensor]:
        As, Bs = [], []
        for weight, (A, B, scaling) in zip(weights, (first, second), strict=True):
            on_A, on_B = scale(weight, scaling)
            As.append(on_A * A)
            Bs.append(on_B * B)
        return [torch.cat(As), torch.cat(Bs, dim=1)]

    return slip


def _trial(function: Function) -> Verdict:
    """Train two adapters, put them into one with the learner's function, and ask both tasks."""
    base = load_base("pocket", dtype="float32")
    tasks = {"style": load_task("style", base, n=200), "facts": load_task("new-facts", base, n=40)}
    tasks = {
        name: replace(
            task, test=task.test[:40], old_knowledge=task.old_knowledge[:40], strangers=()
        )
        for name, task in tasks.items()
    }
    with TemporaryDirectory() as place:
        folders = {name: Path(place) / name for name in tasks}
        for name, task in tasks.items():
            save_adapter(run_through(train(base, task, TRIAL)), folders[name])
        ours = combine(base, folders, tasks, ways={"sum": ((1.0, 1.0), "cat")})
        yours = _merged(function, *(Learned.load(folder) for folder in folders.values()))
    model = replace(base, model=Adapted(base, yours).model)
    shares = {name: evaluate(model, task).value for name, task in tasks.items()}
    if any(abs(share - ours.right("sum", name)) > 0.03 for name, share in shares.items()):
        return Verdict(
            False, "But two adapters of pocket, merged with it, answer unlike PEFT's own sum."
        )
    alone = {name: percent(ours.right(f"{name} alone", name)) for name in tasks}
    return Verdict(
        True,
        f"Your function put two adapters of pocket into one, trained for {TRIAL.steps} steps each. "
        f"It gets {percent(shares['style'])} of the style right (alone {alone['style']}), and "
        f"{percent(shares['facts'])} of the facts (alone {alone['facts']}). "
        "So does PEFT's own sum.",
    )


def _merged(function: Function, first: Learned, second: Learned) -> Learned:
    """One adapter from two of equal configuration, matrix by matrix."""
    scaling, tensors = first.config.lora_alpha / first.config.r, {}
    for key in first.tensors:
        if "lora_A" in key:
            other = key.replace("lora_A", "lora_B")
            parts = [(side.tensors[key], side.tensors[other], scaling) for side in (first, second)]
            made = function(first=parts[0], second=parts[1], weights=(1.0, 1.0))
            tensors[key], tensors[other] = (tensor.contiguous() for tensor in made)
    config = copy.deepcopy(first.config)
    config.r = config.lora_alpha = first.config.r + second.config.r
    return Learned(config, tensors)


merge_adapters = Exercise(
    _merge_adapters,
    pairs_of_adapters,
    slips={
        "the factors are left out; each BA has its own factor in front": (
            _stacked(lambda weight, scaling: (weight, 1))
        ),
        "the weights are left out": _stacked(lambda weight, scaling: (scaling, 1)),
        "the weights multiply A and B, so each weight counts twice": (
            _stacked(lambda weight, scaling: (weight * scaling, weight))
        ),
        "the factors multiply A and B, so each factor counts twice": (
            _stacked(lambda weight, scaling: (weight * scaling, scaling))
        ),
        "both adapters get the weight and factor of the first": (
            lambda first, second, weights: [
                weights[0] * first[2] * torch.cat([first[0], second[0]]),
                torch.cat([first[1], second[1]], dim=1),
            ]
        ),
        "the sum of the A times the sum of the B also has B₁A₂ and B₂A₁; stack them instead": (
            lambda first, second, weights: [
                sum(
                    w * part[2] * part[0] for w, part in zip(weights, (first, second), strict=True)
                ),
                first[1] + second[1],
            ]
        ),
        "B is not stacked in the order of A, so each A meets the other's B": (
            lambda first, second, weights: [
                _merge_adapters(first, second, weights)[0],
                torch.cat([second[1], first[1]], dim=1),
            ]
        ),
    },
    ask=_change,
    trial=_trial,
)

# --- an adapter, read off its tensors -------------------------------------------------------


def _read_adapter(
    tensors: Mapping[str, Tensor], lora_alpha: float, use_rslora: bool
) -> dict[str, object]:
    """What the tensors of an adapter say: "r", "factor", "targets" and "size".

    "r": the rank. "factor": what stands in front of BA: alpha / r, with rsLoRA alpha / √r.
    "targets": the last names of the adapted modules, sorted, each once. "size": the root of the sum
    of ‖ΔW‖² over all modules.
    """
    changes, targets = [], set()
    for name, A in tensors.items():
        if "lora_A" in name:
            r = A.shape[0]
            factor = lora_alpha / (math.sqrt(r) if use_rslora else r)
            B = tensors[name.replace("lora_A", "lora_B")]
            changes.append((factor * B @ A).norm().item())
            targets.add(name.split(".lora_A")[0].rpartition(".")[2])
    return {"r": r, "factor": factor, "targets": sorted(targets), "size": math.hypot(*changes)}


def anonymous_adapters() -> Iterator[Case]:
    """Three adapters by PEFT's names: attention, the MLP with rsLoRA, a single module."""
    cases = (
        (("self_attn.v_proj", "self_attn.q_proj"), 3, 8, 16.0, False),
        (("mlp.down_proj", "mlp.up_proj", "mlp.gate_proj"), 2, 4, 8.0, True),
        (("self_attn.o_proj",), 1, 2, 1.0, False),
    )
    for seed, (modules, layers, r, lora_alpha, use_rslora) in enumerate(cases):
        draw, tensors = torch.Generator().manual_seed(seed), {}
        for layer in range(layers):
            for module in modules:
                place = f"base_model.model.model.layers.{layer}.{module}"
                tensors[f"{place}.lora_A.weight"] = torch.randn(r, 10, generator=draw)
                tensors[f"{place}.lora_B.weight"] = torch.randn(12, r, generator=draw)
        yield {"tensors": tensors, "lora_alpha": lora_alpha, "use_rslora": use_rslora}


def _but(**others: Function) -> Function:
    """A slip: the right answer with some entries changed, from (case, the right answer)."""

    def slip(**case: object) -> dict[str, object]:
        right = _read_adapter(**case)
        return right | {name: other(case, right) for name, other in others.items()}

    return slip


def _norms(case: Case, right: dict, factor: bool = True) -> list[float]:
    """‖ΔW‖ of each module, with the factor in front or without."""
    tensors = case["tensors"]
    scale = right["factor"] if factor else 1.0
    return [
        (scale * tensors[name.replace("lora_A", "lora_B")] @ A).norm().item()
        for name, A in tensors.items()
        if "lora_A" in name
    ]


def _product_of_norms(case: Case, right: dict) -> float:
    tensors = case["tensors"]
    both = [
        right["factor"] * A.norm() * tensors[name.replace("lora_A", "lora_B")].norm()
        for name, A in tensors.items()
        if "lora_A" in name
    ]
    return math.hypot(*(norm.item() for norm in both))


read_adapter = Exercise(
    _read_adapter,
    anonymous_adapters,
    slips={
        "use_rslora is ignored; where it is true, the factor is alpha / √r": (
            _but(
                factor=lambda case, right: case["lora_alpha"] / right["r"],
                size=lambda case, right: (
                    right["size"] / right["factor"] * case["lora_alpha"] / right["r"]
                ),
            )
        ),
        "the size lacks the factor; ΔW is the factor times BA": (
            _but(size=lambda case, right: math.hypot(*_norms(case, right, factor=False)))
        ),
        "the norms are added; take the root of the sum of their squares": (
            _but(size=lambda case, right: sum(_norms(case, right)))
        ),
        "‖B‖ · ‖A‖ is not ‖BA‖; multiply the matrices first": _but(size=_product_of_norms),
        "this is the number of inputs; r is the first size of A": (_but(r=lambda case, right: 10)),
        "the targets are whole names; take what stands behind the last dot": (
            _but(
                targets=lambda case, right: sorted(
                    name.removeprefix("base_model.model.").split(".lora_A")[0]
                    for name in case["tensors"]
                    if "lora_A" in name
                )
            )
        ),
    },
)

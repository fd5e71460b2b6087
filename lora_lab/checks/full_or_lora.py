"""Checks for notebook 12, Full or LoRA: LoRA that is full fine-tuning; equal new facts."""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.lessons.by_hand import NAMES, add_lora
from lora_lab.lessons.full_or_lora import kept_at_equal
from lora_lab.lessons.labels import collate_answers, train_model
from lora_lab.maths.lora import LoRALinear
from lora_lab.models.bases import Base, load_base
from lora_lab.records import Verdict
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import load_task

# --- LoRA that is full fine-tuning --------------------------------------------------------------

Parts = tuple[Tensor, Tensor, float, str | tuple[str, ...]]
PARTS = ("lora_A", "lora_B")


def _lora_as_full(weight: Tensor) -> Parts:
    """A, B, alpha and what is trained, so that LoRA's steps are those of full fine-tuning.

    `weight` is W (out, in). Gives lora_A (r, in), lora_B (out, r), lora_alpha, and the names of
    what is trained: "lora_A", "lora_B" or both.
    """
    return _parts(weight)


def _parts(
    weight: Tensor,
    r: Callable[[int, int], int] = lambda outs, ins: ins,
    alpha: float | None = None,
    start: Callable[[int, int], Tensor] = torch.eye,
    trained: tuple[str, ...] = ("lora_B",),
    at_zero: bool = True,
) -> Parts:
    """The right parts; each argument turns them into a slip."""
    outs, ins = weight.shape
    rank = r(outs, ins)
    lora_B = torch.zeros(outs, rank) if at_zero else torch.eye(outs, rank)
    return start(rank, ins), lora_B, alpha or rank, trained


def _random(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns) / columns**0.5


def _orthogonal(rows: int, columns: int) -> Tensor:
    return torch.linalg.qr(torch.randn(columns, rows)).Q.T


STEPS, RATE = 4, 0.01


def _weights_after(function: Function, case: Case) -> dict[str, Tensor]:
    """W + ΔW at the start and after some steps of Adam on a small regression."""
    layer = _layer(nn.Linear(*case["weight"].shape[::-1], bias=False), case["weight"], function)
    optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=RATE)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, case["weight"].shape[1], generator=generator)
    wanted = torch.randn(16, case["weight"].shape[0], generator=generator)
    found = {"W + ΔW before the first step": layer.merge().weight.detach().clone()}
    for _ in range(STEPS):
        optimizer.zero_grad()
        (layer(x) - wanted).square().mean().backward()
        optimizer.step()
    found["W + ΔW after four steps of Adam"] = layer.merge().weight.detach().clone()
    return {name: (10_000 * weight).round() / 10_000 for name, weight in found.items()}


def _layer(linear: nn.Linear, weight: Tensor, function: Function) -> LoRALinear:
    """A LoRA layer around a linear layer of this weight, of the parts that a function gives."""
    linear.weight.data = weight.clone()
    answer = function(weight=weight.clone())
    if answer is None:
        raise NotImplementedError
    if not isinstance(answer, tuple | list) or len(answer) != 4:
        raise WrongAnswer("give four things: lora_A, lora_B, lora_alpha, and what is trained.")
    lora_A, lora_B, alpha, trained = answer
    names = (trained,) if isinstance(trained, str) else tuple(trained)
    if not {*names} or not {*names} <= {*PARTS}:
        raise WrongAnswer(
            f"the fourth thing says what is trained, and yours is {trained!r}; give 'lora_A', "
            "'lora_B', or both."
        )
    outs, ins = weight.shape
    for name, part in zip(PARTS, (lora_A, lora_B), strict=True):
        if not isinstance(part, Tensor) or part.ndim != 2:
            raise WrongAnswer(f"{name} isn't a matrix; A is (r, in) and B is (out, r).")
    r = lora_A.shape[0]
    if lora_A.shape[1] != ins or lora_B.shape != (outs, r):
        raise WrongAnswer(
            f"for W {outs} × {ins} you give A {tuple(lora_A.shape)} and B {tuple(lora_B.shape)}; "
            "A is (r, in) and B is (out, r), with one r."
        )
    layer = LoRALinear(linear, r, float(alpha))
    for name, part in zip(PARTS, (lora_A, lora_B), strict=True):
        getattr(layer, name).data = part.detach().float().clone()
        getattr(layer, name).requires_grad_(name in names)
    return layer


def _weights() -> Iterator[Case]:
    """A wide and a tall matrix, and a square one."""
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 5), (6, 4), (4, 4)):
        yield {"weight": torch.randn(shape, generator=generator)}


TRIAL_STEPS = 20


def _trial(function: Function) -> Verdict:
    """Train all of pocket's linear layers, in full and with the learner's LoRA."""
    base = load_base("pocket", dtype="float32")
    task = load_task("new-facts", base, n=60)
    full = copy.deepcopy(base.model).requires_grad_(False)
    for name, module in full.named_modules():
        if name.rpartition(".")[2] in NAMES:
            module.weight.requires_grad_(True)
    losses = {"full": _losses(full, base, task)}
    makers = {
        "yours": lambda linear: _layer(linear, linear.weight.data, function),
        "r 128": lambda linear: LoRALinear(linear, 128, 128),
    }
    for way, make in makers.items():
        model = copy.deepcopy(base.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            add_lora(model, NAMES, make)
        losses[way] = _losses(model, base, task)
    apart = max(abs(a - b) / a for a, b in zip(losses["full"], losses["yours"], strict=True))
    if not apart < 0.01:
        return Verdict(
            False,
            f"But when it trains pocket for {TRIAL_STEPS} steps, its loss is up to {apart:.0%} "
            "away from full fine-tuning's.",
        )
    ends = {way: f"{found[-1]:.3f}" for way, found in losses.items()}
    return Verdict(
        True,
        f"Training pocket with it gives full fine-tuning's loss at each of {TRIAL_STEPS} steps: "
        f"{ends['yours']} and {ends['full']} nats at the end. A usual LoRA of rank 128, whose A is "
        f"random and trained, ends at {ends['r 128']} with the same learning rate.",
    )


def _losses(model: nn.Module, base: Base, task: Task) -> Sequence[float]:
    return train_model(model, base, task, collate_answers, TRIAL_STEPS).losses


lora_as_full = Exercise(
    _lora_as_full,
    _weights,
    slips={
        "the rank is high enough, but A is random, so ΔW takes other steps than W would. Which A "
        "passes each input on as it is?": functools.partial(_parts, start=_random),
        "A is orthogonal: it keeps lengths but turns the inputs, and Adam's step depends on the "
        "axes. Which A leaves inputs as they are?": functools.partial(_parts, start=_orthogonal),
        "A and B are both trained, so ΔW = BA moves with each of them; freeze the one that starts "
        "as the identity": (functools.partial(_parts, trained=PARTS)),
        "the matrix that is 0 is frozen, so ΔW stays 0; train that one": (
            functools.partial(_parts, trained=("lora_A",))
        ),
        "alpha is 16 for every matrix, so the factor alpha / r is not 1, and steps are larger or "
        "smaller than in full; which alpha gives 1?": (functools.partial(_parts, alpha=16.0)),
        "alpha is 1, so the factor in front of BA is 1 / r, and steps are r times smaller than in "
        "full; which alpha gives 1?": (functools.partial(_parts, alpha=1.0)),
        "the rank is too low: BA can't be every change of W": (
            functools.partial(_parts, r=lambda outs, ins: min(outs, ins) - 1)
        ),
        "W + ΔW must be W before the first step, so BA has to start at zero": (
            functools.partial(_parts, at_zero=False)
        ),
    },
    ask=_weights_after,
    trial=_trial,
)

# --- at equal new facts -------------------------------------------------------------------------


def _kept_at(points: list[tuple[float, float]], new: float) -> float:
    """The share of old facts kept where `new` of the new facts are learned, between two rates.

    `points` holds (new facts right, old facts kept) at each rate, from the lowest rate up. Take the
    first two neighbours that have `new` between them.
    """
    return kept_at_equal(points, new)


def _paths() -> Iterator[Case]:
    """Between two points, on a point, near the end, and on a path that turns back."""
    path = [(0.2, 0.99), (0.7, 0.9), (0.95, 0.6), (1.0, 0.2)]
    for new in (0.75, 0.7, 0.98):
        yield {"points": path, "new": new}
    yield {"points": [(0.5, 0.8), (0.9, 0.5), (0.6, 0.1)], "new": 0.8}


def _nearest(points: list[tuple[float, float]], new: float) -> float:
    return min(points, key=lambda point: abs(point[0] - new))[1]


def _first_above(points: list[tuple[float, float]], new: float) -> float:
    return next(old for right, old in points if right >= new)


def _halfway(points: list[tuple[float, float]], new: float) -> float:
    pairs = zip(points[:-1], points[1:], strict=True)
    return next((old + next_old) / 2 for (_, old), (right, next_old) in pairs if right >= new)


kept_at = Exercise(
    _kept_at,
    _paths,
    slips={
        "this takes the nearest point, which has learned more or less than `new`; go along the "
        "line between two points": _nearest,
        "this takes the first point that has learned at least `new`, and such a point keeps too "
        "little; go along the line between two points": _first_above,
        "this goes halfway between the two points, wherever `new` lies; go as far along the line "
        "as `new` does": _halfway,
        "this takes the last crossing where the path turns back; take the first from the lowest "
        "rate up, and leave the points in their order": (
            lambda points, new: kept_at_equal(points[::-1], new)
        ),
        "this returns the share of new facts; return the share of old facts": (
            lambda points, new: new
        ),
    },
)

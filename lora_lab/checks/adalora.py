"""Checks for notebook 08, AdaLoRA: a training step that allocates, and who keeps how much."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.pruning import little_model, train_by_steps, what_is_left
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate

# --- a training step ------------------------------------------------------------------------

Batch = Mapping[str, Tensor]


def _adalora_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int
) -> float:
    """One training step of a PEFT model with AdaLoRA: it learns, and allocates. Gives the loss.

    The loss is model(**batch).loss, and what is given is its number. Steps count from 1.
    """
    return _stepped("backward step allocate clear")(model, optimizer, batch, step)


def _stepped(parts: str, first: int = 1) -> Function:
    """A step that does these parts in this order, where steps are counted from `first`."""

    def take(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
        loss = model(**batch).loss
        acts = {
            "backward": loss.backward,
            "step": optimizer.step,
            "allocate": lambda: model.base_model.update_and_allocate(step - 1 + first),
            "clear": optimizer.zero_grad,
        }
        for part in parts.split():
            acts[part]()
        return loss.item()

    return take


def _little_models() -> Iterator[Case]:
    """Two models of other widths, with other schedules; `step` is the last one."""
    for width, init_r, steps in ((4, 3, 8), (6, 4, 11)):
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(width)
            recipe = Recipe(method="adalora", init_r=init_r, target_r=1, steps=steps)
            model = little_model(width, recipe)
            batch = {"x": torch.randn(16, width), "y": torch.randn(16, width)}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=3e-2)
        yield {"model": model, "optimizer": optimizer, "batch": batch, "step": steps}


def _all_steps(function: Function, case: Case) -> dict[str, object] | None:
    """What a function's steps lead to, from the first one to the case's."""
    losses = [function(**case | {"step": step}) for step in range(1, case["step"] + 1)]
    if None in losses:
        return None
    named = case["model"].named_parameters()
    left = {name: int((values != 0).sum()) for name, values in named if "lora_E" in name}
    return {"triplets left": sum(left.values()), "by layer": left, "losses": losses}


TRIAL = Recipe(
    method="adalora",
    init_r=6,
    target_r=1,
    lora_alpha=16,
    steps=60,
    batch_size=8,
    learning_rate=3e-2,
)


def _trial(function: Function) -> Verdict:
    """Let the learner's step train pocket on new facts."""
    base = load_base("pocket", dtype="float32")
    facts = replace(load_task("new-facts", base, n=40), old_knowledge=(), strangers=())
    trained = train_by_steps(base, facts, TRIAL, function)
    left = what_is_left(trained.model)
    count, knows = left["triplets left"], evaluate(trained, facts)
    said = (
        f"Pocket trained with it for {TRIAL.steps} steps: {count} of 168 triplets are left, and it "
        f"knows {knows.value:.0%} of 40 new facts. The file has {left['numbers in the file']:,} of "
        f"the {left['numbers trained']:,} numbers that were trained."
    )
    return Verdict(count == 28, said if count == 28 else f"{said} 28 should be left.")


adalora_step = Exercise(
    _adalora_step,
    _little_models,
    slips={
        "nothing is pruned here, and PEFT says nothing: call model.base_model.update_and_allocate"
        "(step)": _stepped("backward step clear"),
        "the allocator comes before the optimizer here, which then moves the masked λ off 0": (
            _stepped("backward allocate step clear")
        ),
        "the gradients are gone when the allocator asks for them: clear them last": (
            _stepped("backward step clear allocate")
        ),
        "the gradients are never cleared, so each step adds to those before": (
            _stepped("backward step allocate")
        ),
        "the optimizer's step is missing: nothing is trained": _stepped("backward allocate clear"),
        "the allocator counts steps from 1, and here it is one behind": (
            _stepped("backward step allocate clear", first=0)
        ),
        "the allocator is one step ahead: give it the step as it is": (
            _stepped("backward step allocate clear", first=2)
        ),
    },
    ask=_all_steps,
    trial=_trial,
)

# --- allocate a budget ----------------------------------------------------------------------

Scores = Mapping[str, list[float]]


def _share_out(scores: Scores, budget: int) -> dict[str, int]:
    """The rank of each matrix when the `budget` most important triplets of all matrices are kept.

    `scores` holds, by matrix, the importance of each of its triplets.
    """
    kept = _ranked(scores)[:budget]
    return _ranks_left(scores, kept)


def _ranked(scores: Scores) -> list[float]:
    """The importance of all triplets together, the greatest first."""
    return sorted((score for triplets in scores.values() for score in triplets), reverse=True)


def _ranks_left(scores: Scores, kept: list[float]) -> dict[str, int]:
    return {name: sum(score in kept for score in triplets) for name, triplets in scores.items()}


def _share_cases() -> Iterator[Case]:
    yield {
        "scores": {"q": [0.1, 0.4, 0.2], "v": [0.9, 0.8, 0.7], "up": [0.6, 0.05, 0.5]},
        "budget": 5,
    }
    yield {
        "scores": {"q": [0.01, 0.02], "k": [0.3, 0.04], "down": [5.0, 0.25, 0.5, 0.75]},
        "budget": 4,
    }
    yield {
        "scores": {"gate": [3.0, 1.0, 2.0, 1.5], "o": [2.5, 0.5, 0.25, 2.25], "k": [0.75, 0.125]},
        "budget": 6,
    }


def _keeping(kept: Callable[[list[float], int], list[float]]) -> Function:
    """The ranks where other triplets are kept: a function of (all, ranked; the budget)."""
    return lambda scores, budget: _ranks_left(scores, kept(_ranked(scores), budget))


def _by_matrix(worth: Callable[[list[float]], float]) -> Function:
    """A slip: each matrix as a whole gets a share of the budget, rounded."""

    def slip(scores: Scores, budget: int) -> dict[str, int]:
        total = sum(worth(triplets) for triplets in scores.values())
        return {name: round(budget * worth(triplets) / total) for name, triplets in scores.items()}

    return slip


share_out = Exercise(
    _share_out,
    _share_cases,
    slips={
        "every matrix gets an equal share here: that is LoRA; in AdaLoRA they compete": (
            lambda scores, budget: dict.fromkeys(scores, budget // len(scores))
        ),
        "the budget is shared out by each matrix's total; it is the single triplets that compete": (
            _by_matrix(sum)
        ),
        "the budget is shared out by each matrix's best triplet; all of them compete": (
            _by_matrix(max)
        ),
        "the least important are kept here": _keeping(lambda ranked, budget: ranked[-budget:]),
        "one too many is kept: count those above the first that must go": (
            _keeping(lambda ranked, budget: ranked[: budget + 1])
        ),
        "the budget is what is kept, not what is masked": (
            _keeping(lambda ranked, budget: ranked[: len(ranked) - budget])
        ),
        "the budget is for all matrices together, not for each": (
            lambda scores, budget: {
                name: min(budget, len(triplets)) for name, triplets in scores.items()
            }
        ),
        "a matrix that keeps nothing has rank 0, and is in the answer": (
            lambda scores, budget: {
                name: rank for name, rank in _share_out(scores, budget).items() if rank
            }
        ),
        "give how many are kept, not which": (
            lambda scores, budget: {
                name: [score for score in triplets if score in _ranked(scores)[:budget]]
                for name, triplets in scores.items()
            }
        ),
    },
)

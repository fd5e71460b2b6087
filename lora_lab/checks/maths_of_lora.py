"""Checks for notebook 03, The maths of LoRA: layers put into a model, first gradients."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons import by_hand
from lora_lab.maths.lora import LoRALinear
from lora_lab.models.bases import load_base
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task

# --- layers put into a model ----------------------------------------------------------------


def _add_lora(
    model: nn.Module, names: tuple[str, ...], make_layer: Callable[[nn.Linear], nn.Module]
) -> None:
    """Freeze a model, and put `make_layer(linear)` in the place of each linear layer so named."""
    by_hand.add_lora(model, names, make_layer)


def _make_layer(linear: nn.Linear) -> LoRALinear:
    return LoRALinear(linear, r=2, lora_alpha=4)


def _models() -> Iterator[Case]:
    """Two models of two blocks: a name in the first, two names in the second."""
    for names in (("q_proj",), ("v_proj", "up_proj")):
        with torch.random.fork_rng(devices=[]):
            blocks = [
                nn.ModuleDict(
                    {
                        "attention": nn.ModuleDict(
                            {name: nn.Linear(6, 6) for name in ("q_proj", "v_proj")}
                        ),
                        "norm": nn.LayerNorm(6),
                        "up_proj": nn.Linear(6, 9, bias=False),
                    }
                )
                for _ in range(2)
            ]
            model = nn.ModuleDict(
                {
                    "embed_tokens": nn.Embedding(11, 6),
                    "layers": nn.ModuleList(blocks),
                    "lm_head": nn.Linear(6, 11, bias=False),
                }
            )
        yield {"model": model, "names": names, "make_layer": _make_layer}


def _parameters_after(function: Function, case: Case) -> dict[str, str]:
    """Each parameter of the model after a call: its shape, and whether it is trained."""
    function(**case)
    return {
        name: f"{tuple(parameter.shape)}, {'trained' if parameter.requires_grad else 'frozen'}"
        for name, parameter in case["model"].named_parameters()
    }


def _puts_in(is_chosen: Callable[[str, tuple[str, ...]], bool]) -> Function:
    """A slip: the layers whose names are chosen are replaced, by (name, names)."""

    def slip(model: nn.Module, names: tuple[str, ...], make_layer: Function) -> None:
        model.requires_grad_(False)
        chosen = [
            (name, module)
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and is_chosen(name, names)
        ]
        for name, module in chosen:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make_layer(module))

    return slip


def _freezes_nothing(model: nn.Module, names: tuple[str, ...], make_layer: Function) -> None:
    _add_lora(model, names, make_layer)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("base_layer" not in name)


def _freezes_last(model: nn.Module, names: tuple[str, ...], make_layer: Function) -> None:
    _add_lora(model, names, make_layer)
    model.requires_grad_(False)


def _puts_at_the_top(model: nn.Module, names: tuple[str, ...], make_layer: Function) -> None:
    model.requires_grad_(False)
    for name, module in [*model.named_modules()]:
        if name.rpartition(".")[2] in names:
            setattr(model, name.rpartition(".")[2], make_layer(module))


TRIAL_STEPS = 30  # of pocket, about 2 seconds each training


def _trial(function: Function) -> Verdict:
    """Train pocket with layers that the learner's function puts in, and with PEFT's."""
    base = load_base("pocket", dtype="float32")
    facts = load_task("new-facts", base, n=60)
    trained = by_hand.train_by_hand(base, facts, add=function, steps=TRIAL_STEPS)
    own, peft = trained.own, trained.peft
    if not trained.difference < 1e-3:
        return Verdict(
            False,
            f"But pocket trained with it ends at {own.losses[-1]:.3f} nats, and with PEFT at "
            f"{peft.losses[-1]:.3f}: what is trained, or where, differs in a whole model.",
        )
    return Verdict(
        True,
        f"Pocket has {trained.layers} such layers now, and learned for {TRIAL_STEPS} steps: the "
        f"loss falls from {own.losses[0]:.2f} to {own.losses[-1]:.3f}, with PEFT from "
        f"{peft.losses[0]:.2f} to {peft.losses[-1]:.3f}; {own.right} and {peft.right} of "
        f"{len(own.wanted)} new facts are right.",
    )


add_lora = Exercise(
    _add_lora,
    _models,
    slips={
        "nothing in the model changed: a new value of the loop's variable stays outside; use "
        "setattr(parent, name, layer)": lambda model, names, make_layer: None,
        "all is frozen, but no layer stands in the model: use setattr(parent, name, layer)": (
            lambda model, names, make_layer: model.requires_grad_(False)
        ),
        "embeddings, norms and output layer are still trained: freeze the whole model first": (
            _freezes_nothing
        ),
        "lora_A and lora_B are frozen too: freeze the model before you put the layers in": (
            _freezes_last
        ),
        "every linear layer got one, whatever its name; take those alone whose last part is in "
        "names": _puts_in(lambda name, names: True),
        "only the first block got them: go through all modules": (
            _puts_in(lambda name, names: "layers.1" not in name and name.split(".")[-1] in names)
        ),
        "the layers stand at the top of the model, where nothing calls them: a layer belongs into "
        "its parent, model.get_submodule(name.rpartition('.')[0])": _puts_at_the_top,
    },
    ask=_parameters_after,
    trial=_trial,
)

# --- the first gradients --------------------------------------------------------------------


def _random(shapes: dict[str, tuple[int, int]], count: int = 3) -> Iterator[dict[str, Tensor]]:
    """Tensors of these shapes, float64, with positive and negative numbers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }


def _lora_gradients(
    x: Tensor, grad_y: Tensor, lora_A: Tensor, lora_B: Tensor, lora_alpha: float
) -> tuple[Tensor, Tensor]:
    """dL/dA (r, in) and dL/dB (out, r), from the inputs x (batch, in) and dL/dy (batch, out)."""
    scaling = lora_alpha / lora_A.shape[0]
    grad_A = scaling * lora_B.T @ grad_y.T @ x  # (r, out) @ (out, batch) @ (batch, in)
    grad_B = scaling * grad_y.T @ x @ lora_A.T  # (out, batch) @ (batch, in) @ (in, r)
    return grad_A, grad_B


def _gradient_cases() -> Iterator[Case]:
    """Step 0, where lora_B is zero, then two steps at which it is not."""
    shapes = {"x": (2, 7), "grad_y": (2, 5), "lora_A": (3, 7), "lora_B": (5, 3)}
    for step, tensors in enumerate(_random(shapes)):
        start = {} if step else {"lora_B": torch.zeros_like(tensors["lora_B"])}
        yield tensors | start | {"lora_alpha": 4.0}


def _changed_gradients(change: Function) -> Function:
    """A slip: the right gradients, changed by a function of (grad_A, grad_B, case)."""
    return lambda **case: change(*_lora_gradients(**case), case)


lora_gradients = Exercise(
    _lora_gradients,
    _gradient_cases,
    slips={
        "both are zero here; dL/dB is not, even at step 0: it needs A, which is not zero": (
            _changed_gradients(lambda A, B, case: (A * 0, B * 0))
        ),
        "dL/dA is always zero here; it is so at step 0 alone, since Bᵀ is a factor of it": (
            _changed_gradients(lambda A, B, case: (A * 0, B))
        ),
        "the scaling is missing: it stands before B A, so before both gradients": (
            _changed_gradients(
                lambda A, B, case: (A / (case["lora_alpha"] / 3), B / (case["lora_alpha"] / 3))
            )
        ),
        "they are the wrong way round: first dL/dA, then dL/dB": (
            _changed_gradients(lambda A, B, case: (B, A))
        ),
        "both are transposed: a gradient has its parameter's shape": (
            _changed_gradients(lambda A, B, case: (A.T, B.T))
        ),
        "this is the mean over the batch; dL/dy holds that mean already, so sum": (
            _changed_gradients(lambda A, B, case: (A / len(case["x"]), B / len(case["x"])))
        ),
        "this goes uphill: the gradients are those of L, and the optimizer puts the minus": (
            _changed_gradients(lambda A, B, case: (-A, -B))
        ),
    },
)

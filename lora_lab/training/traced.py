"""The loss and gradients of a batch: by torch, or by ONNX Runtime from a traced graph.

Both give the same numbers up to rounding; the graph takes about two thirds of the time of a small
model on a CPU.
"""

import hashlib
import json
import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lora_lab.machine.devices import SMALL
from lora_lab.machine.resources import processor
from lora_lab.models.adapters import adapt
from lora_lab.models.architecture import adapted_matrices, layer_of
from lora_lab.models.bases import Base, read_part
from lora_lab.models.built_in import base_folder
from lora_lab.models.lean import FrozenLayers
from lora_lab.models.read_architecture import modules_of
from lora_lab.places import cache_folder, cached_value, sha256_of, write_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.tasks.examples import IGNORED
from lora_lab.tasks.losses import labelled_places, loss_of_batch
from lora_lab.training.graphs import architecture_of, gradients_graph
from lora_lab.training.sessions import VARIABLE, DamagedGraph, new_session, put_away

if TYPE_CHECKING:
    from lora_lab.training.sessions import InferenceSession

STEPS = ("auto", "torch", "traced")
GRAPH = "gradients.onnx"  # beside pocket's folder of weights, and made by make_graph.py there
EQUAL = 1e-4  # how far, relatively, loss and gradients may be from torch's
LONGEST = 128  # tokens: the graph's attention keeps tokens², and takes as long as torch at 256
SESSIONS = 4  # the sessions used last are kept, about 12 MB each for pocket


# --- the two ways -------------------------------------------------------------------------------


class TorchGradients:
    """The loss and gradients of a batch, by torch's autograd."""

    about = ""  # a run's `about` mentions only the other way

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None = None,
        frozen: FrozenLayers | None = None,
    ) -> None:
        self.model, self.teacher, self.frozen = model, teacher, frozen

    def add(self, batch: dict[str, Tensor], labels: int) -> Tensor:
        """Add a batch's gradients to those of the model's parameters.

        Args:
            batch: `input_ids`, `attention_mask`, `labels`, each (batch, tokens).
            labels: the number of labels in the whole step, of which the batch may be a part.

        Returns:
            What the batch adds to the step's mean loss, in nats: a number, on the device.
        """
        summed, _ = loss_of_batch(self.model, batch, self.teacher, self.frozen)
        loss = summed / labels
        loss.backward()
        return loss.detach()


class TracedGradients:
    """The loss and gradients of a batch, by ONNX Runtime from a traced graph.

    The session holds the base's weights.
    """

    def __init__(self, model: nn.Module, session: "InferenceSession") -> None:
        self.about = f"steps traced, run by ONNX Runtime {version('onnxruntime')}"
        self._session = session
        modules = json.loads(session.get_modelmeta().custom_metadata_map["modules"])
        layers = [_lora_layer(model, name) for name in modules]
        self._ins, self._outs = zip(*modules.values(), strict=True)
        (r,) = {layer.r["default"] for layer in layers if layer is not None}
        self._A = torch.zeros(r, sum(self._ins))  # zero for a module without an adapter
        self._B = torch.zeros(sum(self._outs), r)
        self._scale = torch.tensor([layer.scaling["default"] if layer else 0.0 for layer in layers])
        self._parameters = [
            (layer.lora_A["default"].weight, layer.lora_B["default"].weight) if layer else None
            for layer in layers
        ]

    @torch.no_grad()
    def add(self, batch: dict[str, Tensor], labels: int) -> Tensor:
        """As `TorchGradients.add`."""
        for parameters, *parts in self._parts(self._A, self._B):
            for part, parameter in zip(parts, parameters, strict=True):
                part.copy_(parameter)
        places, wanted = labelled_places(batch)
        inputs = {
            "A": self._A,
            "B": self._B,
            "scale": self._scale,
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "places": places,
            "labels": wanted,
            "weight": torch.tensor(1 / labels),
        }
        outputs = self._session.run(None, {name: value.numpy() for name, value in inputs.items()})
        loss, *gradients = map(torch.as_tensor, outputs)
        for parameters, *parts in self._parts(*gradients):
            for part, parameter in zip(parts, parameters, strict=True):
                # laid out as the parameter, which torch's fused AdamW takes for granted
                own = part.clone(memory_format=torch.contiguous_format)
                parameter.grad = own if parameter.grad is None else parameter.grad + own
        return loss

    def _parts(
        self, A: Tensor, B: Tensor
    ) -> Iterator[tuple[tuple[nn.Parameter, nn.Parameter], Tensor, Tensor]]:
        """An adapted module's parameters, and its parts of A (r, ins) and of B (outs, r)."""
        parts = zip(self._parameters, A.split(self._ins, 1), B.split(self._outs, 0), strict=True)
        return (part for part in parts if part[0] is not None)


def _lora_layer(model: nn.Module, name: str) -> nn.Module | None:
    """PEFT's layer around a module of the base; None: the module has no adapter."""
    module = model.get_base_model().get_submodule(name)
    return module if hasattr(module, "lora_A") else None


# --- the choice between the two -----------------------------------------------------------------


def gradients_for(
    base: Base,
    recipe: Recipe,
    model: nn.Module,
    longest: int,
    teacher: nn.Module | None = None,
    frozen: FrozenLayers | None = None,
) -> TorchGradients | TracedGradients:
    """The way to a batch's gradients: traced where that is possible, equal and faster; else torch.

    LORA_LAB_STEP=torch always takes torch. LORA_LAB_STEP=traced also takes a graph that is not
    faster, and makes the graph if the architecture has none.

    Args:
        base: with the weights to train on.
        recipe: what the model was made with.
        model: from `adapt(base, recipe)`.
        longest: how many tokens the longest example has.
        teacher: of a planted task.
        frozen: the model's layers below its lowest adapter, whose outputs torch keeps.

    Raises:
        ValueError: for another LORA_LAB_STEP.
        ImportError: if LORA_LAB_STEP=traced needs a library that is not installed.
    """
    step = chosen_step()
    short = longest <= LONGEST
    if step != "torch" and teacher is None and short and _is_traceable(base, recipe):
        session = session_for(base, step)
        if session is not None:
            return TracedGradients(model, session)
    return TorchGradients(model, teacher, frozen)


def choose_before_workers(base: Base, recipes: Sequence[Recipe]) -> None:
    """Make the graph and the comparison once, before worker processes would each make them.

    Each worker could choose differently, and their records would then differ in the last digits.
    """
    step = chosen_step()
    if step != "torch" and any(_is_traceable(base, recipe) for recipe in recipes):
        session_for(base, step)


def chosen_step() -> str:
    """The value of LORA_LAB_STEP; "auto" if it is not set.

    Raises:
        ValueError: if it is none of STEPS.
    """
    step = os.environ.get(VARIABLE) or "auto"
    if step not in STEPS:
        raise ValueError(
            f"{VARIABLE}={step!r} isn't a way to take a step; {nearest(step, STEPS)}"
            f"give {', '.join(map(repr, STEPS))}, or leave it unset"
        )
    return step


def _is_traceable(base: Base, recipe: Recipe) -> bool:
    """Whether the graph computes what torch would compute, and saves time.

    Torch's backward pass ends at the lowest adapted layer, the graph's at the first layer. So torch
    is as fast where only the upper half of the layers is adapted.
    """
    from transformers import LlamaForCausalLM

    if type(base.model) is not LlamaForCausalLM or base.model.config.attention_dropout:
        return False
    plain_lora = recipe.method == "lora" and not (
        recipe.use_dora
        or recipe.lora_dropout
        or recipe.quantize
        or recipe.gradient_checkpointing
        or recipe.modules_to_save
        or recipe.changes_the_base
    )
    on_cpu = base.device.type == "cpu" and base.dtype == torch.float32
    if not plain_lora or not on_cpu or base.quantization or base.parameters >= SMALL:
        return False
    modules = modules_of(base.model, base.name)
    matrices = adapted_matrices(modules, recipe)
    lowest = min(layer_of(matrix.name) or 0 for matrix in matrices)
    watched = any(each._forward_hooks or each._forward_pre_hooks for each in base.model.modules())
    return (
        all(matrix.kind == "linear" for matrix in matrices)
        and lowest < modules.num_layers / 2
        and not watched  # a graph calls no hooks
    )


class Unequal(ArithmeticError):
    """A graph's numbers differ from torch's."""


# --- sessions -----------------------------------------------------------------------------------


_sessions: OrderedDict[tuple[Path, str], "InferenceSession"] = OrderedDict()  # the last used last
_lock = threading.RLock()


def session_for(base: Base, step: str = "auto") -> "InferenceSession | None":
    """ONNX Runtime, ready to give the gradients on a base; None: torch is to give them.

    A session is made for the weights as they are now (0.2 s), and kept for the next call.

    Args:
        base: a Llama in float32 on the CPU.
        step: "auto", or "traced": see `gradients_for`.
    """
    graph = _graph_of(base, step)
    if graph is None:
        return None
    key = graph, _digest(base.model)
    try:
        with _lock:
            try:
                session = _sessions.pop(key, None) or new_session(graph, base.model)
            except DamagedGraph as error:
                put_away(graph, error)
                return session_for(base, step)  # made anew, or torch takes the steps
            _sessions[key] = session
            while len(_sessions) > SESSIONS:
                _sessions.popitem(last=False)
            faster = _speedup(base, graph, session) > 1
    except Unequal:
        return None
    except ImportError:
        if step == "traced":
            raise
        return None
    return session if faster or step == "traced" else None


def _digest(model: nn.Module) -> str:
    """The SHA-256 of the model's parameters: 3 ms for pocket."""
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(memoryview(parameter.detach().contiguous().numpy()).cast("B"))
    return digest.hexdigest()


# --- graphs -------------------------------------------------------------------------------------


def _graph_of(base: Base, step: str) -> Path | None:
    """The file with the graph of a base's architecture; None: there is none."""
    architecture = architecture_of(base.model.config)
    shipped = base_folder("pocket").with_name(GRAPH)
    if architecture == _pockets_architecture() and shipped.is_file():
        return shipped
    key = hashlib.sha256(f"{architecture} {_versions('torch', 'peft')}".encode()).hexdigest()
    path = cache_folder() / "graphs" / f"{key[:16]}.onnx"
    with _lock:
        if path.is_file():
            return path
        if step != "traced":
            return None
        warnings.warn(
            f"the training step of {base.name} is traced, once: that takes a minute or more",
            stacklevel=2,
        )
        graph = gradients_graph(base)
        with write_atomically(path) as new:
            new.write_bytes(graph)
    return path


@lru_cache(maxsize=1)
def _pockets_architecture() -> str:
    return architecture_of(read_part(base_folder("pocket"), "config", "pocket"))


def _speedup(base: Base, graph: Path, session: "InferenceSession") -> float:
    """How many times as fast as torch a graph is on this machine.

    It is measured once (1 s) on 16 rows of 24 tokens, and kept in the cache for this processor.

    Raises:
        Unequal: if its numbers are not torch's; this is not kept.
    """

    def measured() -> float:
        model = adapt(base, Recipe())
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        generator = torch.Generator().manual_seed(0)
        for parameter in trained:  # B starts at 0, and then A has no gradient
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
        ids = torch.randint(base.model.config.vocab_size, (16, 24), generator=generator)
        labels = ids.clone()
        labels[:, :18] = labels[0] = IGNORED
        labels[0, 5:] = ids[0, 5:]  # a row with labels at other places
        mask = torch.ones_like(ids)
        mask[1, 20:] = 0
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        ways = TorchGradients(model), TracedGradients(model, session)
        seconds: tuple[list[float], list[float]] = ([], [])
        results: tuple[list[Tensor], list[Tensor]] = ([], [])
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for _ in range(6):  # the first warms up; in turn, so that both meet a busy moment
                for way, times, result in zip(ways, seconds, results, strict=True):
                    model.zero_grad()
                    start = time.thread_time()
                    loss = way.add(batch, 100)
                    times.append(time.thread_time() - start)
                    result[:] = [loss, *(each.grad for each in trained)]
        finally:
            torch.set_num_threads(threads)
        for theirs, ours in zip(*results, strict=True):
            difference = ((theirs - ours).norm() / theirs.norm()).item()
            if not difference <= EQUAL:
                raise Unequal(f"{graph} differs from torch by {difference:.1g}")
        return min(seconds[0]) / min(seconds[1])

    key = "traced", sha256_of(graph), processor(), _versions("torch", "onnxruntime")
    return cached_value("speeds", key, float, measured)


def _versions(*packages: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("transformers", *packages))

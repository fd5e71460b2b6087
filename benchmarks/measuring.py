"""The memory that training really holds: each storage that torch makes or frees is counted.

`measure` runs two steps of the real loop. In the second step, when the optimizer has its state, it
counts all live storages, by part. `peaks_of_run` asks the allocator itself, step by step. Both see
only torch's memory, so torch takes the steps. Both measure the model's own forward pass, which the
estimates describe; with `lean=True` they measure the lean forward pass.
"""

import gc
import os
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

import lora_lab as lab
from lora_lab.cost.budget import Batch
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.records import Memory
from lora_lab.tasks.examples import IGNORED, Example, Task
from lora_lab.training import loop, traced


@dataclass(frozen=True)
class Measured:
    """A step's memory, and the batch of its last pass."""

    memory: Memory
    saved: int  # activations and logits once the loss is computed, before anything is freed
    batch: Batch


class Live(TorchDispatchMode):
    """The bytes of all live storages, each under the part of the step that made it.

    A storage counts once, however many tensors look at it. Buffers inside a kernel aren't seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = ""  # what is made from now on belongs to it
        self.gradients: set[torch.Size] = set()  # unless it has the shape of a gradient
        self.now: Counter[str] = Counter()  # bytes by part
        self.most: Counter[str] = Counter()  # of each part, at any moment
        self.peak = 0  # of all parts together
        self._storages: dict[int, tuple[str, int]] = {}  # a storage's place: its part, its bytes

    def knows(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def add(self, tensor: torch.Tensor, part: str) -> None:
        """Count a tensor's storage under a part; a storage that is known already moves there."""
        storage = tensor.untyped_storage()
        if self.knows(tensor):
            before, size = self._storages[storage._cdata]
            self.now[before] -= size
        else:
            size = storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata)
        self._storages[storage._cdata] = part, size
        self.now[part] += size
        self.most[part] = max(self.most[part], self.now[part])
        self.peak = max(self.peak, self.now.total())

    def _forget(self, place: int) -> None:
        part, size = self._storages.pop(place)
        self.now[part] -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.index_put.default and not args[0].any():
            func = torch.ops.aten.index_put_.default  # as the way back does it without a mode
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not self.knows(tensor):
                self.add(tensor, "gradients" if tensor.shape in self.gradients else self.part)
        return result


def measure(base, task, recipe, lean=False) -> Measured:
    """The memory of the second of two steps of `lab.train(base, task, recipe)`."""
    live, trained = Live(), "weights" if recipe.method == "full" else "adapters"
    no_tracing = mock.patch.object(loop, "check_fits")  # it traces a step of its own
    with live, no_tracing, torch_steps() if lean else own_forward():
        live.part = trained  # with all copies that the loop makes of what it trains
        for tensor in tensors_of(base.model):
            live.add(tensor, "weights")
        training = lab.train(base, task, replace(recipe, steps=max(2, recipe.steps)))
        for tensor in tensors_of(training.model):
            if not live.knows(tensor):
                live.add(tensor, trained)  # a copy that torch made behind this mode's back
        steps = iter(training)
        next(steps)
        for state in training.optimizer.state.values():
            for tensor in state.values():
                if isinstance(tensor, torch.Tensor):
                    live.add(tensor, "optimizer")
        with parts_named(live, training) as measured:
            live.most, live.peak = live.now.copy(), live.now.total()
            next(steps)
    parts = {part: live.most[part] for part in Memory.__slots__ if part != "total"}
    return Measured(Memory(**parts, total=live.peak), **measured)


def torch_steps():
    """A block in which torch takes every step."""
    return mock.patch.dict(os.environ, {traced.VARIABLE: "torch"})


@contextmanager
def own_forward():
    """A block in which every model uses its own forward pass."""
    with torch_steps(), mock.patch("lora_lab.models.read_llama.read", return_value=None):
        yield


def peaks_of_run(base, task, recipe) -> dict[str, int]:
    """The most bytes held in each step of a whole run, by the memory allocator's own events.

    "step 0" is the time before the first step.
    """

    def train():
        with record_function("step 0"):
            steps = iter(lab.train(base, task, recipe))
        for number in range(1, recipe.steps + 1):
            with record_function(f"step {number}"):
                next(steps)

    with own_forward():
        return peaks_of(train, base.model)


def peaks_of(train, model) -> dict[str, int]:
    """The most bytes held in each step that `train` names; the model itself counts too."""
    gc.collect()
    now = sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors_of(model)}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train()
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    peaks: dict[str, int] = {}
    step = None
    for event in events:
        if event.name().startswith("step "):
            step = event.name()
        elif event.name() == "[memory]":
            now += event.nbytes()
            if step:
                peaks[step] = max(peaks.get(step, 0), now)
    return peaks


@contextmanager
def parts_named(live: Live, training) -> Iterator[dict]:
    """Set `live.part` to the part of the step that the real loop is in, while it runs."""
    measured: dict = {}
    real = traced.loss_of_batch
    output = training.model.get_output_embeddings()
    trained = [weight for weight in training.model.parameters() if weight.requires_grad]

    def loss_of_batch(model, batch, *others):
        live.part, live.gradients = "activations", set()
        result = real(model, batch, *others)
        measured["saved"] = live.now["activations"] + live.now["logits"]
        measured["batch"] = sizes_of(batch)
        live.gradients = {weight.shape for weight in trained if weight.ndim > 1}  # on the way back
        live.gradients |= {shape[::-1] for shape in live.gradients}
        return result

    def before_the_output(module, inputs):
        live.part = "logits"
        if inputs[0].requires_grad:
            inputs[0].register_hook(after_the_output)

    def after_the_output(gradient):
        live.part = "activations"

    def add_gradient(weight):
        live.add(weight.grad, "gradients")

    def before_the_update(*_):
        live.part = "update"
        live.gradients = set()

    hooks = [
        output.register_forward_pre_hook(before_the_output),
        training.optimizer.register_step_pre_hook(before_the_update),
        *(weight.register_post_accumulate_grad_hook(add_gradient) for weight in trained),
    ]
    with mock.patch.object(traced, "loss_of_batch", loss_of_batch):
        yield measured
    for hook in hooks:
        hook.remove()


def sizes_of(batch: dict[str, torch.Tensor]) -> Batch:
    """A batch's sizes, as `lora_lab.cost.memory` takes them."""
    labelled = batch["labels"][:, 1:] != IGNORED
    return Batch(
        examples=len(labelled),
        length=batch["labels"].shape[1],
        places=int(labelled.any(dim=0).sum()),
        labels=int(labelled.sum()),
        padded=not bool(batch["attention_mask"].all()),
    )


def tensors_of(model) -> Iterator[torch.Tensor]:
    """All tensors of a model; the constants of quantised weights are found only in its state."""
    yield from model.parameters()
    yield from model.buffers()
    state = model.state_dict(keep_vars=True).values()
    yield from (tensor for tensor in state if isinstance(tensor, torch.Tensor))


# --- what to measure ------------------------------------------------------------------------

MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def random_recipe(rng, layers: int) -> Recipe:
    """A random recipe that trains on a base with `layers` layers."""
    some = tuple(sorted(rng.sample(MATRICES, rng.randint(1, 5))))
    shared = {
        "method": rng.choice(("lora", "lora", "lora", "full")),
        "batch_size": rng.choice((1, 2, 3, 5, 8, 13, 21)),
        "gradient_accumulation_steps": rng.choice((1, 1, 1, 2)),
        "gradient_checkpointing": rng.random() < 0.3,
        "optimizer": rng.choice(("adamw", "adamw", "adamw_8bit", "sgd")),
        "loss_on": rng.choice(("answer", "all")),
        "steps": 2,
    }
    adapter = {
        "r": rng.choice((1, 2, 5, 8, 16, 48)),
        "target_modules": rng.choice(("all-linear", ("q_proj", "v_proj"), some)),
        "layers_to_transform": rng.choice(
            (None, None, tuple(sorted(rng.sample(range(layers), rng.randint(1, layers)))))
        ),
        "lora_dropout": rng.choice((0.0, 0.0, 0.1)),
        "use_dora": rng.random() < 0.2,
    }
    return Recipe(**shared, **(adapter if shared["method"] == "lora" else {}))


def random_lengths(rng, task: Task, recipe: Recipe) -> Task:
    """The task with each prompt repeated several times: batches of all lengths.

    If a step has several passes, they are alike, since an estimate is for a single size of pass.
    """
    longest = rng.choice((1, 2, 4, 8))
    if recipe.gradient_accumulation_steps > 1:
        example = replace(task.train[0], prompt=" ".join([task.train[0].prompt] * longest))
        return replace(task, train=[example] * len(task.train))
    examples = [
        Example(" ".join([example.prompt] * rng.randint(1, longest)), example.answer)
        for example in task.train
    ]
    return replace(task, train=examples)


def random_llama(rng, dtype: torch.dtype, tokenizer) -> Base:
    """An untrained Llama of a random shape, for a tokenizer of at most 300 tokens."""
    pairs = rng.choice((1, 2, 3))
    config = LlamaConfig(
        vocab_size=rng.choice((300, 700, 5000)),
        hidden_size=rng.choice((48, 72, 144, 264)),
        intermediate_size=rng.choice((56, 200, 360, 1000)),
        num_hidden_layers=rng.choice((1, 2, 3, 7)),
        num_attention_heads=pairs * rng.choice((1, 2, 4)),
        num_key_value_heads=pairs,
        head_dim=rng.choice((8, 24, 40)),
        attention_bias=rng.random() < 0.3,
        tie_word_embeddings=rng.random() < 0.5,
        max_position_embeddings=1024,
        pad_token_id=256,
        eos_token_id=259,
        bos_token_id=None,
    )
    model = LlamaForCausalLM(config).to(dtype).eval()
    cpu = torch.device("cpu")
    return Base("random", model, tokenizer, cpu, dtype, model.num_parameters(), Path())

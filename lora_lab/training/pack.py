"""A pack of *runs*: fine-tunes that take each step together, in one batch on one base.

Their batches are stacked into a tall batch. The base's matrices are multiplied once for all of
it, the adapters by `torch.bmm`; `maths/bank.py` shows why each computes what it would alone. A
member is still a `Training`: its model is PEFT's, and its tensors are a row of the pack's matrix.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from lora_lab.maths.bank import add_changes
from lora_lab.models.bases import Base
from lora_lab.models.quantization import share_tensors
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Encoded, Task, collate, places_of
from lora_lab.tasks.losses import losses_of_labels
from lora_lab.training.loop import Diverged, Training, threads_for
from lora_lab.training.optimizers import learning_rate_at
from lora_lab.training.run_folder import Checkpoint, RunFolder
from lora_lab.training.store import Run

LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"  # as PEFT names them


class Member(Training):
    """A fine-tune whose steps a pack takes. Everything else is as in a Training on its own."""

    def __init__(self, base: Base, task: Task, recipe: Recipe) -> None:
        super().__init__(base, task, recipe)
        self._go_on_with("")  # torch takes the pack's steps
        self.folder: RunFolder | None = None  # where the run is kept; None: nowhere
        names = [name.removesuffix(LORA_A) for name in self._trainable if name.endswith(LORA_A)]
        self.layers = tuple(name.removeprefix("base_model.model.") for name in names)
        self.lora_A = [self._trainable[name + LORA_A] for name in names]  # (r, in) each
        self.lora_B = [self._trainable[name + LORA_B] for name in names]  # (out, r) each
        self._drawn: list[list[Encoded]] = []

    @property
    def kind(self) -> tuple:
        """The properties that the members of one group share; their ranks are only similar.

        Ranks 1 to 4 go together, 5 to 16, 17 to 64, and so on. So no rank is padded to more than
        four times its own size.
        """
        similar = max(1, ((self.recipe.r - 1).bit_length() + 1) // 2)
        return self.layers, similar, self.recipe.batch_size, self.recipe.optimizer

    def examples(self) -> list[list[Encoded]]:
        """The examples of the step at hand, pass by pass; they stay until the step is recorded."""
        recipe = self.recipe
        if not self._drawn:
            self._drawn = [
                [self._encoded[next(self._order)] for _ in range(recipe.batch_size)]
                for _ in range(recipe.gradient_accumulation_steps)
            ]
        return self._drawn

    def diverged(self, loss: float, norm: float) -> Run | None:
        """The run with its last good weights, if this step's loss ends it."""
        try:
            self._check(self.step + 1, loss, norm)
        except Diverged as error:
            return error.run
        return None

    def record(self, loss: float, norm: float, seconds: float) -> StepRecord:
        """The record of the step that was just taken, added to the others."""
        step = self.step + 1
        rate = learning_rate_at(step, self.recipe)
        tokens = sum(len(example.input_ids) for example in chain(*self._drawn))
        validation_loss = self._validation_loss() if self._is_due(step) else None
        record = StepRecord(step, loss, rate, norm, tokens, validation_loss, seconds)
        self._note(record)
        self._drawn = []
        return record

    def checkpoint(self) -> Checkpoint:
        """A Training's checkpoint. A pack's optimizer counts no steps, so they are added here."""
        for state in self.optimizer.state.values():
            if "exp_avg" in state:
                state["step"] = torch.tensor(float(self.step))
        return super().checkpoint()


class Group:
    """Members of one kind, each a row of one matrix: the numbers of all its A's, then all its B's.

    A layer's stacks, (members, R, in) and (members, out, R), are views of the matrix, and each
    member's own tensors are views of its row. R is the widest rank; a narrower member is padded
    with zeros, which stay 0. So a norm, a clipping or a learning rate is one number for each row.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        first = members[0]
        self.members = members
        self.rows = len(members) * first.recipe.batch_size  # of the tall batch
        widest = max(member.recipe.r for member in members)
        self._shapes = [(widest, A.shape[1]) for A in first.lora_A]
        self._shapes += [(B.shape[0], widest) for B in first.lora_B]
        self._numbers_of_A = sum(widest * A.shape[1] for A in first.lora_A)
        self.weights, self.gradients = self._zeros(), self._zeros()
        adamw = first.recipe.optimizer == "adamw"
        self._state = {name: self._zeros() for name in ("exp_avg", "exp_avg_sq") if adamw}
        for row, member in enumerate(members):
            self._take_in(row, member)
        self.factors = [stack.requires_grad_() for stack in self._stacks(self.weights.detach())]
        self._sums = self._stacks(self.gradients)
        self.banks = self._banks()

    def _zeros(self) -> Tensor:
        like = self.members[0].lora_A[0]
        return like.new_zeros(len(self.members), sum(map(math.prod, self._shapes)))

    def _stacks(self, matrix: Tensor) -> list[Tensor]:
        """Views of a matrix: (members, R, in) for each layer, then (members, out, R) for each."""
        parts = matrix.split([math.prod(shape) for shape in self._shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _take_in(self, row: int, member: Member) -> None:
        """Copy a member's tensors and optimizer state into its row, and let it use them there."""
        tensors = [*member.lora_A, *member.lora_B]
        weights = self._stacks(self.weights)
        state = {name: self._stacks(matrix) for name, matrix in self._state.items()}
        for place, tensor in enumerate(tensors):
            own = (row, slice(tensor.shape[0]), slice(tensor.shape[1]))  # without the padding
            weights[place][own].copy_(tensor.detach())
            tensor.data = weights[place][own]
            of_tensor = member.optimizer.state[tensor] if state else {}
            for name, stacks in state.items():
                if name in of_tensor:
                    stacks[place][own].copy_(of_tensor[name])
                of_tensor[name] = stacks[place][own]

    def _banks(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """By layer: A (members, R, in), B (members, out, R) and the scalings (members, 1, 1)."""
        scaling = self.weights.new_tensor([member.recipe.scaling for member in self.members])
        layers = self.members[0].layers
        of_A, of_B = self.factors[: len(layers)], self.factors[len(layers) :]
        scaling = scaling[:, None, None]
        return {layer: (A, B, scaling) for layer, A, B in zip(layers, of_A, of_B, strict=True)}

    def add_gradients(self, gradients: Iterator[Tensor]) -> None:
        """Add a pass's gradients, as many as there are factors."""
        for total in self._sums:
            total += next(gradients)

    @torch.no_grad()
    def update(self, norms: Tensor) -> None:
        """A step of each member's optimizer, as torch's AdamW and SGD take it, after its clipping.

        Args:
            norms: of each member's gradient, (members,).
        """
        recipes = [member.recipe for member in self.members]
        steps = [member.step + 1 for member in self.members]
        rates = [learning_rate_at(*pair) for pair in zip(steps, recipes, strict=True)]
        rates_of_B = [
            rate * recipe.loraplus_lr_ratio for rate, recipe in zip(rates, recipes, strict=True)
        ]
        decay = self._column([recipe.weight_decay for recipe in recipes])
        largest = self._column([recipe.max_grad_norm for recipe in recipes])
        self.gradients *= (largest / (norms[:, None] + 1e-6)).clamp(max=1.0)
        if self._state:
            direction = self._adamw_direction(steps)
        else:
            direction = self.gradients + decay * self.weights
        for columns, rate in (
            (slice(self._numbers_of_A), self._column(rates)),
            (slice(self._numbers_of_A, None), self._column(rates_of_B)),
        ):
            if self._state:
                self.weights[:, columns] *= 1 - rate * decay
            self.weights[:, columns] -= rate * direction[:, columns]
        self.gradients.zero_()

    def _adamw_direction(self, steps: list[int]) -> Tensor:
        """Update the averages and return their ratio, corrected for their start at zero."""
        defaults = self.members[0].optimizer.defaults
        beta1, beta2 = defaults["betas"]
        mean, square = self._state["exp_avg"], self._state["exp_avg_sq"]
        mean.lerp_(self.gradients, 1 - beta1)
        square.mul_(beta2).addcmul_(self.gradients, self.gradients, value=1 - beta2)
        roots = self._column([math.sqrt(1 - beta2**step) for step in steps])
        denominator = square.sqrt().div_(roots).add_(defaults["eps"])
        return (mean / denominator).div_(self._column([1 - beta1**step for step in steps]))

    def _column(self, numbers: list[float]) -> Tensor:
        return self.weights.new_tensor(numbers)[:, None]  # (members, 1)


class PackedLinear(nn.Module):
    """A frozen linear layer under the tall batch, and each group's adapters on the group's rows."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.parts: list[tuple[int, tuple | None]] = []  # rows, and the bank of adapters on them

    def forward(self, x: Tensor) -> Tensor:
        """(rows, ..., in) -> (rows, ..., out)."""
        sizes = [rows for rows, _ in self.parts]
        if len(x) != sum(sizes):
            raise ValueError(
                f"a layer got {len(x)} rows, and the batch has {sum(sizes)}: this model orders its "
                "rows anew, so that adapters can't be matched to them; give engine='sequential'"
            )
        result = self.base_layer(x)  # the one product with the base's matrix
        pieces = [
            piece if bank is None else add_changes(piece, inputs, *bank)
            for piece, inputs, (_, bank) in zip(
                result.split(sizes), x.split(sizes), self.parts, strict=True
            )
        ]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


class Pack:
    """Members that take each step together, on a module tree that shares the base's tensors."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.model = share_tensors(base.model).train()
        self.members: list[Member] = []
        self._groups: list[Group] = []
        self._layers: dict[str, PackedLinear] = {}

    def seat(self, members: Sequence[Member]) -> None:
        """Make these the pack's members: each goes on from its own step.

        All have the same number of passes a step, and the same task.
        """
        if self.members == list(members):
            return
        kinds: dict[tuple, list[Member]] = {}
        for member in members:
            kinds.setdefault(member.kind, []).append(member)
            member._teacher = members[0]._teacher  # a planted task has one teacher for all of them
        self._groups = [Group(alike) for alike in kinds.values()]
        for name in {layer for group in self._groups for layer in group.banks} - {*self._layers}:
            self._layers[name] = PackedLinear(self.model.get_submodule(name))
            self.model.set_submodule(name, self._layers[name])
        self.members = list(members)
        self._lay_out([group.rows for group in self._groups])

    def _lay_out(self, rows: list[int]) -> None:
        """Tell each layer how many rows of the next batches are each group's."""
        for name, layer in self._layers.items():
            banks = [group.banks.get(name) for group in self._groups]
            layer.parts = [*zip(rows, banks, strict=True)]

    @property
    def in_rows(self) -> list[Member]:
        """The members in the order of their rows in the tall batch: group by group."""
        return [member for group in self._groups for member in group.members]

    @property
    def tokenizer(self) -> object:
        """The base's tokenizer."""
        return self.base.tokenizer

    @contextmanager
    def asked_evenly(self) -> Iterator[None]:
        """A block in which each member has an equal part of every batch that the model is given."""

        def lay_out(model: nn.Module, _: tuple, inputs: dict[str, Tensor]) -> None:
            each = len(inputs["input_ids"]) // len(self.members)
            self._lay_out([each * len(group.members) for group in self._groups])

        hook = self.model.register_forward_pre_hook(lay_out, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()
            self._lay_out([group.rows for group in self._groups])

    def step(self) -> dict[Member, StepRecord | Run] | None:
        """The next step of each member: its record; or the run as it was, if its loss diverged.

        A record's seconds are the member's share of the pack's. None: the batch of several members
        was too large for the memory. Then no weight has changed, and fewer members can be seated.

        Raises:
            torch.OutOfMemoryError: if a single member's batch is too large, or a validation's.
        """
        started = time.perf_counter()
        with threads_for(self.model):
            losses = self._losses_unless_too_large()
            if losses is None:
                return None
            norms = [torch.linalg.vector_norm(group.gradients, dim=1) for group in self._groups]
            numbers = torch.stack([losses, torch.cat(norms).to(losses)]).T.tolist()
            members = self.in_rows
            ended = [member.diverged(*own) for member, own in zip(members, numbers, strict=True)]
            for group, of_group in zip(self._groups, norms, strict=True):
                group.update(of_group)
            seconds = (time.perf_counter() - started) / len(members)
            results = {
                member: run or member.record(*own, seconds)
                for member, own, run in zip(members, numbers, ended, strict=True)
            }
        return {member: results[member] for member in self.members}

    def _losses_unless_too_large(self) -> Tensor | None:
        try:
            return self._losses_and_gradients()
        except torch.OutOfMemoryError:
            if len(self.members) == 1:
                raise
        return None  # outside, where the error holds no tensors any longer

    def _losses_and_gradients(self) -> Tensor:
        """Each member's mean loss, (members,), group by group; gradients are added to the groups'.

        The members' losses are summed for the way back. A member's adapters reach its own rows
        only, so its gradients are those of its own loss.
        """
        members = self.in_rows
        drawn = [member.examples() for member in members]
        labels = [sum(map(_label_count, chain(*passes))) for passes in drawn]
        total = torch.zeros(len(members), device=self.base.device)
        for batches in zip(*drawn, strict=True):  # a batch of each member
            batch = collate([*chain(*batches)], self.base.tokenizer.pad_token_id)
            losses = losses_of_labels(self.model, batch, members[0]._teacher)
            by_member = losses.split([sum(map(_label_count, examples)) for examples in batches])
            means = torch.stack(
                [own.sum() / count for own, count in zip(by_member, labels, strict=True)]
            )
            factors = [factor for group in self._groups for factor in group.factors]
            gradients = iter(torch.autograd.grad(means.sum(), factors))
            for group in self._groups:
                group.add_gradients(gradients)
            total += means.detach()
        return total


def _label_count(example: Encoded) -> int:
    return len(places_of(example))

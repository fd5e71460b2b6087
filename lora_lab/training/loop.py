"""The training loop, a generator of step records."""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from lora_lab.cost.estimates import budget_of
from lora_lab.cost.limits import check_context, check_fits
from lora_lab.machine.devices import SMALL, seeded
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import (
    about_training,
    adapt,
    adapter_tensors,
    as_trained,
    checkpoint_activations,
)
from lora_lab.models.bases import Base
from lora_lab.models.lean import frozen_layers
from lora_lab.models.learned import Learned, learned_of
from lora_lab.recipe import Recipe
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import (
    IGNORED,
    Task,
    collate,
    encode_all,
    encode_fitting,
    order_of_examples,
)
from lora_lab.tasks.losses import predicted_labels
from lora_lab.tasks.planted import teacher_model
from lora_lab.training.adalora import RankAllocation
from lora_lab.training.arguments import check_given
from lora_lab.training.early_stopping import Validations
from lora_lab.training.evaluation import mean_loss
from lora_lab.training.optimizers import learning_rate_at, make_optimizer
from lora_lab.training.run_files import DIVERGED
from lora_lab.training.run_folder import Checkpoint
from lora_lab.training.store import Run
from lora_lab.training.traced import TorchGradients, gradients_for

LOUD = 16  # lora_alpha this many times r is to blame for a divergence; 1 or 2 times is usual
GOOD_EVERY = 10  # steps between two copies of the weights to fall back on


class Diverged(ArithmeticError):
    """The loss is not a number, or far above where it began.

    `run` holds the records until then, and the last good weights: a Run to evaluate, ask and save.
    """

    def __init__(self, message: str, run: Run | None = None) -> None:
        super().__init__(message)
        self.run = run


class Training:
    """A fine-tune under way. Iterate it for records; leave the loop whenever you like.

    A later `for` goes on where the last one stopped. It can be evaluated, asked and saved at any
    time. The base stays as it was.
    """

    def __init__(self, base: Base, task: Task, recipe: Recipe) -> None:
        check_given(base, task, recipe)
        self.base, self.task, self.recipe = base, task, recipe
        self.tokenizer = base.tokenizer
        self.records: list[StepRecord] = []
        self._encoded = encode_all(task.train, base.tokenizer, recipe.max_length, recipe.loss_on)
        _check_validation(task, base.tokenizer, recipe)
        check_context(base, self._encoded)
        check_fits(base, self._encoded, recipe)  # before anything is made
        self.model = adapt(base, recipe)
        if recipe.gradient_checkpointing:
            checkpoint_activations(self.model)
        self._ranks = RankAllocation(self.model, recipe) if recipe.method == "adalora" else None
        self._start = adapter_tensors(self.model) if recipe.changes_the_base else {}
        self._teacher = None if task.teacher is None else teacher_model(base, task.teacher)
        each = recipe.batch_size * recipe.gradient_accumulation_steps
        again = recipe.steps * each > len(self._encoded)  # else no kept output would be used again
        self._frozen = frozen_layers(self.model) if again else None
        longest = max(len(example.input_ids) for example in self._encoded)
        self._gradients = gradients_for(
            base, recipe, self.model, longest, self._teacher, self._frozen
        )
        self._about_steps = self._gradients.about
        self._trainable = {
            name: tensor for name, tensor in self.model.named_parameters() if tensor.requires_grad
        }
        self.optimizer = make_optimizer(self._trainable, recipe)
        self._order = order_of_examples(len(self._encoded), recipe.seed)
        self._random_state = torch.Generator().manual_seed(recipe.seed).get_state()
        self._good = self._weights()
        self._validations = Validations()
        self._best = self._weights() if recipe.patience else None  # of the best validation
        self._threads = threads_that_pay(self.model)

    @property
    def step(self) -> int:
        """How many steps are done."""
        return len(self.records)

    @property
    def ended(self) -> bool:
        """Whether no step is left: all are done, or the recipe's patience is at an end.

        With a patience the weights are then those of the best validation loss.
        """
        done = self.step >= self.recipe.steps
        return done or self._validations.exhaust(self.recipe.patience)

    @property
    def learned(self) -> Learned:
        """What was learnt so far, in the form in which `fit` stores it."""
        return learned_of(self.model, self.recipe, self._start)

    @property
    def about(self) -> str:
        """The base and its precision in a sentence; then how steps are taken, if not by torch."""
        return "; ".join(filter(None, [about_training(self.base, self.recipe), self._about_steps]))

    def adapted(self) -> Adapted:
        """The base with what was learnt so far. Later steps of this training do not change it."""
        return Adapted(as_trained(self.base, self.recipe), self.learned)

    def __iter__(self) -> Iterator[StepRecord]:
        self.model.train()  # all of its modules; PEFT leaves those of the base as they were
        while not self.ended:
            with at_most(self._threads), self._own_randomness():
                record = self._one_step()
            self._note(record)
            yield record

    def _note(self, record: StepRecord) -> None:
        """Add a step's record; with a patience keep the best weights, and end with them."""
        self.records.append(record)
        is_best = self._validations.note(record)
        if self._best is None:
            return
        if is_best:
            self._keep(self._best)
        elif self.ended and self._validations.best is not None:
            self._put(self._best)

    def _one_step(self) -> StepRecord:
        recipe, started = self.recipe, time.perf_counter()
        if not self.model.training:  # the caller has evaluated in between
            self.model.train()
        step = self.step + 1
        learning_rate = learning_rate_at(step, recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_ratio"]
        batches = [self._next_batch() for _ in range(recipe.gradient_accumulation_steps)]
        labels = sum(int((predicted_labels(batch) != IGNORED).sum()) for batch in batches)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
        losses = [self._gradients.add(batch, labels) for batch in batches]  # parts of one mean
        orthogonality = self._ranks and self._ranks.add_orthogonality()  # once, not per batch
        norm = nn.utils.clip_grad_norm_(self._trainable.values(), recipe.max_grad_norm)
        *losses, norm = torch.stack([*losses, norm]).tolist()  # the step's only wait for a GPU
        loss = sum(losses)
        self._check(step, loss, norm)
        self.optimizer.step()
        ranks = self._ranks and self._ranks.allocate(step)  # needs this step's gradients
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        validation_loss = self._validation_loss() if self._is_due(step) else None
        return StepRecord(
            step, loss, learning_rate, norm, tokens, validation_loss, seconds, orthogonality, ranks
        )

    def _next_batch(self) -> dict[str, Tensor]:
        chosen = [self._encoded[next(self._order)] for _ in range(self.recipe.batch_size)]
        return collate(chosen, self.tokenizer.pad_token_id)

    def _is_due(self, step: int) -> bool:
        every = self.recipe.eval_steps
        return every is not None and (step % every == 0 or step == self.recipe.steps)

    def _validation_loss(self) -> float:
        return mean_loss(
            self.model,
            self.tokenizer,
            self.task.validation,
            max_length=self.recipe.max_length,
            loss_on=self.recipe.loss_on,
            teacher=self._teacher,
            frozen=self._frozen,
        )

    # --- divergence ---

    def _check(self, step: int, loss: float, norm: float) -> None:
        """Stop at a loss that no further step can repair, with the last good weights in place."""
        first = self.records[0].loss if self.records else loss
        hopeless = 2 * (first + math.log(self.model.config.get_text_config().vocab_size))
        if math.isfinite(loss) and math.isfinite(norm) and loss <= hopeless:
            if step % GOOD_EVERY == 1:
                self._keep(self._good)  # these gave a finite loss
            return
        self._put(self._good)
        if self._ranks:
            self._ranks.mask()  # the good weights may be from before the last allocation
        self.optimizer.zero_grad()
        message = (
            f"the loss was {loss:.3g} (gradient norm {norm:.3g}) at step {step}, after "
            f"{first:.3g} at step 1; {self._blame()} The weights are those of a step before."
        )
        raise Diverged(message, run_of(self, DIVERGED, message))

    def _blame(self) -> str:
        recipe = self.recipe
        if self.model.dtype == torch.float16:
            return "dtype float16 can't hold large values: load the base in float32 or bfloat16."
        rate = f"learning_rate={recipe.learning_rate:g}"
        if recipe.method == "full":
            return f"{rate} is too large a step; try {recipe.learning_rate / 10:g}."
        field = "init_r" if recipe.method == "adalora" else "r"
        rank = getattr(recipe, field)
        if recipe.lora_alpha > LOUD * rank:
            return (
                f"lora_alpha={recipe.lora_alpha:g} with {field}={rank} multiplies the adapter by "
                f"{recipe.scaling:.4g}, which is too much; try lora_alpha={2 * rank}."
            )
        return (
            f"{rate} with scaling {recipe.scaling:.4g} (lora_alpha={recipe.lora_alpha:g}, "
            f"{field}={rank}) is too large a step; try learning_rate={recipe.learning_rate / 10:g}."
        )

    def _weights(self) -> dict[str, Tensor]:
        """A copy of all that is trained; of a whole model on a GPU, in the machine's memory."""
        off_gpu = self.recipe.method == "full" and self.base.device.type == "cuda"
        on = torch.device("cpu") if off_gpu else self.base.device
        return {
            name: torch.empty_like(tensor, device=on, requires_grad=False).copy_(tensor.detach())
            for name, tensor in self._trainable.items()
        }

    def _keep(self, weights: dict[str, Tensor]) -> None:
        """Write the trained weights into an old copy: another copy would take more memory."""
        for name, tensor in self._trainable.items():
            weights[name].copy_(tensor.detach())

    def _put(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, tensor in self._trainable.items():
                tensor.copy_(weights[name])

    # --- randomness, and going on later ---

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Dropout draws from this run's own random state; the global one is left as it was."""
        if not self.recipe.lora_dropout:
            yield
            return
        of_step = self.recipe.seed * 1_000_003 + self.step  # for a GPU, which has no state to keep
        with seeded(self.base.device, of_step):
            torch.set_rng_state(self._random_state)  # the CPU goes on where the last step left it
            yield
            self._random_state = torch.get_rng_state()

    def checkpoint(self) -> Checkpoint:
        """All that `restore` needs to go on exactly from here; later steps do not change it."""
        tensors = {f"weight.{name}": tensor for name, tensor in self._trainable.items()}
        tensors["random_state"] = self._random_state
        if self._validations.best and self._best:
            tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        if self._ranks:
            tensors |= self._ranks.state()
        state = _flat("optimizer", self.optimizer.state_dict()["state"])
        tensors |= {name: value for name, value in state.items() if isinstance(value, Tensor)}
        words = {name: value for name, value in state.items() if name not in tensors}
        words["steps"] = self._about_steps
        tensors = {name: _copy_on_the_cpu(tensor) for name, tensor in tensors.items()}
        return Checkpoint(tuple(self.records), tensors, words)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of the same base, task and recipe."""
        self.records = list(checkpoint.records)
        self._validations = Validations(self.records)
        self._go_on_with(str(checkpoint.words.get("steps", "")))
        self._put({name: checkpoint.tensors[f"weight.{name}"] for name in self._trainable})
        self._random_state = checkpoint.tensors["random_state"]
        if self._validations.best and self._best:
            for name, kept in self._best.items():
                kept.copy_(checkpoint.tensors[f"best.{name}"])
        if self._ranks:
            self._ranks.restore(checkpoint.tensors)
        state: dict = {}
        for key, value in [*checkpoint.tensors.items(), *checkpoint.words.items()]:
            if key.startswith("optimizer/"):
                _, place, *path, name = key.split("/")
                inner = state.setdefault(int(place), {})
                for step in path:
                    inner = inner.setdefault(step, {})
                inner[name] = value.clone() if isinstance(value, Tensor) else value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self._keep(self._good)
        each = self.recipe.batch_size * self.recipe.gradient_accumulation_steps
        self._order = order_of_examples(len(self._encoded), self.recipe.seed)
        for _ in range(self.step * each):
            next(self._order)

    def _go_on_with(self, steps: str) -> None:
        """Take steps as they were taken before, in words; if that can't be, `about` says so."""
        if not steps:
            self._gradients = TorchGradients(self.model, self._teacher, self._frozen)
        elif steps != self._gradients.about:
            steps += f" until step {self.step}, from there on {self._gradients.about or 'by torch'}"
        self._about_steps = steps


def train(base: Base, task: Task, recipe: Recipe) -> Training:
    """A fine-tune to iterate: each turn of the loop trains one step and gives its record.

    Nothing is kept on disk; `fit` does that.

    Args:
        base: keeps its weights and modules.
        task: what to learn.
        recipe: the choices of the training.

    Raises:
        ValueError: if the recipe does not fit the base, or no example fits `max_length`.
        Diverged: while iterating; its `run` holds the records and the last good weights.
    """
    return Training(base, task, recipe)


def run_of(training: Training, status: str, message: str = "") -> Run:
    """The Run of a training so far, kept nowhere; later steps do not change it."""
    base, task, recipe = training.base, training.task, training.recipe
    return Run(
        recipe=recipe,
        records=tuple(training.records),
        scores=None,
        base_name=base.name,
        task_name=task.name,
        path=None,
        status=status,
        message=message,
        about=training.about,
        budget=budget_of(base, task, recipe),
        _base=base,
        _learned=training.learned,
    )


def _check_validation(task: Task, tokenizer: object, recipe: Recipe) -> None:
    """Refuse a patience if there is no validation example to measure."""
    of_recipe = recipe.max_length, recipe.loss_on
    if recipe.patience and not encode_fitting(task.validation, tokenizer, *of_recipe).encoded:
        raise ValueError(
            f"patience={recipe.patience} waits for a better validation loss, and the task "
            f"{task.name!r} has no validation example of at most max_length={recipe.max_length} "
            "tokens; give a larger max_length, or leave patience out"
        )


def _copy_on_the_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _flat(name: str, value: object) -> dict[str, object]:
    """Nested dicts as one, with names like "optimizer/0/exp_avg"."""
    if not isinstance(value, dict):
        return {name: value}
    parts = [_flat(f"{name}/{key}", inner) for key, inner in value.items()]
    return {key: inner for part in parts for key, inner in part.items()}


def threads_for(model: nn.Module) -> AbstractContextManager:
    """One thread for a small model on a CPU; the process's own number again afterwards."""
    return at_most(threads_that_pay(model))


def threads_that_pay(model: nn.Module) -> int | None:
    """One for a small model on a CPU; None: as many as the process has."""
    small = model.device.type == "cpu" and model.num_parameters() < SMALL
    return 1 if small else None


@contextmanager
def at_most(threads: int | None) -> Iterator[None]:
    """A block with at most this many threads; None: as many as before."""
    before = torch.get_num_threads()
    fewer = threads is not None and threads < before
    if fewer:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if fewer:
            torch.set_num_threads(before)

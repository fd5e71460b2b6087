"""*Examples* on their way into a batch: cut, left out, padded, packed; and trainings on them.

Whole *runs* that are trained together in packs are in `training/packing.py`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lora_lab.findings.recordings import recording
from lora_lab.maths.comparison import comparison_of
from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.models.learned import learned_of
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import IGNORED, Encoded, Task, collate, encode, order_of_examples
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.training.evaluation import answering, evaluate
from lora_lab.training.optimizers import learning_rate_at, make_optimizer

LONGEST = 4096  # tokens: no example of the course is longer
QUESTIONS = 100  # asked after a training, at most
STEPS = 60
SEED = 0  # draws the examples that are left out at random
Batch = dict[str, Tensor]
Segment = tuple[str, int]  # what stands there, and in how many places
Mask = Callable[[list[int]], Tensor]  # of the lengths in a row: (n, n) of bool, n their sum

# --- tasks --------------------------------------------------------------------------------------


def style_task(base: Base) -> Task:
    """A style that is new to pocket, learned in seconds: answers of 15 to 18 tokens."""
    task = load_task("style", base)
    asked = {"test": task.test[:QUESTIONS], "old_knowledge": task.old_knowledge[:QUESTIONS]}
    return replace(task, **asked, strangers=(), recipe=replace(task.recipe, steps=STEPS))


def facts_task(base: Base) -> Task:
    """Sixty new facts, asked as taught: a prompt of 8 to 12 tokens, an answer of 2."""
    task = load_task("new-facts", base, n=60)
    recipe = Recipe(learning_rate=3e-3, steps=STEPS, batch_size=16, max_length=96)
    old = task.old_knowledge[:QUESTIONS]
    return replace(task, test=task.train, old_knowledge=old, strangers=(), recipe=recipe)


# --- rows ---------------------------------------------------------------------------------------


def mixed_batch(base: Base, each: int = 2) -> list[Encoded]:
    """A batch of pocket's four kinds of examples: facts, reviews, a style, JSON."""
    tasks = [load_task(name, base) for name in ("new-facts", "sentiment", "style", "json")]
    return [row for task in tasks for row in encoded_whole(base, task)[:each]]


def encoded_whole(base: Base, task: Task) -> list[Encoded]:
    """All training examples of a task, whole, with the loss on the answer."""
    return [encode(base.tokenizer, example, LONGEST) for example in task.train]


def lengths_of(tasks: Mapping[str, Base], examples: int = 300) -> dict[str, list[int]]:
    """The tokens of a task's first training examples, whole: by the task's name.

    Args:
        tasks: the base whose tokens are counted, by the name of one of its tasks.
        examples: the most examples of each task.
    """
    found = {}
    for name, base in tasks.items():
        task = load_task(name, base)
        first = replace(task, train=task.train[:examples])
        found[name] = [len(row.input_ids) for row in encoded_whole(base, first)]
    return found


def cut(rows: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """The first tokens of each example, as a tokenizer with `truncation=True` keeps them.

    If nothing is left of an example's answer, it has no label, so it is left out.
    """
    short = [_shortened(row, max_length) for row in rows]
    return [row for row in short if any(label != IGNORED for label in row.labels)]


def _shortened(row: Encoded, max_length: int) -> Encoded:
    return Encoded(row.input_ids[:max_length], row.labels[:max_length])


def fitting(rows: Sequence[Encoded], max_length: int) -> list[Encoded]:
    """The examples that have at most `max_length` tokens."""
    return [row for row in rows if len(row.input_ids) <= max_length]


def first_fit(rows: Sequence[Encoded], row_length: int) -> list[list[Encoded]]:
    """Examples packed in order: each into the first row that has room for it.

    Raises:
        ValueError: if an example is longer than a row.
    """
    packed: list[list[Encoded]] = []
    for row in rows:
        if len(row.input_ids) > row_length:
            raise ValueError(
                f"an example has {len(row.input_ids)} tokens, and a row {row_length}; give "
                f"row_length={len(row.input_ids)} or more"
            )
        room = (
            examples for examples in packed if _tokens(examples) + len(row.input_ids) <= row_length
        )
        place = next(room, None)
        if place is None:
            packed.append([row])
        else:
            place.append(row)
    return packed


def _tokens(rows: Sequence[Encoded]) -> int:
    return sum(len(row.input_ids) for row in rows)


def strips(rows: Sequence[Encoded], way: str, max_length: int) -> list[list[Segment]]:
    """A batch as it goes into the model: a list of segments for each row.

    Args:
        rows: the examples.
        way: "padded" (whole), "cut" (to `max_length`, then padded) or "packed" (the same, into rows
            of `max_length`).
        max_length: in tokens.

    Returns:
        The segments of each row, from left to right: "prompt", "answer", "end" (token), "pad", and
        "cut" for what is not in the batch.
    """
    kept = rows if way == "padded" else [_shortened(row, max_length) for row in rows]
    together = first_fit(kept, max_length) if way == "packed" else [[row] for row in kept]
    longest = max(map(_tokens, together))
    ends = {row.input_ids[-1] for row in rows}  # the end token, which no cut example has
    made = [[part for row in packed for part in _segments(row, ends)] for packed in together]
    for parts, packed in zip(made, together, strict=True):
        if _tokens(packed) < longest:
            parts.append(("pad", longest - _tokens(packed)))
    if way == "cut":
        for parts, row in zip(made, rows, strict=True):
            if len(row.input_ids) > max_length:
                parts.append(("cut", len(row.input_ids) - max_length))
    return made


def _segments(row: Encoded, ends: set[int]) -> list[Segment]:
    """An example's prompt, answer and end token; a cut example lacks what was cut."""
    prompt, end = sum(label == IGNORED for label in row.labels), int(row.labels[-1] in ends)
    parts = [("prompt", prompt), ("answer", len(row.labels) - prompt - end), ("end", end)]
    return [(name, count) for name, count in parts if count]


def block_mask(lengths: Sequence[int]) -> Tensor:
    """The mask of a packed row: a token looks at itself and at earlier ones of its own example.

    Returns:
        (n, n) of bool, n the sum of the lengths: [i, j] is true where token i looks at token j.
    """
    return torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).bool()


def causal_mask(lengths: Sequence[int]) -> Tensor:
    """The mask of a row that is taken for one text: a token looks at all earlier ones."""
    return torch.ones(sum(lengths), sum(lengths)).tril().bool()


def pack(rows: Sequence[Encoded], row_length: int, mask: Mask = block_mask) -> Batch:
    """A batch of packed rows, with a mask for each.

    Positions are not given. A rotary position embedding depends only on distances. So with a mask
    that keeps examples apart, it makes no difference where in its row an example begins.

    Returns:
        `input_ids` and `labels`, (rows, longest); `attention_mask`, (rows, 1, longest, longest).
    """
    packed = first_fit(rows, row_length)
    longest = max(map(_tokens, packed))
    shape = len(packed), longest
    ids, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    looks = torch.eye(longest, dtype=torch.bool).repeat(len(packed), 1, 1)  # padding sees itself
    for place, examples in enumerate(packed):
        n = _tokens(examples)
        ids[place, :n] = torch.tensor([id for example in examples for id in example.input_ids])
        labels[place, :n] = torch.tensor(
            [label for example in examples for label in example.labels]
        )
        looks[place, :n, :n] = mask([len(example.input_ids) for example in examples])
    return {"input_ids": ids, "labels": labels, "attention_mask": looks[:, None]}


# --- trainings ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Way:
    """A way to put examples into the steps of a training."""

    rows: Sequence[Encoded]  # the examples to train on
    recipe: Recipe  # its batch_size is the number of examples in a step
    collate: Callable[[Sequence[Encoded]], Batch]


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The result of a way."""

    losses: tuple[float, ...]  # of each step, nats per answer token
    places: float  # tokens that a step computes, padding among them: a mean
    scores: Scores
    runs_on: float  # the share of answers that are longer than the right ones

    @property
    def right(self) -> float:
        """The task's score."""
        return self.scores.value


class Steps:
    """A training of a way: iterate it for the loss of each step; `outcome` then scores it."""

    def __init__(self, base: Base, way: Way, seed: int = 0) -> None:
        self.base, self.way, self.losses, self.places = base, way, [], []
        self.recipe = replace(way.recipe, seed=seed)
        self.model = adapt(base, self.recipe)

    def __iter__(self) -> Iterator[float]:
        recipe, model = self.recipe, self.model.train()
        trained = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        optimizer = make_optimizer(trained, recipe)
        order = order_of_examples(len(self.way.rows), recipe.seed)
        for step in range(1, recipe.steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(step, recipe) * group["lr_ratio"]
            chosen = [self.way.rows[next(order)] for _ in range(recipe.batch_size)]
            batch = self.way.collate(chosen)
            loss = _mean_loss(model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(trained.values(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            self.losses.append(loss.item())
            self.places.append(batch["input_ids"].numel())
            yield self.losses[-1]

    def outcome(self, task: Task) -> Outcome:
        """The scores of what was trained until now."""
        adapted = Adapted(self.base, learned_of(self.model, self.recipe, {}))
        places = sum(self.places) / len(self.places)
        scores = evaluate(adapted, task)
        longer = sum(len(answer.given) > len(answer.expected) for answer in scores.answers)
        return Outcome(tuple(self.losses), places, scores, longer / len(scores.answers))


def _mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """The loss in nats per label; a padded batch takes the lean pass, which has no other mask."""
    if batch["attention_mask"].ndim == 4:
        return model(**batch, use_cache=False).loss
    total, labels = loss_of_batch(model, batch)
    return total / labels


def trained(base: Base, task: Task, way: Way, seed: int = 0) -> Outcome:
    """A way trained to its end."""
    steps = Steps(base, way, seed)
    for _ in steps:
        pass
    return steps.outcome(task)


# --- what is compared ---------------------------------------------------------------------------


def too_long(base: Base, task: Task, max_length: int) -> dict[str, Way]:
    """The ways to treat examples of more than `max_length` tokens.

    The last way leaves out as many as do not fit, drawn at random, and keeps long examples.
    """
    whole = encoded_whole(base, task)
    short = fitting(whole, max_length)
    drawn = torch.randperm(len(whole), generator=torch.Generator().manual_seed(SEED))
    rows = {
        "whole": whole,
        "cut": cut(whole, max_length),
        "left out": short,
        "as many left out at random": [whole[i] for i in drawn[: len(short)].tolist()],
    }
    padded = functools.partial(collate, pad_token_id=base.tokenizer.pad_token_id)
    return {name: Way(some, task.recipe, padded) for name, some in rows.items() if some}


def packings(base: Base, task: Task, row_length: int) -> dict[str, Way]:
    """The same examples padded; packed into rows of `row_length` with and without a mask; and
    packed into four times as many rows a step, so in a quarter of the steps.
    """
    rows, plain = encoded_whole(base, task), task.recipe
    large = replace(plain, batch_size=4 * plain.batch_size, steps=plain.steps // 4)
    faster = replace(large, learning_rate=3 * plain.learning_rate)
    padded = functools.partial(collate, pad_token_id=base.tokenizer.pad_token_id)
    apart, leaking = (
        functools.partial(pack, row_length=row_length, mask=mask)
        for mask in (block_mask, causal_mask)
    )
    return {
        "padded": Way(rows, plain, padded),
        "packed": Way(rows, plain, apart),
        "packed, no mask": Way(rows, plain, leaking),
        "packed, 4 × the rows": Way(rows, large, apart),
        "the same, 3 × the rate": Way(rows, faster, apart),
    }


def loss_behind(base: Base, before: Sequence[Encoded], last: Encoded, mask: Mask) -> float:
    """The loss of an example's answer in nats per token, if it is packed behind others in a row."""
    silent = [replace(example, labels=[IGNORED] * len(example.labels)) for example in before]
    rows = [*silent, last]
    with answering(base.model):
        return base.model(**pack(rows, _tokens(rows), mask), use_cache=False).loss.item()


# --- what was recorded --------------------------------------------------------------------------


def recorded_shares(name: str, of: str = "value") -> dict[str, dict[int, list[float]]]:
    """A score of data/recorded/way_in/, by way and length: a number for each seed, in their order.

    Args:
        name: "too-long" or "packing".
        of: "value" (the task's score), "runs_on", "old_knowledge" or "last_loss".
    """
    found: dict[str, dict[int, list[float]]] = {}
    for row in sorted(recording(f"way_in/{name}").rows, key=lambda row: row["seed"]):
        found.setdefault(row["way"], {}).setdefault(row["length"], []).append(row[of])
    return found


def verdict(one: Sequence[float], other: Sequence[float]) -> str:
    """The verdict on recorded scores of two ways, paired by seed: `worse by 38 points (…)`."""
    leads = [a - b for a, b in zip(one, other, strict=True)]
    return comparison_of(leads, measure="exact match").verdict.removeprefix("b is ")


def shares(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, list[float]]:
    """The score of each seed, by way."""
    return {name: [outcome.right for outcome in some] for name, some in outcomes.items()}

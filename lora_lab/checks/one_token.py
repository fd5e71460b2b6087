"""Checks for notebook 02, One token through the model: shapes, labels, what is trained."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.labels import (
    Row,
    collate_all,
    collate_answers,
    collate_moved_twice,
    train_with,
)
from lora_lab.models.bases import load_base
from lora_lab.records import Verdict
from lora_lab.tasks.examples import IGNORED
from lora_lab.tasks.loading import load_task

# --- the weights of a layer -----------------------------------------------------------------


def _projection_shapes(
    hidden_size: int,
    intermediate_size: int,
    num_attention_heads: int,
    num_key_value_heads: int,
    head_dim: int,
) -> dict[str, tuple[int, int]]:
    """The shape of each weight in a Llama layer by name, as nn.Linear keeps it: (out, in)."""
    queries, keys = num_attention_heads * head_dim, num_key_value_heads * head_dim
    return {
        "q_proj": (queries, hidden_size),
        "k_proj": (keys, hidden_size),
        "v_proj": (keys, hidden_size),
        "o_proj": (hidden_size, queries),
        "gate_proj": (intermediate_size, hidden_size),
        "up_proj": (intermediate_size, hidden_size),
        "down_proj": (hidden_size, intermediate_size),
    }


llama_shapes = _projection_shapes  # the public name, for the checks of other notebooks


def llama_sizes() -> Iterator[dict[str, int]]:
    """Three Llamas; in the last, the heads together are wider than the hidden state."""
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    for sizes in ((576, 1536, 9, 3, 64), (2048, 8192, 32, 8, 64), (96, 320, 6, 2, 20)):
        yield dict(zip((*names, "head_dim"), sizes, strict=True))


def _changed_shapes(**shapes: Function) -> Function:
    """A slip: some shapes come from functions of (the right shape, the sizes), by name."""

    def slip(**sizes: int) -> dict[str, tuple[int, int]]:
        right = _projection_shapes(**sizes)
        return right | {name: change(right[name], sizes) for name, change in shapes.items()}

    return slip


projection_shapes = Exercise(
    _projection_shapes,
    llama_sizes,
    slips={
        "these are (in, out); nn.Linear keeps its weight as (out, in), since y = x Wᵀ": (
            lambda **sizes: {
                name: shape[::-1] for name, shape in _projection_shapes(**sizes).items()
            }
        ),
        "k and v are as wide as q here; with grouped-query attention there are only "
        "num_key_value_heads of them": _changed_shapes(
            k_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
            v_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
        ),
        "only k is narrower here; v goes with it, head by head": _changed_shapes(
            v_proj=lambda right, n: (n["num_attention_heads"] * n["head_dim"], right[1]),
        ),
        "q and o are hidden_size squared here; the heads together are num_attention_heads * "
        "head_dim wide, which need not be hidden_size": _changed_shapes(
            q_proj=lambda _, n: (n["hidden_size"], n["hidden_size"]),
            o_proj=lambda _, n: (n["hidden_size"], n["hidden_size"]),
        ),
        "o is the wrong way round: it leads from the heads back to hidden_size": (
            _changed_shapes(o_proj=lambda right, _: right[::-1])
        ),
        "down is the wrong way round: it leads from intermediate_size back to hidden_size": (
            _changed_shapes(down_proj=lambda right, _: right[::-1])
        ),
        "q is one head wide here; it makes all num_attention_heads heads at once": _changed_shapes(
            q_proj=lambda right, n: (n["head_dim"], right[1]),
            k_proj=lambda right, n: (n["head_dim"], right[1]),
            v_proj=lambda right, n: (n["head_dim"], right[1]),
            o_proj=lambda right, n: (right[0], n["head_dim"]),
        ),
    },
)

# --- the tokens that earn a loss ------------------------------------------------------------


def _answer_collator(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    """A batch padded on the right: labels on each answer and its end token, -100 elsewhere."""
    return collate_answers(rows, pad_token_id)


END = 2  # ends an answer, and pads too, as in many tokenizers


def padded_rows() -> Iterator[Case]:
    """Rows of different lengths: prompt, answer, end token; the padding is the same token."""
    for sizes in (((4, 3), (2, 2), (5, 2)), ((3, 1), (3, 5)), ((2, 4), (6, 3), (4, 1), (1, 1))):
        rows = [
            {
                "input_ids": [*range(11, 11 + prompt), *range(31, 31 + answer), END],
                "prompt_length": prompt,
            }
            for prompt, answer in sizes
        ]
        yield {"rows": rows, "pad_token_id": END}


def _changed_labels(change: Callable[[dict[str, Tensor], list[Row]], Tensor]) -> Function:
    """A slip: the right batch but for its labels, a function of (the right batch, the rows)."""

    def slip(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
        batch = collate_answers(rows, pad_token_id)
        return batch | {"labels": change(batch, rows)}

    return slip


def _fed_with_labels(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    batch = collate_answers(rows, pad_token_id)
    return batch | {"input_ids": batch["labels"].clone()}


def _padding_attended(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    batch = collate_answers(rows, pad_token_id)
    return batch | {"attention_mask": torch.ones_like(batch["attention_mask"])}


def _one_late(rows: list[Row], pad_token_id: int) -> dict[str, Tensor]:
    later = [row | {"prompt_length": row["prompt_length"] + 1} for row in rows]
    return collate_answers(later, pad_token_id)


TRIAL_STEPS = 30  # of pocket, about 2 seconds each training


def _trial(function: Function) -> Verdict:
    """Train pocket with the learner's batches, with ours, and with a label on every token."""
    base = load_base("pocket", dtype="float32")
    facts = load_task("new-facts", base, n=60)
    yours, ours, all_labelled = (
        train_with(base, facts, collator, TRIAL_STEPS)
        for collator in (function, collate_answers, collate_all)
    )
    pairs = zip(yours.losses, ours.losses, strict=True)
    if not all(math.isclose(*pair, rel_tol=1e-3) for pair in pairs):
        return Verdict(
            False,
            f"But pocket trained with it ends at {yours.losses[-1]:.2f} nats, and with ours at "
            f"{ours.losses[-1]:.2f}: something in it changes from batch to batch.",
        )
    return Verdict(
        True,
        f"Pocket trained with it for {TRIAL_STEPS} steps: the loss falls from "
        f"{yours.losses[0]:.1f} to {yours.losses[-1]:.1f}, and {yours.right} of "
        f"{len(yours.wanted)} new facts are right. With a label on every token: from "
        f"{all_labelled.losses[0]:.1f} to {all_labelled.losses[-1]:.1f}, and "
        f"{all_labelled.right} right.",
    )


answer_collator = Exercise(
    _answer_collator,
    padded_rows,
    slips={
        "the prompt earns a loss here: put -100 on its tokens": collate_all,
        "the padding earns a loss here: its labels are -100 too": _changed_labels(
            lambda batch, rows: batch["labels"].where(
                batch["attention_mask"] == 1, batch["input_ids"]
            )
        ),
        "the end token got -100 with the padding, since both have the same id: the model would "
        "never learn to stop; count the tokens of each row": _changed_labels(
            lambda batch, rows: batch["labels"].masked_fill(batch["labels"] == END, IGNORED)
        ),
        "these labels are moved by one place; transformers' models move them inside, so they "
        "would be moved twice": collate_moved_twice,
        "0 is a token like any other; the label that earns no loss is -100": _changed_labels(
            lambda batch, rows: batch["labels"].where(batch["labels"] != IGNORED, 0)
        ),
        "the prompt has the labels and the answer has -100; it is the other way round": (
            _changed_labels(
                lambda batch, rows: batch["input_ids"].masked_fill(
                    (batch["labels"] != IGNORED) | (batch["attention_mask"] == 0), IGNORED
                )
            )
        ),
        "input_ids hold -100: the model must still read the prompt; only the labels get -100": (
            _fed_with_labels
        ),
        "attention_mask is 1 on the padding: the model would read it; put 0 there": (
            _padding_attended
        ),
        "one token of the answer got -100: positions count from 0, so the answer begins at "
        "prompt_length": _one_late,
    },
    trial=_trial,
)

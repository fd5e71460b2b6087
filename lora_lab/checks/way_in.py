"""Checks for notebook 11, Data on its way in: the mask of a packed row, and a max_length."""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lora_lab.checks.compare import Case, Exercise, Function
from lora_lab.lessons.way_in import facts_task, pack, packings, trained
from lora_lab.models.bases import load_base
from lora_lab.records import Verdict
from lora_lab.wording import percent

ROW_LENGTH = 64  # of the trial, in tokens: about five facts
SAME = 0.01  # nats: rounding grows over the steps

# --- several examples in one row ------------------------------------------------------------


def _packed_mask(lengths: Sequence[int]) -> Tensor:
    """The attention mask of a row that holds several examples of these lengths.

    (n, n) of bool, n the sum of the lengths: [i, j] is true where token i looks at token j. A token
    looks at itself and at the earlier tokens of its own example.
    """
    example = torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])
    same = example[:, None] == example[None, :]
    return same & _causal(len(example))


def _causal(n: int) -> Tensor:
    return torch.ones(n, n, dtype=torch.bool).tril()


def _packed_rows() -> Iterator[Case]:
    """Two examples of different lengths, three of which two are equal, a single example."""
    for lengths in ([2, 3], [3, 1, 3], [4]):
        yield {"lengths": list(lengths)}


def _mask_by(mask: Function) -> Function:
    """A slip: a function of (the right mask, the causal mask)."""
    return lambda lengths: mask(_packed_mask(lengths), _causal(sum(lengths)))


def _by_length(lengths: Sequence[int]) -> Tensor:
    length_of = torch.tensor([length for length in lengths for _ in range(length)])  # each token's
    return (length_of[:, None] == length_of[None, :]) & _causal(len(length_of))


def _trial(function: Function) -> Verdict:
    """Train pocket on packed rows with the learner's mask, padded, and packed without a mask."""
    base = load_base("pocket", dtype="float32")
    task = facts_task(base)
    yours = packings(base, task, ROW_LENGTH)["packed"]
    yours = replace(yours, collate=functools.partial(pack, row_length=ROW_LENGTH, mask=function))
    ways = {"yours": yours} | packings(base, task, ROW_LENGTH)
    made = {
        name: trained(base, task, ways[name]) for name in ("yours", "padded", "packed, no mask")
    }
    pairs = zip(made["yours"].losses, made["padded"].losses, strict=True)
    gap = max(abs(one - two) for one, two in pairs)
    if gap > SAME:
        return Verdict(
            False,
            f"But pocket trained on rows packed with it is up to {gap:.2g} nats away from padded "
            "rows, and should have the same loss at each step.",
        )
    right = {name: percent(outcome.right) for name, outcome in made.items()}
    return Verdict(
        True,
        f"Pocket trained with it on rows of {ROW_LENGTH} tokens: {right['yours']} of the facts "
        f"right, and each step has the loss of padded rows, within {SAME:g} nats. "
        f"Without a mask it would be {right['packed, no mask']}.",
    )


packed_mask = Exercise(
    _packed_mask,
    _packed_rows,
    slips={
        "this is the causal mask alone: the second example sees the first": (
            _mask_by(lambda right, causal: causal)
        ),
        "here a token sees its own future; it may look back only": (
            _mask_by(lambda right, causal: right | right.T)
        ),
        "this is turned: rows are who looks, columns what is looked at": (
            _mask_by(lambda right, causal: right.T)
        ),
        "a token must see itself, too; the diagonal is true": (
            _mask_by(lambda right, causal: right & ~torch.eye(len(right), dtype=torch.bool))
        ),
        "true and false are swapped: true is where a token looks": (
            _mask_by(lambda right, causal: ~right)
        ),
        "examples of equal length are taken for one; number them": _by_length,
        "give bool; numbers would be added to the attention": (
            _mask_by(lambda right, causal: right.float())
        ),
    },
    trial=_trial,
)

# --- how long an example may be ---------------------------------------------------------------


def _max_length_for(lengths: Sequence[int], share: float) -> int:
    """The least max_length at which at least this share of the examples is whole.

    `lengths`: the tokens of each example. An example as long as max_length is whole.
    """
    ordered = sorted(lengths)
    return ordered[math.ceil(share * len(ordered) - ROUNDING) - 1]


ROUNDING = 1e-9  # 0.07 * 100 is a little more than 7


def _lengths() -> Iterator[Case]:
    """Lists out of order: a long tail, ties at the limit, all of them, few examples."""
    tail = [(37 * place) % 100 + 1 for place in range(100)]
    for lengths, share in (
        (tail, 0.99),
        ([*tail, 4000], 0.99),
        ([12, 12, 40, 12, 40, 9, 40, 300], 0.75),
        ([31, 7, 512], 1.0),
        ([5, 9, 6, 8], 0.6),
    ):
        yield {"lengths": list(lengths), "share": share}


def _length_by(find: Function) -> Function:
    """A slip: a function of (the lengths from short to long, share)."""
    return lambda lengths, share: find(sorted(lengths), share)


max_length_for = Exercise(
    _max_length_for,
    _lengths,
    slips={
        "this is the longest example, whatever the share; a single long one then decides": (
            _length_by(lambda ordered, share: ordered[-1])
        ),
        "this multiplies the longest by the share; count examples, not tokens": (
            _length_by(lambda ordered, share: math.ceil(share * ordered[-1]))
        ),
        "the lengths are in no order; sort them first": (
            lambda lengths, share: lengths[math.ceil(share * len(lengths) - ROUNDING) - 1]
        ),
        "this is one place too far: the first example is number 0": (
            _length_by(
                lambda ordered, share: ordered[
                    min(math.ceil(share * len(ordered) - ROUNDING), len(ordered) - 1)
                ]
            )
        ),
        "this rounds down, so fewer than the share are whole": (
            _length_by(lambda ordered, share: ordered[max(math.floor(share * len(ordered)), 1) - 1])
        ),
        "this is one token too long: an example of exactly max_length tokens is whole": (
            lambda lengths, share: _max_length_for(lengths, share) + 1
        ),
        "this is the length that the share is longer than; wanted is the other end": (
            _length_by(
                lambda ordered, share: ordered[
                    min(math.ceil((1 - share) * len(ordered)), len(ordered) - 1)
                ]
            )
        ),
    },
)

"""A Llama's most likely answers: the prompts in one pass, then token by token over kept keys.

It gives the tokens that transformers' greedy `generate` gives, with less work. Padding takes part
only in attention. A prompt whose answer has ended leaves the batch. If all prompts begin alike, as
with the same worked examples, the common beginning is read once.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_lab.models.lean import (
    Rows,
    angles,
    attended,
    by_head,
    linear,
    mlp,
    normed,
    rows_of,
    turned,
)
from lora_lab.models.read_llama import Layer, Llama

WORTH_SHARING = 0.25  # the share of a batch's tokens that reading a common beginning once must save


class Kept(NamedTuple):
    """A layer's keys and values so far, each (rows, heads, tokens, head_dim), with room ahead."""

    keys: Tensor
    values: Tensor


@torch.no_grad()
def answer(
    model: Llama, prompts: Sequence[Sequence[int]], max_new_tokens: int, ends: Collection[int]
) -> list[list[int]]:
    """The most likely tokens after each prompt, the one that ends the answer included.

    Args:
        model: from `read_llama.read`.
        prompts: token ids, one or more each.
        max_new_tokens: where an answer is cut if it has not ended.
        ends: the token ids that end an answer.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts])  # tokens of each row so far
    tokens, kept = _read(model, prompts, lengths, max_new_tokens)
    answers = [[token] for token in tokens]
    left = list(range(len(prompts)))  # the prompts whose answers the rows write
    for _ in range(max_new_tokens - 1):
        going = [row for row, prompt in enumerate(left) if answers[prompt][-1] not in ends]
        if not going:
            break
        if len(going) < len(left):
            left, lengths = [left[row] for row in going], lengths[going]
            kept = [Kept(*(part[going] for part in layer)) for layer in kept]
        tokens = torch.tensor([answers[prompt][-1] for prompt in left])
        for prompt, token in zip(left, _next(model, tokens, lengths, kept), strict=True):
            answers[prompt].append(token)
        lengths = lengths + 1
    return answers


def _read(
    model: Llama, prompts: Sequence[Sequence[int]], lengths: Tensor, room: int
) -> tuple[list[int], list[Kept]]:
    """The token that follows each prompt, and the keys and values of all its tokens."""
    begun = _common_beginning(prompts)
    before = _beginning(model, prompts[0][:begun]) if begun else [None] * len(model.layers)
    lengths = lengths - begun
    longest = int(lengths.max())
    rows = rows_of(model, torch.arange(longest) < lengths[:, None], begun)
    x = model.embedding(torch.tensor([token for prompt in prompts for token in prompt[begun:]]))
    last = lengths.cumsum(0) - 1  # each prompt's last token, among all tokens
    seen = None
    if begun:  # each token sees all of the beginning, and of the rest what stands before it
        seen = torch.ones(longest, begun + longest, dtype=torch.bool).tril(begun)
    kept = []
    for number, (layer, earlier) in enumerate(zip(model.layers, before, strict=True)):
        q, own = _queries_and_kept(model, layer, x, rows)
        if earlier is not None:
            pairs = zip(earlier, own, strict=True)
            own = Kept(*(torch.cat([a.expand(len(b), -1, -1, -1), b], 2) for a, b in pairs))
        kept.append(Kept(*(F.pad(part, (0, 0, 0, room - 1)) for part in own)))
        y = attended(q, *own, seen)
        y = y if rows.places is None else y[rows.places]
        if number == len(model.layers) - 1:
            x, y = x[last], y[last]
        x = mlp(layer, x + linear(y, layer.o)[0])
    return _likeliest(model, x), kept


def _queries_and_kept(model: Llama, layer: Layer, x: Tensor, rows: Rows) -> tuple[Tensor, Kept]:
    """The queries of some tokens in a layer, and their keys and values."""
    q, k, v = linear(normed(x, layer.norm), layer.q, layer.k, layer.v)
    q, k = (by_head(part, rows, model.head_dim, turn=True) for part in (q, k))
    return q, Kept(k, by_head(v, rows, model.head_dim, turn=False))


def _common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; 0 where reading them once would save little.

    Each prompt keeps at least its last token, since the answer's first token follows it.
    """
    most = min(map(len, prompts)) - 1
    alike = (len({prompt[place] for prompt in prompts}) == 1 for place in range(most))
    begun = next((place for place, same in enumerate(alike) if not same), most)
    spared = begun * (len(prompts) - 1)
    return begun if spared >= WORTH_SHARING * sum(map(len, prompts)) else 0


def _beginning(model: Llama, tokens: Sequence[int]) -> list[Kept]:
    """The keys and values of the tokens that all prompts begin with, each a batch of one row."""
    rows = rows_of(model, torch.ones(1, len(tokens), dtype=torch.bool))
    x, kept = model.embedding(torch.tensor(tokens)), []
    for layer in model.layers:
        q, own = _queries_and_kept(model, layer, x, rows)
        kept.append(own)
        x = mlp(layer, x + linear(attended(q, *own), layer.o)[0])
    return kept


def _next(model: Llama, tokens: Tensor, before: Tensor, kept: Sequence[Kept]) -> list[int]:
    """The token that follows one more token in each row.

    Args:
        model: as in `answer`.
        tokens: (rows,).
        before: (rows,), how many tokens stand before it; what is kept beyond them is not seen.
        kept: this token's keys and values are written into it.
    """
    longest = int(before.max()) + 1
    seen = (torch.arange(longest) <= before[:, None])[:, None, None]  # (rows, 1, 1, tokens)
    each = torch.arange(len(tokens))
    cos, sin = angles(model, before)
    x = model.embedding(tokens)
    for layer, own in zip(model.layers, kept, strict=True):
        q, k, v = (
            part.view(len(tokens), -1, model.head_dim)
            for part in linear(normed(x, layer.norm), layer.q, layer.k, layer.v)
        )
        own.keys[each, :, before] = turned(k, cos, sin)
        own.values[each, :, before] = v
        q = turned(q, cos, sin)[:, :, None]  # (rows, heads, 1, head_dim)
        y = attended(q, own.keys[:, :, :longest], own.values[:, :, :longest], seen)
        x = mlp(layer, x + linear(y, layer.o)[0])
    return _likeliest(model, x)


def _likeliest(model: Llama, x: Tensor) -> list[int]:
    """The most likely next token of each row of the last layer's output, (rows, width)."""
    return model.head(normed(x, model.norm)).argmax(-1).tolist()

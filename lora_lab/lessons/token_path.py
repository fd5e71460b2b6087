"""One row of tokens on its way through a model: the guess at each place, its label, its loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from lora_lab.cost.estimates import find_shape
from lora_lab.models.bases import Base
from lora_lab.tasks.examples import IGNORED, Example, encode, prompt_ids
from lora_lab.training.evaluation import answering, generate

LONGEST = 256  # tokens of a prompt and its answer


@dataclass(frozen=True, slots=True, eq=False)
class Path:
    """A prompt and its answer on their way through a model, place by place."""

    tokens: tuple[str, ...]  # the text of each token, the end token last
    prompt_length: int  # tokens before the answer
    guesses: tuple[tuple[tuple[str, float], ...], ...]  # [layer][place]: next token, probability
    nats: Tensor  # (places, tokens): the loss of each place for each token of this row

    def asked(self, labelling: str) -> list[int | None]:
        """For each place but the last, the token of the row that its label asks for.

        None stands for −100: no label, and no loss.
        """
        shift = 2 if labelling == "moved twice" else 1
        first = 1 if labelling == "all" else self.prompt_length
        places = (place + shift for place in range(len(self.tokens) - 1))
        return [token if first <= token < len(self.tokens) else None for token in places]

    def losses(self, labelling: str) -> list[float | None]:
        """The loss at each place, in nats; None where there is no label."""
        return [
            None if token is None else self.nats[place, token].item()
            for place, token in enumerate(self.asked(labelling))
        ]

    def loss(self, labelling: str) -> float:
        """The mean over the labels, as a model reports it."""
        losses = [loss for loss in self.losses(labelling) if loss is not None]
        return sum(losses) / len(losses)


def follow(base: Base, example: Example) -> Path:
    """An example's path through a base, with the guess after each layer.

    A layer's guess is read as the last layer's is: norm, then output matrix ("logit lens").
    """
    encoded = encode(base.tokenizer, example, LONGEST)
    ids = torch.tensor([encoded.input_ids], device=base.device)
    decoder = base.model.model
    with answering(base.model):
        out = base.model(ids, output_hidden_states=True)
        states = [decoder.norm(state) for state in out.hidden_states[1:-1]]
        logits = [base.model.lm_head(state) for state in states] + [out.logits]
        guesses = [layer[0].softmax(-1).max(-1) for layer in logits]
        nats = -out.logits[0].log_softmax(-1)[:, ids[0]]
    decode = base.tokenizer.decode
    return Path(
        tokens=tuple(decode([token]) for token in encoded.input_ids),
        prompt_length=encoded.labels.count(IGNORED),
        guesses=tuple(
            tuple((decode([token]), share) for token, share in zip(*pair, strict=True))
            for pair in ((best.indices.tolist(), best.values.tolist()) for best in guesses)
        ),
        nats=nats.cpu(),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """The attention of a model as it begins its answer, on each sentence of its prompt."""

    sentences: tuple[str, ...]  # the notes, then the question
    shares: tuple[tuple[float, ...], ...]  # [layer][sentence], of all attention: a mean over heads
    answer: str


def read(base: Base, prompt: str) -> Reading:
    """The attention of the place that begins the answer, layer by layer, and the answer."""
    ids = prompt_ids(base.tokenizer, prompt)
    texts = [base.tokenizer.decode([token]) for token in ids]
    words = [text.strip() for text in texts]
    question = words.index("Question") if "Question" in words else 0
    ends = [place + 1 for place in range(question) if words[place] == "."] + [len(ids)]
    starts = [0, *ends[:-1]]
    used = base.model.config._attn_implementation
    try:
        base.model.set_attn_implementation("eager")  # the other ones return no attention weights
        with answering(base.model):
            out = base.model(torch.tensor([ids], device=base.device), output_attentions=True)
    finally:
        base.model.set_attn_implementation(used)
    looks = [layer[0, :, -1].mean(0) for layer in out.attentions]  # (tokens,), which sum to 1
    spans = [*zip(starts, ends, strict=True)]
    (answer,) = generate(base, [prompt], max_new_tokens=32)
    return Reading(
        tuple(_words(texts[start:end]) for start, end in spans),
        tuple(tuple(look[start:end].sum().item() for start, end in spans) for look in looks),
        answer,
    )


def _words(texts: Sequence[str]) -> str:
    """A sentence of a prompt without the marks around it."""
    kept = [text for text in texts if not text.startswith("<|")]
    return "".join(kept).strip().removeprefix("Notes:").removeprefix("Question:").strip()


def own_answer(base: Base, prompt: str) -> Example:
    """A prompt with the base's own answer: an example that it need not learn."""
    (answer,) = generate(base, [prompt], max_new_tokens=32)
    return Example(prompt, answer)


def own_answer_table(asked: Sequence[tuple[Base, str]], sizes: Sequence[str] = ()) -> pd.DataFrame:
    """The loss of each base on its own answer, with labels moved once and twice, in nats.

    Args:
        asked: each base with a prompt.
        sizes: models of which only the shape is known: they get only the blind guess.
    """
    columns = {}
    for base, prompt in asked:
        example = own_answer(base, prompt)
        path = follow(base, example)
        losses = (path.loss(labelling) for labelling in ("answer", "moved twice"))
        columns[base.name] = [example.answer, *(f"{loss:.1f}" for loss in losses)]
        columns[base.name] += _blind(find_shape(base).vocab_size)
    for name in sizes:
        columns[name] = ["not run", "", "", *_blind(find_shape(name).vocab_size)]
    rows = ["its own answer", "loss on it", "loss, labels moved twice"]
    rows += ["loss of a blind guess", "tokens in the vocabulary"]
    return pd.DataFrame(columns, index=rows)


def _blind(vocab_size: int) -> tuple[str, str]:
    """The loss if all tokens are equally likely, ln(vocabulary), and the vocabulary's size."""
    return f"{math.log(vocab_size):.1f}", f"{vocab_size:,}"

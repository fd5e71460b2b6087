"""Examples, the tasks that they make up, and the batches of a training step."""

import hashlib
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from lora_lab.recipe import Recipe, shown
from lora_lab.tasks.styles import Style

if TYPE_CHECKING:  # torch takes seconds to import, and a list of tasks does not need it
    from torch import Tensor

IGNORED = -100  # the label of a token without a loss, as in torch and transformers
PASSES = 100  # how often a step may go through all examples, at most ...
SMALL_STEP = 1024  # ... but a step may always have so many examples, repeats counted
UNKNOWN = "not known"  # the right answer about a stranger
MOST_KEPT = 4_000_000  # tokens that are kept with a tokenizer: at most 200 MB
SCORED = 64  # examples in a batch that is scored, at most: more gains nothing on a CPU
# Bytes of its logits in float32, at most. The loss holds two or three times as many for a moment.
# smollm2's own tasks come to 0.9 GiB; 64 examples of 100 tokens with 150,000 words to 3.6.
LOGITS = 2**30


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and its right answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Three splits that share no example, and the metric that marks the answers."""

    name: str
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    metric: str  # "exact match", "accuracy", "field F1", "valid JSON", "perplexity" or "KL"
    about: str  # what it is, where it comes from, and its licence
    recipe: Recipe  # values that were tried for this base and task: where notebooks start
    old_knowledge: Sequence[Example] = ()  # what the base knows already; measures forgetting
    strangers: Sequence[Example] = ()  # the answer must stay "not known"; measures invention
    teacher: "Mapping[str, Tensor] | None" = None  # a planted change: module name -> (out, in)
    style: Style | None = None  # of the right answers: its share of all answers is a metric too
    # Prompt -> its group, such as a template or a person: no group is in two splits, and intervals
    # count groups. None: every row stands alone. It changes no run, so no fingerprint.
    groups: Mapping[str, str] | None = None
    # What was read from its file, a `tasks.files.FileRows`: a review of the rows needs it. It
    # changes no run either. None: the task was not made from a file.
    read: Any = field(default=None, compare=False, repr=False)

    def fingerprint(self) -> str:
        """The SHA-256 of everything that a run sees of the task; equal tasks have equal ones."""
        digest = hashlib.sha256(repr((self.name, self.metric)).encode())
        for split in (self.train, self.validation, self.test, self.old_knowledge, self.strangers):
            digest.update(repr([(example.prompt, example.answer) for example in split]).encode())
        for module, change in sorted((self.teacher or {}).items()):
            digest.update(module.encode() + change.numpy(force=True).tobytes())
        return digest.hexdigest()


def check_is_task(given: object) -> None:
    """Refuse anything that is not a Task, such as a name."""
    if not isinstance(given, Task):
        name = repr(given) if isinstance(given, str) else '"new-facts"'
        raise TypeError(f"{shown(given)} isn't a task; give lab.load_task({name})")


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example as numbers: its token ids, and the labels for which a loss is computed."""

    input_ids: list[int]
    labels: list[int]  # as long as input_ids; IGNORED where no loss is computed


class TooLong(ValueError):
    """Raised for an example with more tokens than `max_length`: a cut would hit the answer."""


def _prompt_text(tokenizer: object, prompt: str) -> str:
    """The prompt in the chat format, up to where the answer begins."""
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def prompt_ids(tokenizer: object, prompt: str) -> list[int]:
    """The tokens before the answer: the prompt in the model's own chat format.

    Without a chat format: the tokens of the prompt and a line break.
    """
    quiet = {"verbose": False}  # `encode` says itself which example is too long
    if tokenizer.chat_template is None:
        return tokenizer(f"{prompt}\n", **quiet)["input_ids"]
    text = _prompt_text(tokenizer, prompt)
    return tokenizer(text, add_special_tokens=False, **quiet)["input_ids"]


def _answer_ids(tokenizer: object, example: Example) -> list[int]:
    """The tokens of the right answer, the end token last."""
    text = example.answer
    if tokenizer.chat_template is not None:
        messages = [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": example.answer},
        ]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        start = _prompt_text(tokenizer, example.prompt)
        if whole.startswith(start):
            text = whole[len(start) :].rstrip("\n")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids, tokenizer.eos_token_id]


def encode(
    tokenizer: object, example: Example, max_length: int, loss_on: str = "answer"
) -> Encoded:
    """An example as numbers, in the model's own chat format.

    Labels are not shifted: transformers' models shift them inside. With `loss_on="answer"` the
    answer and the end token have labels. With "all" every token has its label, and the loss counts
    all but the first token, which nothing predicts.

    Raises:
        TooLong: if the whole example has more than `max_length` tokens.
    """
    prompt = prompt_ids(tokenizer, example.prompt)
    ids = prompt + _answer_ids(tokenizer, example)
    if len(ids) > max_length:
        raise TooLong(
            f"the example {example.prompt[:60]!r} has {len(ids)} tokens, more than "
            f"max_length={max_length}; give max_length={len(ids)}, or shorten it"
        )
    if loss_on == "all":
        return Encoded(ids, list(ids))
    return Encoded(ids, [IGNORED] * len(prompt) + ids[len(prompt) :])


# --- many examples, encoded once ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fitting:
    """The examples that fit `max_length`, as numbers, and how many do not fit."""

    encoded: tuple[Encoded, ...]
    tokens: int  # of all encoded examples together
    left_out: int = 0  # examples that are too long
    first: str = ""  # the error message of the first example that is too long


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prompts as numbers."""

    encoded: tuple[list[int], ...]

    @property
    def tokens(self) -> int:
        """Of all prompts together."""
        return sum(map(len, self.encoded))


Kept = TypeVar("Kept", Fitting, Prompts)

_kept: WeakKeyDictionary[object, dict[tuple, Fitting | Prompts]] = WeakKeyDictionary()
_kept_lock = threading.Lock()


def encode_fitting(
    examples: Sequence[Example], tokenizer: object, max_length: int, loss_on: str
) -> Fitting:
    """All examples that fit, in order.

    A fine-tune needs the same examples several times: for its budget, its steps, each evaluation.
    So they are encoded once, and kept with their tokenizer.
    """
    key = (tuple(examples), max_length, loss_on)
    return _made_once(
        tokenizer, key, lambda: _encode_fitting(examples, tokenizer, max_length, loss_on)
    )


def encode_prompts(prompts: Sequence[str], tokenizer: object) -> list[list[int]]:
    """The tokens of each prompt, as `prompt_ids` gives them; kept as in `encode_fitting`."""
    key = tuple(prompts)
    made = _made_once(
        tokenizer, key, lambda: Prompts(tuple(prompt_ids(tokenizer, prompt) for prompt in prompts))
    )
    return list(made.encoded)


def _made_once(tokenizer: object, key: tuple, make: Callable[[], Kept]) -> Kept:
    """What was made for this key, while the tokenizer lives and stays as it is.

    At most MOST_KEPT tokens are kept: the ones that were used last.
    """
    key = (key, _tokenizer_settings(tokenizer))
    with _kept_lock:
        kept = _kept.setdefault(tokenizer, {})
        made = kept.pop(key, None) or make()
        kept[key] = made  # the last entry is the newest
        while sum(entry.tokens for entry in kept.values()) > MOST_KEPT:
            del kept[next(iter(kept))]
    return made


def _encode_fitting(
    examples: Sequence[Example], tokenizer: object, max_length: int, loss_on: str
) -> Fitting:
    encoded, too_long = [], []
    for example in examples:
        try:
            encoded.append(encode(tokenizer, example, max_length, loss_on))
        except TooLong as error:
            too_long.append(str(error))
    tokens = sum(len(row.input_ids) for row in encoded)
    return Fitting(tuple(encoded), tokens, len(too_long), too_long[0] if too_long else "")


def _tokenizer_settings(tokenizer: object) -> tuple:
    """Everything that can change in a tokenizer. Its vocabulary can grow by added tokens only."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    own = {name: value for name, value in vars(tokenizer).items() if value is not backend}
    steps = ("normalizer", "pre_tokenizer", "post_processor", "truncation", "padding")
    words = (repr(getattr(backend, step, None)) for step in steps)
    added = getattr(tokenizer, "added_tokens_decoder", None)
    return (backend, repr(own), repr(added), *words)


def encode_all(
    examples: Sequence[Example], tokenizer: object, max_length: int, loss_on: str
) -> list[Encoded]:
    """All training examples that fit. A warning counts the others, and names the first of them.

    Raises:
        ValueError: if no example fits.
    """
    fitting = encode_fitting(examples, tokenizer, max_length, loss_on)
    if not fitting.encoded:
        raise ValueError(
            f"all {fitting.left_out} training examples are too long. The first: {fitting.first}"
            if fitting.left_out
            else "the task has no training examples; give at least one"
        )
    if fitting.left_out:
        warnings.warn(
            f"{fitting.left_out} of {len(examples)} training examples are left out, since their "
            f"answers would be cut. The first: {fitting.first}",
            stacklevel=4,
        )
    return list(fitting.encoded)


# --- batches ------------------------------------------------------------------------------------


def places_of(encoded: Encoded) -> list[int]:
    """The positions at which the example's labels are predicted: the position before each label."""
    return [place for place, label in enumerate(encoded.labels[1:]) if label != IGNORED]


def scored_at_once(places: int, vocab_size: int) -> int:
    """How many examples are scored at once if each has logits at this many positions."""
    return max(1, min(SCORED, LOGITS // (4 * max(1, places) * vocab_size)))


def batches_to_score(encoded: Sequence[Encoded], vocab_size: int) -> Iterator[list[Encoded]]:
    """The examples in the batches in which they are scored: short ones first, so little is padded.

    A batch holds at most `SCORED` examples, and at most `LOGITS` bytes of logits: one for each of
    the vocabulary's tokens, at each position at which some example of the batch has a label.
    """
    batch: list[Encoded] = []
    places: set[int] = set()
    for example in sorted(encoded, key=lambda row: len(row.input_ids)):
        wider = places.union(places_of(example))
        if batch and len(batch) >= scored_at_once(len(wider), vocab_size):
            yield batch
            batch, wider = [], set(places_of(example))
        batch.append(example)
        places = wider
    if batch:
        yield batch


def collate(encoded: Sequence[Encoded], pad_token_id: int) -> "dict[str, Tensor]":
    """A batch, padded on the right to its longest example.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each (batch, longest), int64.
    """
    import torch

    longest = max(len(example.input_ids) for example in encoded)

    def padded(rows: Iterator[list[int]], value: int) -> "Tensor":
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    return {
        "input_ids": padded((example.input_ids for example in encoded), pad_token_id),
        "attention_mask": padded(([1] * len(example.input_ids) for example in encoded), 0),
        "labels": padded((example.labels for example in encoded), IGNORED),
    }


def check_passes(count: int, recipe: Recipe) -> None:
    """Refuse a step that sees each of `count` examples far more often than once.

    Raises:
        ValueError: with the largest batch that is allowed.
    """
    each = recipe.batch_size * recipe.gradient_accumulation_steps
    most = max(PASSES * count, SMALL_STEP)
    if each > most:
        raise ValueError(
            f"batch_size={recipe.batch_size} × gradient_accumulation_steps="
            f"{recipe.gradient_accumulation_steps} goes {each / count:,.0f} times through the "
            f"{count:,} training examples in each step, and once gives the same gradient; "
            f"give a product of at most {most:,} ({min(16, count)} is usual)"
        )


def order_of_examples(count: int, seed: int) -> Iterator[int]:
    """The numbers of the examples in training order, without end: each pass is shuffled anew."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()

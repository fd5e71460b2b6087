"""Lengths of examples in tokens, counted with a base's own tokenizer, and without torch."""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_lab.models.built_in import base_folder
from lora_lab.tasks.examples import Example
from lora_lab.tasks.splits import UsedRow

TOKENIZERS = ("smollm2", "pocket")  # the bases whose tokenizer may be here, the better one first
ALL = 4_000_000  # bytes of text: up to here every token is counted, in about two seconds
SAMPLE = 2000  # beyond it, this many examples are counted, and all that may be too long
AT_ONCE = 500  # examples in a batch: more would only take memory
MARKS = ("\x02", "\x03")  # stand for prompt and answer while the chat format is read


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long examples are, the chat format included."""

    unit: str  # "smollm2's tokens", or "words" where no tokenizer is here
    middle: int  # the median length
    most: int  # the longest counted example
    counted: int  # how many examples were counted
    too_long: tuple[int, ...]  # rows above max_length; counted in words: rows that must be above it


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts tokens as `tasks.examples.encode` does, with the package tokenizers, not torch."""

    base: str
    tokenizer: object
    parts: tuple[str, str, str]  # the chat format: before the prompt, between, after the answer

    @classmethod
    def of(cls, base: str, folder: Path) -> "TokenCounter":
        """The counter for a base's folder with tokenizer.json and a chat template."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from tokenizers import Tokenizer

        source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        speakers = zip(("user", "assistant"), MARKS, strict=True)
        whole = environment.from_string(source).render(
            messages=[{"role": role, "content": mark} for role, mark in speakers],
            bos_token=settings.get("bos_token", ""),
            eos_token=settings["eos_token"],
        )
        before, rest = whole.split(MARKS[0])
        between, after = rest.split(MARKS[1])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(base, tokenizer, (before, between, after.rstrip("\n")))

    def lengths(self, examples: Sequence[Example]) -> Iterator[int]:
        """The tokens of each example, the end token included."""
        before, between, after = self.parts
        for start in range(0, len(examples), AT_ONCE):
            texts = [
                f"{before}{example.prompt}{between}{example.answer}{after}"
                for example in examples[start : start + AT_ONCE]
            ]
            encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            yield from map(len, encoded)


def counter_here() -> TokenCounter | None:
    """The counter of the best base that is here; None: no base is here."""
    for name in TOKENIZERS:
        folder = base_folder(name)
        if (folder / "tokenizer.json").is_file():
            return TokenCounter.of(name, folder)
    return None


def lengths_of(rows: Sequence[UsedRow], max_length: int, counter: TokenCounter | None) -> Lengths:
    """The lengths of examples, and the rows above `max_length`.

    If there is much text, a sample is counted, and each example that may exceed `max_length`.
    """
    if counter is None:
        words = [len(row.example.prompt.split()) + len(row.example.answer.split()) for row in rows]
        over = (row.number for row, count in zip(rows, words, strict=True) if count > max_length)
        middle = round(statistics.median(words))
        return Lengths("words", middle, max(words), len(words), tuple(over))
    size = sum(len(row.example.prompt) + len(row.example.answer) for row in rows)
    sample = rows if size <= ALL else rows[:: -(-len(rows) // SAMPLE)]
    counts = [*counter.lengths([row.example for row in sample])]
    of_row = dict(zip((row.number for row in sample), counts, strict=True))
    if sample is not rows:
        bounds = Bounds(counter, (row.example for row in sample))
        long = [row for row in rows if bounds.may_exceed(row.example, max_length)]
        of_long = counter.lengths([row.example for row in long])
        of_row |= zip((row.number for row in long), of_long, strict=True)
    return Lengths(
        unit=f"{counter.base}'s tokens",
        middle=round(statistics.median(counts)),
        most=max(of_row.values()),
        counted=len(of_row),
        too_long=tuple(sorted(number for number, count in of_row.items() if count > max_length)),
    )


class Bounds(dict):
    """The most tokens that a word can have: as counted in a sample, else its bytes and a space.

    A byte-level tokenizer joins no words across white space. So a text has at most as many tokens
    as its words have together, plus one for each character of white space that is not a single
    space between two words.
    """

    def __init__(self, counter: TokenCounter, sample: Iterable[Example]) -> None:
        words = {
            word for example in sample for word in f"{example.prompt} {example.answer}".split()
        }
        encode = counter.tokenizer.encode_batch_fast
        self.around = sum(map(len, encode(list(counter.parts), add_special_tokens=False))) + 1
        for spaced in (" ", ""):  # a word has more tokens at the beginning of a line
            texts = [f"{spaced}{word}" for word in words]
            for word, encoded in zip(words, encode(texts, add_special_tokens=False), strict=True):
                self[word] = max(len(encoded), self.get(word, 0))

    def __missing__(self, word: str) -> int:
        return len(word.encode()) + 1

    def may_exceed(self, example: Example, tokens: int) -> bool:
        """Whether an example can have more tokens: judged by bytes, and if need be by words."""
        prompt, answer = example.prompt, example.answer
        letters = len(prompt) + len(answer) + 1
        widest = 1 if prompt.isascii() and answer.isascii() else 4  # bytes of a letter
        return self.around + widest * letters > tokens and self.most(example) > tokens

    def most(self, example: Example) -> int:
        """The most tokens that an example can have."""
        text = f"{example.prompt} {example.answer}"
        words = text.split()
        blank = len(text) - len("".join(words))
        apart = 2 * blank - len(words) + 1 - text.count(" ")  # all but single spaces
        return self.around + sum(map(self.__getitem__, words)) + apart

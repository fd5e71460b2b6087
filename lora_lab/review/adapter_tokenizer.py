"""The tokenizer and the chat template in a folder, beside those of the base. No code is run."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lora_lab.models.adapter_config import CARD_FILE, CARD_TAG, TEMPLATE_FILE, chat_template_of
from lora_lab.places import check_regular
from lora_lab.review.finding import Finding, named

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
LETTERS_OF_METADATA = 20_000  # of a card, at most
MOST_BYTES = 200_000_000  # of a tokenizer's file: the largest known have 35 MB


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as its files describe it."""

    is_here: bool = False
    vocabulary: dict[str, int] = field(default_factory=dict)  # without added tokens
    added: dict[str, int] = field(default_factory=dict)
    eos: str | None = None
    pad: str | None = None
    template: str | None = None

    @property
    def size(self) -> int:
        """The largest token id, plus one: the least number of rows that an embedding needs."""
        return max((*self.vocabulary.values(), *self.added.values()), default=-1) + 1


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer in a folder, read as JSON; `is_here` is false if the folder has no such files.

    Raises:
        ValueError: for a file that can't be read, with its name.
    """
    parts = {name: _object(folder / name) for name in FILES if (folder / name).is_file()}
    config = parts.get("tokenizer_config.json", {})
    special = parts.get("special_tokens_map.json", {})
    fast = parts.get("tokenizer.json", {})
    try:
        added = {
            **{name: int(number) for name, number in parts.get("added_tokens.json", {}).items()},
            **{
                _content(token): int(number)
                for number, token in (config.get("added_tokens_decoder") or {}).items()
            },
            **{token["content"]: int(token["id"]) for token in fast.get("added_tokens") or ()},
        }
        known = (fast.get("model") or {}).get("vocab") or {}
        if isinstance(known, list):  # Unigram's, each with its score
            known = {entry[0]: number for number, entry in enumerate(known)}
        found = {
            "is_here": bool(parts) or (folder / TEMPLATE_FILE).is_file(),
            "vocabulary": known,
            "added": added,
            "eos": _content(config.get("eos_token", special.get("eos_token"))),
            "pad": _content(config.get("pad_token", special.get("pad_token"))),
            "template": chat_template_of(folder),
        }
        return msgspec.convert(found, TokenizerFiles)
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise ValueError(
            f"the tokenizer's files are not as transformers writes them: {error!r}"
        ) from error


def _object(path: Path) -> dict:
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size / 1e6:,.0f} MB; no tokenizer has")
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict)
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path.name} can't be read: {error}") from error


def _content(token: object) -> str | None:
    """A token's text: older files give it as an object."""
    return token.get("content") if isinstance(token, dict) else token


# --- beside the base's --------------------------------------------------------------------------


def tokenizer_findings(
    own: TokenizerFiles,
    base: TokenizerFiles,
    rows: int | None,
    trains_embedding: bool,
    trained_here: bool = False,
) -> Iterator[Finding]:
    """What is odd about an adapter's tokenizer.

    Args:
        own: the adapter's tokenizer, which is here.
        base: the base's tokenizer; if it is not here, nothing is compared with it.
        rows: the rows of the base's embedding; None: not known.
        trains_embedding: whether the adapter holds an embedding of its own.
        trained_here: whether lora_lab trained it. Its batches mask padding by place, not by token
            (`tasks.examples.collate`), so an end token that also pads keeps its label.
    """
    if base.is_here:
        yield from _beside(own, base, trains_embedding)
    if rows is not None and own.size > rows and not trains_embedding:
        numbers = {**own.vocabulary, **own.added}
        beyond = [token for token, number in numbers.items() if number >= rows]
        yield Finding(
            severity="grave",
            what=f"the tokenizer has ids up to {own.size - 1:,}, and the base's embedding "
            f"{rows:,} rows; beyond it: {named(list(map(repr, beyond)))}",
            why="such a token stops with 'index out of range', or on a GPU with a device-side "
            "assert",
            do="use the base's tokenizer, or resize the base's embedding and train it with "
            "modules_to_save=['embed_tokens', 'lm_head']",
            lesson="02",
        )
    if own.pad is not None and own.pad == own.eos and not trained_here:
        yield Finding(
            severity="note",
            what=f"pad_token is the eos_token {own.eos!r}",
            why="a collator that masks the labels of padding then masks every end, and the model "
            "never learns to stop",
            do="if its answers do not end, train with another pad token that the base has, or "
            "with labels that keep the first eos",
            lesson="02",
        )


def _beside(own: TokenizerFiles, base: TokenizerFiles, trains_embedding: bool) -> Iterator[Finding]:
    if own.vocabulary and base.vocabulary and own.vocabulary != base.vocabulary:
        changed = sum(
            base.vocabulary.get(word) != number for word, number in own.vocabulary.items()
        )
        yield Finding(
            severity="grave",
            what=f"the tokenizer is another than the base's: {changed:,} of its "
            f"{len(own.vocabulary):,} words have another number",
            why="the base reads numbers: with another vocabulary each text is gibberish to it",
            do="use the base's own tokenizer, and train again if this one was trained with",
            lesson="02",
        )
        return
    all_of_base = {**base.vocabulary, **base.added}
    new = [token for token in own.added if token not in all_of_base]
    if new and base.vocabulary and not trains_embedding:
        yield Finding(
            severity="warning",
            what=f"{len(new)} tokens are new beside the base's: {named(list(map(repr, new)))}",
            why="the adapter trains no embedding, so each new token is a random or untrained row: "
            "the model reads noise there, and can't write it",
            do="use tokens that the base knows, or train the new rows (trainable_token_indices, or "
            "modules_to_save=['embed_tokens', 'lm_head'])",
            lesson="02",
        )
    if own.eos and base.eos and own.eos != base.eos:
        yield Finding(
            severity="warning",
            what=f"eos_token is {own.eos!r}, and the base's {base.eos!r}",
            why="generation ends at the end token; a model that learned one and is stopped at the "
            "other talks on",
            do="load the tokenizer from this folder, and give both ids as eos_token_id",
            lesson="02",
        )
    if base.template and not own.template:
        yield Finding(
            severity="warning",
            what="the folder's tokenizer has no chat template, and the base's has one",
            why="apply_chat_template stops, or falls back on another form than it was trained in",
            do="copy the base's chat_template.jinja here, or load the base's tokenizer",
            lesson="02",
        )
    elif base.template and own.template and own.template != base.template:
        yield Finding(
            severity="note",
            what="the chat template is another than the base's",
            why="prompts must look as they did in training: a server that takes the base's "
            "template asks in a form that the adapter never saw",
            do="ask with the tokenizer of this folder (if it is the one of the training)",
            lesson="02",
        )


def look_at_tokenizer(
    folder: Path, base_folder: Path | None, rows: int | None, trains_embedding: bool
) -> tuple[dict[str, str], list[Finding]]:
    """The facts and the findings about a folder's tokenizer, beside the base's if that is here.

    Args:
        folder: the adapter's, or a whole model's.
        base_folder: the base's; None: nothing is compared.
        rows: the rows of the base's embedding; None: not known.
        trains_embedding: whether the adapter holds an embedding of its own.
    """
    try:
        own = read_tokenizer(folder)
    except (ValueError, OSError) as error:
        broken = Finding(
            severity="warning",
            what=f"the tokenizer can't be read: {error}",
            why="whoever loads it from this folder stops",
            do="copy the base's tokenizer files here",
            lesson="02",
        )
        return {"tokenizer": "can't be read"}, [broken]
    if not own.is_here:
        return {"tokenizer": "none in the folder: the base's serves"}, []
    base = TokenizerFiles()
    if base_folder is not None:
        with suppress(ValueError, OSError):
            base = read_tokenizer(base_folder)
    same = base.is_here and (own.vocabulary, own.added) == (base.vocabulary, base.added)
    own_or_not = ", as the base's" if same else ""
    template = "with a chat template" if own.template else "without a chat template"
    facts = {
        "tokenizer": f"{own.size:,} ids{own_or_not}, {template}, eos {own.eos!r}, pad {own.pad!r}"
    }
    trained_here = is_export_of_lora_lab(folder)
    return facts, list(tokenizer_findings(own, base, rows, trains_embedding, trained_here))


def is_export_of_lora_lab(folder: Path) -> bool:
    """Whether `lora-lab export` wrote a folder: its card's metadata carry the tag."""
    try:
        check_regular(folder / CARD_FILE)
        with (folder / CARD_FILE).open(encoding="utf-8") as file:
            begin = file.read(LETTERS_OF_METADATA)
    except (OSError, ValueError):
        return False
    metadata = begin.removeprefix("---\n").partition("\n---\n")[0]
    return begin.startswith("---\n") and f"- {CARD_TAG}" in metadata.splitlines()

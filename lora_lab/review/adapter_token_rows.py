"""Rows of single tokens that were trained beside LoRA: PEFT's `trainable_token_indices`."""

from collections.abc import Iterator

from lora_lab.models.adapter_config import CONFIG_FILE
from lora_lab.models.architecture import ends
from lora_lab.review.adapter_weights import Weights
from lora_lab.review.finding import Finding, named
from lora_lab.wording import counted

FIELD = "trainable_token_indices"
EMBEDDING = "the embedding"  # where the configuration gives numbers alone


def token_row_findings(value: object, weights: Weights, rows: int | None) -> Iterator[Finding]:
    """Findings about contradictions between the configuration's tokens and the rows in the file.

    Args:
        value: the configuration's field: token numbers, or token numbers by module.
        weights: the adapter's.
        rows: of the base's embedding; None: not known.

    Source:
        `TrainableTokensLayer` in peft/tuners/trainable_tokens/layer.py, PEFT 0.21: the tensor has
        a row for each token number, and replaces that row of the base.
    """
    try:
        wanted = _tokens_by_module(value)
    except ValueError as error:
        yield Finding(
            severity="grave",
            what=str(error),
            why="PEFT stops at it",
            do=f"give token numbers, or token numbers by module, in {CONFIG_FILE}",
        )
        return
    found = dict(weights.token_rows)
    for name, tokens in wanted.items():
        module = next((path for path in found if name == EMBEDDING or ends(path, name)), None)
        if module is None:
            yield Finding(
                severity="grave",
                what=f"{FIELD} names {counted(len(tokens), 'token')} of {name}, and the file holds "
                "no rows for them",
                why="PEFT stops with a KeyError while it loads: what these tokens learned is lost",
                do="save the adapter again from the trained model",
            )
            continue
        count, *_ = (*weights.file.entries[found.pop(module)].shape, 0)
        if count != len(tokens):
            yield Finding(
                severity="grave",
                what=f"{FIELD} names {counted(len(tokens), 'token')} of {module}, and the file "
                f"holds {counted(count, 'row')}",
                why="PEFT stops with a size mismatch, and nobody can tell which row is whose",
                do=f"take the {CONFIG_FILE} that belongs to these weights",
            )
        elif rows is not None and max(tokens, default=0) >= rows:
            yield Finding(
                severity="warning",
                what=f"{FIELD} names token {max(tokens):,}, and the base's embedding ends with "
                f"token {rows - 1:,}",
                why="PEFT stops with an IndexError on the base as it is",
                do="make the embedding as large as it was in training before the adapter is "
                "loaded: model.resize_token_embeddings",
            )
        else:
            yield Finding(
                severity="note",
                what=f"{counted(count, 'row')} of {module} are trained beside LoRA ({FIELD})"
                if count != 1
                else f"1 row of {module} is trained beside LoRA ({FIELD})",
                why="PEFT 0.15 and later put them in place of the base's rows. load_adapter, chat "
                "and evaluate do not read them, and refuse this adapter",
                do="load it with PEFT, or merge it there: model.merge_and_unload()",
            )
    if found:
        yield Finding(
            severity="grave",
            what=f"the file holds trained rows of tokens for {named(list(found))}, which {FIELD} "
            "does not name",
            why="PEFT leaves them out without an error: these tokens mean what they meant before",
            do=f"take the {CONFIG_FILE} that belongs to these weights",
        )


def _tokens_by_module(value: object) -> dict[str, list[int]]:
    """The token numbers of each module that a configuration names.

    Raises:
        ValueError: if it holds something else.
    """
    if not value:
        return {}
    by_module = value if isinstance(value, dict) else {EMBEDDING: value}
    for tokens in by_module.values():
        if not isinstance(tokens, list) or not all(
            type(token) is int and token >= 0 for token in tokens
        ):
            raise ValueError(f"{FIELD}={str(value)[:60]!r} gives no token numbers")
    return by_module

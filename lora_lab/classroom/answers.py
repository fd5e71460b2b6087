"""Answers of a function as text and back: plain values and tensors, without pickle.

The sender may be hostile: reading answers runs no code, and a broken text is refused. An object of
another type arrives as an empty object whose type has the same name, so that a verdict can name it.
"""

import base64
import json
import math
import numbers
import re
from collections.abc import Mapping

import torch
from torch import Tensor

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
    )
}


def to_text(value: object) -> str:
    """A value as a single line of JSON; each part of it is a list that begins with its kind."""
    return json.dumps(_packed(value))


def from_text(text: str) -> object:
    """The value of a text that `to_text` wrote.

    Raises:
        ValueError: if the text is anything else.
    """
    try:
        return _unpacked(json.loads(text))
    except (TypeError, KeyError, IndexError, RecursionError, RuntimeError, OverflowError) as error:
        raise ValueError(f"an answer that can't be read ({error})") from error


def _packed(value: object) -> object:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return ["text", str(value)]
    if isinstance(value, numbers.Integral):
        return ["whole", str(int(value))]
    if isinstance(value, numbers.Real):
        return ["number", repr(float(value))]
    if isinstance(value, list):
        return ["list", [_packed(item) for item in value]]
    if isinstance(value, tuple):
        return ["tuple", [_packed(item) for item in value]]
    if isinstance(value, Mapping):
        return ["dict", [[_packed(key), _packed(item)] for key, item in value.items()]]
    if isinstance(value, Tensor) and _is_plain(value):
        return ["tensor", *_packed_tensor(value)]
    return ["object", type(value).__name__]


def _is_plain(tensor: Tensor) -> bool:
    kind = str(tensor.dtype).removeprefix("torch.")
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and kind in DTYPES


def _packed_tensor(tensor: Tensor) -> tuple[str, list[int], str]:
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    data = bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b""
    return (
        str(tensor.dtype).removeprefix("torch."),
        [*tensor.shape],
        base64.b64encode(data).decode(),
    )


def _unpacked(packed: object) -> object:
    if packed is None or isinstance(packed, bool):
        return packed
    kind, *parts = packed
    if kind == "tensor":
        return _unpacked_tensor(*parts)
    (part,) = parts
    if kind == "whole":
        return int(part)
    if kind == "number":
        return math.nan if part == "nan" else float(part)
    if kind == "text":
        return _text(part)
    if kind == "list":
        return [_unpacked(item) for item in part]
    if kind == "tuple":
        return tuple(_unpacked(item) for item in part)
    if kind == "dict":
        return {_unpacked(key): _unpacked(item) for key, item in part}
    if kind == "object":
        return type(_type_name(part), (), {})()
    raise ValueError(f"an answer of the unknown kind {kind!r:.40}")


def _unpacked_tensor(name: str, shape: list[int], encoded: str) -> Tensor:
    dtype, data = DTYPES[name], bytearray(base64.b64decode(encoded, validate=True))
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"a tensor of shape {shape} with {len(data)} bytes")
    if not data:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _text(part: object) -> str:
    if not isinstance(part, str):
        raise TypeError("a text that is none")
    return part


def _type_name(part: object) -> str:
    """A type's name, in letters that any page can show."""
    return re.sub(r"\W", "_", _text(part))[:60] or "object"

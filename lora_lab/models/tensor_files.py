"""Tensors on disk, in safetensors files; errors say when the disk is full or a file is damaged."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from lora_lab.places import check_regular, write_atomically

if TYPE_CHECKING:  # torch takes seconds to import, and a list of runs does not need it
    from torch import Tensor


def save_tensors(
    tensors: "Mapping[str, Tensor]", path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file, whole or not at all.

    Raises:
        NoRoom: if the disk is full, with the file and its size.
    """
    from safetensors.torch import save_file

    size = sum(tensor.nbytes for tensor in tensors.values())
    with write_atomically(path, size) as file:
        mode = file.stat().st_mode
        save_file(dict(tensors), file, metadata=metadata)
        with suppress(PermissionError):  # a grader of submissions lets no program change modes
            file.chmod(mode)  # safetensors' own file is for its owner only


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Raises:
        ValueError: if it is damaged, or not a safetensors file.
        FileNotFoundError: if it is not there.
    """
    from safetensors.torch import load_file

    check_tensors(path)
    return load_file(path)


def check_tensors(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose tensors are not read.

    Raises:
        ValueError: if it is damaged, or not a safetensors file.
        FileNotFoundError: if it is not there.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}); copy or save it again"
        ) from error


# --- tensors looked at one by one, without torch ------------------------------------------------

DTYPES = {  # safetensors' names, torch's, and numpy's for the bytes; None: torch reads it
    "F64": ("float64", np.float64),
    "F32": ("float32", np.float32),
    "F16": ("float16", np.float16),
    "BF16": ("bfloat16", np.uint16),
    "F8_E4M3": ("float8_e4m3fn", None),
    "F8_E5M2": ("float8_e5m2", None),
}
STRETCH = 1 << 22  # numbers looked through at once, so that they take little memory
EXPONENT = {"F64": 0x7FF << 52, "F32": 0xFF << 23, "F16": 0x1F << 10, "BF16": 0xFF << 7}  # its bits


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor's shape and dtype, by the header of its file, and the place of its bytes."""

    shape: tuple[int, ...]
    dtype: str  # safetensors' name for it, as "BF16"
    start: int  # in the file
    end: int

    @property
    def is_floating_point(self) -> bool:
        """Whether it holds numbers that an adapter or a model can have."""
        return self.dtype in DTYPES

    @property
    def numbers(self) -> int:
        """The count of its numbers."""
        return math.prod(self.shape)


class TensorFile:
    """A safetensors file with its header read. A tensor's bytes are read when they are asked for.

    Raises:
        ValueError: if the file is damaged, or not a safetensors file.
        FileNotFoundError: if it is not there.
    """

    def __init__(self, path: Path) -> None:
        check_tensors(path)  # safetensors' own reader: shapes, places and the file's size agree
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        self.path = path
        self.entries = {
            name: Entry(
                tuple(facts["shape"]),
                facts["dtype"],
                *(8 + length + place for place in facts["data_offsets"]),
            )
            for name, facts in header.items()
        }
        self._bytes = np.memmap(path, mode="r")

    def array(self, name: str, every: int = 1) -> np.ndarray:
        """A tensor as float32, or float64 where it is; of a matrix each `every`-th row."""
        entry = self.entries[name]
        raw = self._bytes[entry.start : entry.end]
        kind = DTYPES[entry.dtype][1]
        found = self._by_torch(raw, entry) if kind is None else raw.view(kind)
        found = found.reshape(entry.shape)
        if every > 1:
            found = found[::every]
        if entry.dtype == "BF16":  # the upper half of a float32
            return np.asarray(found.astype(np.uint32) << 16).view(np.float32)
        return found.astype(np.float64 if entry.dtype == "F64" else np.float32)

    def is_finite(self, name: str) -> bool:
        """Whether a tensor holds no NaN and no infinity: no exponent has all its bits set."""
        entry = self.entries[name]
        bits = EXPONENT.get(entry.dtype)
        if bits is None:
            return bool(np.isfinite(self.array(name)).all())
        width = np.dtype(DTYPES[entry.dtype][1]).itemsize
        found = self._bytes[entry.start : entry.end].view(f"u{width}")
        mask = found.dtype.type(bits)
        return all(
            not ((found[start : start + STRETCH] & mask) == mask).any()
            for start in range(0, len(found), STRETCH)
        )

    @staticmethod
    def _by_torch(raw: np.ndarray, entry: Entry) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(np.array(raw))
        return tensor.view(getattr(torch, DTYPES[entry.dtype][0])).float().numpy()

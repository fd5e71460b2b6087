"""Tensors on disk, in safetensors files; a full disk and a damaged file are said in words."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from lora_lab.places import write_atomically

if TYPE_CHECKING:  # torch takes seconds to import, and a list of runs does without
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
        file.chmod(mode)  # safetensors' own file is for its owner only


def load_tensors(path: Path) -> "dict[str, Tensor]":
    """The tensors of a safetensors file.

    Raises:
        ValueError: if it is damaged, or no such file.
        FileNotFoundError: if it is not there.
    """
    from safetensors.torch import load_file

    check_tensors(path)
    return load_file(path)


def check_tensors(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whose tensors are not read.

    Raises:
        ValueError: if it is damaged, or no such file.
        FileNotFoundError: if it is not there.
    """
    try:
        with safe_open(path, framework="np") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file ({error})") from error

"""Where things are: data/ and notebooks/ (from a checkout or a wheel), the cache, the store."""

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_PACKAGE = Path(__file__).resolve().parent


def _shipped(name: str) -> Path:
    """The folder `name` beside the package in a checkout, else the copy inside the wheel."""
    beside = _PACKAGE.parent / name
    if (_PACKAGE.parent / "pyproject.toml").exists() and beside.is_dir():
        return beside
    return _PACKAGE / "share" / name


def data_folder() -> Path:
    """The folder with the shipped data: pocket's weights, its world, the papers' numbers."""
    return _shipped("data")


def notebooks_folder() -> Path:
    """The folder with the course's notebooks as they were shipped."""
    return _shipped("notebooks")


def cache_folder() -> Path:
    """Where fetched and converted files are kept: $LORA_LAB_CACHE, else the user's cache folder."""
    given = os.environ.get("LORA_LAB_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("lora-lab")


def store_folder() -> Path:
    """Where runs are kept: $LORA_LAB_STORE, else the user's data folder."""
    given = os.environ.get("LORA_LAB_STORE")
    return Path(given) if given else platformdirs.user_data_path("lora-lab") / "runs"


def predictions_file() -> Path:
    """Where predictions are kept: beside the store and named after it."""
    store = store_folder()
    return store.with_name(f"{store.name}-predictions.jsonl")


def attempts_file() -> Path:
    """Where a game's attempts are kept: beside the store and named after it."""
    store = store_folder()
    return store.with_name(f"{store.name}-attempts.jsonl")


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, written in one piece; one that was cut short before is ended first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = line.encode() + b"\n"
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # O_BINARY: Windows
    file = os.open(path, flags, 0o666)
    try:
        end = os.lseek(file, 0, os.SEEK_END)
        if end:
            os.lseek(file, end - 1, os.SEEK_SET)
            if os.read(file, 1) != b"\n":  # a line cut short, by a full disk or a crash
                written = b"\n" + written
        os.write(file, written)
    finally:
        os.close(file)


class NotPrepared(FileNotFoundError):
    """Something that `lora-lab prepare` fetches is not there yet."""


def sha256_of(path: Path) -> str:
    """The file's SHA-256, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`, and give it that name once it is whole.

    If the block raises, what was at `path` before is still there, and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    temporary.touch(exist_ok=False)  # with the usual permissions, which mkstemp does not give
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def make_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and give it that name once it is whole.

    A folder that was at `path` before is replaced, and stays if the block raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        whole = temporary / "new"
        whole.mkdir()
        yield whole
        if path.exists():
            path.rename(temporary / "old")
        whole.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""The folders of data, cache and runs; files written whole; full disks in words; cached values."""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import platformdirs

from lora_lab import __version__
from lora_lab.recipe import shown

Kind = TypeVar("Kind")
_PACKAGE = Path(__file__).resolve().parent
RESERVED = re.compile(
    r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\.|$)", re.IGNORECASE
)
LONGEST = 200  # bytes of a folder's name: systems allow 255, and suffixes are added
NEW = ".new-"  # how the names of temporary files and folders begin
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # EDQUOT: not on Windows
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
MOST_CACHED = 3000  # values in a folder of the cache: 12 MB, each in a block of 4 KB


def _shipped_folder(name: str) -> Path:
    """The folder `name` beside the package in a checkout, else the copy inside the wheel."""
    beside = _PACKAGE.parent / name
    if (_PACKAGE.parent / "pyproject.toml").exists() and beside.is_dir():
        return beside
    return _PACKAGE / "share" / name


def data_folder() -> Path:
    """The folder with the shipped data: pocket's weights, its world, the papers' numbers."""
    return _shipped_folder("data")


def notebooks_folder() -> Path:
    """The folder with the course's notebooks as they were shipped."""
    return _shipped_folder("notebooks")


def cache_folder() -> Path:
    """Where fetched and converted files are kept: $LORA_LAB_CACHE, else the user's cache folder."""
    folder = os.environ.get("LORA_LAB_CACHE")
    return Path(folder) if folder else _users(platformdirs.user_cache_path, "LORA_LAB_CACHE")


def store_folder() -> Path:
    """Where runs are kept: $LORA_LAB_STORE, else the user's data folder."""
    folder = os.environ.get("LORA_LAB_STORE")
    return (
        Path(folder) if folder else _users(platformdirs.user_data_path, "LORA_LAB_STORE") / "runs"
    )


def _users(path: Callable[[str], Path], variable: str) -> Path:
    """A folder of lora_lab in the user's home; FileNotFoundError where the user has none."""
    try:
        return path("lora-lab")
    except RuntimeError as error:  # a container's user without HOME and without an account
        raise FileNotFoundError(
            f"this user has no home folder (HOME is not set); set {variable} to a folder that "
            "may be written"
        ) from error


def predictions_file() -> Path:
    """Where predictions are kept."""
    return _beside_the_store("predictions.jsonl")


def attempts_file() -> Path:
    """Where a game's attempts are kept."""
    return _beside_the_store("attempts.jsonl")


def class_file() -> Path:
    """The file that says which class a learner shares with."""
    return _beside_the_store("class.json")


def checks_file() -> Path:
    """Where the verdicts of exercises are kept."""
    return _beside_the_store("checks.jsonl")


def _beside_the_store(name: str) -> Path:
    """A file beside the store, named after it."""
    store = Path(os.path.abspath(store_folder()))  # "." has no name
    return store.with_name(f"{store.name}-{name}")


def folder_name(name: str) -> str:
    """A folder's name that every system allows, made from any name; ordinary names stay.

    Two names may give the same folder name. A caller that must keep them apart adds a suffix.
    """
    safe = "".join("_" if sign in '<>:"/\\|?*' or not sign.isprintable() else sign for sign in name)
    safe = safe.encode()[:LONGEST].decode(errors="ignore").rstrip(" .")  # Windows drops such an end
    safe = re.sub(r"^[ .~-]+", "_", safe)  # a dot hides a file, ~ is a home, - is an option
    return f"_{safe}" if RESERVED.match(safe) or not safe else safe


def append_line(path: Path, line: str) -> None:
    """Add a line to a file in one write; an unfinished last line is ended first.

    Raises:
        NoRoom: if the disk is full; `writing_in` has the other errors.
    """
    written = line.encode() + b"\n"
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)  # O_BINARY: Windows
    with writing_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, flags, 0o666)
        try:
            end = os.lseek(file, 0, os.SEEK_END)
            if end:
                os.lseek(file, end - 1, os.SEEK_SET)
                if os.read(file, 1) != b"\n":  # a line cut short, by a full disk or a crash
                    written = b"\n" + written
            if os.write(file, written) < len(written):  # a disk with little room takes a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(file)


class NotPrepared(FileNotFoundError):
    """A file that `lora-lab prepare` downloads is not there yet."""


def sha256_of(path: Path) -> str:
    """The file's SHA-256, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NoRoom(OSError):
    """A disk is full, or takes no file of that size."""


def check_regular(path: Path) -> None:
    """Refuse anything but a regular file: a pipe or a device may never end.

    Raises:
        FileNotFoundError: if nothing is there.
        ValueError: if it is a folder, a pipe or a device.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device, which may never end"
        raise ValueError(f"{path} is {kind}, not a file; put the file itself in its place")


@contextmanager
def writing_in(folder: Path, size: int | None = None) -> Iterator[None]:
    """A block whose failed writes raise an error that says why, and what would help.

    Args:
        folder: where the block writes; the message names it.
        size: the bytes that it writes; None: few, or unknown.

    Raises:
        NoRoom: if the disk is full, or a file too large for it.
        PermissionError: if nothing may be written there.
        NotADirectoryError: if a part of the path is a file.
        ValueError: if no file can have such a name.
    """
    try:
        check_name(folder)
        yield
    except Exception as error:
        number, folder = _error_number(error), _permanent(folder)
        why = f"({os.strerror(number)})" if number else ""
        if number in FULL:
            needs = f"{size / 1e6:.3g} MB are to be written, and " if size else ""
            raise NoRoom(
                f"there is no room in {folder} {why}: {needs}{_free(folder) / 1e6:.3g} MB are free "
                "on that disk; make room there, or give a folder on another disk"
            ) from error
        if number in REFUSED and getattr(error, "filename", True):  # a socket's error has none
            raise PermissionError(
                f"nothing can be written in {folder} {why}; give a folder of your own"
            ) from error
        if number in (errno.ENOTDIR, errno.EEXIST):
            raise NotADirectoryError(
                f"{folder} can't be a folder {why}; a part of its path is a file: give another one"
            ) from error
        raise


def check_writable(folder: Path, ways: str) -> None:
    """Refuse a folder in which nothing can be written; it need not exist yet, and is not made.

    Args:
        folder: an absolute path.
        ways: how another folder is named; the error ends with it.

    Raises:
        PermissionError: if nothing can be written there; `writing_in` has the other errors.
    """
    try:
        with writing_in(folder), tempfile.TemporaryFile(dir=_existing(folder)) as file:
            file.write(b"written")
    except PermissionError as error:
        raise PermissionError(f"{error}: {ways}") from error


def check_name(path: str | Path) -> None:
    """Refuse a path that no system allows: with half a letter, a NUL, or too many letters."""
    try:
        os.stat(path)
    except (ValueError, OSError) as error:  # UnicodeEncodeError is a ValueError
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            why = getattr(error, "strerror", None) or str(error).partition(":")[0]
            raise ValueError(
                f"no file can be called {shown(str(path))} ({why}); give a shorter or simpler name"
            ) from error


def _error_number(error: Exception) -> int | None:
    """The system's number of an error; safetensors, written in Rust, has it in its message."""
    if isinstance(error, OSError):
        return error.errno
    match = re.search(r"\(os error (\d+)\)", str(error))
    number = int(match[1]) if match else None
    return errno.ENOSPC if os.name == "nt" and number == 112 else number  # Windows' own number


def _permanent(folder: Path) -> Path:
    """The folder, or the nearest folder around it that is not temporary."""
    paths = (folder, *folder.parents)
    return next(path for path in paths if not any(part.startswith(NEW) for part in path.parts))


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _free(folder: Path) -> int:
    """The free bytes on the disk of a folder, which need not exist yet."""
    return shutil.disk_usage(_existing(folder)).free


@contextmanager
def write_atomically(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary file beside `path`, and give it that name once it is whole.

    If the block raises, what was at `path` before is still there, and the temporary file is gone.

    Args:
        path: the file; its folder is made where it is missing.
        size: the bytes that it will hold, for the message on a full disk; None: few.

    Raises:
        NoRoom: if the disk is full; `writing_in` has the other errors.
    """
    with writing_in(path.parent, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{NEW}{uuid.uuid4().hex}")  # the name itself may be long
        try:
            temporary.touch(exist_ok=False)  # with usual permissions, which mkstemp does not give
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def make_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, and give it that name once it is whole.

    A folder that was at `path` before is replaced, and stays if the block raises.

    Raises:
        NoRoom: if the disk is full; `writing_in` has the other errors.
    """
    with writing_in(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=NEW, dir=path.parent))
        try:
            whole = temporary / "new"
            whole.mkdir()
            yield whole
            if path.exists():
                path.rename(temporary / "old")
            whole.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def make_new_folder(path: Path) -> Iterator[Path]:
    """As `make_folder_atomically`, for a folder that is new or empty: nothing is replaced.

    Raises:
        FileExistsError: if the folder holds something already, or is a file.
    """
    check_new_folder(path)
    with make_folder_atomically(path) as new:
        yield new


def check_new_folder(path: Path, cure: str = "give a new one") -> None:
    """Refuse a folder that holds something already, or a file; the error ends with the cure."""
    check_name(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(f"{path} is not an empty folder; {cure}, nothing is lost")


# --- cached values --------------------------------------------------------------------------


def cached_value(
    folder: str, key: tuple[str, ...], kind: type[Kind], make: Callable[[], Kind]
) -> Kind:
    """A value that takes long to make: made once, and then read from a JSON file of the cache.

    The values that were used least recently go when the folder holds more than `MOST_CACHED`.
    diskcache and joblib.Memory keep pickles, which can run any code when they are read. The first
    has had no release since 2023, and the second drops old values only when it is called to.

    Args:
        folder: the name of a folder in the cache.
        key: texts that decide the value; this package's version is added.
        kind: the type of the value, a record or number that msgspec knows.
        make: the function that makes the value.
    """
    digest = hashlib.sha256("\n".join((*key, __version__)).encode()).hexdigest()
    path = cache_folder() / folder / f"{digest[:16]}.json"
    with suppress(OSError, msgspec.MsgspecError):  # missing, or damaged
        value = msgspec.json.decode(path.read_bytes(), type=kind)
        with suppress(OSError):  # a cache that can only be read
            os.utime(path)
        return value
    value = make()
    with suppress(OSError), write_atomically(path) as new:
        new.write_bytes(msgspec.json.encode(value))
    _drop_oldest(path.parent)
    return value


def _drop_oldest(folder: Path) -> None:
    """Delete a cache folder's oldest values if there are too many: down to nine tenths."""
    with suppress(OSError):
        values = [file for file in os.scandir(folder) if file.name.endswith(".json")]
        if len(values) > MOST_CACHED:
            values.sort(key=lambda file: file.stat().st_mtime)
            for file in values[: len(values) - MOST_CACHED * 9 // 10]:
                os.unlink(file.path)

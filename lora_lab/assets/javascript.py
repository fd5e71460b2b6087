"""The playground's JavaScript from others: fetched by npm, its packages and files known by hash.

It is kept in lora_lab/web/vendor, so that users need neither npm nor a network.
`python -m lora_lab.assets.javascript` fetches it anew after packages.toml was changed.
"""

import base64
import hashlib
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from lora_lab.places import write_atomically

VENDOR = Path(__file__).parents[1] / "web" / "vendor"
PACKED = ".xz"  # the ending of a packed file: the runtime takes 2 MB packed, 14 MB unpacked
NOTICES = "ThirdPartyNotices.txt"  # 340 KB of licences, packed to 21


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm, and the files of it that the playground contains."""

    name: str
    version: str
    integrity: str  # of the package as npm gives it: "sha512-" and the digest in base64
    licence: str
    files: dict[str, str]  # name in the package: the SHA-256 of its content
    notices: dict[str, str] = field(default_factory=dict)  # the same, for texts that it lacks

    @property
    def folder(self) -> Path:
        """Where its files are kept."""
        return VENDOR / self.name.rpartition("/")[2]

    def kept(self, file: str) -> Path:
        """Where a file is kept: packed, if it is a program in WebAssembly."""
        name = Path(file).name
        packed = name.endswith(".wasm") or name == NOTICES
        return self.folder / (name + PACKED if packed else name)


def packages() -> list[Package]:
    """What packages.toml lists."""
    table = tomllib.loads((VENDOR / "packages.toml").read_text(encoding="utf-8"))
    return [Package(**entry) for entry in table["package"]]


def content_of(path: Path) -> bytes:
    """A kept file's content, unpacked."""
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == PACKED else content


def fetch(package: Package) -> None:
    """Fetch a package by npm, check it, and keep its files.

    Raises:
        FileNotFoundError: if npm is not here.
        ValueError: if the package, or a file in it, is another one than packages.toml says.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm, which fetches the JavaScript, is not here; install Node.js")
    with tempfile.TemporaryDirectory() as place:
        command = [npm, "pack", f"{package.name}@{package.version}", "--silent"]
        subprocess.run(command, cwd=place, check=True, capture_output=True)
        (archive,) = Path(place).glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != package.integrity:
            raise ValueError(
                f"{package.name} {package.version} has the integrity sha512-{digest}, and "
                f"packages.toml says {package.integrity}; if the new one is meant, write it there"
            )
        with tarfile.open(archive) as tar:
            for name, known in package.files.items():
                content = tar.extractfile(f"package/{name}").read()
                _keep(package.kept(name), content, known)


def _keep(path: Path, content: bytes, known: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != known:
        raise ValueError(
            f"{path.name} has the SHA-256 {digest}, and packages.toml says {known}; "
            "if the new one is meant, write it there"
        )
    path.parent.mkdir(exist_ok=True)
    if path.suffix == PACKED:
        content = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
    with write_atomically(path) as new:
        new.write_bytes(content)


if __name__ == "__main__":
    for each in packages():
        fetch(each)

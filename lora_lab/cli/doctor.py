"""`doctor`: what this machine can do, and what is wrong with it. Nothing is fetched or changed."""

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_lab.machine import resources
from lora_lab.places import NotPrepared, cache_folder, notebooks_folder, store_folder

OK, WARN, FAIL = "ok", "warn", "fail"
GIGABYTE = 10**9
MEMORY = (1 * GIGABYTE, 4 * GIGABYTE)  # free: below the first pocket can't train, then smollm2
DISK = (0.1 * GIGABYTE, 1 * GIGABYTE)  # free: runs can't be kept; smollm2 can't be prepared
PREPARE = "run `lora-lab prepare` once, with a network (about 120 MB)"
PATIENCE = 120  # seconds for a check in a process of its own; the first import can be slow
SETTINGS = (  # environment variables that change what happens
    "LORA_LAB_BASE LORA_LAB_CACHE LORA_LAB_STORE HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_HOME "
    "CUDA_VISIBLE_DEVICES OMP_NUM_THREADS"
).split()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: str  # "ok", "warn" (something will be missing or slow) or "fail" (it can't work)
    found: str
    remedy: str = ""  # what would mend it; empty where there is nothing to mend


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """Everything that `doctor` looked at. Its repr is a report in plain text."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the laboratory works here; a warning does not stop it."""
        return all(check.status != FAIL for check in self.checks)

    @property
    def summary(self) -> str:
        """One sentence."""
        warnings, failures = (
            sum(check.status == status for check in self.checks) for status in (WARN, FAIL)
        )
        if failures:
            return f"{failures} to mend before the laboratory works here."
        if warnings:
            return f"The laboratory works here; {warnings} to know about."
        return "The laboratory works here, with everything in place."

    def __repr__(self) -> str:
        lines = []
        for check in self.checks:
            lines.append(f"{check.status:<5}{check.name:<15}{check.found}")
            if check.remedy:
                lines.append(f"{'':<20}-> {check.remedy}")
        return "\n".join([*lines, self.summary])


def doctor() -> Diagnosis:
    """Look at everything: about five seconds, most of them for importing torch.

    A look that fails is itself reported: this never raises for a broken installation.
    """
    with _trial(TRY_BITSANDBYTES) as bitsandbytes, _trial(LIST_KERNELS) as kernels:
        looks: dict[str, Callable[[], Check]] = {
            "Python": python,
            "packages": packages,
            "device": device,
            "number format": number_format,
            "threads": threads,
            "memory": memory,
            "cache": lambda: place("cache", cache_folder(), "LORA_LAB_CACHE"),
            "runs": lambda: place("runs", store_folder(), "LORA_LAB_STORE"),
            "pocket": lambda: base("pocket", FAIL, "install lora_lab again: it is not whole"),
            "smollm2": lambda: base("smollm2", WARN, PREPARE),
            "real texts": texts,
            "notebooks": notebooks,
            "kernel": lambda: kernel(*_outcome(kernels)),
            "bitsandbytes": lambda: quantisation(*_outcome(bitsandbytes)),
            "settings": settings,
        }
        return Diagnosis(tuple(_looked(name, look) for name, look in looks.items()))


def _looked(name: str, look: Callable[[], Check]) -> Check:
    try:
        return look()
    except (ImportError, OSError, RuntimeError, ValueError, LookupError) as error:
        said = " ".join(str(error).split())[:200]
        return Check(
            name,
            FAIL,
            f"could not be looked at ({type(error).__name__}: {said})",
            "install lora_lab again in a new environment (README, Start)",
        )


# --- Python and what is installed ---------------------------------------------------------------


def python() -> Check:
    """Which Python runs this."""
    version = platform.python_version()
    found = f"{version}, {platform.python_implementation()}, {platform.system()} "
    found += platform.machine()
    return Check("Python", OK, found)


def requirements() -> dict[str, str]:
    """What lora_lab needs everywhere, and the least version of each: {"torch": "2.6", …}."""
    asked = importlib.metadata.requires("lora-lab") or []
    found = (re.fullmatch(r"([\w.-]+)>=([\w.]+)", one) for one in asked)  # one with a `;` does not
    return {match[1]: match[2] for match in found if match}


def packages(needed: dict[str, str] | None = None) -> Check:
    """Whether every package is there, and new enough.

    Args:
        needed: name and least version; None: what lora_lab's own metadata asks for.
    """
    try:
        needed = requirements() if needed is None else needed
    except importlib.metadata.PackageNotFoundError:
        return Check(
            "packages",
            WARN,
            "lora_lab itself is not installed, so what it needs is not known",
            "run `make setup`, or `pip install -e .` in its folder",
        )
    there = {name: version_of(name) for name in needed}
    bad = {
        name: "is missing" if version is None else f"{version} is too old"
        for name, version in there.items()
        if version is None or _numbers(version) < _numbers(needed[name])
    }
    if bad:
        wanted = " ".join(f'"{name}>={needed[name]}"' for name in bad)
        told = "; ".join(f"{name} {why}" for name, why in bad.items())
        return Check("packages", FAIL, told, f"pip install --upgrade {wanted}")
    told = [f"{name} {there[name]}" for name in ("torch", "transformers", "peft") if name in there]
    others = len(there) - len(told)
    return Check("packages", OK, ", ".join(told) + f" and {others} more, all new enough")


def version_of(package: str) -> str | None:
    """The installed version of a package; None: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu": the release's numbers, without zeros at the end."""
    numbers = [int(one) for one in re.match(r"\d*(?:\.\d+)*", version)[0].split(".") if one]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


# --- what it computes on ------------------------------------------------------------------------


def device() -> Check:
    """The device that `device="auto"` takes, and a better one that goes unused."""
    import torch

    from lora_lab.machine.devices import choose_device, in_words

    chosen = choose_device()
    found = in_words(chosen)
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        more = torch.cuda.device_count() - 1
        also = f", and {more} more" if more else ""
        return Check("device", OK, f"{found}, {_gb(free)} of {_gb(total)} free{also}")
    driver = shutil.which("nvidia-smi") is not None
    if driver and torch.version.cuda is None and chosen.type == "cpu":
        return Check(
            "device",
            WARN,
            f"{found}: there is an NVIDIA driver, and this torch is a build without CUDA",
            "install a CUDA build of torch (README, CPU or CUDA)",
        )
    if torch.version.cuda is not None and chosen.type == "cpu":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
        why = "CUDA_VISIBLE_DEVICES hides every GPU" if hidden else "torch finds no NVIDIA GPU"
        return Check("device", OK, f"{found} ({why})")
    return Check("device", OK, f"{found} (no GPU that torch can use)")


def number_format() -> Check:
    """The dtype that `dtype="auto"` takes, for the narrow pocket and for wider bases, and why."""
    from lora_lab.machine.devices import WIDE, choose_device, choose_dtype, named

    where = choose_device()
    narrow, _ = choose_dtype("auto", where, 1)
    wide, why = choose_dtype("auto", where, WIDE)
    if narrow == wide:
        return Check("number format", OK, f"{named(wide)}{why}")
    return Check("number format", OK, f"{named(narrow)} for pocket, {named(wide)} for others{why}")


def threads() -> Check:
    """Whether torch starts more threads than there are cores: they would fight."""
    import torch

    here, used = resources.cores(), torch.get_num_threads()
    found = f"{used} for torch, on {here:g} usable core{'s' if here != 1 else ''}"
    if used > max(here, 1):
        return Check(
            "threads",
            WARN,
            f"{found}: they wait for each other",
            f"set OMP_NUM_THREADS={max(int(here), 1)} before Python starts",
        )
    return Check("threads", OK, found)


def memory() -> Check:
    """Whether a base fits: pocket needs little, training smollm2 about 3 GB."""
    total, free = resources.memory()
    if total is None:
        return Check("memory", OK, "this system does not say how much there is")
    if free is None:
        return _enough("memory", f"{_gb(total)}", total, MEMORY, "")
    remedy = "close other programs, or stop other notebooks' kernels"
    return _enough("memory", f"{_gb(free)} of {_gb(total)} free", free, MEMORY, remedy)


def _enough(name: str, found: str, free: float, bounds: tuple[float, float], remedy: str) -> Check:
    if free >= bounds[1]:
        return Check(name, OK, found)
    if free >= bounds[0]:
        return Check(name, WARN, f"{found}: enough for pocket, little for smollm2", remedy)
    return Check(name, FAIL, f"{found}: too little", remedy)


# --- places and what was prepared ---------------------------------------------------------------


def place(name: str, folder: Path, variable: str) -> Check:
    """Whether a folder of ours (it need not exist yet) can be written, and has room."""
    remedy = f"set {variable} to a folder that you may write, on a disk with room"
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"written")
    except OSError as error:
        return Check(name, FAIL, f"{folder} can't be written ({error.strerror})", remedy)
    free = shutil.disk_usage(there).free
    return _enough(name, f"{folder}, {_gb(free)} free", free, DISK, remedy)


def base(name: str, otherwise: str, remedy: str) -> Check:
    """Whether a built-in base is there; `otherwise` is the status if it is not."""
    from lora_lab.models.built_in import list_bases

    (found,) = [one for one in list_bases() if one.name == name]
    if found.prepared:
        return Check(name, OK, "ready")
    return Check(name, otherwise, "not here yet", remedy)


def texts() -> Check:
    """Whether the texts of smollm2's tasks are there, whole by their checksums."""
    from lora_lab.assets import downloads

    ready, troubles = [], []
    for name in downloads.ASSETS:
        if name == "smollm2":
            continue
        try:
            downloads.prepared(name)
            ready.append(name)
        except NotPrepared as error:
            troubles.append(str(error).partition(";")[0].replace("'", ""))
    if troubles:
        return Check("real texts", WARN, "; ".join(troubles), PREPARE)
    return Check("real texts", OK, ", ".join(ready))


# --- notebooks, and what is tried in a process of its own ---------------------------------------


def notebooks() -> Check:
    """Whether the course is there, and JupyterLab to open it."""
    folder, lab = notebooks_folder(), version_of("jupyterlab")
    count = len(list(folder.glob("*.ipynb")))
    if not count:
        return Check("notebooks", FAIL, f"none in {folder}", "install lora_lab again")
    return Check("notebooks", OK, f"{count} in {folder}, JupyterLab {lab}")


LIST_KERNELS = ("-m", "jupyter", "kernelspec", "list", "--json")
TRY_BITSANDBYTES = (
    "-c",
    """
import logging
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
where = "cuda" if torch.cuda.is_available() else "cpu"
there = torch.linspace(-1, 1, 256, device=where)
back = dequantize_4bit(*quantize_4bit(there, quant_type="nf4"))
assert (there - back).abs().max() < 0.2, "NF4 gives other numbers than it should"
print(where)
""",
)


@contextlib.contextmanager
def _trial(arguments: tuple[str, ...]) -> Iterator[subprocess.Popen]:
    """This Python on something that may crash or be slow, beside the other looks."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *arguments], text=True, errors="replace", **pipes)
    try:
        yield process
    finally:
        process.kill()  # nothing, if it has ended
        process.communicate()


def _outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    """(status, output, the last line of what went wrong)."""
    try:
        said, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer after {PATIENCE} s"
    return process.returncode, said, (complaint.strip().splitlines() or [""])[-1]


def kernel(status: int, said: str, complaint: str) -> Check:
    """Whether a notebook's kernel runs this very Python, where lora_lab is installed.

    Args:
        status, said, complaint: how `jupyter kernelspec list --json` ended.
    """
    remedy = f"{Path(sys.executable).name} -m pip install ipykernel, in this environment"
    try:
        program = (
            json.loads(said)["kernelspecs"]["python3"]["spec"]["argv"][0] if not status else ""
        )
    except (ValueError, LookupError):
        program = ""
    if not program:
        return Check("kernel", FAIL, f"no kernel called python3 ({complaint or 'none'})", remedy)
    ours = re.fullmatch(r"python(3(\.\d+)?)?(\.exe)?", program) or _same(program, sys.executable)
    if not ours:
        return Check("kernel", WARN, f"python3 starts another Python: {program}", remedy)
    return Check("kernel", OK, "python3 starts this Python")


def _same(one: str, other: str) -> bool:
    return os.path.normcase(os.path.abspath(one)) == os.path.normcase(os.path.abspath(other))


def quantisation(status: int, said: str, complaint: str) -> Check:
    """Whether bitsandbytes really quantises: 4-bit bases and 8-bit optimizers need it.

    Args:
        status, said, complaint: how the trial in TRY_BITSANDBYTES ended.
    """
    version = version_of("bitsandbytes")
    if version is None:
        remedy = "pip install bitsandbytes (Macs with Intel's processors have none)"
        return Check("bitsandbytes", WARN, "missing: no 4-bit bases, no 8-bit optimizers", remedy)
    if status:
        remedy = "pip install --upgrade bitsandbytes"
        return Check("bitsandbytes", WARN, f"{version} does not work: {complaint[:200]}", remedy)
    where = "the GPU" if said.strip() == "cuda" else "the CPU"
    return Check("bitsandbytes", OK, f"{version} quantises to NF4 on {where}")


def settings() -> Check:
    """Environment variables that change what happens here."""
    given = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    return Check("settings", OK, ", ".join(given) or "none of our environment variables is set")


def _gb(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB"

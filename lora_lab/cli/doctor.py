"""The checks of `lora-lab doctor`. They fetch and change nothing."""

import contextlib
import importlib.metadata
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

from packaging.requirements import Requirement
from packaging.version import Version

from lora_lab.machine import resources
from lora_lab.places import NotPrepared, cache_folder, notebooks_folder, store_folder

OK, WARN, FAIL = "ok", "warn", "fail"
GIGABYTE = 10**9
MEMORY = (1 * GIGABYTE, 4 * GIGABYTE)  # free memory that training pocket and smollm2 takes
DISK = (0.1 * GIGABYTE, 1 * GIGABYTE)  # free disk that keeping runs and preparing smollm2 takes
PREPARE = "run `lora-lab prepare` once, with a network (about 130 MB)"
PATIENCE = 120  # seconds for a check in a process of its own; the first import can be slow
SETTINGS = (  # environment variables that change what happens
    "LORA_LAB_BASE LORA_LAB_CACHE LORA_LAB_STORE LORA_LAB_STEP HF_HUB_OFFLINE TRANSFORMERS_OFFLINE "
    "HF_HOME CUDA_VISIBLE_DEVICES OMP_NUM_THREADS"
).split()


@dataclass(frozen=True, slots=True)
class Check:
    """The result of a check, and the remedy for what it found."""

    name: str
    status: str  # "ok", "warn" (something is missing or slow) or "fail" (it can't work)
    found: str
    remedy: str = ""  # empty if there is nothing to mend


@dataclass(frozen=True, slots=True, repr=False)
class Diagnosis:
    """The results of all checks. The repr is a report in plain text."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether the laboratory works here; a warning does not stop it."""
        return all(check.status != FAIL for check in self.checks)

    @property
    def summary(self) -> str:
        """A sentence that sums up all checks."""
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
    """Run every check, in about five seconds. A check that raises an error counts as a failure."""
    return Diagnosis(tuple(each_check()))


def each_check() -> Iterator[Check]:
    """The result of each check as soon as it is there."""
    with _trial(TRY_BITSANDBYTES) as bitsandbytes:
        checks: dict[str, Callable[[], Check]] = {
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
            "kernel": kernel,
            "bitsandbytes": lambda: quantisation(*_trial_outcome(bitsandbytes)),
            "settings": settings,
        }
        for name, check in checks.items():
            yield _checked(name, check)


def _checked(name: str, check: Callable[[], Check]) -> Check:
    """The result of a check; a failure if it raised an error."""
    try:
        return check()
    except (ImportError, OSError, RuntimeError, ValueError, LookupError) as error:
        message = " ".join(str(error).split())[:200]
        return Check(
            name,
            FAIL,
            f"could not be looked at ({type(error).__name__}: {message})",
            "install lora_lab again in a new environment (README, Start)",
        )


# --- Python and what is installed ---------------------------------------------------------------


def python() -> Check:
    """The version of this Python, and the system that it runs on."""
    facts = (platform.python_version(), platform.python_implementation(), platform.system())
    return Check("Python", OK, f"{', '.join(facts)} {platform.machine()}")


def requirements() -> dict[str, str]:
    """The packages that lora_lab needs on every system, with least versions: {"torch": "2.6"}."""
    entries = map(Requirement, importlib.metadata.requires("lora-lab") or [])
    return {
        entry.name: str(entry.specifier).removeprefix(">=")
        for entry in entries
        if entry.marker is None
    }


def packages(needed: dict[str, str] | None = None) -> Check:
    """Whether every package is there, and new enough.

    Args:
        needed: name and least version; None: the requirements in lora_lab's own metadata.
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
    installed = {name: version_of(name) for name in needed}
    troubles = {
        name: "is missing" if version is None else f"{version} is too old"
        for name, version in installed.items()
        if version is None or _release(version) < Version(needed[name])
    }
    if troubles:
        names = " ".join(f'"{name}>={needed[name]}"' for name in troubles)
        words = "; ".join(f"{name} {trouble}" for name, trouble in troubles.items())
        return Check("packages", FAIL, words, f"pip install --upgrade {names}")
    main = [name for name in ("torch", "transformers", "peft") if name in installed]
    words = ", ".join(f"{name} {installed[name]}" for name in main)
    others = len(installed) - len(main)
    return Check("packages", OK, f"{words} and {others} more, all new enough")


def version_of(package: str) -> str | None:
    """The installed version of a package; None: it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> Version:
    """2.13.0 of "2.13.0rc1+cpu": a pre-release or a local build counts as its release."""
    return Version(Version(version).base_version)


# --- device, precision, threads, memory ---------------------------------------------------------


def device() -> Check:
    """The device that `device="auto"` takes, and whether a GPU goes unused."""
    import torch

    from lora_lab.machine.devices import choose_device, in_words

    chosen = choose_device()
    found = in_words(chosen)
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        more = torch.cuda.device_count() - 1
        others = f", and {more} more" if more else ""
        return Check(
            "device", OK, f"{found}, {_gigabytes(free)} of {_gigabytes(total)} free{others}"
        )
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
    """Whether torch starts more threads than there are cores, so that they wait for each other."""
    import torch

    cores, used = resources.cores(), torch.get_num_threads()
    found = f"{used} for torch, on {cores:g} usable core{'s' if cores != 1 else ''}"
    if used > max(cores, 1):
        return Check(
            "threads",
            WARN,
            f"{found}: they wait for each other",
            f"set OMP_NUM_THREADS={max(int(cores), 1)} before Python starts",
        )
    return Check("threads", OK, found)


def memory() -> Check:
    """Whether both bases fit: pocket needs little, training smollm2 about 3 GB."""
    total, free = resources.memory()
    remedy = "close other programs, or stop other notebooks' kernels"
    return _enough(
        "memory", f"{_gigabytes(free)} of {_gigabytes(total)} free", free, MEMORY, remedy
    )


def _enough(name: str, found: str, free: float, bounds: tuple[float, float], remedy: str) -> Check:
    """A failure below the first bound, and a warning below the second."""
    if free >= bounds[1]:
        return Check(name, OK, found)
    if free >= bounds[0]:
        return Check(name, WARN, f"{found}: enough for pocket, little for smollm2", remedy)
    return Check(name, FAIL, f"{found}: too little", remedy)


# --- folders, bases and texts -------------------------------------------------------------------


def place(name: str, folder: Path, variable: str) -> Check:
    """Whether a folder of lora_lab, which need not exist yet, can be written and has room."""
    remedy = f"set {variable} to a folder that you may write, on a disk with room"
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"written")
    except OSError as error:
        return Check(name, FAIL, f"{folder} can't be written ({error.strerror})", remedy)
    free = shutil.disk_usage(existing).free
    return _enough(name, f"{folder}, {_gigabytes(free)} free", free, DISK, remedy)


def base(name: str, otherwise: str, remedy: str) -> Check:
    """Whether a built-in base is there; `otherwise` is the status of a missing base."""
    from lora_lab.models.built_in import list_bases

    (listed,) = [listed for listed in list_bases() if listed.name == name]
    if listed.prepared:
        return Check(name, OK, "ready")
    return Check(name, otherwise, "not here yet", remedy)


def texts() -> Check:
    """Whether the texts of smollm2's tasks are there, with the recorded checksums."""
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


# --- notebooks, and trials in processes of their own --------------------------------------------


def notebooks() -> Check:
    """Whether the course is there, and JupyterLab to open it."""
    folder, lab = notebooks_folder(), version_of("jupyterlab")
    count = len(list(folder.glob("*.ipynb")))
    if not count:
        return Check("notebooks", FAIL, f"none in {folder}", "install lora_lab again")
    return Check("notebooks", OK, f"{count} in {folder}, JupyterLab {lab}")


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
    """A process of this Python for a trial that may crash or be slow, beside the other checks."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, *arguments], text=True, errors="replace", **pipes)
    try:
        yield process
    finally:
        process.kill()  # does nothing to a process that has ended
        process.communicate()


def _trial_outcome(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit status, output, the last line of the errors)."""
    try:
        output, complaint = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return 1, "", f"no answer after {PATIENCE} s"
    return process.returncode, output, (complaint.strip().splitlines() or [""])[-1]


def kernel() -> Check:
    """Whether a notebook's kernel runs this very Python, where lora_lab is installed."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    remedy = f"{Path(sys.executable).name} -m pip install ipykernel, in this environment"
    try:
        program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except NoSuchKernel:
        return Check("kernel", FAIL, "no kernel called python3", remedy)
    same = _normal(program) == _normal(sys.executable)
    if not (same or re.fullmatch(r"python(3(\.\d+)?)?(\.exe)?", program)):
        return Check("kernel", WARN, f"python3 starts another Python: {program}", remedy)
    return Check("kernel", OK, "python3 starts this Python")


def _normal(path: str) -> str:
    """A path in the form in which two spellings of it are equal."""
    return os.path.normcase(os.path.abspath(path))


def quantisation(status: int, output: str, complaint: str) -> Check:
    """Whether bitsandbytes really quantises: 4-bit bases and 8-bit optimizers need it.

    Args:
        status, output, complaint: how the trial in TRY_BITSANDBYTES ended.
    """
    version = version_of("bitsandbytes")
    if version is None:
        remedy = "pip install bitsandbytes (Macs with Intel's processors have none)"
        return Check("bitsandbytes", WARN, "missing: no 4-bit bases, no 8-bit optimizers", remedy)
    if status:
        remedy = "pip install --upgrade bitsandbytes"
        return Check("bitsandbytes", WARN, f"{version} does not work: {complaint[:200]}", remedy)
    where = "the GPU" if output.strip() == "cuda" else "the CPU"
    return Check("bitsandbytes", OK, f"{version} quantises to NF4 on {where}")


def settings() -> Check:
    """Environment variables that change what happens here."""
    values = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    return Check("settings", OK, ", ".join(values) or "none of our environment variables is set")


def _gigabytes(count: float) -> str:
    return f"{count / GIGABYTE:.1f} GB"

"""The device and the dtype that this machine computes with, and both in words."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lora_lab.machine.resources import processor
from lora_lab.places import cached_value
from lora_lab.recipe import nearest

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDE = 512  # hidden size from which bfloat16 may pay; pocket stays below, and in float32
SMALL = 20_000_000  # parameters; below, a second thread costs more time than it saves
WORTH_IT = 1.2  # bfloat16 is chosen on a CPU if it is measured this many times as fast
_DRAWING = threading.RLock()  # torch's random state is the whole process's: one thread at a time


def choose_device(choice: str | torch.device = "auto") -> torch.device:
    """The device of that name, or for "auto" the best; ValueError if this machine lacks it."""
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    here = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + here
    if choice == "auto":
        return torch.device(here[0])
    try:
        device = torch.device(choice)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={choice!r} isn't a device; {nearest(choice, ('auto', 'cpu', 'cuda', 'mps'))}"
            f"this machine has: {', '.join(here)}"
        ) from error
    if device.type == "cuda" and device.index is None and "cuda:0" in here:
        return torch.device("cuda", torch.cuda.current_device())
    if device.type in ("cpu", "mps"):
        device = torch.device(device.type)
    if str(device) not in here:
        raise ValueError(
            f"device={str(choice)!r} is not on this machine; give 'auto', or what it has: "
            f"{', '.join(here)}"
        )
    return device


def choose_dtype(
    choice: str | torch.dtype, device: torch.device, width: int
) -> tuple[torch.dtype, str]:
    """The dtype for a model `width` wide on a device, and the reason in brackets or an empty text.

    Raises:
        ValueError: for a dtype that is not known.
    """
    if isinstance(choice, torch.dtype):
        choice = named(choice)
    if choice != "auto":
        if choice not in DTYPES:
            raise ValueError(
                f"dtype={choice!r} isn't a dtype for a model; {nearest(choice, ('auto', *DTYPES))}"
                f"give 'auto', {', '.join(map(repr, DTYPES))}"
            )
        return DTYPES[choice], ""
    if width < WIDE or device.type == "mps":
        return torch.float32, ""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, ""
        return torch.float32, " (this GPU has no bfloat16)"
    speedup = bfloat16_speed(width)
    dtype = torch.bfloat16 if speedup >= WORTH_IT else torch.float32
    return dtype, f" (bfloat16 measured {speedup:.1f} × as fast here)"


def bfloat16_speed(width: int) -> float:
    """How many times as fast as float32 a bfloat16 product of this width is, on this CPU.

    It is measured once (0.1 s) on (256, width) times (width, 4 * width), the best of six each. The
    cache keeps it for this processor, torch and number of threads.
    """

    def measured() -> float:
        best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
        for _ in range(6):  # the first warms up; the dtypes alternate, so both meet a busy moment
            for dtype in best:
                left = torch.ones(256, width, dtype=dtype)
                right = torch.ones(width, 4 * width, dtype=dtype)
                start = time.perf_counter()
                left @ right
                best[dtype] = min(best[dtype], time.perf_counter() - start)
        return round(best[torch.float32] / best[torch.bfloat16], 2)

    key = f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} threads, {width}"
    return cached_value("speeds", ("bfloat16", key), float, measured)


def matmul_speed(device: torch.device, dtype: torch.dtype, parameters: int, width: int) -> float:
    """The FLOPs per second of the matrix products that a model of this size and width consists of.

    It is measured once (0.3 s) on (256, width) times (width, 4 * width), or on a GPU on (4096,
    4096) times (4096, 16384): the best of twelve, with as many threads as training takes. The cache
    keeps it for this processor, torch and number of threads.
    """
    on_cpu = device.type == "cpu"
    rows, width = (256, min(width, 1024)) if on_cpu else (4096, 4096)
    threads = torch.get_num_threads()
    used = 1 if on_cpu and parameters < SMALL else threads

    def measured() -> float:
        left = torch.linspace(-1, 1, rows * width).reshape(rows, width).to(device, dtype)
        right = torch.linspace(-1, 1, 4 * width**2).reshape(width, 4 * width).to(device, dtype)
        best = float("inf")
        torch.set_num_threads(used)
        try:
            for _ in range(12):
                start = time.perf_counter()
                (left @ right)[0, 0].item()  # waits until a GPU has finished
                best = min(best, time.perf_counter() - start)
        finally:
            torch.set_num_threads(threads)
        return 2 * rows * width * 4 * width / best

    where = processor() if on_cpu else in_words(device)
    key = f"{where}, torch {torch.__version__}, {used} threads, {named(dtype)}, {width}"
    return cached_value("speeds", ("matmul", key), float, measured)


def named(dtype: torch.dtype) -> str:
    """A dtype's short name: "float32"."""
    return str(dtype).removeprefix("torch.")


def in_words(device: torch.device) -> str:
    """A device as a sentence names it: "the CPU"."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return {"cpu": "the CPU", "mps": "the Apple GPU (mps)"}[device.type]


# --- randomness -----------------------------------------------------------------------------


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """A block whose random draws leave the random states of the CPU and a device as before."""
    forked = [] if device.type == "cpu" else [device]
    with _DRAWING, torch.random.fork_rng(forked, device_type=device.type):
        yield


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """A block whose random draws, on the CPU and on a device, follow from the seed alone.

    `torch.manual_seed` would seed every GPU of the machine, and `torch.cuda.manual_seed` the
    current GPU, which may not be `device`.
    """
    with own_randomness(device):
        torch.default_generator.manual_seed(seed)
        if device.type != "cpu":
            state = torch.Generator(device).manual_seed(seed).get_state()
            torch.get_device_module(device).set_rng_state(state, device)
        yield

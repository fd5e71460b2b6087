"""What this machine has, a container's limits counted: processor, cores, memory."""

import os
import platform
import re
from pathlib import Path


def processor() -> str:
    """The CPU's name, as far as the system tells it."""
    name = re.search(r"model name\s*: (.*)", _read("/proc/cpuinfo"))
    return name[1] if name else platform.processor() or platform.machine()


def cores() -> float:
    """The CPU cores that this process may use: fewer than the machine's in many containers."""
    mine = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        mine = len(os.sched_getaffinity(0))
    quota = re.fullmatch(r"(\d+) (\d+)", _read("/sys/fs/cgroup/cpu.max"))  # microseconds
    return min(mine, int(quota[1]) / int(quota[2])) if quota else float(mine)


def memory() -> tuple[int | None, int | None]:
    """(all, free) memory for this process, in bytes; None where the system does not say."""
    total = free = None
    if os.name == "nt":
        total, free = _windows_memory()
    elif info := dict(re.findall(r"^(\w+): +(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)):
        total, free = int(info["MemTotal"]) * 1024, int(info["MemAvailable"]) * 1024
    elif hasattr(os, "sysconf"):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = _read("/sys/fs/cgroup/memory.max"), _read("/sys/fs/cgroup/memory.current")
    if limit.isdigit() and used.isdigit() and free is not None and int(limit) < total:
        total = int(limit)
        kept = re.search(
            r"^inactive_file (\d+)$", _read("/sys/fs/cgroup/memory.stat"), re.MULTILINE
        )
        cached = int(kept[1]) if kept else 0  # of files that were read: given back when needed
        free = min(free, total - int(used) + cached)
    return total, free


def _windows_memory() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "t_page", "f_page", "t_virtual", "f_virtual", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return status.total, status.free


def _read(path: str) -> str:
    """A small system file's text; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

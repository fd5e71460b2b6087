"""What this machine has, within a container's limits: processor, cores, memory."""

import os
import platform
import re
from pathlib import Path

import psutil


def processor() -> str:
    """The CPU's name, or its architecture where the system gives no name."""
    name = re.search(r"model name\s*: (.*)", _system_file("/proc/cpuinfo"))
    return name[1] if name else platform.processor() or platform.machine()


def cores() -> float:
    """The CPU cores that this process may use; a container can have a fraction, such as 1.5.

    loky's `cpu_count` rounds it up. A sweep would then start more workers than the quota can feed.
    """
    usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    quota = re.fullmatch(r"(\d+) (\d+)", _system_file("/sys/fs/cgroup/cpu.max"))  # microseconds
    return min(usable, int(quota[1]) / int(quota[2])) if quota else float(usable)


def memory() -> tuple[int, int]:
    """(all, free) memory for this process, in bytes; psutil does not know a container's limit."""
    machine = psutil.virtual_memory()
    group = Path("/sys/fs/cgroup")
    limit, used = _system_file(group / "memory.max"), _system_file(group / "memory.current")
    if not (limit.isdigit() and used.isdigit() and int(limit) < machine.total):
        return machine.total, machine.available
    cache = re.search(r"^inactive_file (\d+)$", _system_file(group / "memory.stat"), re.MULTILINE)
    reclaimable = int(cache[1]) if cache else 0  # pages of files that can be read again
    return int(limit), min(machine.available, int(limit) - int(used) + reclaimable)


def _system_file(path: str | Path) -> str:
    """A small system file's text; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

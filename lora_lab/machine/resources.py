"""What this machine has, within the limits of a container or a hub: processor, cores, memory."""

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
    usable = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        usable = float(len(os.sched_getaffinity(0)))
    for group in _groups():
        quota = re.fullmatch(r"(\d+) (\d+)", _system_file(f"{group}/cpu.max"))  # microseconds
        if quota:
            usable = min(usable, int(quota[1]) / int(quota[2]))
    return usable


def memory() -> tuple[int, int]:
    """(all, free) memory for this process, in bytes; psutil knows no limit of a container or unit.

    Of several limits that hold one in the other, the least memory and the least room count.
    """
    machine = psutil.virtual_memory()
    whole, free = machine.total, machine.available
    for group in _groups():
        limit, used = _system_file(f"{group}/memory.max"), _system_file(f"{group}/memory.current")
        if not (limit.isdigit() and used.isdigit() and int(limit) < machine.total):
            continue
        stat = _system_file(f"{group}/memory.stat")
        cache = re.search(r"^inactive_file (\d+)$", stat, re.MULTILINE)
        reclaimable = int(cache[1]) if cache else 0  # pages of files that can be read again
        whole, free = min(whole, int(limit)), min(free, int(limit) - int(used) + reclaimable)
    return whole, free


@contextmanager
def at_most_more(size: int) -> Iterator[None]:
    """A block in which this process can take `size` more bytes; beyond them, Python raises.

    Only Linux keeps to such a limit; elsewhere the block has none. Nor has it where the system lets
    no program change limits, as in a grader that has limits of its own.

    Raises:
        MemoryError: in the block, for more.
    """
    process = psutil.Process()
    try:
        before = process.rlimit(psutil.RLIMIT_AS)
        wanted = process.memory_info().vms + size
        ends = [limit for limit in before if limit != psutil.RLIM_INFINITY]
        process.rlimit(psutil.RLIMIT_AS, (min([wanted, *ends]), before[1]))
    except (AttributeError, psutil.AccessDenied):
        before = None
    try:
        yield
    finally:
        if before is not None:
            process.rlimit(psutil.RLIMIT_AS, before)


def _groups() -> list[str]:
    """The folders of the control groups (version 2) that this process is in, the innermost first.

    A container sees its own group as the root. A systemd unit, which a learner's server on a hub
    is, has its limits in a group further down.
    """
    root = "/sys/fs/cgroup"
    own = re.search(r"^0::(/.*)$", _system_file("/proc/self/cgroup"), re.MULTILINE)
    parts = [part for part in own[1].split("/") if part] if own else []
    return ["/".join((root, *parts[:depth])) for depth in range(len(parts), -1, -1)]


def _system_file(path: str | Path) -> str:
    """A small system file's text; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""

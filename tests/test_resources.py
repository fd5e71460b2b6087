import os
from types import SimpleNamespace

import psutil
import pytest

from lora_lab.machine import resources

MB = 2**20


@pytest.fixture
def system(monkeypatch):
    """The system files that are read, as a dictionary to fill."""
    files = {}
    monkeypatch.setattr(resources, "_system_file", lambda path: files.get(str(path), ""))
    return files


def test_cores_are_those_this_process_may_use(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    assert resources.cores() == 3.0


def test_a_containers_share_of_the_cores_counts(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    system["/sys/fs/cgroup/cpu.max"] = "150000 100000"
    assert resources.cores() == 1.5
    system["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert resources.cores() == 64.0


def test_memory_is_the_systems_or_a_containers_if_that_is_less(system, monkeypatch):
    machine = SimpleNamespace(total=8 * MB, available=4 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    assert resources.memory() == (8 * MB, 4 * MB)
    system["/sys/fs/cgroup/memory.max"] = str(5 * MB)
    system["/sys/fs/cgroup/memory.current"] = str(3 * MB)
    assert resources.memory() == (5 * MB, 2 * MB)
    system["/sys/fs/cgroup/memory.stat"] = f"anon {MB}\ninactive_file {MB}\nactive_file {7 * MB}"
    assert resources.memory() == (5 * MB, 3 * MB)  # a file that was read can be read again
    system["/sys/fs/cgroup/memory.max"] = "max"
    assert resources.memory() == (8 * MB, 4 * MB)


def test_this_machine_has_cores_and_memory():
    whole, free = resources.memory()
    assert resources.cores() >= 0.1
    assert whole > 100 * MB
    assert 0 < free <= whole

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


def test_the_limits_of_a_learners_unit_on_a_hub_count(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    machine = SimpleNamespace(total=800 * MB, available=400 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    system["/proc/self/cgroup"] = "0::/system.slice/jupyter-ada.service"
    unit = "/sys/fs/cgroup/system.slice/jupyter-ada.service"
    system[f"{unit}/cpu.max"] = "200000 100000"
    system[f"{unit}/memory.max"] = str(50 * MB)
    system[f"{unit}/memory.current"] = str(30 * MB)
    assert resources.cores() == 2.0
    assert resources.memory() == (50 * MB, 20 * MB)


def test_a_limit_further_up_counts_where_it_is_tighter(system, monkeypatch):
    machine = SimpleNamespace(total=800 * MB, available=400 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    system["/proc/self/cgroup"] = "0::/class.slice/jupyter-ada.service"
    system["/sys/fs/cgroup/class.slice/jupyter-ada.service/memory.max"] = str(50 * MB)
    system["/sys/fs/cgroup/class.slice/jupyter-ada.service/memory.current"] = str(10 * MB)
    system["/sys/fs/cgroup/class.slice/memory.max"] = str(300 * MB)
    system["/sys/fs/cgroup/class.slice/memory.current"] = str(295 * MB)
    assert resources.memory() == (50 * MB, 5 * MB)  # the others of the class took the rest
    system["/sys/fs/cgroup/class.slice/memory.current"] = str(100 * MB)
    assert resources.memory() == (50 * MB, 40 * MB)


def test_this_machine_has_cores_and_memory():
    whole, free = resources.memory()
    assert resources.cores() >= 0.1
    assert whole > 100 * MB
    assert 0 < free <= whole


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux limits a process")
def test_a_block_may_take_so_much_more_memory_and_the_rest_of_the_program_any_amount():
    with resources.at_most_more(2**28):
        bytearray(2**24)
        with pytest.raises(MemoryError):
            bytearray(2**30)
    assert len(bytearray(2**30)) == 2**30


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="only Linux limits a process")
def test_a_block_for_more_memory_does_not_lift_a_limit_that_holds_already():
    small, large = resources.at_most_more(2**27), resources.at_most_more(2**40)
    with small, large, pytest.raises(MemoryError):
        bytearray(2**30)


def test_where_no_limit_can_be_set_the_block_runs_without_one(monkeypatch):
    def denied(*_):
        raise psutil.AccessDenied(os.getpid())

    monkeypatch.setattr(psutil.Process, "rlimit", denied, raising=False)
    with resources.at_most_more(1):
        assert len(bytearray(2**20)) == 2**20

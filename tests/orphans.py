"""Processes that outlive their parent, found by a mark that each of them inherits."""

import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "LORA_LAB_TEST_FAMILY"
SOON = 15  # seconds on a busy machine; a quiet machine needs one or two


class Family:
    """A process and all its descendants."""

    def __init__(self, command: list, **options: object) -> None:
        self.name = uuid.uuid4().hex
        environment = os.environ | {MARK: self.name}
        self.parent = subprocess.Popen(command, env=environment, text=True, **options)

    def children(self) -> list[psutil.Process]:
        """All descendants that are alive; a zombie is not."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get(MARK) == self.name
                if ours and process.pid != self.parent.pid:
                    found.append(process)
        return found

    def wait_for_children(self, count: int) -> None:
        """Return as soon as there are `count` descendants."""
        while len(self.children()) < count:
            assert self.parent.poll() is None
            time.sleep(0.02)

    def left_after_kill(self) -> list[str]:
        """Kill the parent; the command lines of descendants that live some seconds later."""
        self.parent.kill()
        self.parent.wait()
        end = time.monotonic() + SOON
        while self.children() and time.monotonic() < end:
            time.sleep(0.1)
        return [" ".join(process.cmdline()) for process in self.children()]


@contextmanager
def family(command: list, **options: object) -> Iterator[Family]:
    """The process, started; none of its family outlives the test."""
    started = Family(command, **options)
    try:
        yield started
    finally:
        for process in [started.parent, *started.children()]:
            with suppress(psutil.Error):
                process.kill()
        started.parent.communicate()

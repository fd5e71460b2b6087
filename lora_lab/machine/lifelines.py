"""Ends a process when its parent ends, even if the parent was killed: no orphan is left."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

LOOK_SECONDS = 0.5  # between two checks of who the parent is
PATIENCE = 10  # seconds between SIGTERM and the hard end: a server ends its kernels first


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, even if the parent was killed.

    If the parent is dead already, this process ends at once. Call it first of all: before the call
    nothing watches the parent.

    Args:
        parent: the number of the process that started this one.
    """
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    _wait_for_end(parent)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _wait_for_end(parent: int) -> None:
    """Return when the parent has ended: Linux and macOS then give this process another parent."""
    if sys.platform == "win32":
        import _winapi  # Windows keeps the old parent's number; multiprocessing watches it so too

        with suppress(OSError):  # the parent has ended already
            process = _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent)
            _winapi.WaitForSingleObject(process, _winapi.INFINITE)
        return
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)

"""A process that ends with the one it works for, however that one ends: no orphan is left."""

import os
import signal
import sys
import threading
import time
from contextlib import suppress

LOOK_SECONDS = 0.5  # between two looks at who the parent is
PATIENCE = 10  # seconds to end politely: a server ends its kernels first


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, even if that was killed.

    The parent may be dead already: then the end comes at once. Call it as early as can be, since
    until then nobody watches.

    Args:
        parent: the number of the process that started this one.
    """
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: int) -> None:
    _wait_for_the_end_of(parent)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _wait_for_the_end_of(parent: int) -> None:
    """Return when it has ended. Linux and macOS give an orphan another parent; Windows does not."""
    if sys.platform == "win32":
        import _winapi  # as multiprocessing does, to watch its own parent

        with suppress(OSError):  # it has ended already
            process = _winapi.OpenProcess(_winapi.SYNCHRONIZE, False, parent)
            _winapi.WaitForSingleObject(process, _winapi.INFINITE)
        return
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)

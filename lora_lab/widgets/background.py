"""Work for a widget in a background thread: one job at a time, stopped between steps."""

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

GO_ON, STOP, DROP_ALL = 0, 1, 2  # end nothing, end the training, end everything

PAUSE = 1.0  # the longest wait, in seconds, after a redraw that was slow


class Background:
    """Runs jobs by name, in turn. `wait` raises what a job raised.

    The thread is a daemon: it never outlives its kernel.

    Args:
        show_error: called in the thread with the error of a job.
        at_rest: called in the thread when nothing is left to do.
    """

    def __init__(
        self, show_error: Callable[[Exception], None], at_rest: Callable[[], None] = lambda: None
    ) -> None:
        self.error: Exception | None = None
        self.stopped = GO_ON
        self._show_error, self._at_rest = show_error, at_rest
        self._lock = threading.RLock()
        self._jobs: dict[
            str, Callable[[], None]
        ] = {}  # by name, in order: jobs that have not begun
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits."""
        return self._thread is not None

    def submit(self, name: str, job: Callable[[], None]) -> None:
        """Run a job after the jobs before it. It replaces a waiting job with the same name."""
        with self._lock:
            self._jobs[name] = job
            if self._thread is None:
                self.error = None
                self._thread = threading.Thread(target=self._run_jobs, daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Ask the job to end after its step; a second call also leaves out what would follow."""
        self._end_jobs(STOP if self.stopped == GO_ON else DROP_ALL)

    def close(self) -> None:
        """Ask all jobs to end for good, after the step at hand."""
        self._end_jobs(DROP_ALL)

    def _end_jobs(self, how: int) -> None:
        with self._lock:
            self._jobs.clear()
            self.stopped = how

    def wait(self, timeout: float | None = None) -> None:
        """Return when nothing runs or waits any more.

        A kernel's interrupt ends the job after its step, and is then raised as usual.

        Raises:
            TimeoutError: if that takes longer than `timeout` seconds.
            Exception: whatever the last job raised.
        """
        end = None if timeout is None else time.monotonic() + timeout
        try:
            self._join(end)
        except KeyboardInterrupt:
            self._end_jobs(DROP_ALL)
            self._join(end)
            raise
        if self.busy:
            raise TimeoutError(f"still at work after {timeout:g} s; wait longer, or stop it")
        error, self.error = self.error, None  # raised only once: a later `wait` is about other jobs
        if error is not None:
            raise error

    def _join(self, end: float | None) -> None:
        while self._thread is not None and (end is None or time.monotonic() < end):
            thread = self._thread
            if thread is not None:
                thread.join(0.05)  # in short waits: on Windows a long one can't be interrupted

    def _run_jobs(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._at_rest()
                    self._thread = None
                    return
                name = next(iter(self._jobs))
                job = self._jobs.pop(name)
                self.stopped = GO_ON
            try:
                job()
            except Exception as error:  # noqa: BLE001 - not swallowed: shown, and raised by wait()
                self._show_error(error)
                with self._lock:
                    self.error = error
                    self._jobs.clear()


class Pace:
    """When a live display may be redrawn: a few times a second, in a small share of the time."""

    def __init__(
        self,
        per_second: float,
        share: float = 1.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.per_second, self.share, self.clock = per_second, share, clock
        self.spent = 0.0  # seconds, in all
        self._next = -float("inf")

    @property
    def due(self) -> bool:
        """Whether enough time has gone by."""
        return self.clock() >= self._next

    @contextmanager
    def turn(self) -> Any:
        """A block around a redraw: notes its time, and so when the next redraw is due."""
        begun = self.clock()
        yield
        took = self.clock() - begun
        self.spent += took
        gap = 1 / self.per_second
        on_time = begun - self._next < gap  # if a little late, the next redraw makes up for it
        rest = min(took / self.share, took + PAUSE)
        self._next = max((self._next if on_time else begun) + gap, begun + rest)

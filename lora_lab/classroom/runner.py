"""Runs the functions of a submission in processes of their own, and brings back their outcomes.

Each exercise has a fresh process, so an exercise can't change the process of the next one. The
process is confined before a line of the submission runs. It sends back data: outcomes of calls,
never a verdict.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import cloudpickle
import psutil

from lora_lab.checks.compare import Case, Exercise, Outcome, Raised, outcome_of
from lora_lab.classroom.answers import from_text
from lora_lab.classroom.confinement import Limits, readable_paths
from lora_lab.places import data_folder, notebooks_folder
from lora_lab.records import Verdict
from lora_lab.wording import file_size

PACKAGE = Path(__file__).resolve().parents[1]
SOLUTIONS = (PACKAGE / "checks", PACKAGE / "lessons", notebooks_folder())
KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH")  # the grader's variables that a process gets
LIMITS = Limits()
ENDED = "your function ended Python itself (os._exit, or a crash)"
LONGEST = 1000  # letters of a message from a submission
BUSY = (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
LOOK = 0.05  # seconds between two looks at a process


class Stopped(Exception):
    """Raised if a process gave no whole report, with the reason in words."""


class Runner:
    """Runs functions of submissions, one after the other. Use it in a `with` block.

    Args:
        limits: how much a function may use.
        protect: whether files, processes and network are refused too.

    Raises:
        OSError: if this system can't start such processes.
    """

    def __init__(self, limits: Limits = LIMITS, *, protect: bool = True) -> None:
        if not hasattr(os, "fork"):
            raise OSError("this system can't run submissions; check them on Linux, or in WSL")
        self.limits, self.protect = limits, protect
        self._home = tempfile.TemporaryDirectory(prefix="lora-lab-class-")
        self._workers: dict[str, subprocess.Popen] = {}
        self._readable = {
            "plain": [*map(str, readable_paths([PACKAGE, data_folder()], SOLUTIONS))],
            "trials": [*map(str, readable_paths([PACKAGE, data_folder()], ()))],
        }

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait()
            worker.stdin.close()
            worker.stdout.close()
        self._home.cleanup()

    def outcomes(self, exercise: Exercise, cells: Sequence[str]) -> list[Outcome]:
        """The outcome of the submission's function on each of the exercise's inputs.

        The process can read neither the exercises' solutions nor the notebooks.

        Raises:
            Stopped: if there is no such function, or the process ended or was ended.
        """
        cases = list(exercise.cases())
        payload = _by_value(_calls(exercise.ask, cases))
        reported = self._events("plain", exercise.name, cells, payload)
        outcomes = [_outcome(event["outcome"]) for event in reported if "outcome" in event]
        if len(outcomes) != len(cases):
            raise Stopped(ENDED)
        return outcomes

    def trial(self, exercise: Exercise, cells: Sequence[str]) -> Verdict:
        """The verdict of the trial of a function that is right on each input.

        The trial trains a model with the function, so both share a process. The function can see
        the solutions then. But its answers were compared before, so the trial can only take a point
        away.

        Raises:
            Stopped: if the process ended or was ended.
        """
        for event in self._events("trials", exercise.name, cells, b""):
            if isinstance(event.get("passed"), bool):
                return Verdict(event["passed"], _short(event.get("message", "")))
        raise Stopped(ENDED)

    def _events(self, kind: str, name: str, cells: Sequence[str], payload: bytes) -> list[dict]:
        """The events that a process reports about a function."""
        place = Path(tempfile.mkdtemp(dir=self._home.name)).resolve()
        try:
            asked = {"name": name, "cells": list(cells), "trial": kind == "trials"}
            (place / "asked").write_bytes(json.dumps(asked).encode())
            (place / "payload").write_bytes(payload)
            (place / "folder").mkdir()
            task = {
                **{part: str(place / part) for part in ("asked", "payload", "report", "folder")},
                "limits": asdict(self.limits),
                "protect": self.protect,
                "readable": self._readable[kind],
            }
            self._run(self._worker(kind), task, place / "folder")
            report = place / "report"
            if not report.exists():
                raise Stopped("your function could not be run: this machine did not confine it")
            with report.open("rb") as file:
                return _read(file.read(self.limits.file))
        finally:
            _delete(place)

    def _worker(self, kind: str) -> subprocess.Popen:
        """The worker that forks for tasks of a kind; it is started if it does not run."""
        worker = self._workers.get(kind)
        if worker is None or worker.poll() is not None:
            home = Path(self._home.name)
            worker = subprocess.Popen(
                [sys.executable, "-P", "-m", "lora_lab.classroom.worker", kind],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=home,
                env=_environment(home),
                text=True,
                bufsize=1,
            )
            self._workers[kind] = worker
        return worker

    def _run(self, worker: subprocess.Popen, task: dict, folder: Path) -> None:
        """Let a worker do a task to its end, or end it.

        Raises:
            Stopped: if it was ended, with the reason.
        """
        worker.stdin.write(json.dumps(task) + "\n")
        number = _number(worker)
        waited, seen, why = 0.0, time.monotonic(), None
        while not select.select([worker.stdout], [], [], LOOK)[0]:
            last, seen = seen, time.monotonic()
            waited += (seen - last) * _waits(number)
            if waited > self.limits.seconds:
                why = f"your function waited for more than {self.limits.seconds} s"
            elif _size(folder) > self.limits.folder:
                why = f"your function wrote more than {file_size(self.limits.folder)} of files"
            if why:
                _kill(number)
                break
        status = _number(worker)
        if not self.protect:
            _kill(number)  # its children, which a protected process can't have
        if why or (why := _why(status, self.limits)):
            raise Stopped(why)


def _number(worker: subprocess.Popen) -> int:
    """The next number that a worker writes: a process's number, or its exit status."""
    line = worker.stdout.readline()
    if not line:
        raise Stopped("the system ended the process that runs submissions; check this file again")
    return int(line)


def _waits(number: int) -> bool:
    """Whether a process sleeps. A process that is kept waiting by a busy processor does not."""
    try:
        return psutil.Process(number).status() not in BUSY
    except psutil.Error:  # it has ended
        return False


def _kill(number: int) -> None:
    """End a process and its group; both may have ended already."""
    for end in (os.killpg, os.kill):
        with suppress(ProcessLookupError, PermissionError):
            end(number, signal.SIGKILL)


def _why(status: int, limits: Limits) -> str | None:
    """Why a process ended, if a signal ended it; else None."""
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return (
            f"your function took more than {limits.seconds} s of the processor, or the system "
            "ended it for its memory"
        )
    if status == -signal.SIGXFSZ:
        return f"your function wrote a file of more than {file_size(limits.file)}"
    return None


def _size(folder: Path) -> int:
    """The bytes of the files in a folder, which may change meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except OSError:
                continue
    return total


def _delete(folder: Path) -> None:
    """Delete a folder with everything in it, whatever its permissions say."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = os.path.join(root, name)
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _environment(home: Path) -> dict[str, str]:
    """The variables of a worker: of the grader's own, only those that find the libraries."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    return {
        **kept,
        **single,
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONPATH": str(PACKAGE.parent),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _calls(ask: Callable, cases: Sequence[Case]) -> Callable:
    """The program that a process runs: it takes a function, and yields an event for each case."""

    def calls(function: Callable, _: str, to_text: Callable) -> Iterator[dict]:
        for case in cases:
            outcome = outcome_of(ask, function, case)
            raised = outcome.raised and [
                outcome.raised.kind,
                outcome.raised.message,
                outcome.raised.line,
            ]
            yield {"outcome": [to_text(outcome.answer), raised, list(outcome.changed)]}

    return calls


def _by_value(program: Callable) -> bytes:
    """A function pickled with those parts of hidden modules that it uses."""
    modules = [*map(import_module, ("lora_lab.checks", "lora_lab.lessons", __name__))]
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(program)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _read(report: bytes) -> list[dict]:
    """The events of a report.

    Raises:
        Stopped: if it says that there is no function, or can't be read.
    """
    events = []
    for line in report.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(event, dict):
            break
        events.append(event)
    for event in events:
        if "missing" in event:
            raise Stopped(_missing_text(event))
        if "broken" in event:
            raise Stopped(f"your notebook's code for it raised {_short(event['broken'])}")
    return events


def _missing_text(event: dict) -> str:
    """A sentence that a function is missing, with the functions that are there."""
    wanted = ", ".join(map(str, event["missing"]))
    present = ", ".join(map(str, event.get("functions") or ())) or "none"
    return _short(
        f"the notebook does not define {wanted}; its functions are {present}. Give the function "
        "the exercise's name, or hand it to the check"
    )


def _outcome(event: object) -> Outcome:
    """An outcome as a process reported it.

    Raises:
        Stopped: if it can't be read.
    """
    try:
        answer, raised, changed = event
        raised = raised and Raised(*(_short(part) for part in raised))
        return Outcome(from_text(answer), raised, tuple(_short(name) for name in changed))
    except (ValueError, TypeError) as error:
        raise Stopped(f"your function's answer can't be read ({_short(error)})") from None


def _short(text: object) -> str:
    words = str(text)
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"

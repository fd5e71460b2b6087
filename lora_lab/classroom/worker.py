"""Runs functions of submissions, each confined in a process of its own, and reports their calls.

A program: `python -m lora_lab.classroom.worker plain`, or `trials`. It loads the heavy libraries
once and forks for each task, so that a check takes a fraction of a second. A submission can also
write into its report. It gains nothing by that: the report holds answers, which the grader
compares.
"""

import builtins
import ctypes
import io
import json
import linecache
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from lora_lab.classroom import answers, code
from lora_lab.classroom.confinement import Limits, confine

PARENT_DEATH = 1  # of prctl
LOADED = {  # modules loaded before a task comes; a plain worker never holds the solutions
    "plain": ("torch", "peft", "cloudpickle"),
    "trials": ("lora_lab.checks.exercises",),
}


def main() -> None:
    """Fork a process for each line of standard input; write its number, then its exit status."""
    for name in LOADED[sys.argv[1]]:
        import_module(name)
    _end_with_parent()
    speak = os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        number = os.fork()
        if number == 0:
            _run_task(json.loads(line))
        speak.write(f"{number}\n")
        _, status = os.waitpid(number, 0)
        speak.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _run_task(task: dict) -> None:
    """Do a task in this process, which ends with it."""
    try:
        os.setsid()
        _end_with_parent()
        os.closerange(0, 256)
        for _ in range(3):  # standard input, output and errors lead nowhere
            os.open(os.devnull, os.O_RDWR)
        sys.stdin = io.TextIOWrapper(io.BytesIO())
        folder = Path(task["folder"])
        os.chdir(folder)
        for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR"):
            os.environ[name] = str(folder)
        tempfile.tempdir = None  # what was loaded before may have asked for the worker's own
        asked = json.loads(Path(task["asked"]).read_bytes())
        payload = Path(task["payload"]).read_bytes()
        report = open(task["report"], "w", encoding="utf-8")  # noqa: SIM115 - until the end
        confine(
            Limits(**task["limits"]), map(Path, task["readable"]), folder, protect=task["protect"]
        )
        for event in _all_events(asked, payload):
            report.write(json.dumps(event) + "\n")
            report.flush()
        os._exit(0)
    finally:
        os._exit(1)


def _all_events(asked: dict, payload: bytes) -> Iterator[dict]:
    """The events of a task; an error between the calls is an event too."""
    try:
        yield from events(asked, payload)
    except Exception as error:  # noqa: BLE001 - a submission's code: anything
        yield {"broken": f"{type(error).__name__}: {error}"}


def events(asked: dict, payload: bytes) -> Iterator[dict]:
    """The events of a task: no function found, or an outcome for each case, or a trial's end."""
    expression = code.checked_expression(asked["name"], asked["cells"])
    known = [*code.statements(asked["cells"])]
    missing = code.undefined(expression, known)
    if missing:
        yield {"missing": sorted(missing), "functions": code.functions(known)}
        return
    calls = _trial if asked["trial"] else pickle.loads(payload)  # made by the grader
    try:
        function = _run(code.needed(expression, known), asked["cells"], expression)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a learner's code: anything
        yield {"broken": f"{type(error).__name__}: {error}"}
        return
    yield from calls(function, asked["name"], answers.to_text)


def _run(
    statements: Sequence[code.Statement], cells: Sequence[str], expression: code.Expression
) -> object:
    """The value of an expression after its statements have run, in a namespace of its own."""
    names = {"__name__": "__main__", "__builtins__": builtins}
    for statement in statements:
        lines = cells[statement.cell].splitlines(keepends=True)
        linecache.cache[statement.file] = (0, None, lines, statement.file)
        exec(statement.compiled(), names)
    return eval(code.text_of(expression), names)


def _trial(function: Callable, name: str, _: Callable) -> Iterator[dict]:
    """The exercise's own trial, with trainings: its verdict can only take a point away."""
    verdict = import_module("lora_lab.checks.exercises").EXERCISES[name].tried(function)
    yield {"passed": verdict.passed, "message": verdict.message}


def _end_with_parent() -> None:
    """On Linux: end this process when its parent ends."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()

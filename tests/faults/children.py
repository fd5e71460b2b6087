"""Run a script of this folder in a process of its own, which can import the tests' helpers."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def output_of(script, *arguments, **environment):
    """What a script prints; more variables of the environment may be given."""
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, HERE / script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

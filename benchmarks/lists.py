"""How many CPU seconds does the command line take to list, to help, and to refuse?

Each command runs in a process of its own, all in turn, and beside them a Python that does nothing
and one that imports torch. It counts CPU seconds, which another program's load hardly moves, and
takes the least of the rounds. Run `python benchmarks/lists.py --help`.
"""

import argparse
import os
import subprocess
import sys

COMMANDS = ("--version", "--help", "train --help", "rnus", "runs --jsno", "runs", "bases", "tasks")
PROGRAM = "from lora_lab.cli.app import app; app(prog_name='lora-lab')"
RIVALS = {"python, nothing": "pass", "import torch": "import torch"}


def cpu_seconds(code, *arguments):
    """Of a Python process, its start included; it may end as it likes, and say what it likes."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cases = {name: (code,) for name, code in RIVALS.items()}
    cases |= {f"lora-lab {words}": (PROGRAM, *words.split()) for words in COMMANDS}
    least = dict.fromkeys(cases, float("inf"))
    for _ in range(options.rounds):
        for name, case in cases.items():
            least[name] = min(least[name], cpu_seconds(*case))
    for name, seconds in least.items():
        print(f"{name:<24}{seconds:6.2f} s{seconds / least['import torch']:8.2f} × import torch")


if __name__ == "__main__":
    main()

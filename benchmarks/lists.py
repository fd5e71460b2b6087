"""How many CPU seconds does the command line take until it prints a list, a help or an error?

Each command runs in a process of its own, all in turn, beside a Python that does nothing and a
Python that imports torch. It counts CPU seconds up to the first output, which another program's
load hardly changes, and takes the least of the rounds. Linux only: it reads /proc. With `--most` it
fails if a command takes longer. Run `python benchmarks/lists.py --help`.
"""

import argparse
import os
import subprocess
import sys

COMMANDS = (
    *("--version", "--help", "train --help", "rnus", "runs --jsno", "runs", "bases", "tasks"),
    *("train new-fact", "train no-such.csv", "train style --base poket", "train style --r 0"),
    *("sweep style --vary r=0", "estimate llama-7b --r 0", "estimate lama-7b"),
    *("evaluate no-such-run", "export no-such-run folder", "check no-such", "doctor"),
)
PROGRAM = "from lora_lab.cli.app import app; app(prog_name='lora-lab')"
RIVALS = {"python, nothing": "pass", "import torch": "import torch"}


TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(code, *arguments):
    """CPU seconds of a Python process, from its start to its first output, or to its end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    said = process.stdout.read(1)
    if said:
        with open(f"/proc/{process.pid}/stat", encoding="utf-8") as file:
            facts = file.read().rpartition(")")[2].split()  # user and system time: fields 14, 15
        process.kill()
    process.stdout.close()
    _, _, used = os.wait4(process.pid, 0)
    return (int(facts[11]) + int(facts[12])) / TICKS if said else used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--most", type=float, default=None, help="seconds of a command, at most")
    options = parser.parse_args()
    cases = {name: (code,) for name, code in RIVALS.items()}
    cases |= {f"lora-lab {words}": (PROGRAM, *words.split()) for words in COMMANDS}
    least = dict.fromkeys(cases, float("inf"))
    for _ in range(options.rounds):
        for name, case in cases.items():
            least[name] = min(least[name], cpu_seconds(*case))
    for name, seconds in least.items():
        print(f"{name:<36}{seconds:6.2f} s{seconds / least['import torch']:8.2f} × import torch")
    late = [name for name in least if name not in RIVALS and least[name] > (options.most or 1e9)]
    sys.exit(f"too late: {', '.join(late)}" if late else 0)


if __name__ == "__main__":
    main()

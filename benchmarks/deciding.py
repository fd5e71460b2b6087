"""Does `lora-lab decide` keep to the minutes that it was given?

It runs on a file of real rows (home commands) with smollm2, once for each budget. It measures wall
time, since that is what `decide` promises: run nothing beside it. Run
`python benchmarks/deciding.py --help`.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lora_lab.tasks.loading import load_task

COMMAND = "from lora_lab.cli.app import app; app()"
GOAL = 0.1  # share of the budget by which the time may go beyond it


def write(path, rows):
    """Write a number of real rows as a CSV."""
    task = load_task("home-commands", n=rows)
    examples = [*task.train, *task.validation, *task.test][:rows]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "answer"])
        writer.writerows([example.prompt, example.answer] for example in examples)
    return len(examples)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--minutes", type=float, nargs="+", default=[6, 15])
    parser.add_argument("--base", default="smollm2")
    options = parser.parse_args()
    print("| rows | budget, min | taken, min | share | tried | recommended | test |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "commands.csv"
        rows = write(file, options.rows)
        for minutes in options.minutes:
            kept = ["--out", f"{folder}/{minutes:g}", "--store", f"{folder}/store-{minutes:g}"]
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", COMMAND, "decide", str(file), "--base", options.base,
                 "--minutes", f"{minutes:g}", *kept, "--json"],
                stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
            taken = (time.monotonic() - start) / 60
            facts = json.loads(done.stdout)
            ways = ", ".join(sorted({entry["way"] for entry in facts["validation"]}))
            test = facts["test"]
            print(
                f"| {rows} | {minutes:g} | {taken:.1f} | {taken / minutes:.0%} | {ways} "
                f"| {facts['recommendation']} | {test['right']} of {test['asked']} |",
                flush=True,
            )
            if taken > (1 + GOAL) * minutes:
                print(f"beyond the goal: more than {GOAL:.0%} over the budget", file=sys.stderr)


if __name__ == "__main__":
    main()

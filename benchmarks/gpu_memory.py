"""The estimate of a GPU's memory beside what others measured, run by run.

    python benchmarks/gpu_memory.py > benchmarks/results/gpu_memory.md

It traces some 130 steps: a minute or two of CPU time.
"""

import statistics
import warnings
from collections import Counter, defaultdict

from lora_lab.cost.published_memory import MEASURED, OUTCOMES, comparable

HALVES = {False: "fitted", True: "held back"}


def main() -> None:
    """Print a table of errors by kind and half, then a row for each run."""
    warnings.simplefilter("ignore")
    errors, outcomes, rows = defaultdict(list), Counter(), []
    for run in comparable():
        half, kind = HALVES[run.held_back], run["kind"]
        facts = [run.fields["source"], run.fields["where"], half, kind]
        if kind in OUTCOMES:
            verdict = run.verdict()
            outcomes[half, kind, verdict] += 1
            rows.append([*facts, f"on {run['card_gib']} GiB", verdict, ""])
        else:
            now, before = run.error(), run.bare_error()
            lengths = "one length" if run["varied"] == "no" else "lengths vary"
            errors[kind, lengths, half].append((now, before))
            measured = f"{run.measured / 2**30:.2f} GiB"
            rows.append([*facts, measured, f"{now:+.1%}", f"{before:+.1%}"])
    print("# Memory of a GPU, against what others measured\n")
    print("Errors as a share of what was measured: of the estimate, and of a bare loop's tensors")
    print("(`usual_memory`). `held back`: the estimate was not fitted to the run.\n")
    print("| measured | lengths | half | runs | median error | worst | bare loop: median error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for (kind, lengths, half), pairs in sorted(
        errors.items(), key=lambda item: MEASURED.index(item[0][0])
    ):
        now, before = ([abs(pair[place]) for pair in pairs] for place in (0, 1))
        medians = f"{statistics.median(now):.1%} | {max(now):.0%} | {statistics.median(before):.1%}"
        print(f"| {kind} | {lengths} | {half} | {len(pairs)} | {medians} |")
    print("\n| half | the run | is said to | runs |\n| --- | --- | --- | --- |")
    for (half, kind, verdict), count in sorted(outcomes.items()):
        print(f"| {half} | {kind} | {verdict} | {count} |")
    print("\n| source | where | half | kind | measured | error, or verdict | bare loop |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()

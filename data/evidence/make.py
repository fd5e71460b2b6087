"""Make the runs that the plans of data/evidence/ lack; keep each as a row of the plan's CSV file.

A command that was stopped goes on where it was. With --check, a random tenth of the runs is made
again and compared with what was kept.
"""

import argparse
import sys
import time
from collections.abc import Callable

from tqdm.auto import tqdm

from lora_lab.findings.evidence import Evidence, Row, read_rows
from lora_lab.findings.evidence_runs import make_missing, missing_runs, repeat_some
from lora_lab.findings.plans import Plan, evidence_ids, plan


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID", help="plans; none: all")
    parser.add_argument("--base", help="only plans for this base")
    parser.add_argument("--list", action="store_true", help="say what is missing, and make nothing")
    parser.add_argument(
        "--check", action="store_true", help="make a random tenth again and compare"
    )
    options = parser.parse_args()
    try:
        plans = [plan(id) for id in options.ids or evidence_ids()]
    except ValueError as error:
        sys.exit(str(error))
    plans = [each for each in plans if options.base in (None, each.base)]
    if not plans:
        sys.exit(f"no plan is for the base {options.base!r}; leave --base out, or give another")
    work = count if options.list else check if options.check else make
    try:
        ends = [tried(work, each) for each in plans]
    except KeyboardInterrupt:
        sys.exit("stopped; what is finished is kept, and the same command goes on from there")
    sys.exit(not all(ends))


def tried(work: Callable[[Plan], bool], chosen: Plan) -> bool:
    """Work on a plan. If it fails, say why and return False, so that the next plan has its turn."""
    try:
        return work(chosen)
    except (ValueError, OSError) as error:  # a damaged file, a base that is not here, no room
        print(f"{chosen.id}: {error}", file=sys.stderr)
        return False


def count(chosen: Plan) -> bool:
    """Say how many runs there are, and how many are wanted next. Always True."""
    rows = read_rows(chosen)
    print(f"{chosen.id}: {len(rows)} runs, {len(missing_runs(chosen, rows))} wanted next")
    return True


def make(chosen: Plan) -> bool:
    """Make what a plan lacks, with a bar for each stage. Always True."""
    bar, began, made = None, time.monotonic(), 0
    for left, news in make_missing(chosen):
        if bar is None or left > bar.total - bar.n:  # a new stage
            if bar is not None:
                bar.close()
            bar = tqdm(total=left + isinstance(news, Row), desc=chosen.id, unit="run")
        if isinstance(news, Row):
            made += 1
            bar.set_postfix_str(f"{news.stage} {news.setting}", refresh=False)
            bar.update()
    if bar is not None:
        bar.close()
        hours = (time.monotonic() - began) / 3600
        print(f"{chosen.id}: {made} runs, {made / hours:.0f} an hour")
    print(f"{chosen.id}: {Evidence.read(chosen.id).verdict}")
    return True


def check(chosen: Plan) -> bool:
    """Make some of a plan's runs again; returns whether all agree."""
    agreed = []
    for each in repeat_some(chosen):
        agreed.append(each.agrees)
        kept, again = each.kept, each.again
        print(
            f"{chosen.id}, {kept.setting}, seed {kept.seed}: {kept.value}, again {again.value}"
            + ("" if each.agrees else f": more apart than {each.allowed:.3g}, its seeds' range")
        )
    if not agreed:
        print(f"{chosen.id}: nothing was tested yet that could be made again")
    return all(agreed)


if __name__ == "__main__":
    main()

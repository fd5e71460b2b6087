"""Make the recordings that are missing: runs on smollm2, and what claims measure on pocket.

A run that recorded.toml names becomes a folder: run.json (recipe, machine, versions, date),
records.jsonl and scores.json. The adapter is not kept, nor are the answers: their prompts are
other people's text. A claim of claims.toml becomes claims/<id>.json. It is measured again if its
settings or ranges were changed since. A script that was stopped goes on where it was.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.findings import claims

HERE = Path(__file__).parent
STORE = HERE.parents[1] / "build" / "recorded"  # the runs of claims, until all have their records


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which runs and claims; none: all")
    parser.add_argument("--fresh", action="store_true", help="make again what is here")
    options = parser.parse_args(arguments)
    plans = tomllib.loads((HERE / "recorded.toml").read_text(encoding="utf-8"))
    measured = {id: claim for id, claim in claims.claims().items() if claim.to_run}
    if unknown := set(options.names) - {*plans, *measured}:
        sys.exit(
            f"no run or claim is called {sorted(unknown)[0]!r}; recorded.toml names "
            f"{', '.join(plans)}; claims.toml measures {', '.join(measured)}"
        )
    names = options.names or [*plans, *measured]
    make_runs({name: plans[name] for name in names if name in plans}, options.fresh)
    make_claims([measured[id] for id in names if id in measured], options.fresh)


def make_runs(plans: dict[str, dict], fresh: bool) -> None:
    """Train smollm2 by each plan with each of its seeds, where the run is not here yet."""
    jobs = [
        (name, seed)
        for name, plan in plans.items()
        for seed in plan["seeds"]
        if fresh or not (HERE / f"{name}-{seed}").exists()
    ]
    if not jobs:
        return
    base = lab.load_base("smollm2", device="cpu", dtype="float32")
    for name, seed in tqdm(jobs, unit="run"):
        task = lab.load_task(plans[name]["task"], base)
        steps = plans[name]["recipe"].get("steps", task.recipe.steps)
        changes = {"eval_steps": max(1, steps // 4)} | plans[name]["recipe"] | {"seed": seed}
        recipe = dataclasses.replace(task.recipe, **changes)
        with tempfile.TemporaryDirectory() as store:
            record(lab.fit(base, task, recipe, store=store).path, HERE / f"{name}-{seed}")


def make_claims(ledger: list[claims.Claim], fresh: bool) -> None:
    """Measure the claims without a record that counts. They share the runs that several need."""
    if fresh:
        shutil.rmtree(STORE, ignore_errors=True)
    for claim in ledger:
        if fresh or not claim.trials:
            claims.record(claim, HERE / "claims", store=STORE, progress=True)
    shutil.rmtree(STORE, ignore_errors=True)


def record(run: Path, folder: Path) -> None:
    """Copy a stored run, all but its adapter and its answers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("run.json", "records.jsonl"):
        shutil.copyfile(run / name, folder / name)
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    (folder / "scores.json").write_text(
        json.dumps(scores | {"answers": []}) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

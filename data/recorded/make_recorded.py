"""Make the recordings that are not here yet: runs on smollm2, and what claims measure on pocket.

A run that recorded.toml names becomes a folder: run.json (recipe, machine, versions, date),
records.jsonl and scores.json. The adapter is not kept, nor are the answers: their prompts are
other people's text. A claim of claims.toml becomes claims/<id>.json, once more where its settings
or ranges were changed since. Stopped and called again, it goes on where it was.
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
    wanted = tomllib.loads((HERE / "recorded.toml").read_text(encoding="utf-8"))
    measured = {id: one for id, one in claims.claims().items() if one.to_run}
    if unknown := set(options.names) - {*wanted, *measured}:
        sys.exit(
            f"no run or claim is called {sorted(unknown)[0]!r}; recorded.toml names "
            f"{', '.join(wanted)}; claims.toml measures {', '.join(measured)}"
        )
    names = options.names or [*wanted, *measured]
    make_runs({name: wanted[name] for name in names if name in wanted}, options.fresh)
    make_claims([measured[id] for id in names if id in measured], options.fresh)


def make_runs(wanted: dict[str, dict], fresh: bool) -> None:
    """Train on smollm2, seed by seed, what is not here."""
    jobs = [
        (name, seed)
        for name, facts in wanted.items()
        for seed in facts["seeds"]
        if fresh or not (HERE / f"{name}-{seed}").exists()
    ]
    if not jobs:
        return
    base = lab.load_base("smollm2", device="cpu", dtype="float32")
    for name, seed in tqdm(jobs, unit="run"):
        task = lab.load_task(wanted[name]["task"], base)
        steps = wanted[name]["recipe"].get("steps", task.recipe.steps)
        changes = {"eval_steps": max(1, steps // 4)} | wanted[name]["recipe"] | {"seed": seed}
        recipe = dataclasses.replace(task.recipe, **changes)
        with tempfile.TemporaryDirectory() as store:
            record(lab.fit(base, task, recipe, store=store).path, HERE / f"{name}-{seed}")


def make_claims(wanted: list[claims.Claim], fresh: bool) -> None:
    """Measure the claims without a record that counts. They share the runs that several need."""
    if fresh:
        shutil.rmtree(STORE, ignore_errors=True)
    for one in wanted:
        if fresh or not one.trials:
            claims.record(one, HERE / "claims", store=STORE, progress=True)
    shutil.rmtree(STORE, ignore_errors=True)


def record(run: Path, folder: Path) -> None:
    """Keep what a stored run told."""
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

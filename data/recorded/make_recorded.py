"""Train the runs that recorded.toml names and that are not here yet; keep what they told.

Each becomes a folder: run.json (recipe, machine, versions, date), records.jsonl and scores.json.
The adapter is not kept, nor are the answers: their prompts are other people's text.
"""

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path

from tqdm.auto import tqdm

import lora_lab as lab

HERE = Path(__file__).parent


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which of them; none: all")
    parser.add_argument("--fresh", action="store_true", help="train again what is here")
    options = parser.parse_args()
    wanted = tomllib.loads((HERE / "recorded.toml").read_text(encoding="utf-8"))
    unknown = set(options.names) - set(wanted)
    if unknown:
        sys.exit(f"recorded.toml names no {sorted(unknown)[0]!r}; it has {', '.join(wanted)}")
    base = lab.load_base("smollm2", device="cpu", dtype="float32")
    jobs = [
        (name, seed)
        for name in options.names or wanted
        for seed in wanted[name]["seeds"]
        if options.fresh or not (HERE / f"{name}-{seed}").exists()
    ]
    for name, seed in tqdm(jobs, unit="run"):
        task = lab.load_task(wanted[name]["task"], base)
        steps = wanted[name]["recipe"].get("steps", task.recipe.steps)
        changes = {"eval_steps": max(1, steps // 4)} | wanted[name]["recipe"] | {"seed": seed}
        recipe = dataclasses.replace(task.recipe, **changes)
        with tempfile.TemporaryDirectory() as store:
            record(lab.fit(base, task, recipe, store=store).path, HERE / f"{name}-{seed}")


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

"""Measure what target_modules.toml asks for and is not here yet; keep what came out.

target_modules/facts-<seed>.json: each set of modules at each learning rate.
target_modules/planted-<seed>.json: where the change grew, and where it was planted.
"""

import argparse
import dataclasses
import json
import platform
import random
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.bases import Base
from lora_lab.changes import relative_changes
from lora_lab.places import write_atomically

HERE = Path(__file__).parent
NAMED = ("torch", "transformers", "peft", "lora-lab")  # with their versions


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="facts, planted; none: both")
    parser.add_argument("--fresh", action="store_true", help="measure again what is here")
    options = parser.parse_args()
    wanted = tomllib.loads((HERE / "target_modules.toml").read_text(encoding="utf-8"))
    makers = {"facts": facts, "planted": planted}
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name in options.names or wanted:
        for seed in wanted[name]["seeds"]:
            path = HERE / "target_modules" / f"{name}-{seed}.json"
            if options.fresh or not path.exists():
                keep(path, wanted[name], [*makers[name](base, wanted[name], seed)], base)


def keep(path: Path, settings: dict, rows: list[dict], base: Base) -> None:
    """What was set, what came out, where and when."""
    words = {
        "settings": settings,
        "rows": rows,
        "device": base.about,
        "versions": {"python": platform.python_version()} | {one: version(one) for one in NAMED},
        "date": datetime.now(UTC).date().isoformat(),
    }
    path.parent.mkdir(exist_ok=True)
    with write_atomically(path) as file:
        file.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")


def facts(base: Base, wanted: dict, seed: int) -> Iterator[dict]:
    """Each setting at each learning rate, scored on the test."""
    task = lab.load_task(wanted["task"], base, n=wanted["n"], seed=seed)
    settings = [
        (name, lab.Recipe(**wanted["common"], **changes, learning_rate=rate, seed=seed))
        for name, changes in wanted["settings"].items()
        for rate in wanted["learning_rates"]
    ]
    for name, recipe in tqdm(settings, desc=f"facts {seed}", unit="run"):
        (run,) = lab.sweep(base, task, [recipe], seeds=[seed], store=None).runs
        yield {
            "setting": name,
            "seed": seed,
            "learning_rate": recipe.learning_rate,
            "trained": lab.estimate(base, recipe).trainable_parameters,
            "status": run.status,
            "validation_loss": run.records[-1].validation_loss if run.records else None,
            "value": run.scores.value if run.scores else None,
            "old_knowledge": run.scores.old_knowledge if run.scores else None,
        }


def planted(base: Base, wanted: dict, seed: int) -> Iterator[dict]:
    """Each kind of module with a change planted in one layer, and three students."""
    for module in tqdm(wanted["modules"], desc=f"planted {seed}", unit="teacher"):
        layer = random.Random(f"{module} {seed}").randrange(4)
        task = lab.planted_task(
            base, r=wanted["r"], target_modules=module, layers=(layer,), seed=seed
        )
        everywhere = lab.Recipe(**wanted["common"], **wanted["everywhere"], seed=seed)
        alone = lab.Recipe(
            **wanted["common"],
            **wanted["alone"],
            seed=seed,
            target_modules=(module,),
            layers_to_transform=(layer,),
        )
        elsewhere = dataclasses.replace(alone, layers_to_transform=((layer + 2) % 4,))
        students = [lab.fit(base, task, one, store=None) for one in (everywhere, alone, elsewhere)]
        (place,) = task.teacher
        yield {
            "module": module,
            "layer": layer,
            "seed": seed,
            "planted": place,
            "changes": relative_changes(base, students[0].model),
            "base": lab.evaluate(base, task).value,
            "everywhere": students[0].scores.value,
            "alone": students[1].scores.value,
            "elsewhere": students[2].scores.value,
        }


if __name__ == "__main__":
    main()

"""Make the recordings of rank.toml that are missing: the scores of sweeps over ranks.

Each becomes rank/<name>.json. Runs go into the store, so that a stopped sweep goes on.
"""

from pathlib import Path

from plans import chosen_plans

import lora_lab as lab
from lora_lab.findings.recordings import recipes_of, record_sweep, task_of

HERE = Path(__file__).parent / "rank"


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("rank.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name, plan in plans.items():
        path = HERE / f"{name}.json"
        if fresh or not path.exists():
            task, recipes, seeds = task_of(plan, base), recipes_of(plan), plan["seeds"]
            sweep = lab.sweep(base, task, recipes, seeds=seeds, fresh=fresh, progress=True)
            record_sweep(sweep, plan, base, path)


if __name__ == "__main__":
    main()

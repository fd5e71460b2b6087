"""Make the sweeps that rank.toml names and that are not here yet; keep what they scored.

Each becomes rank/<name>.json. Runs go into the store, so that a stopped sweep goes on.
"""

from pathlib import Path

from asking import asked_for

import lora_lab as lab
from lora_lab.findings.recorded_sweeps import recipes_of, record_sweep, task_of

HERE = Path(__file__).parent / "rank"


def main() -> None:
    """The command."""
    wanted, fresh = asked_for("rank.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name, asked in wanted.items():
        path = HERE / f"{name}.json"
        if fresh or not path.exists():
            task, recipes, seeds = task_of(asked, base), recipes_of(asked), asked["seeds"]
            made = lab.sweep(base, task, recipes, seeds=seeds, fresh=fresh, progress=True)
            record_sweep(made, asked, base, path)


if __name__ == "__main__":
    main()

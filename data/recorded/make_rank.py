"""Make the sweeps that rank.toml names and that are not here yet; keep what they scored.

Each becomes rank/<name>.json. Runs go into the store, so that a stopped sweep goes on.
"""

import argparse
import sys
from pathlib import Path

import lora_lab as lab
from lora_lab.recorded_sweeps import recipes_of, record_sweep, recorded_settings, task_of

HERE = Path(__file__).parent / "rank"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="which of them; none: all")
    parser.add_argument("--fresh", action="store_true", help="train again what is here")
    options = parser.parse_args()
    wanted = recorded_settings()
    unknown = set(options.names) - set(wanted)
    if unknown:
        sys.exit(f"rank.toml names no {sorted(unknown)[0]!r}; it has {', '.join(wanted)}")
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    for name in options.names or wanted:
        path = HERE / f"{name}.json"
        if options.fresh or not path.exists():
            asked = wanted[name]
            task, recipes = task_of(asked, base), recipes_of(asked)
            fresh, seeds = options.fresh, asked["seeds"]
            made = lab.sweep(base, task, recipes, seeds=seeds, fresh=fresh, progress=True)
            record_sweep(made, asked, base, path)


if __name__ == "__main__":
    main()

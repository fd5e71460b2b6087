"""Make the recordings of shipping.toml that are missing: two adapters in one, triggers, secrets.

Each becomes shipping/<name>.json.
"""

from collections.abc import Iterator

from plans import chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.lessons import shipping, tampering
from lora_lab.models.bases import Base


def rows_of(base: Base, name: str, plan: dict) -> Iterator[dict]:
    """The rows of a plan, seed by seed."""
    for seed in tqdm(plan["seeds"]):
        if name == "two-in-one":
            for way, shares in shipping.two_in_one(base, seed).rows().items():
                yield {"seed": seed, "way": way, **shares}
        elif name == "trigger":
            for kind, shares in tampering.triggered(base, seed).items():
                yield {"seed": seed, "kind": kind, **shares}
        else:
            for copies, found in tampering.leaked(base, seed).items():
                yield {"seed": seed, "copies": copies, **found}


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("shipping.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    record_missing(
        "shipping", plans, fresh, base.about, lambda name, plan: rows_of(base, name, plan)
    )


if __name__ == "__main__":
    main()

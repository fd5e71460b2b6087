"""Make the recordings of way_in.toml that are missing: cut, padded and packed examples.

Each becomes way_in/<name>.json, with a row for each training.
"""

from collections.abc import Iterator

from plans import chosen_plans, record_missing
from tqdm.auto import tqdm

import lora_lab as lab
from lora_lab.lessons import way_in
from lora_lab.models.bases import Base

AT_FIRST = ("whole", "padded", "packed", "packed, 4 × the rows", "the same, 3 × the rate")


def rows_of(base: Base, name: str, plan: dict) -> Iterator[dict]:
    """A row for each training: its way, length and seed, and what it came to."""
    if name == "too-long":
        task, ways_at, lengths = way_in.style_task(base), way_in.too_long, plan["max_lengths"]
    else:
        task, ways_at, lengths = way_in.facts_task(base), way_in.packings, plan["row_lengths"]
    planned = [
        (way, length, made, seed)
        for length in lengths
        for way, made in ways_at(base, task, length).items()
        if length == lengths[0] or way not in AT_FIRST
        for seed in plan["seeds"]
    ]
    for way, length, made, seed in tqdm(planned):
        outcome = way_in.trained(base, task, made, seed)
        yield {
            "way": way,
            "length": length,
            "seed": seed,
            "examples": len(made.rows),
            "places": outcome.places,
            "last_loss": outcome.losses[-1],
            "value": outcome.right,
            "runs_on": outcome.runs_on,
            "old_knowledge": outcome.scores.old_knowledge,
        }


def main() -> None:
    """The command."""
    plans, fresh = chosen_plans("way_in.toml", __doc__)
    base = lab.load_base("pocket", device="cpu", dtype="float32")
    record_missing("way_in", plans, fresh, base.about, lambda name, plan: rows_of(base, name, plan))


if __name__ == "__main__":
    main()

"""Tables that were measured before, too long for a notebook to make on the spot."""

import json

import pandas as pd

from lora_lab.places import data_folder
from lora_lab.recipe import nearest

FOLDERS = ("target_modules",)  # with tables in them, each beside its make_<folder>.py


def recorded_table(name: str) -> pd.DataFrame:
    """A table of data/recorded/, told as it was measured: "target_modules/facts".

    Its `attrs` hold the settings, the device, the versions and the date.

    Raises:
        ValueError: if none is called so, with the nearest name.
    """
    folder = data_folder() / "recorded"
    known = {
        f"{one.parent.name}/{one.stem}": one
        for of in FOLDERS
        for one in sorted((folder / of).glob("*.json"))
    }
    if name not in known:
        raise ValueError(
            f"no table was recorded as {name!r}; {nearest(name, tuple(known))}"
            "`make recorded` measures what is missing"
        )
    words = json.loads(known[name].read_text(encoding="utf-8"))
    table = pd.DataFrame(words.pop("rows"))
    table.attrs = words
    return table

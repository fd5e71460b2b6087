"""What was measured before, too long for a notebook: what was asked for, what came of it, where."""

import json
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from lora_lab.places import data_folder, write_atomically
from lora_lab.recipe import nearest

NAMED = ("torch", "transformers", "peft", "bm25s", "lora-lab")  # with their versions


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A measurement as it was kept."""

    settings: Mapping[str, object]  # written down before there were results
    rows: tuple[Mapping[str, object], ...]  # what came out, a row each
    device: str
    versions: Mapping[str, str]
    date: str  # "2026-11-26"

    def table(self) -> pd.DataFrame:
        """The rows as a table."""
        return pd.DataFrame(self.rows)


def here_and_now(device: str) -> dict[str, object]:
    """Where and when something was measured, as a record says it."""
    return {
        "device": device,
        "versions": {"python": platform.python_version()} | {one: version(one) for one in NAMED},
        "date": datetime.now(UTC).date().isoformat(),
    }


def keep_recording(
    path: Path, settings: Mapping[str, object], rows: Iterable[Mapping], device: str
) -> None:
    """Keep a measurement as JSON, once it is there: no adapter and nobody's text is in it.

    Args:
        path: `data/recorded/<folder>/<name>.json`, for the course's own.
        settings: what was asked for.
        rows: what came out; an iterator is measured to its end first.
        device: where.
    """
    words = {"settings": settings, "rows": [*rows]} | here_and_now(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(path) as file:
        file.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")


def recorded_names() -> tuple[str, ...]:
    """The measurements that data/recorded/ holds: "target_modules/facts", and so on."""
    settings = sorted((data_folder() / "recorded").glob("*.toml"))  # rank.toml: rank/*.json
    files = [file for one in settings for file in sorted(one.with_suffix("").glob("*.json"))]
    return tuple(f"{file.parent.name}/{file.stem}" for file in files)


def recording(name: str) -> Recording:
    """A measurement of data/recorded/, told as it was made: "target_modules/facts".

    Raises:
        ValueError: if none is called so, with the nearest name.
    """
    known = recorded_names()
    if name not in known:
        raise ValueError(
            f"nothing was recorded as {name!r}; {nearest(name, known)}there are: "
            f"{', '.join(known)}; `make recorded` measures what is missing"
        )
    path = data_folder() / "recorded" / f"{name}.json"
    words = json.loads(path.read_text(encoding="utf-8"))
    return Recording(**words | {"rows": tuple(words["rows"])})

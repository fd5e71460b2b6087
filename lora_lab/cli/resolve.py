"""What a model's name on a command line means: a base, a stored run or a saved adapter."""

import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.cli.task_spec import TASK_FILE, Wanted
from lora_lab.models.built_in import BUILT_IN
from lora_lab.places import cache_folder, data_folder, write_atomically
from lora_lab.recipe import nearest
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.run_files import FINISHED, RUN, DamagedRun, read_scores
from lora_lab.training.store import (
    DEFAULT,
    Default,
    Run,
    list_runs,
    open_run,
    read_run,
    run_folders,
)

if TYPE_CHECKING:  # they import torch and PEFT, which take seconds: `lora-lab runs` does without
    from lora_lab.models.adapted import Adapted
    from lora_lab.models.bases import Base

BEFORE_FILE = "before.json"  # in a run's folder: what its base scored on the same task


# --- runs and their tasks -----------------------------------------------------------------------


def chosen_store(given: str | None) -> Path | Default:
    """The store that `--store` names, else the usual one."""
    return Path(given).expanduser() if given else DEFAULT


def task_of(run: Run) -> Wanted:
    """The task that a run was trained on, as far as it was kept."""
    try:
        return Wanted(**json.loads((run.path / TASK_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return Wanted(run.task_name)  # a notebook made it


def scores_before(run: Run, task: Task) -> Scores:
    """What the run's base scores on the run's task; reckoned once, then kept beside the run."""
    with suppress(DamagedRun):  # then it is reckoned again
        kept = read_scores(run.path, BEFORE_FILE)
        if kept is not None:
            return kept
    from lora_lab.training.evaluation import evaluate

    scores = evaluate(run.base, task)
    with suppress(OSError), write_atomically(run.path / BEFORE_FILE) as new:  # a full disk will do
        new.write_text(json.dumps(asdict(scores)), encoding="utf-8")
    return scores


# --- what can be asked --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A model to ask, what it is in words, and the run it comes from."""

    model: "Base | Adapted"
    about: str
    run: Run | None = None


def find_model(
    name: str | None,
    *,
    base: str | None = None,
    strength: float | None = None,
    store: Path | Default = DEFAULT,
) -> Found:
    """The base, adapter folder or run that a name means; None: the newest finished run, or pocket.

    Args:
        name: tried in this order: a base's short name, a folder, a run's name or
            part of it, a hub id.
        base: for an adapter whose configuration names a base that is not here.
        strength: of what was learnt; None: as trained.
        store: where runs are looked for.

    Raises:
        ValueError: for a strength, or a second base, where nothing was learnt.
        FileNotFoundError: if nothing is called so, with the nearest name.
    """
    from lora_lab.models.adapted import Adapted, load_adapter
    from lora_lab.models.adapter_files import CONFIG_FILE
    from lora_lab.models.adapters import as_trained
    from lora_lab.models.bases import load_base

    newest = None
    if name is None:
        newest = next((run for run in list_runs(store) if run.status == FINISHED), None)
        name = newest.path.name if newest else "pocket"
    folder = Path(name).expanduser()
    if name not in BUILT_IN and os.path.isfile(folder / CONFIG_FILE):
        on = load_base(base or _base_of(folder))
        adapted = load_adapter(on, folder, strength=1.0 if strength is None else strength)
        return Found(adapted, f"the adapter in {folder} on {on.about}")
    run = newest or (None if name in BUILT_IN else _run_or_base(name, store))
    if run is not None:
        on = as_trained(load_base(base) if base else run.base, run.recipe)
        adapted = Adapted(on, run.learned, strength=1.0 if strength is None else strength)
        return Found(adapted, f"{run.task_name}, trained on {on.about}", run)
    if strength is not None:
        raise ValueError(
            f"--strength {strength:g} does not fit the base {name!r}, which has learnt nothing "
            "yet; give a run or an adapter's folder"
        )
    if base is not None:
        raise ValueError(f"--base {base} does not fit {name!r}, which is a base; give one of them")
    on = load_base(name)
    return Found(on, on.about)


def find_run(name: str, store: Path | Default) -> Run:
    """The run with this folder, this name, or this part of a name.

    Raises:
        FileNotFoundError: if none or several fit.
    """
    folder = Path(name).expanduser()
    return read_run(folder) if os.path.isdir(folder) else open_run(name, store)


def _run_or_base(name: str, store: Path | Default) -> Run | None:
    """The run that is meant; None: a base's folder or hub id."""
    folder = Path(name).expanduser()
    if not os.path.exists(folder / RUN) and (os.path.exists(folder) or "/" in name):
        return None
    runs = [path.name for path in run_folders(store)]
    if not os.path.isdir(folder) and not any(name in run for run in runs):
        known = (*BUILT_IN, *runs)
        raise FileNotFoundError(
            f"no run, base or folder is called {name!r}; {nearest(name, known)}"
            "`lora-lab runs` and `lora-lab bases` list them"
        )
    return find_run(name, store)


def _base_of(adapter: Path) -> str:
    """The base that an adapter's configuration names, by its short name where it has one."""
    from lora_lab.models.adapter_files import read_settings

    told = read_settings(adapter).get("base_model_name_or_path") or ""
    homes = {"pocket": data_folder() / "pocket" / "model"}
    homes["smollm2"] = cache_folder() / "bases" / "smollm2"
    for name, home in homes.items():
        same = os.path.isdir(told) and Path(told).resolve() == home.resolve()
        if told in (name, str(home)) or same:
            return name
    is_hub_id = "/" in told and not Path(told).is_absolute()
    if os.path.isdir(told) or is_hub_id:
        return told
    raise FileNotFoundError(
        f"the adapter in {adapter} was trained on {told or 'a base that it does not name'}, which "
        "is not found here; give it, for example --base pocket or --base FOLDER"
    )


def short_names(folders: Collection[Path]) -> dict[Path, str]:
    """For each run's folder the shortest part of its name that means it alone, six letters or more.

    It begins the name's last part; the whole name, where another run's name holds that.
    """
    names = [path.name for path in folders]
    short = {}
    for path in folders:
        key = path.name.rpartition("-")[2]
        starts = (key[:end] for end in range(6, len(key) + 1))
        alone = (start for start in starts if sum(start in name for name in names) == 1)
        short[path] = next(alone, path.name)
    return short

"""Models by their name on a command line: a base, a stored run or a saved adapter."""

import json
import os
import shlex
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_lab.cli.task_spec import TASK_FILE, TaskSpec
from lora_lab.models.built_in import BUILT_IN, base_folder, find_base
from lora_lab.places import store_folder, write_atomically
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

if TYPE_CHECKING:  # these import torch and PEFT, which `lora-lab runs` does not need
    from lora_lab.models.adapted import Adapted
    from lora_lab.models.bases import Base

BEFORE_FILE = "before.json"  # in a run's folder: its base's scores on the same task


# --- runs and their tasks -----------------------------------------------------------------------


def chosen_store(folder: str | None) -> Path | Default:
    """The store that `--store` names, else the usual one."""
    return Path(folder).expanduser() if folder else DEFAULT


def task_of(run: Run) -> TaskSpec:
    """The task that a run was trained on; for a notebook's run, only its name is known."""
    try:
        values = json.loads((run.path / TASK_FILE).read_text(encoding="utf-8"))
        return TaskSpec(**{name: value for name, value in values.items() if name != "sha256"})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return TaskSpec(run.task_name)  # a notebook made it


def scores_before(run: Run, task: Task) -> Scores:
    """The scores of the run's base on the run's task; computed once, then kept beside the run."""
    with suppress(DamagedRun):  # a damaged file: computed again
        scores = read_scores(run.path, BEFORE_FILE)
        if scores is not None:
            return scores
    from lora_lab.training.evaluation import evaluate

    scores = evaluate(run.base, task)
    with (
        suppress(OSError),
        write_atomically(run.path / BEFORE_FILE) as new,
    ):  # on a full disk, the command goes on
        new.write_text(json.dumps(asdict(scores)), encoding="utf-8")
    return scores


# --- models -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that a name means, its description, and the run that trained it."""

    model: "Base | Adapted"
    about: str
    run: Run | None = None


def find_model(
    name: str | None,
    *,
    base: str | None = None,
    strength: float | None = None,
    store: Path | Default = DEFAULT,
) -> NamedModel:
    """The base, adapter or run that a name means; None: the newest finished run, or pocket.

    Args:
        name: tried in this order: a base's short name, a folder, a run's name or
            part of it, a hub id.
        base: the base for an adapter whose configuration names a base that is not here.
        strength: how much of the training counts; None: as trained.
        store: where to look for runs.

    Raises:
        ValueError: if the name means a base, and a strength or another base is given.
        FileNotFoundError: if nothing has this name; with the nearest name.
    """
    newest = None
    if name is None:
        newest = next((run for run in list_runs(store) if run.status == FINISHED), None)
        name = newest.path.name if newest else "pocket"
    folder = Path(name).expanduser()
    is_adapter = name not in BUILT_IN and os.path.isfile(folder / "adapter_config.json")
    run = newest
    if run is None and not is_adapter and name not in BUILT_IN:
        run = _run_or_base(name, store)
    if run is None and not is_adapter:
        _check_base_alone(name, base, strength)
    if base is not None:
        find_base(base)
    from lora_lab.models.adapted import Adapted, load_adapter  # only now: torch takes seconds
    from lora_lab.models.adapters import as_trained
    from lora_lab.models.bases import load_base

    share = 1.0 if strength is None else strength
    if is_adapter:
        loaded = load_base(base or _base_of_adapter(folder))
        adapted = load_adapter(loaded, folder, strength=share)
        return NamedModel(adapted, f"the adapter in {folder} on {loaded.about}")
    if run is not None:
        loaded = as_trained(load_base(base) if base else run.base, run.recipe)
        adapted = Adapted(loaded, run.learned, strength=share)
        return NamedModel(adapted, f"{run.task_name}, trained on {loaded.about}", run)
    loaded = load_base(name)
    return NamedModel(loaded, loaded.about)


def _check_base_alone(name: str, base: str | None, strength: float | None) -> None:
    """Refuse a base that is not there, and options that do not fit a base."""
    if strength is not None:
        raise ValueError(
            f"--strength {strength:g} does not fit the base {name!r}, which has learnt nothing "
            "yet; give a run or an adapter's folder"
        )
    if base is not None:
        raise ValueError(f"--base {base} does not fit {name!r}, which is a base; give one of them")
    find_base(name)


def find_run(name: str, store: Path | Default) -> Run:
    """The run with this folder, this name, or this part of a name.

    Raises:
        FileNotFoundError: if no run fits, or several do.
    """
    folder = Path(name).expanduser()
    return read_run(folder) if os.path.isdir(folder) else open_run(name, store)


def _run_or_base(name: str, store: Path | Default) -> Run | None:
    """The run of this name; None: the name is a base's folder or hub id."""
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


def _base_of_adapter(adapter: Path) -> str:
    """The base that an adapter's configuration names, by its short name if it has one."""
    from lora_lab.models.adapter_config import read_settings

    base = read_settings(adapter).get("base_model_name_or_path") or ""
    for name, known in BUILT_IN.items():
        folder = base_folder(name)
        same = os.path.isdir(base) and Path(base).resolve() == folder.resolve()
        if base in (name, known.hub, str(folder)) or same:
            return name
    if os.path.isfile(adapter / "base" / "config.json"):  # `lora-lab export --with-base` wrote it
        return str(adapter / "base")
    is_hub_id = "/" in base and not Path(base).is_absolute()
    if os.path.isdir(base) or is_hub_id:
        return base
    raise FileNotFoundError(
        f"the adapter in {adapter} was trained on {base or 'a base that it does not name'}, which "
        "is not found here; give it, for example --base pocket or --base FOLDER"
    )


def next_commands(run: Run) -> list[str]:
    """The commands that chat with a kept run and export it; with its store if it is unusual."""
    store = run.path.parent
    name = short_names(run_folders(store))[run.path]
    usual = store.resolve() == store_folder().resolve()
    more = "" if usual else f" --store {shlex.quote(str(store))}"
    return [f"  lora-lab chat {name}{more}", f"  lora-lab export {name} my-adapter{more}"]


def short_names(folders: Collection[Path]) -> dict[Path, str]:
    """A short name for each run's folder: a part of its name that no other run's name contains.

    It is the beginning of the name's last part, six letters or more; else the whole name.
    """
    names = [path.name for path in folders]
    short: dict[Path, str] = {}
    for path in folders:
        key = path.name.rpartition("-")[2]
        starts = (key[:end] for end in range(6, len(key) + 1))
        unique = (start for start in starts if sum(start in name for name in names) == 1)
        short[path] = next(unique, path.name)
    return short

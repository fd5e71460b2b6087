"""What the words on a command line mean: a base, a task, a stored run or a saved adapter."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lora_lab.bases import BUILT_IN, Base, load_base
from lora_lab.evaluation import evaluate
from lora_lab.learnt import CONFIG_FILE, Adapted, load_adapter
from lora_lab.places import cache_folder, data_folder, write_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import Answer, Scores
from lora_lab.runs import (
    DEFAULT,
    FINISHED,
    Default,
    Run,
    RunFolder,
    list_runs,
    open_run,
    read_run,
    resolve_store,
)
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import NAMES, load_task

TASK_FILE = "task.json"  # in a run's folder: how its task was made
BEFORE_FILE = "before.json"  # in a run's folder: what its base scored on the same task


# --- bases and tasks ----------------------------------------------------------------------------


def base_name(task: str, given: str | None) -> str:
    """The base to take: the one given, else LORA_LAB_BASE, else the task's own, else pocket."""
    own = next((base for base, names in NAMES.items() if task in names), "pocket")
    return given or os.environ.get("LORA_LAB_BASE") or own


def chosen_store(given: str | None) -> Path | Default:
    """The store that `--store` names, else the usual one."""
    return Path(given).expanduser() if given else DEFAULT


@dataclass(frozen=True, slots=True)
class Wanted:
    """A task as a command line names it. It can be kept beside a run, and made again."""

    task: str  # a name or a file
    n: int | None = None
    seed: int = 0
    prompt: str | None = None  # None: a file's column of that name
    answer: str | None = None

    def but(self, **given: object) -> "Wanted":
        """The same with other values, where they are not None."""
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def load(self, base: Base | None) -> Task:
        """The task itself.

        Raises:
            ValueError: as `load_task` does, and for a column of what is no file.
        """
        columns = {"prompt": self.prompt, "answer": self.answer}
        columns = {name: value for name, value in columns.items() if value is not None}
        if columns and any(self.task in names for names in NAMES.values()):
            option, column = next(iter(columns.items()))
            raise ValueError(
                f"--{option} {column} names a file's column, and {self.task!r} is no file; "
                "leave it out"
            )
        return load_task(self.task, base, n=self.n, seed=self.seed, **columns)

    def keep(self, folder: Path) -> None:
        """Write it into a run's folder, if there is a run in it."""
        if not (folder / "run.json").is_file():
            return  # the recipe was refused before anything began
        words = {name: getattr(self, name) for name in self.__slots__}
        if Path(self.task).is_file():
            words["task"] = str(Path(self.task).resolve())  # found again from anywhere
        with write_atomically(folder / TASK_FILE) as new:
            new.write_text(json.dumps(words), encoding="utf-8")


def task_of(run: Run) -> Wanted:
    """The task that a run was trained on, as far as it was kept."""
    try:
        return Wanted(**json.loads((run.path / TASK_FILE).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return Wanted(run.task_name)  # a notebook made it


def scores_before(run: Run, task: Task) -> Scores:
    """What the run's base scores on the run's task; reckoned once, then kept beside the run."""
    kept = run.path / BEFORE_FILE
    try:
        words = json.loads(kept.read_text(encoding="utf-8"))
        answers = tuple(Answer(**one) for one in words.pop("answers"))
        return Scores(**words, answers=answers)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        scores = evaluate(run.base, task)
        with write_atomically(kept) as new:
            new.write_text(json.dumps(asdict(scores)), encoding="utf-8")
        return scores


def folder_of(base: Base, task: Task, recipe: Recipe, store: Path | Default) -> Path:
    """Where this fine-tune is kept, finished or not."""
    return RunFolder(resolve_store(store), base, task, recipe).path


# --- what can be asked --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """A model to ask, what it is in words, and the run it comes from."""

    model: Base | Adapted
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
    if name is None:
        newest = next((run for run in list_runs(store) if run.status == FINISHED), None)
        name = newest.path.name if newest else "pocket"
    folder = Path(name).expanduser()
    if name not in BUILT_IN and (folder / CONFIG_FILE).is_file():
        on = load_base(base or _base_of(folder))
        adapted = load_adapter(on, folder, strength=1.0 if strength is None else strength)
        return Found(adapted, f"the adapter in {folder} on {on.about}")
    run = None if name in BUILT_IN else _run_or_base(name, store)
    if run is not None:
        on = load_base(base) if base else run.base
        adapted = Adapted(on, run.learnt, strength=1.0 if strength is None else strength)
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
    return read_run(folder) if folder.is_dir() else open_run(name, store)


def _run_or_base(name: str, store: Path | Default) -> Run | None:
    """The run that is meant; None: a base's folder or hub id."""
    folder = Path(name).expanduser()
    if not (folder / "run.json").is_file() and (folder.exists() or "/" in name):
        return None
    runs = [run.path.name for run in list_runs(store)]
    if not folder.is_dir() and not any(name in run for run in runs):
        known = (*BUILT_IN, *runs)
        raise FileNotFoundError(
            f"no run, base or folder is called {name!r}; {nearest(name, known)}"
            "`lora-lab runs` and `lora-lab bases` list them"
        )
    return find_run(name, store)


def _base_of(adapter: Path) -> str:
    """The base that an adapter's configuration names, by its short name where it has one."""
    words = json.loads((adapter / CONFIG_FILE).read_text(encoding="utf-8"))
    told = words.get("base_model_name_or_path") or ""
    homes = {"pocket": data_folder() / "pocket" / "model"}
    homes["smollm2"] = cache_folder() / "bases" / "smollm2"
    for name, home in homes.items():
        if told == name or (told and Path(told).resolve() == home.resolve()):
            return name
    is_hub_id = "/" in told and not Path(told).is_absolute()
    if told and (Path(told).is_dir() or is_hub_id):
        return told
    raise FileNotFoundError(
        f"the adapter in {adapter} was trained on {told or 'a base that it does not name'}, which "
        "is not found here; give it, for example --base pocket or --base FOLDER"
    )


def short_names(runs: list[Run]) -> dict[Path, str]:
    """For each run the shortest end of its name that means it alone, six letters or more."""
    names = [run.path.name for run in runs]
    short = {}
    for run in runs:
        key = run.path.name.rpartition("-")[2]
        lengths = (n for n in range(6, len(key)) if sum(key[:n] in name for name in names) == 1)
        short[run.path] = key[: next(lengths, len(key))]
    return short

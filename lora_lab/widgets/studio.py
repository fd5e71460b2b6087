"""`lab.studio`: the live lab with everything: any base, task and choice, and runs side by side."""

import time
from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from lora_lab.cost.estimates import budget_of
from lora_lab.models.bases import Base, load_base
from lora_lab.models.built_in import BUILT_IN
from lora_lab.models.learned import save_adapter
from lora_lab.tasks.examples import Task
from lora_lab.tasks.loading import NAMES, load_task
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import Folded, action, columns, labelled, row
from lora_lab.widgets.kept_runs import KeptRuns
from lora_lab.widgets.live_lab import LiveLab
from lora_lab.widgets.live_result import LiveResult
from lora_lab.widgets.recipe_controls import task_code
from lora_lab.widgets.recipe_cost import RecipeCost
from lora_lab.widgets.working_box import WorkingBox

TITLE = "Studio"
MORE_SEEDS = 4  # after the first seed: a verdict takes five
IN_SIGHT = ("method", "r", "lora_alpha", "target_modules")
IN_SIGHT += ("learning_rate", "steps", "batch_size", "seed")
GROUPS = {  # the other fields of a recipe, by what they are about
    "The adapter": ("lora_dropout", "use_rslora", "use_dora", "init_lora_weights")
    + ("layers_to_transform", "modules_to_save", "loraplus_lr_ratio"),
    "AdaLoRA": ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2")
    + ("orth_reg_weight",),
    "Bits of the base": ("quantize", "double_quant", "compute_dtype"),
    "The steps": ("optimizer", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm")
    + ("gradient_accumulation_steps", "gradient_checkpointing", "eval_steps", "patience"),
    "The data": ("max_length", "loss_on"),
}
FIELDS = (*IN_SIGHT, *(field for fields in GROUPS.values() for field in fields))


class Studio(WorkingBox):
    """A live lab (`live`) with all choices, their cost, and the runs that are kept.

    By code, as by a click: `train(r=4)`, `keep()`, `table()`, `result`, `save(folder)`,
    `export(folder)`, `use_base(name)`, `use_file(file)`. `wait()` returns when all is done.

    Args:
        base: a base; or a name, folder or hub id, as `load_base` takes it.
        task: a task, its name, or a file; None: the base's first.
        changes: recipe fields that replace those of each task's own recipe.
    """

    live: LiveLab | None = None  # another for each base

    def __init__(
        self, base: str | Path | Base, task: str | Path | Task | None, **changes: object
    ) -> None:
        super().__init__()
        self.state.remove_class("lora-lab-state")  # the lab's own line has that name
        self._changes, self.kept = changes, KeptRuns()
        self.costs = RecipeCost()
        self._make_controls()
        self._take(self._lab_of(base if isinstance(base, Base) else load_base(base), task))
        self._wire()

    def _make_controls(self) -> None:
        self.base_choice = widgets.Combobox(options=[*BUILT_IN])
        self.base_choice.placeholder = "a folder or a hub id"
        labelled(self.base_choice, "base", "22em")
        self.base_button = action("Load")
        self.file = labelled(widgets.Text(placeholder=".csv, .tsv, .json, .jsonl"), "file", "24em")
        self.prompt_column = labelled(widgets.Text("prompt"), "prompts in", "13em")
        self.answer_column = labelled(widgets.Text("answer"), "answers in", "13em")
        self.file_button = action("Use this file")
        self.keep_button = action("Keep", tooltip="Keep the run, with its seeds, in the table")
        self.kept_choice = labelled(widgets.Dropdown(), "run", "7em")
        self.refer_button = action("Compare with it")
        self.drop_button = action("Take out")
        self.kept_page, self.kept_said = widgets.HTML(), widgets.HTML()
        self.folder = labelled(widgets.Text(placeholder="a new folder"), "folder", "24em")
        self.save_button = action("Save the adapter")
        self.export_button = action("Export PNG and CSV")
        self.written = widgets.HTML()

    def _wire(self) -> None:
        kept, chosen, written, folder = self.kept_said, self.kept_choice, self.written, self.folder
        clicks = {
            self.base_button: self._on_load,
            self.file_button: self._on_file,
            self.keep_button: lambda: self._report(kept, self.keep),
            self.refer_button: lambda: self._report(kept, lambda: self.compare_with(chosen.value)),
            self.drop_button: lambda: self._report(kept, lambda: self.take_out(chosen.value)),
            self.save_button: lambda: self._report(written, lambda: self.save(folder.value)),
            self.export_button: lambda: self._report(written, lambda: self.export(folder.value)),
        }
        for button, do in clicks.items():
            button.on_click(lambda _, do=do: do())

    # --- what a notebook calls and reads ---

    def train(self, **choices: object) -> LiveResult:
        """Train as a click on Train does, wait for the end, and return the result.

        Args:
            choices: recipe fields to set first: `train(r=4)`.

        Raises:
            ValueError: for a name that isn't a field of a recipe, and for values that can't work.
            RuntimeError: if it was stopped before it had results.
        """
        self._work.wait()
        return self.live.train(**choices)

    @property
    def result(self) -> LiveResult:
        """The result of the last training, waited for; see `LiveLab.result`."""
        return self.live.result

    def more_seeds(self) -> None:
        """Train the last run with four more seeds, and wait: a verdict takes five seeds."""
        self.live.noise_band()
        self.live.wait()

    def keep(self) -> str:
        """Keep the last finished run, and the seeds trained beside it; returns a sentence on it.

        Raises:
            RuntimeError: if no run is finished.
            ValueError: if eight other settings are kept.
        """
        if self._busy or not self.live.runs:
            raise RuntimeError("no run is finished; press Train and let it end, then keep it")
        live, runs = self.live, self.live.runs
        said = self.kept.keep(live.base, runs, budget_of(live.base, live.part, runs[0].recipe))
        self._show_kept()
        return said

    def take_out(self, number: int) -> str:
        """Take a row out of the kept runs, by its number."""
        self.kept.drop(number)
        self._show_kept()
        return f"run {number} is taken out"

    def compare_with(self, number: int) -> str:
        """Compare the kept runs with this row, by its number."""
        self.kept.refer_to(number)
        self._show_kept()
        return f"all are compared with run {number}"

    def table(self) -> pd.DataFrame:
        """The kept runs: a row for each setting, means over its seeds, and its verdict."""
        return self.kept.table()

    def save(self, folder: str | Path) -> str:
        """Write the adapter of the last training in PEFT's format: `lab.save_adapter`.

        Raises:
            RuntimeError: if nothing is trained, or a training is under way.
            ValueError: for method "full", which has no adapter.
            FileExistsError: if the folder holds something already.
        """
        if self._busy or self.live.training is None:
            raise RuntimeError("there is no adapter to save; press Train and let it end")
        training = self.live.training
        save_adapter(training, _given(folder))
        return f"the adapter of step {training.step} is in {folder}"

    def export(self, folder: str | Path) -> str:
        """Write `loss.png`, and for the kept runs `kept-runs.csv` and `runs.csv` (a row per seed).

        Raises:
            RuntimeError: if nothing is trained or kept, or a training is under way.
            FileExistsError: if one of them is there already; nothing is written then.
        """
        if self._busy or not (self.live.records or self.kept.rows):
            raise RuntimeError("there is nothing to export; press Train and let it end")
        files = {"loss.png": self.live.picture.png} if self.live.records else {}
        if self.kept.rows:
            files["kept-runs.csv"] = self.table().to_csv().encode()
            files["runs.csv"] = self.kept.runs_table().to_csv(index=False).encode()
        folder = _given(folder)
        there = [name for name in files if (folder / name).exists()]
        if there:
            raise FileExistsError(f"{folder} has {', '.join(there)} already; give a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return f"{', '.join(files)} {'is' if len(files) == 1 else 'are'} in {folder}"

    def use_base(self, name: str | Path) -> None:
        """Load another base, and make a lab for it. The kept runs stay.

        Args:
            name: a built-in name, a folder, or a hub id, as `load_base` takes it.
        """
        self._work.submit("base", lambda: self._load_base(name))
        self._work.wait()

    def use_file(self, file: str | Path, *, prompt: str = "prompt", answer: str = "answer") -> None:
        """Learn your own examples: `load_task` with this file and these columns."""
        self.file.value, self.prompt_column.value = str(file), prompt
        self.answer_column.value = answer
        self._work.submit("file", self._load_file)
        self._work.wait()

    def wait(self, timeout: float | None = None) -> None:
        """Return when all is done: loading, estimates, and the training.

        Raises:
            TimeoutError: if a part of it takes longer than `timeout` seconds.
            Exception: the error of any part.
        """
        super().wait(timeout)
        self.live.wait(timeout)

    def close(self) -> None:
        """Take it off the page, and end all work."""
        if self.live is not None:
            self.live.close()
        super().close()

    def __repr__(self) -> str:
        return f"Studio: {self.live.base.name} · {self.live.task_choice.value}"

    # --- another base, another file ---

    def _lab_of(self, base: Base, task: str | Path | Task | None) -> LiveLab:
        """A live lab for a base with all of its tasks; your own task is added."""
        names = [*NAMES.get(base.name, NAMES["smollm2"])]
        own = task is not None and task not in names
        if own:
            code = None if isinstance(task, Task) else task_code(str(task))
            task = task if isinstance(task, Task) else load_task(task, base)
        elif task is not None:
            names = [str(task), *(name for name in names if name != task)]
        live = LiveLab(
            base, names, title=TITLE, seeds=MORE_SEEDS, elsewhere=FIELDS, **self._changes
        )
        if own:
            live.add_task(task, code)
        return live

    def _on_load(self) -> None:
        self._work.submit(
            "base", lambda: self._shown(lambda: self._load_base(self.base_choice.value))
        )

    def _load_base(self, name: str | Path) -> None:
        self._refuse_if_busy("the base stays as it is")
        _given(name)
        self._say(f"loading {name} …")
        self.live.train_button.disabled = True  # what it would train is about to go
        try:
            self._take(self._lab_of(load_base(name), None))
        finally:
            self.live.train_button.disabled = False

    def _on_file(self) -> None:
        self._work.submit("file", lambda: self._shown(self._load_file))

    def _load_file(self) -> None:
        self._refuse_if_busy("the task stays as it is")
        file = _given(self.file.value)
        self._say(f"reading {file} …")
        columns_ = {"prompt": self.prompt_column.value, "answer": self.answer_column.value}
        task = load_task(file, self.live.base, **columns_)
        given = {role: column for role, column in columns_.items() if column != role}
        self.live.add_task(task, task_code(str(file), **given))
        self._say(f"{file} is read")

    def _shown(self, do: Callable[[], None]) -> None:
        """Do what a click asks for; an error is shown, and no later call raises it."""
        time.sleep(0.3)  # a click may overtake what was typed right before it: each has a subshell
        try:
            do()
        except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            self._show_error(error)

    def _refuse_if_busy(self, so: str) -> None:
        if self._busy:
            raise RuntimeError(f"a training is under way, so {so}; press Stop, or wait for its end")

    @property
    def _busy(self) -> bool:
        return self.live.train_button.disabled

    # --- what is shown ---

    def _take(self, live: LiveLab) -> None:
        """Show a live lab in place of the one before, and follow its choices."""
        before, self.live = self.live, live
        live.noise_button.description = f"{MORE_SEEDS} more seeds"
        live.noise_button.tooltip = "The same with other seeds: a verdict takes five"
        self.base_choice.value = _name_of(live.base)
        for control in (*live.controls.controls.values(), live.task_choice):
            control.observe(lambda _: self._on_choice(), names="value")
        live.train_button.observe(lambda _: self._on_rest(), names="disabled")
        self.children = self._rows(live)
        self._say(f"{live.base.about}.")
        self._show_kept()
        self._on_rest()
        if before is not None:
            before.close()

    def _rows(self, live: LiveLab) -> list[widgets.Widget]:
        face, controls = live.face, live.controls
        columns_ = self.prompt_column, self.answer_column
        own_file = Folded("Your own file", row(self.file, *columns_, self.file_button))
        groups = [
            widgets.VBox([widgets.HTML(markup.subtitle(name)), *controls.aligned_rows(fields)])
            for name, fields in GROUPS.items()
        ]
        choices = row(*controls.aligned_rows(IN_SIGHT))
        choices.layout.flex, choices.layout.width = "1 1 480px", "auto"
        files = row(self.folder, self.save_button, self.export_button, self.written)
        kept = row(self.keep_button, self.kept_choice, self.refer_button, self.drop_button)
        return [
            widgets.HTML(markup.title(TITLE)),
            row(self.base_choice, self.base_button, self.state),
            *face.choosing,
            own_file,
            columns(choices, self.costs),
            Folded("All other choices", columns(*groups)),
            *face.showing,
            widgets.HTML(markup.subtitle("Kept runs")),
            kept,
            self.kept_said,
            self.kept_page,
            Folded("Save and export", files),
        ]

    def _on_choice(self) -> None:
        self._work.submit("costs", self._show_costs)

    def _on_rest(self) -> None:
        """A training has begun or ended: enable the buttons that can be used now."""
        self.keep_button.disabled = self._busy or not self.live.runs
        for button in (self.base_button, self.file_button):
            button.disabled = self._busy
        if not self._busy:
            self._on_choice()

    def _show_costs(self) -> None:
        live = self.live
        if self._busy:  # measuring would slow the training, which has the memory: shown at its end
            return
        try:
            recipe = live.recipe
            self.costs.show(live.base, live.part, live.controls, recipe)
        except (MemoryError, TypeError, ValueError) as error:
            self.costs.show_error(error)

    def _show_kept(self) -> None:
        count = len(self.kept.rows)
        chosen = self.kept_choice.value
        self.kept_choice.options = [*range(1, count + 1)]
        if count:
            self.kept_choice.value = min(chosen or 1, count)
        for control in (self.kept_choice, self.refer_button, self.drop_button):
            control.disabled = not count
        self.kept_page.value = self.kept.page

    def _report(self, line: widgets.HTML, do: Callable[[], str]) -> None:
        """Do what a click asks for, and show the result or the error in words."""
        try:
            line.value = markup.faint(do())
        except (OSError, RuntimeError, ValueError) as error:
            line.value = markup.in_red(str(error))


def studio(
    base: str | Path | Base = "pocket", task: str | Path | Task | None = None, **changes: object
) -> Studio:
    """The live lab with everything: any base and task, every choice, and kept runs side by side.

    Args:
        base: a Base; or a name, folder or hub id, as `load_base` takes it.
        task: a Task, its name, or a file; None: the base's first.
        changes: recipe fields that replace those of each task's own recipe.

    Raises:
        ValueError: for an unknown base or task; for a file or a recipe value that can't be used.
        TypeError: for a base that is neither a Base nor a name; for a change that isn't a field of
            a recipe, or is of another type than the field.
        FileNotFoundError: for a folder or file that is not there, or a hub id that can't be had.
        NotPrepared: for smollm2 or a task of its texts, before `lora-lab prepare` has fetched it.
    """
    return Studio(base, task, **changes)


def _given(path: str | Path) -> Path:
    """The path, with `~` for the home folder; refused if the box is empty."""
    if not str(path).strip():
        raise ValueError("there is no path in the box; type one first")
    return Path(path).expanduser()


def _name_of(base: Base) -> str:
    return base.name if base.name in BUILT_IN else str(base.path)

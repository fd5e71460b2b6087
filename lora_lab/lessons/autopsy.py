"""Anonymous adapters: what their tensors alone reveal about their training."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import pandas as pd

from lora_lab.lessons.shipping import run_through
from lora_lab.maths.spectra import effective_rank, singular_values
from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import Base
from lora_lab.models.learned import Learned, save_adapter
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.wording import fine_percent, percent

RECIPE = Recipe(r=8, steps=60, batch_size=16, max_length=96, learning_rate=3e-3)
HIDDEN = {  # what differs in each adapter's training; the reader has to find it in the tensors
    "X": {"learning_rate": 2e-2},
    "Y": {},
    "Z": {"learning_rate": 3e-4, "steps": 10},
}


def anonymous(
    base: Base, task: Task, place: Path, hidden: Mapping[str, Mapping] = HIDDEN
) -> dict[str, Path]:
    """Train adapters on the same task, each with its own changes to `RECIPE`, and save them.

    Args:
        base: stays as it was.
        task: what all of them learn.
        place: a folder; each adapter gets a folder of its name in it.
        hidden: changes of the recipe, by the adapter's name.

    Returns:
        The adapters' folders, by name.
    """
    folders = {}
    for name, changes in hidden.items():
        training = run_through(train(base, task, replace(RECIPE, **changes)))
        folders[name] = save_adapter(training, place / name)
    return folders


def opened(base: Base, folders: Mapping[str, Path]) -> pd.DataFrame:
    """For each adapter: r, alpha, the size of ΔW beside W, and the effective rank of ΔW.

    Size and effective rank are medians over the adapted matrices. Effective rank: the number of
    directions that ΔW uses, weighted by their strength (`maths.spectra.effective_rank`).
    """
    rows = {}
    for name, folder in folders.items():
        learned = Learned.load(folder)
        factor = learned.config.lora_alpha / learned.config.r
        sizes, directions = [], []
        for key, lora_A in learned.tensors.items():
            if "lora_A" not in key:
                continue
            lora_B = learned.tensors[key.replace("lora_A", "lora_B")]
            module = key.removeprefix("base_model.model.").split(".lora_A")[0]
            weight = base.model.get_submodule(module).weight
            values = singular_values(lora_A, lora_B, factor)
            sizes.append(values.norm().item() / weight.norm().item())
            directions.append(effective_rank(values))
        middle = fine_percent(median(sizes)), f"{median(directions):.1f}"
        rows[name] = (learned.config.r, f"{learned.config.lora_alpha:g}", *middle)
    columns = ["r", "alpha", "‖ΔW‖ / ‖W‖", "directions (effective rank)"]
    return pd.DataFrame(rows, index=columns).T


def asked(base: Base, folders: Mapping[str, Path], task: Task) -> pd.DataFrame:
    """The solution of the autopsy: each adapter's share of new facts right and old facts kept."""
    rows = {}
    for name, folder in folders.items():
        scores = evaluate(load_adapter(base, folder), task)
        rows[name] = (percent(scores.value), percent(scores.old_knowledge))
    return pd.DataFrame(rows, index=["new facts right", "old facts kept"]).T

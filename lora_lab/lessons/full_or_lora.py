"""Full fine-tuning beside LoRA: old facts kept at equal new ones, directions brought in, costs."""

import copy
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from functools import cache

import pandas as pd
from torch import Tensor

from lora_lab.cost.estimates import estimate
from lora_lab.findings.evidence import Evidence
from lora_lab.findings.plans import plan
from lora_lab.lessons.weight_change import relative_changes, weight_changes
from lora_lab.maths.comparison import comparison_of
from lora_lab.maths.intruders import closeness, intruder_dimensions, shrink_intruders
from lora_lab.models.adapted import Adapted
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.loop import train
from lora_lab.training.summary import interval_of_scores
from lora_lab.wording import counted, percent, percent_range, significant

FRONTIER = "forgetting-frontier"
SHORT = {"lora_alpha": 16, "steps": 100, "batch_size": 16, "max_length": 96}  # as that plan has it
WAYS = {  # rates of that plan at which about as many facts are learned
    "full": Recipe(method="full", learning_rate=4e-4, **SHORT),
    "LoRA, r 4": Recipe(r=4, learning_rate=3e-3, **SHORT),
    "LoRA, r 64": Recipe(r=64, learning_rate=3e-3, **SHORT),
}
TOP = 10  # strongest directions of each matrix in which intruders are looked for
ASKED = {"test": 100, "old_knowledge": 150}  # questions for each model: `Sides` asks many models
Point = tuple[float, float]  # shares of new facts right and of old facts kept
Paths = Mapping[str, Mapping[str, Sequence[Point]]]  # by way and learning rate: a point per seed


def taught_facts(base: Base, seed: int = 0) -> Task:
    """200 facts as the frontier's runs learn them: asked in the wording of the training."""
    task = plan(FRONTIER).make_task(base, plan(FRONTIER).n, seed)
    return dataclasses.replace(task, strangers=())  # asking about strangers would take time


# --- at equal new facts -------------------------------------------------------------------------


def frontier(id: str = FRONTIER) -> Paths:
    """New facts learned and old facts kept, by way and learning rate, from low to high rates.

    Args:
        id: of evidence whose settings are named "way, rate", such as "LoRA r 4, 3e-3".
    """
    paths: dict[str, dict[str, list[Point]]] = {}
    for setting, runs in Evidence.read(id).runs.items():
        if runs:
            way, _, rate = setting.rpartition(", ")
            points = [(run.scores.value, run.scores.old_knowledge) for run in runs]
            paths.setdefault(way, {})[rate] = points
    return paths


def kept_at_equal(points: Sequence[Point], new: float) -> float | None:
    """The share of old facts kept where a path has learned `new`, on a line between two rates.

    Args:
        points: (new facts right, old facts kept) at each rate, from the lowest rate to the highest.
        new: the share of new facts at which ways are compared.

    Returns:
        None if no two neighbours have `new` between them.
    """
    for (new_1, old_1), (new_2, old_2) in zip(points, points[1:]):  # noqa: B905 - one is shorter
        if new_1 != new_2 and min(new_1, new_2) <= new <= max(new_1, new_2):
            return old_1 + (new - new_1) / (new_2 - new_1) * (old_2 - old_1)
    return None


def kept_by_way(paths: Paths, new: float) -> dict[str, list[float | None]]:
    """The share of old facts that each way keeps at `new`, for each seed: see `kept_at_equal`."""
    return {
        way: [kept_at_equal(points, new) for points in zip(*by_rate.values(), strict=True)]
        for way, by_rate in paths.items()
    }


def keeps_more(paths: Paths, new: float, a: str = "full", b: str = "LoRA r 4") -> list[str]:
    """The way that keeps more old facts at equal new ones, of two ways: a name for each seed.

    A seed in which a way never learns `new` is left out.
    """
    kept = kept_by_way(paths, new)
    pairs = zip(kept.get(a, ()), kept.get(b, ()), strict=True)
    return [a if ours > theirs else b for ours, theirs in pairs if None not in (ours, theirs)]


def kept_table(paths: Paths, new: float, against: str = "full") -> pd.DataFrame:
    """Old facts kept by each way when it has learned `new`, and its verdict against one way.

    Shares are means with 95 % intervals; verdicts are paired by seed.

    Args:
        paths: as `frontier` gives them.
        new: the share of new facts at which ways are compared.
        against: the way that the others are compared with.
    """
    kept = kept_by_way(paths, new)
    rows = {}
    for way, shares in kept.items():
        reached = [share for share in shares if share is not None]
        words = f"{counted(len(reached), 'seed')} of {len(shares)} got there"
        if len(reached) == len(shares):
            low, high = interval_of_scores(reached, share=True)
            words = f"{percent(statistics.fmean(reached))} ({percent_range(low, high)})"
        rows[way] = {f"old facts kept at {percent(new)} new": words}
        rows[way][f"beside {against}"] = _beside(kept[against], shares) if way != against else ""
    return pd.DataFrame(rows).T


def teams_table(found: Mapping[str, Evidence]) -> pd.DataFrame:
    """What each team found: a row for each of its settings, with the shares in percent.

    Args:
        found: evidence on new facts, by the team's name.
    """
    tables = {team: evidence.table().set_index("setting") for team, evidence in found.items()}
    words = {"exact match, %": "new facts right, %"}
    columns = ["learning rate", *words.values(), "old facts kept, %", "seeds"]
    named = {team: table.rename(columns=words)[columns] for team, table in tables.items()}
    return pd.concat(named, names=["", "setting"])


def _beside(ours: Sequence[float | None], theirs: Sequence[float | None]) -> str:
    """The verdict on `theirs` beside `ours`, paired by seed, if every seed has both."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if None not in (a, b)]
    if len(pairs) < len(ours):
        return "not compared"
    found = comparison_of([b - a for a, b in pairs], measure="old_knowledge")
    return found.verdict.removeprefix("b is ")


# --- what training writes into W ----------------------------------------------------------------


class Sides:
    """Full fine-tuning and LoRA on the same facts, and the directions that each brought in.

    A way is trained when it is first needed, once for each seed; the model is kept.

    Args:
        base: stays as it was.
        task: what is learned. 100 questions of its test and 150 old facts are asked.
        ways: recipes by name.
    """

    def __init__(self, base: Base, task: Task, ways: Mapping[str, Recipe] = WAYS) -> None:
        self.base, self.ways, self._task = base, ways, task
        asked = {name: getattr(task, name)[:count] for name, count in ASKED.items()}
        self._asked = dataclasses.replace(task, **asked)
        self._models = cache(self._train)  # a call without the seed would be another key
        self._changes = cache(self._change)

    def adapted(self, way: str, seed: int = 0) -> Adapted:
        """The model that was trained in this way."""
        return self._models(way, seed)

    def changes(self, way: str, seed: int = 0) -> dict[str, Tensor]:
        """ΔW of each matrix, by name."""
        return self._changes(way, seed)

    def _train(self, way: str, seed: int) -> Adapted:
        training = train(self.base, self._task, dataclasses.replace(self.ways[way], seed=seed))
        for _ in training:
            pass
        return training.adapted()

    def _change(self, way: str, seed: int) -> dict[str, Tensor]:
        return weight_changes(self.base, self.adapted(way, seed).model)

    def _weight(self, name: str) -> Tensor:
        return self.base.model.get_submodule(name).weight.detach()

    def directions(self, way: str, name: str, top_k: int = TOP) -> tuple[Tensor, list[int]]:
        """|cosine| of W + ΔW's strongest directions with W's, (top_k, n); the intruders' places."""
        given = self._weight(name), self.changes(way)[name], top_k
        return closeness(*given), intruder_dimensions(*given).tolist()

    def intruders(self, way: str, seed: int = 0) -> int:
        """The number of intruders among the ten strongest directions of each matrix."""
        return sum(
            len(intruder_dimensions(self._weight(name), change, TOP))
            for name, change in self.changes(way, seed).items()
        )

    def table(self) -> pd.DataFrame:
        """For each way: what it learned and kept, how far it moved the matrices, its intruders."""
        rows = {}
        for way in self.ways:
            scores = evaluate(self.adapted(way), self._asked)
            moved = relative_changes(self.base, self.adapted(way).model).values()
            rows[way] = {
                "new facts right": percent(scores.value),
                "old facts kept": percent(scores.old_knowledge),
                "‖ΔW‖ / ‖W‖, mean": percent(statistics.fmean(moved)),
                f"intruders, of {TOP * len(moved)}": str(self.intruders(way)),
            }
        return pd.DataFrame(rows).T

    def turned_down(
        self, way: str, shares: Sequence[float], seeds: Sequence[int] = range(3)
    ) -> pd.DataFrame:
        """Shares of new and old facts right, after the intruders are shrunk, or all of ΔW.

        Args:
            way: one of `ways`.
            shares: the shares of its size to which something is shrunk; 1: not at all.
            seeds: a training for each.

        Returns:
            A row for each `what` ("intruders", "all of ΔW"), `share` and `seed`, with the shares
            `new` and `old`.
        """
        rows = []
        for seed in seeds:
            adapted = self.adapted(way, seed)
            for share in shares:
                adapted.strength = share
                models = {"all of ΔW": adapted, "intruders": self._shrunk(way, seed, share)}
                for what, model in models.items():
                    scores = evaluate(model, self._asked)
                    found = {"new": scores.value, "old": scores.old_knowledge}
                    rows.append({"what": what, "share": share, "seed": seed} | found)
            adapted.strength = 1.0
        return pd.DataFrame(rows)

    def _shrunk(self, way: str, seed: int, share: float) -> Base:
        """The base with a way's change, in which each intruder is shrunk."""
        model = copy.deepcopy(self.base.model)
        for name, change in self.changes(way, seed).items():
            weight = self._weight(name)
            shrunk = shrink_intruders(weight, change, share, TOP)
            model.get_submodule(name).weight.data = weight + shrunk
        return dataclasses.replace(self.base, model=model)


def turned_down_table(scored: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Sides.turned_down` as words: means, with the range of the seeds."""
    rows = {}
    for place, some in scored.groupby(["what", "share"], sort=False):
        rows[place] = {
            words: f"{percent(some[column].mean())} "
            f"({percent_range(some[column].min(), some[column].max())})"
            for words, column in (("new facts right", "new"), ("old facts kept", "old"))
        }
    table = pd.DataFrame(rows).T.rename_axis(["what is shrunk", "to this share"])
    return table.sort_index(level=0, sort_remaining=False, kind="stable")


# --- what training costs ------------------------------------------------------------------------

PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "logits")
DISK = {"full": 2, "LoRA": 4}  # bytes a number: a model is saved in 16 bits, PEFT's A and B in 32


def cost_table(model: str, **changes: object) -> pd.DataFrame:
    """Memory by part, FLOPs and disk of full fine-tuning and of LoRA, estimated: nothing is loaded.

    Full fine-tuning is in the usual mixed precision: 16 bytes a parameter, and the activations.
    LoRA is as transformers' Trainer and PEFT do it.

    Args:
        model: a shape's name, such as "llama-3.1-8b".
        changes: fields of the recipe, for both.
    """
    columns = {}
    for way, own in {"full": {"method": "full"}, "LoRA": {}}.items():
        budget = estimate(model, Recipe(**changes | own))
        memory = budget.usual_memory if way == "full" else budget.trainer_memory
        sizes = {f"{part}, GiB": getattr(memory, part) / 2**30 for part in PARTS}
        sizes["memory at the peak, GiB"] = memory.total / 2**30
        sizes["TFLOPs a step"] = budget.flops_per_step / 1e12
        sizes["on disk for a task, MB"] = budget.trainable_parameters * DISK[way] / 1e6
        columns[way] = {name: _in_digits(size) for name, size in sizes.items()}
    return pd.DataFrame(columns)


def _in_digits(size: float) -> str:
    return f"{size:,.0f}" if size >= 100 else significant(size) if size else "–"

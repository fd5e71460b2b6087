"""The change that full fine-tuning makes, cut to a low rank, beside LoRA trained at that rank."""

import copy
import dataclasses
from collections.abc import Sequence
from functools import cached_property
from statistics import fmean

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from lora_lab.maths.spectra import effective_rank, energy_kept, truncate
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.sweep import Sweep, sweep
from lora_lab.wording import percent

RECIPE = Recipe(r=1, lora_alpha=16, steps=60, batch_size=16, learning_rate=3e-3)
# Full fine-tuning moves far more numbers, so each of them takes a smaller step.
FULL = dataclasses.replace(RECIPE, method="full", learning_rate=4e-4)
RANKS = (1, 4, 16)


class ThinLab:
    """Full fine-tuning and LoRA of low rank on the same task, with the same seeds.

    Each part is computed when it is first asked for, and kept.

    Args:
        base: stays as it was.
        task: its test is asked of each run and of each cut; of each run its old facts, too.
        ranks: of LoRA, and to which the full change is cut.
        seeds: each draws its own order of examples, and LoRA's start.
        full: the recipe of full fine-tuning.
    """

    def __init__(
        self,
        base: Base,
        task: Task,
        ranks: Sequence[int] = RANKS,
        seeds: Sequence[int] = range(5),
        full: Recipe = FULL,
    ) -> None:
        self.base, self.task = (
            base,
            dataclasses.replace(task, strangers=()),
        )  # which take time
        self.ranks, self.seeds = tuple(ranks), tuple(seeds)
        self._full_recipe = full
        self._cuts: dict[int, list[float]] = {}

    @cached_property
    def full(self) -> Sweep:
        """Full fine-tuning, a run for each seed."""
        return self._sweep([self._full_recipe])

    @cached_property
    def thin(self) -> Sweep:
        """LoRA at each rank, a run for each seed."""
        return self._sweep([dataclasses.replace(RECIPE, r=r) for r in self.ranks])

    @cached_property
    def changes(self) -> list[dict[str, Tensor]]:
        """Full fine-tuning's ΔW of each linear layer but the output's, by name, for each seed."""
        before = {
            name: weight.detach()
            for name, weight in self.base.model.named_parameters()
            if name.endswith("proj.weight")
        }
        return [
            {name: run.model.get_parameter(name).detach() - old for name, old in before.items()}
            for run in self.full.runs
        ]

    @cached_property
    def values(self) -> list[list[Tensor]]:
        """Their singular values, for each seed and matrix, the largest first."""
        return [
            [torch.linalg.svdvals(change.double()) for change in by_name.values()]
            for by_name in self.changes
        ]

    @property
    def energy(self) -> Tensor:
        """The share of a change's energy that rank 1, 2, … keeps, (seeds, matrices, ranks).

        It is 1 beyond the highest rank that a narrow matrix can have.
        """
        shares = [[*map(energy_kept, of_seed)] for of_seed in self.values]
        most = max(map(len, shares[0]))
        whole = [
            torch.stack([pad(kept, (0, most - len(kept)), value=1.0) for kept in of_seed])
            for of_seed in shares
        ]
        return torch.stack(whole)

    @property
    def effective_ranks(self) -> list[float]:
        """The effective rank of each change, all seeds one after the other."""
        return [effective_rank(values) for of_seed in self.values for values in of_seed]

    def trained(self, r: int) -> list[float]:
        """The score of LoRA at one of the ranks, for each seed."""
        table = self.thin.table()
        return table[table.r == r]["value"].tolist()

    def cut(self, k: int) -> list[float]:
        """The score of full fine-tuning for each seed, each ΔW cut to its k strongest directions.

        Embeddings and norms stay the base's, as in LoRA.
        """
        if k not in self._cuts:
            asked = dataclasses.replace(self.task, old_knowledge=())
            self._cuts[k] = [
                evaluate(self._cut(by_name, k), asked).value for by_name in self.changes
            ]
        return self._cuts[k]

    def _cut(self, changes: dict[str, Tensor], k: int) -> Base:
        model = copy.deepcopy(self.base.model)
        for name, change in changes.items():
            whole = torch.eye(change.shape[1])  # change = change @ whole: a B and an A
            lora_A, lora_B = truncate(whole, change, scaling=1.0, k=min(k, *change.shape))
            model.get_parameter(name).data += lora_B @ lora_A  # (out, k) @ (k, in)
        return dataclasses.replace(self.base, model=model)

    @property
    def energies(self) -> tuple[list[list[float]], list[float], tuple[int, ...]]:
        """What `plots.draw_energy_kept` draws: the first seed's energies, and random numbers'."""
        size = self._cut_to[-1]
        noise = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
        random = energy_kept(torch.linalg.svdvals(noise))
        return self.energy[0].tolist(), random.tolist(), self.ranks

    def table(self) -> pd.DataFrame:
        """For each rank, how much of ΔW it keeps, and the scores of the cut and the trained models.

        They are means, with the range of the seeds.
        """
        rows = []
        for k in self._cut_to:
            kept = self.energy[..., k - 1].mean().item()
            learned = _range(self.trained(k)) if k in self.ranks else "–"
            rows.append((str(k), percent(kept), _range(self.cut(k)), learned))
        columns = ["rank", "of ΔW's energy", "ΔW cut to it", "LoRA trained at it"]
        return pd.DataFrame(rows, columns=columns).set_index("rank")

    def old_table(self) -> pd.DataFrame:
        """New facts known and old facts kept, by LoRA at each rank and by full fine-tuning."""
        thin, full = self.thin.table(), self.full.table()
        groups = {f"LoRA, r = {r}": thin[thin.r == r] for r in self.ranks} | {"full": full}
        rows = {
            name: (_range(runs["value"]), _range(runs["old_knowledge"]))
            for name, runs in groups.items()
        }
        return pd.DataFrame(rows, index=["new facts known", "old facts kept"]).T

    @property
    def scores(self) -> tuple[dict[int, list[float]], dict[int, list[float]], list[float]]:
        """What `plots.draw_thin` draws: scores of the cuts, of LoRA, and of full fine-tuning."""
        cut = {k: self.cut(k) for k in self._cut_to}
        trained = {r: self.trained(r) for r in self.ranks}
        return cut, trained, self.full.table()["value"].tolist()

    @property
    def _cut_to(self) -> tuple[int, ...]:
        """The ranks of LoRA; then the highest rank that a change can have, which cuts nothing."""
        return *self.ranks, max(map(len, self.values[0]))

    def _sweep(self, recipes: list[Recipe]) -> Sweep:
        return sweep(self.base, self.task, recipes, seeds=self.seeds, engine="sequential")


def _range(shares: Sequence[float]) -> str:
    """Mean and range: `96 % (92 to 100)`."""
    low, high = (100 * end for end in (min(shares), max(shares)))
    return f"{percent(fmean(shares))} ({low:.0f} to {high:.0f})"

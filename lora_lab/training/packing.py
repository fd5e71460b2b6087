"""Packs of *runs* on one base: which are trained together, how many at once, and how each ends.

`pack.py` takes a pack's step. Short *examples* packed into one row are in `lessons/way_in.py`.

The step of a small model leaves most of a GPU idle, and a pack gives it more to do. On one CPU
thread packing gains little, so there it is used only where it is asked for by name.
"""

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from lora_lab.cost.estimates import budget_of, more_memory
from lora_lab.cost.limits import free_memory, largest_run
from lora_lab.models.adapters import as_trained, check_trainable, quantization_for
from lora_lab.models.architecture import adapted_matrices
from lora_lab.models.bases import Base
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe
from lora_lab.records import Scores, StepRecord
from lora_lab.tasks.examples import Task
from lora_lab.training.evaluation import check_answerable, split_to_score
from lora_lab.training.fit import begun, interrupt_between_steps, with_scores
from lora_lab.training.loop import run_of
from lora_lab.training.pack import Member, Pack
from lora_lab.training.pack_scores import evaluate_members
from lora_lab.training.run_files import DIVERGED, FINISHED
from lora_lab.training.run_folder import RunFolder
from lora_lab.training.store import DEFAULT, Default, Run, read_run, resolve_store

MOST = 32  # runs in a pack, where memory sets no lower bound
SHARE = 0.8  # of the free memory that a pack may take; the rest covers the estimate's error


def not_packable(base: Base, recipe: Recipe) -> str:
    """Why a recipe can't train in a pack, in words; empty if it can."""
    unlike = {
        f"method={recipe.method!r}": recipe.method != "lora",
        "use_dora=True": recipe.use_dora,
        f"lora_dropout={recipe.lora_dropout:g}": recipe.lora_dropout > 0,
        f"init_lora_weights={recipe.init_lora_weights!r}": recipe.changes_the_base,
        f"modules_to_save={recipe.modules_to_save!r}": bool(recipe.modules_to_save),
        f"optimizer={recipe.optimizer!r}": recipe.optimizer not in ("adamw", "sgd"),
        "gradient_checkpointing=True": recipe.gradient_checkpointing,
    }
    for choice, apart in unlike.items():
        if apart:
            return f"{choice} trains more than plain A and B, or in another way"
    quantization = quantization_for(base, recipe)
    if quantization is not None and quantization.quantize == "int8":
        return "a product in 8 bits depends on all rows of its batch"
    config = base.model.config.get_text_config()
    if getattr(config, "attention_dropout", 0) or any(
        isinstance(module, nn.Dropout) and module.p for module in base.model.modules()
    ):
        return f"{base.name} has dropout of its own"
    for matrix in adapted_matrices(modules_of(base.model, base.name), recipe):
        layer = base.model.get_submodule(matrix.name)
        if not isinstance(layer, nn.Linear):
            return f"{matrix.name!r} is a {type(layer).__name__}, and a pack adapts linear layers"
    return ""


def train_packed(
    base: Base,
    task: Task,
    recipes: Iterable[Recipe],
    *,
    store: str | Path | Default | None = DEFAULT,
    fresh: bool = False,
    evaluate: bool | str = True,
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """Train runs in packs, with the records that `train` would give each within rounding.

    A finished run leaves its pack, and the next one enters. A run that diverges leaves with its
    last good weights, and the others go on. Runs with unlike `gradient_accumulation_steps` or
    `quantize` are in packs one after the other.

    If memory runs out, the pack is halved, with a warning. If the generator is closed early, or by
    Ctrl-C, finished runs are kept, and the others leave a checkpoint from which `fit` goes on.

    Args:
        base: stays as it was.
        task: what to learn.
        recipes: different recipes that `not_packable` does not exclude.
        store: as in `fit`: a finished run is replayed, an unfinished one resumed.
        fresh: train again even what is stored.
        evaluate: score each finished run on the test split.

    Yields:
        Each step's record as it happens, and each run at its end, with the recipe before it. A
        diverged run has that status, and no scores.

    Raises:
        ValueError: for no recipe, the same one twice, or one that can't be in a pack.
    """
    recipes = list(recipes)
    if not recipes:
        raise ValueError("a pack of no recipes trains nothing; give at least one")
    for place, recipe in enumerate(recipes):
        if recipe in recipes[:place]:
            first = recipes.index(recipe)
            raise ValueError(
                f"recipes {first} and {place} are the same; give each once, or another seed"
            )
        check_trainable(base, recipe)
        if reason := not_packable(base, recipe):
            raise ValueError(
                f"recipe {place} can't train in a pack: {reason}; train it with lab.fit, or "
                "engine='sequential'"
            )
    if split := split_to_score(evaluate):
        check_answerable(base, task, split=split)
    where = resolve_store(store)
    return _all_packs(_Keeping(base, task, where, fresh, evaluate), recipes)


def members_at_once(base: Base, task: Task, recipes: Iterable[Recipe]) -> int:
    """How many of the runs a pack trains at once: at most MOST, and what memory allows.

    Each run is assumed to need as much memory beside the base as the largest run does alone, its
    test included. Together they may take SHARE of the free memory. If that is not known, MOST are
    tried.
    """
    each, free = more_memory(base, task, largest_run(recipes)), free_memory(base.device)
    if not each or free is None:
        return MOST
    return max(1, min(MOST, int(SHARE * free / each)))


class _Keeping:
    """How runs begin and end: replayed, begun or resumed; then kept, and scored."""

    def __init__(
        self, base: Base, task: Task, store: Path | None, fresh: bool, evaluate: bool | str
    ) -> None:
        self.base, self.task, self.store = base, task, store
        self.fresh, self.evaluate = fresh, evaluate

    def begin(self, recipe: Recipe) -> Member | Run:
        """The run if it is stored, else a member that begins it or goes on with it.

        The lock is released while a pack trains. If two processes held many locks at once, each
        could wait for the other for ever.
        """
        if self.store is None:
            return Member(self.base, self.task, recipe)
        folder = RunFolder(self.store, self.base, self.task, recipe)
        with folder.locked():
            run = None if self.fresh else folder.ended()
            if run is not None:
                return self._scored(run, folder)
            if self.fresh:
                member = Member(self.base, self.task, recipe)
                folder.clear()
            else:
                member = begun(folder, Member)
            folder.begin(budget_of(self.base, self.task, recipe), member.about)
        member.folder = folder
        return member

    def scores_of(self, finished: list[Member]) -> dict[Member, Scores]:
        """The scores of members that end together; none if `end` is to score each on its own."""
        split = split_to_score(self.evaluate)
        if split is None or len(finished) < 2:
            return {}
        asked = Pack(as_trained(self.base, finished[0].recipe))
        asked.seat(finished)
        try:
            return evaluate_members(asked, self.task, split)
        except torch.OutOfMemoryError:  # a batch for all of them is too large
            return {}

    def end(self, member: Member, run: Run | None = None, scores: Scores | None = None) -> Run:
        """The member's run, kept and scored; `run` is given if it diverged."""
        folder = member.folder
        if folder is None:
            return self._scored(run or run_of(member, FINISHED), None, scores)
        with folder.locked():
            if run is None:
                folder.finish(member.records, member.learned, FINISHED)
            else:
                folder.finish(run.records, run.learned, DIVERGED, run.message)
            return self._scored(read_run(folder.path, self.base, replayed=False), folder, scores)

    def _scored(self, run: Run, folder: RunFolder | None, scores: Scores | None = None) -> Run:
        if scores is not None:
            if folder is not None:
                folder.write_scores(scores)
            return replace(run, scores=scores)
        evaluate = run.status == FINISHED and self.evaluate
        return with_scores(run, self.task, folder, evaluate)

    def pause(self, member: Member) -> None:
        """Keep what an unfinished member needs to go on later."""
        if member.folder is not None and member.records:
            with member.folder.locked():
                member.folder.write_checkpoint(member.checkpoint())


def _all_packs(
    keeping: _Keeping, recipes: list[Recipe]
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    together: dict[tuple, list[Recipe]] = {}
    for recipe in recipes:
        how = (recipe.gradient_accumulation_steps, quantization_for(keeping.base, recipe))
        together.setdefault(how, []).append(recipe)
    for alike in together.values():
        yield from _one_pack(keeping, alike)


def _one_pack(
    keeping: _Keeping, recipes: list[Recipe]
) -> Iterator[tuple[Recipe, StepRecord | Run]]:
    """Steps of a pack that its members enter and leave, until none is left."""
    pack = Pack(as_trained(keeping.base, recipes[0]))
    most = members_at_once(keeping.base, keeping.task, recipes)
    waiting: deque[Recipe | Member] = deque(recipes)
    members: list[Member] = []
    whole = True  # no member is in the middle of a step
    try:
        while waiting or members:
            finished = [member for member in members if member.ended]
            scores = keeping.scores_of(finished)
            for member in finished:
                members.remove(member)
                yield member.recipe, keeping.end(member, scores=scores.get(member))
            while waiting and len(members) < most:
                entering = waiting.popleft()
                if isinstance(entering, Recipe):
                    entering = keeping.begin(entering)
                if isinstance(entering, Run):
                    yield entering.recipe, entering
                else:
                    members.append(entering)
            if not members or any(member.ended for member in members):
                continue
            with interrupt_between_steps() as interrupted:
                whole = False
                pack.seat(members)
                results = pack.step()
                whole = True
            if interrupted.is_set():
                raise KeyboardInterrupt("stopped between two steps; the same call goes on")
            if results is None:
                most = len(members) // 2
                warnings.warn(
                    f"the memory is too small for {len(members)} runs in one batch: going on with "
                    f"{most}",
                    stacklevel=3,
                )
                waiting.extendleft(reversed(members[most:]))
                members = members[:most]
                continue
            for member, result in results.items():
                if isinstance(result, Run):
                    members.remove(member)
                    result = keeping.end(member, result)
                yield member.recipe, result
    finally:
        if whole:
            for member in [*members, *waiting]:
                if isinstance(member, Member):
                    keeping.pause(member)

"""A run written out for people without lora_lab: adapter or model, tokenizer, model card."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from lora_lab.models.adapted import Adapted
from lora_lab.models.adapters import as_trained
from lora_lab.models.bases import load_base, load_tokenizer
from lora_lab.models.built_in import BUILT_IN, hub_id, prepared_folder
from lora_lab.models.learned import adapter_for, check_ranks_decided
from lora_lab.models.merging import merge as merge_into
from lora_lab.models.quantization import Quantization
from lora_lab.models.quiet import quietly
from lora_lab.places import make_new_folder
from lora_lab.recipe import Recipe
from lora_lab.records import Scores
from lora_lab.tasks.examples import Task
from lora_lab.training.model_card import ADAPTER, MERGED, MODEL, Export, model_card
from lora_lab.training.script import quantization_options
from lora_lab.training.store import Run

IN_16_BITS = ("bfloat16", "float16")
BASE_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "LICENSE*",
)  # of a base's folder
OWN_FILES = ("asset.json",)  # lora_lab's, which no base needs
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BITS = re.compile(r"quantised to (nf4|fp4|int8)( with double quantisation)?")  # in `Run.about`


def export(
    run: Run,
    folder: str | Path,
    *,
    base: str | None = None,
    with_base: bool = False,
    merge: bool = False,
    dtype: str = "bfloat16",
    task: Task | None = None,
    before: Scores | None = None,
) -> Export:
    """Write a run as a folder that plain PEFT and transformers load, with its tokenizer and card.

    An adapter's configuration names its base: by the hub's id if the hub has it, else by the folder
    that it was trained from. `AutoPeftModelForCausalLM.from_pretrained(folder)` loads that base.
    The card, README.md, has the lines that load the folder, the recipe, the scores with their
    intervals, the data in counts, and the limits.

    Args:
        run: from `fit`. After method "full" the whole model is written.
        folder: a new or an empty folder.
        base: the base that the adapter's configuration names instead, if the base has moved: a hub
            id, or a folder, from which the base is also read.
        with_base: also copy the base's files into `folder/base`, and name that folder.
        merge: write the base with the adapter in its weights, in 16 bits.
        dtype: the dtype of the merged weights, "bfloat16" or "float16".
        task: the data, for the card's counts; None: the card says that they were not at hand.
        before: the base's own scores, for the card.

    Raises:
        ValueError: for options that do not fit each other or the run.
        FileExistsError: if the folder holds something already.
        FileNotFoundError: if the base is not where it was.
    """
    kind = MODEL if run.recipe.method == "full" else MERGED if merge else ADAPTER
    _check_options(kind, merge=merge, with_base=with_base, dtype=dtype)
    check_ranks_decided(run)
    folder = Path(folder).expanduser().absolute()
    with make_new_folder(folder) as new:
        learned = run.learned  # first: a damaged run is refused before anything is loaded
        place = _place(run, base)
        tokenizer = load_tokenizer(place)
        hub = base if base and not _is_folder(base) else hub_id(run.base_name)
        made = Export(
            folder=folder,
            kind=kind,
            base=str(folder / "base") if with_base else base_for_others(run, base),
            hub=hub,
            base_inside=with_base,
            has_template=tokenizer.chat_template is not None,
            dtype=dtype if kind == MERGED else _dtype(run),
            quantization=_quantization(run) if kind == ADAPTER else None,
        )
        if kind == ADAPTER:
            adapter_for(learned, made.base).save(new)
        else:
            trained_from = load_base(place) if base else run.base
            if kind == MERGED:
                trained_on = as_trained(trained_from, _recipe_as_trained(run))
                merged = merge_into(trained_on, learned, getattr(torch, dtype))
                made, model = replace(made, rounding=merged.rounding), merged.model
            else:
                model = Adapted(trained_from, learned).model
            with quietly():
                model.save_pretrained(new)
            for path in new.glob("*.safetensors"):  # safetensors lets only the owner read it
                shutil.copymode(new / "config.json", path)
        tokenizer.save_pretrained(new)
        if with_base:
            _copy_base(place, new / "base")
        model_card(run, made, task, before).save(new / "README.md")
    return made


def _check_options(kind: str, *, merge: bool, with_base: bool, dtype: str) -> None:
    """Refuse options that do not fit what is written."""
    if kind == MODEL and merge:
        raise ValueError(
            "merge does not fit method='full': every weight was trained, so there is no adapter to "
            "merge; without merge the whole model is written"
        )
    if with_base and kind != ADAPTER:
        raise ValueError(
            f"with_base does not fit a {kind} export, which holds the base's weights already; "
            "leave it out"
        )
    if dtype not in IN_16_BITS:
        raise ValueError(f"dtype={dtype!r} is not of 16 bits; give {' or '.join(IN_16_BITS)}")


# --- the base -----------------------------------------------------------------------------------


def _is_folder(base: str) -> bool:
    """Whether `base` means a folder; else it is a hub id.

    Raises:
        ValueError: if it is neither.
    """
    if Path(base).expanduser().is_dir():
        return True
    if HUB_ID.fullmatch(base):
        return False
    raise ValueError(
        f"base={base!r} is neither a folder here nor an id of the hub; give a folder that holds "
        "the base, or an id such as Qwen/Qwen2.5-0.5B-Instruct"
    )


def _place(run: Run, base: str | None) -> str:
    """Where the base is read: what `load_base` takes."""
    if base and _is_folder(base):
        return base
    place = run.base_place
    if place in BUILT_IN or (Path(place) / "config.json").is_file():
        return place
    if base or hub_id(run.base_name):
        return base or run.base_name
    raise FileNotFoundError(
        f"the base was in {place}, and is not there any more; give the folder that holds it, or "
        "its id on the hub: base=..., --base"
    )


def base_for_others(run: Run, base: str | None) -> str:
    """What an adapter's configuration names as its base: a hub id, else an absolute path."""
    if base:
        return str(Path(base).expanduser().absolute()) if _is_folder(base) else base
    place = run.base_place
    folder = prepared_folder(place) if place in BUILT_IN else Path(place).absolute()
    return hub_id(run.base_name) or str(folder)


def _copy_base(place: str, folder: Path) -> None:
    """Copy a base's weights, configuration, tokenizer and licence, and no other file."""
    source = prepared_folder(place) if place in BUILT_IN else Path(place).expanduser()
    if not source.is_dir():
        raise FileNotFoundError(
            f"with_base copies the base from a folder, and {place} is not in one here; give it: "
            "base=..., --base"
        )
    folder.mkdir()
    for path in sorted(source.iterdir()):
        kept = any(path.match(pattern) for pattern in BASE_FILES) and path.name not in OWN_FILES
        if kept and path.is_file():
            shutil.copyfile(path, folder / path.name)


# --- how it was trained -------------------------------------------------------------------------


def _dtype(run: Run) -> str:
    """The base's dtype while it was trained and scored, which `Run.about` has in words."""
    match = re.search(r" in (float32|bfloat16|float16)\b", run.trained_on)
    return match[1] if match else "auto"


def _recipe_as_trained(run: Run) -> Recipe:
    """The recipe with the quantisation of the base, even if the base was loaded quantised."""
    match = BITS.search(run.about)
    if run.recipe.quantize is not None or match is None:
        return run.recipe
    return replace(run.recipe, quantize=match[1], double_quant=match[2] is not None)


def _quantization(run: Run) -> dict[str, object] | None:
    """The arguments of transformers' BitsAndBytesConfig for the weights as in training."""
    recipe = _recipe_as_trained(run)
    if recipe.quantize is None:
        return None
    dtype = _dtype(run) if recipe.compute_dtype == "auto" else recipe.compute_dtype
    compute_dtype = getattr(torch, "float32" if dtype == "auto" else dtype)
    return quantization_options(Quantization(recipe.quantize, recipe.double_quant, compute_dtype))

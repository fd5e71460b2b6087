"""What a fine-tune learnt: kept in PEFT's own format, loaded, swapped, weakened."""

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.adalora import AdaLoraLayer
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from lora_lab.machine.devices import own_randomness
from lora_lab.models.adapter_files import (
    MODEL_FILE,
    WEIGHTS_FILE,
    check_files,
    check_fit,
    check_ranks,
    read_config,
    read_tensors,
)
from lora_lab.models.adapters import (
    adapter_tensors,
    merge_into_copies,
    spell_patterns_out,
)
from lora_lab.models.bases import Base
from lora_lab.models.quantization import share_tensors
from lora_lab.models.tensor_files import save_tensors
from lora_lab.places import make_folder_atomically
from lora_lab.recipe import Recipe, nearest
from lora_lab.records import StepRecord


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What a fine-tune changed: an adapter as PEFT keeps it, or every weight of the model."""

    config: PeftConfig | None  # None: `tensors` is a whole model's state dict
    tensors: dict[str, Tensor]  # PEFT's names, without the adapter's own name

    def save(self, folder: Path) -> None:
        """Write it into an empty folder, in the format that PEFT or transformers read."""
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()
        }
        if self.config is None:
            save_tensors(tensors, folder / MODEL_FILE, {"format": "pt"})
        else:
            self.config.save_pretrained(folder)
            save_tensors(tensors, folder / WEIGHTS_FILE, {"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> "Learnt":
        """Read what `save` wrote, or an adapter that PEFT wrote.

        Raises:
            FileNotFoundError: if there is no adapter in the folder.
            ValueError: if its weights are a pickle or damaged, or its configuration is not known.
        """
        weights = check_files(folder)
        config = None if weights == MODEL_FILE else read_config(folder)
        return cls(config, read_tensors(folder / weights))


def learnt(model: nn.Module, recipe: Recipe, start: dict[str, Tensor]) -> Learnt:
    """What a model made by `adapt` has learnt, in the form in which it is kept: a copy.

    PiSSA and OLoRA train on a changed base. Their change, BA - B₀A₀, has rank 2r at most, and is
    given as a plain LoRA of that rank for the unchanged base, as PEFT converts it. AdaLoRA's
    matrices have the ranks they keep, once the budget is met; before, all that they train.

    Args:
        model: from `adapt(base, recipe)`, trained since.
        recipe: the same.
        start: `adapter_tensors(model)` before the first step; asked for only by these two.
    """
    if recipe.method == "full":
        weights = dict(model.named_parameters())  # tied weights once, as files want it
        return Learnt(None, {name: one.detach().clone() for name, one in weights.items()})
    tensors = adapter_tensors(model)  # first: it takes the adapter's name out of `rank_pattern`
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    if recipe.changes_the_base:
        for name, tensor in tensors.items():
            if "lora_A" in name:
                tensors[name] = torch.cat([tensor, start[name]], dim=0)  # (2r, in)
            elif "lora_B" in name:
                tensors[name] = torch.cat([tensor, -start[name]], dim=1)  # (out, 2r)
        config.r = 2 * recipe.r
        config.lora_alpha = recipe.lora_alpha * (2**0.5 if recipe.use_rslora else 2)
        config.init_lora_weights = True
    return Learnt(config, tensors)


class Trained(Protocol):
    """A Run or a Training: something that learnt from a recipe."""

    recipe: Recipe
    records: Sequence[StepRecord]

    @property
    def learnt(self) -> Learnt:
        """What it learnt."""


def save_adapter(trained: Trained, folder: str | Path) -> Path:
    """Write a run's adapter in plain PEFT format: `PeftModel.from_pretrained` reads it.

    Args:
        trained: a Run or a Training.
        folder: a new or an empty folder.

    Raises:
        ValueError: for method "full", which has no adapter, and for AdaLoRA before its last
            allocation, when the ranks are not yet decided.
        FileExistsError: if the folder holds something already.
    """
    folder = Path(folder)
    if trained.recipe.method == "full":
        raise ValueError(
            "method='full' changed every weight, so there is no adapter to save; "
            "train with method='lora', or save the model: run.model.save_pretrained(folder)"
        )
    if trained.recipe.method == "adalora":
        _check_budget_met(trained)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; give a new one, nothing is lost")
    with make_folder_atomically(folder) as whole:
        trained.learnt.save(whole)
    return folder


def _check_budget_met(trained: Trained) -> None:
    recipe, done, tfinal = trained.recipe, len(trained.records), trained.recipe.schedule[1]
    met = recipe.steps - tfinal
    if done < met:
        raise ValueError(
            f"this AdaLoRA run stopped after step {done} of {recipe.steps}, and its ranks are "
            f"decided at step steps - tfinal = {recipe.steps} - {tfinal} = {met}; until then each "
            f"matrix holds init_r={recipe.init_r} of them. Train {met - done} steps more, or "
            "give a recipe with fewer steps"
        )


class Adapted:
    """A base with one or more learnt adapters, of which one is in use.

    Its module tree is its own and shares the base's tensors. `strength` scales the change: 0
    answers as the base does, 1 as trained, and more goes on in the same direction.
    """

    def __init__(
        self, base: Base, learnt: Learnt, *, name: str = "adapter", strength: float = 1.0
    ) -> None:
        _check_name(name)
        self.base, self.tokenizer, self.names, self.active = base, base.tokenizer, [name], name
        self._between: list[tuple[str, nn.Parameter, Tensor, Tensor]] = []  # owner, at 0, at 1
        if learnt.config is None:
            self.model: nn.Module | PeftModel = share_tensors(base.model)
            self._follow_whole_model(learnt.tensors)
        else:
            check_fit(base, learnt.tensors, learnt.config.base_model_name_or_path)
            with _built_by_peft(base):
                config = _inert(learnt, base.model)
                check_ranks(base, learnt.tensors, config)
                self.model = get_peft_model(share_tensors(base.model), config, name)
                self._fill(learnt, name)
        self.model.eval().requires_grad_(False)
        self.strength = strength

    def load(self, folder: str | Path, name: str) -> "Adapted":
        """Load another adapter beside the ones there are, without using it yet."""
        if name in self.names:
            raise ValueError(f"there is an adapter called {name!r} already; give another name")
        _check_name(name)
        learnt = Learnt.load(Path(folder))
        if learnt.config is None or not isinstance(self.model, PeftModel):
            raise ValueError("a fully fine-tuned model can't be loaded beside an adapter")
        if learnt.config.peft_type != self.model.peft_type:
            raise ValueError(
                f"{folder} holds an adapter of PEFT's type {learnt.config.peft_type.value}, and "
                f"those here are {self.model.peft_type.value}; load it on its own: "
                "load_adapter(base, folder)"
            )
        check_fit(self.base, learnt.tensors, learnt.config.base_model_name_or_path)
        try:
            with _built_by_peft(self.base):
                config = _inert(learnt, self.base.model)
                check_ranks(self.base, learnt.tensors, config)
                self.model.add_adapter(name, config)
                self._fill(learnt, name)
        except BaseException:
            if name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise
        self.model.eval().requires_grad_(False)
        self.names.append(name)
        return self.use(self.active)

    def use(self, name: str) -> "Adapted":
        """Answer with another loaded adapter. Nothing is read from disk."""
        if name not in self.names:
            raise ValueError(
                f"no adapter is called {name!r}; {nearest(name, tuple(self.names))}"
                f"there are: {self.names}"
            )
        if isinstance(self.model, PeftModel):
            self.model.set_adapter(name)
            self.model.requires_grad_(False)
        self.active = name
        self.strength = self._strength
        return self

    @property
    def strength(self) -> float:
        """How much of the change is applied: 0 none, 1 as trained."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 10:  # NaN is neither
            raise ValueError(
                f"strength={value} is out of range; give 0 (the base) to 10, 1 is as trained"
            )
        self._strength = float(value)
        for module in self.model.modules():
            if isinstance(module, AdaLoraLayer) and self.active in module.scaling:
                module.scaling[self.active] = value * module.lora_alpha[self.active]
            elif isinstance(module, LoraLayer):
                module.set_scale(self.active, value)
        with torch.no_grad():
            for owner, parameter, at_0, at_1 in self._between:
                if owner == self.active:
                    parameter.data = torch.lerp(at_0.to(at_1), at_1, value).to(parameter.dtype)

    def _fill(self, learnt: Learnt, name: str) -> None:
        """Put the learnt tensors in, and note those that strength moves in a straight line."""
        vectors = {
            id(layer): layer.lora_magnitude_vector[name].weight.detach().clone()
            for layer in self.model.modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_magnitude_vector
        }  # DoRA's magnitudes of the base's own rows
        wholes = {
            id(one): one.detach().clone()
            for module in self.model.modules()
            if isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save
            for one in module.modules_to_save[name].parameters()
        }
        _resize(self.model, learnt, name)
        set_peft_model_state_dict(self.model, self._as_configured(learnt, name), adapter_name=name)
        merge_into_copies(self.model)
        for layer in self.model.modules():
            if id(layer) in vectors:
                one = layer.lora_magnitude_vector[name].weight
                self._between.append((name, one, vectors[id(layer)], one.detach().clone()))
        for parameter in self.model.parameters():
            if id(parameter) in wholes:
                at_1 = parameter.detach().clone()
                self._between.append((name, parameter, wholes[id(parameter)], at_1))

    def _as_configured(self, learnt: Learnt, name: str) -> dict[str, Tensor]:
        """The learnt tensors: those that the configuration asks for, and in its shapes.

        Anything else would be written into the base, whose tensors are shared, or be left as PEFT
        drew it. Of the base's own weights, which PEFT saves beside an adapted embedding, only equal
        ones may be there, and they are left out.
        """
        wanted = get_peft_model_state_dict(
            self.model, self.model.state_dict(), adapter_name=name, save_embedding_layers=False
        )
        own = {f"base_model.model.{key}": one for key, one in self.base.model.state_dict().items()}
        tensors = {
            key: one
            for key, one in learnt.tensors.items()
            if key in wanted or not _equal(own.get(key.replace(".base_layer.", ".")), one)
        }
        holds, lacks = tensors.keys() - wanted.keys(), wanted.keys() - tensors.keys()
        for keys, what in ((holds, "holds"), (lacks, "lacks")):
            if keys:
                raise ValueError(
                    f"the adapter {what} {min(keys)!r}, and its own configuration says otherwise; "
                    "save it again with save_adapter or PEFT's save_pretrained"
                )
        for key, tensor in tensors.items():
            if tensor.shape != wanted[key].shape:
                raise ValueError(
                    f"the adapter's {key!r} has the shape {tuple(tensor.shape)}, and by its own "
                    f"configuration {tuple(wanted[key].shape)}; save it again with save_adapter or "
                    "PEFT's save_pretrained"
                )
        return tensors

    def _follow_whole_model(self, tensors: dict[str, Tensor]) -> None:
        shapes = {name: tuple(one.shape) for name, one in self.model.named_parameters()}
        for name, shape in shapes.items():
            has = tuple(tensors[name].shape) if name in tensors else "not there"
            if has != shape:
                raise ValueError(
                    f"this model was trained from another base than {self.base.name}: {name!r} is "
                    f"{has}, and {self.base.name}'s {shape}; load the base it was trained from"
                )
        for name, parameter in self.model.named_parameters():
            at_1 = tensors[name].to(parameter.device)
            self._between.append((self.active, parameter, parameter.data, at_1))


def _inert(learnt: Learnt, model: nn.Module) -> PeftConfig:
    """The configuration, without an initialisation that would change the base, or a regex."""
    config = copy.deepcopy(learnt.config)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    config.inference_mode = False  # PEFT would skip adapters added later
    config.base_model_name_or_path = None  # PEFT would warn that the saved name is not the folder
    if config.peft_type == PeftType.ADALORA:
        config.inference_mode = True  # PEFT allows one of them at most to be trained
        config.rank_pattern = None  # `_resize` sees to it
    spell_patterns_out(config, model)
    return config


def _resize(model: PeftModel, learnt: Learnt, name: str) -> None:
    """Give AdaLoRA's layers the ranks that they keep.

    PEFT does it while it loads, too, but it looks for the adapter's name anywhere in a layer's: one
    called "a" would be found in "layers". And it rounds the adapter to the base's dtype.
    """
    if learnt.config.peft_type == PeftType.ADALORA and learnt.config.rank_pattern:
        pattern = {f"{key}.{name}": kept for key, kept in learnt.config.rank_pattern.items()}
        model.base_model.resize_modules_by_rank_pattern(pattern, name)
        cast_adapter_dtype(model, name)


def _equal(own: Tensor | None, tensor: Tensor) -> bool:
    """Whether a tensor is the base's own, rounded at most to the base's precision."""
    return own is not None and own.shape == tensor.shape and torch.equal(own, tensor.to(own))


@contextmanager
def _built_by_peft(base: Base) -> Iterator[None]:
    """Let PEFT draw a start, which is overwritten; put into words where it fails."""
    try:
        with own_randomness(base.device):
            yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, re.error) as error:
        raise ValueError(
            f"PEFT can't make an adapter of this configuration and these tensors ({error}); "
            "save it again with save_adapter or PEFT's save_pretrained"
        ) from error


def _check_name(name: str) -> None:
    """Refuse a name that torch, which makes it a module's, can't take."""
    if not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"an adapter can't be called {name!r}: torch has a use for that; give another name, "
            f"such as {re.sub(r'[^a-zA-Z0-9]', '_', name)}_1"
        )


def load_adapter(
    base: Base, folder: str | Path, *, name: str | None = None, strength: float = 1.0
) -> Adapted:
    """A saved adapter on a base, as an `Adapted` that can be evaluated, asked and swapped.

    Args:
        base: the base it was trained on; it stays as it is.
        folder: written by `save_adapter` or by PEFT. Weights in pickles are refused.
        name: what to call it; None: the folder's name.
        strength: 0 (the base) to 10; 1 is as trained.

    Raises:
        FileNotFoundError: if the folder or the adapter in it is not there.
        ValueError: if it is a pickle, damaged, or made for another base.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give one that holds an adapter")
    if name is None:
        name = re.sub(r"\W+", "_", folder.resolve().name) or "adapter"
        name += "_" * hasattr(nn.ModuleDict(), name)  # a folder called "training", or "keys"
    return Adapted(base, Learnt.load(folder), name=name, strength=strength)

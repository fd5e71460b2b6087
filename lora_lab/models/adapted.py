"""Adapters in use on a base: loaded, swapped, made weaker or stronger."""

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

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
    SAVE_AGAIN,
    check_base,
    check_ranks,
    warn_of_what_is_missing,
)
from lora_lab.models.adapters import merge_into_copies, spell_patterns_out
from lora_lab.models.bases import Base, check_is_base
from lora_lab.models.learned import Learned
from lora_lab.models.quantization import share_tensors
from lora_lab.recipe import nearest

PEFTS_PREFIX = "lora_"  # how PEFT begins the names of what it adds to a layer
REFUSED = "PEFT can't make an adapter of this configuration and these tensors"


class Line(NamedTuple):
    """A parameter that `strength` moves in a straight line from the base's to the trained value.

    A and B need no such line, since PEFT scales their product. DoRA's magnitudes need it, and so do
    modules that were trained whole and the weights of full fine-tuning.
    """

    adapter: str  # the name of the adapter to which the parameter belongs
    parameter: nn.Parameter
    at_0: Tensor
    at_1: Tensor


class Adapted:
    """A base with one or more trained adapters, of which one is in use.

    Its module tree is its own and shares the base's tensors. `strength` scales the change: 0
    answers as the base does, 1 as trained, and a higher value goes on in the same direction.
    """

    def __init__(
        self, base: Base, learned: Learned, *, name: str = "adapter", strength: float = 1.0
    ) -> None:
        _check_adapter_name(name)
        self.base, self.tokenizer, self.names, self.active = base, base.tokenizer, [name], name
        self._lines: list[Line] = []
        self.model: nn.Module | PeftModel = share_tensors(base.model)
        if learned.config is None:
            self._follow_whole_model(learned.tensors)
        else:
            self._add(learned, name)
        self.model.eval().requires_grad_(False)
        self.strength = strength

    def load(self, folder: str | Path, name: str) -> "Adapted":
        """Load another adapter beside those that are loaded, without using it yet."""
        if name in self.names:
            raise ValueError(f"there is an adapter called {name!r} already; give another name")
        _check_adapter_name(name)
        learned = Learned.load(Path(folder))
        if learned.config is None or not isinstance(self.model, PeftModel):
            raise ValueError("a fully fine-tuned model can't be loaded beside an adapter")
        if learned.config.peft_type != self.model.peft_type:
            raise ValueError(
                f"{folder} holds an adapter of PEFT's type {learned.config.peft_type.value}, and "
                f"those here are {self.model.peft_type.value}; load it on its own: "
                "load_adapter(base, folder)"
            )
        try:
            self._add(learned, name)
        except BaseException:
            if name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise
        self.model.eval().requires_grad_(False)
        self.names.append(name)
        warn_of_what_is_missing(self.base, learned.tensors, learned.config, Path(folder))
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
            for adapter, parameter, at_0, at_1 in self._lines:
                if adapter == self.active:
                    parameter.data = torch.lerp(at_0.to(at_1), at_1, value).to(parameter.dtype)

    def _follow_whole_model(self, tensors: dict[str, Tensor]) -> None:
        """Take the weights of a fully fine-tuned model as what strength 1 answers with."""
        for name, parameter in self.model.named_parameters():
            shape = tuple(parameter.shape)
            trained_shape = tuple(tensors[name].shape) if name in tensors else "not there"
            if trained_shape != shape:
                raise ValueError(
                    f"this model was trained from another base than {self.base.name}: {name!r} is "
                    f"{trained_shape}, and {self.base.name}'s {shape}; load the base it was "
                    "trained from"
                )
            at_1 = tensors[name].to(parameter.device)
            self._lines.append(Line(self.active, parameter, parameter.data, at_1))

    def _add(self, learned: Learned, name: str) -> None:
        """Put an adapter on the model, beside those that are on it."""
        check_base(self.base, learned.tensors, learned.config.base_model_name_or_path)
        with _built_by_peft(self.base):
            config = _config_for_loading(learned, self.base.model)
            check_ranks(self.base, learned.tensors, config)
            try:
                if isinstance(self.model, PeftModel):
                    self.model.add_adapter(name, config)
                else:
                    self.model = get_peft_model(self.model, config, name)
            except ValueError as error:  # PEFT's own: `_fill` has ours
                raise ValueError(f"{REFUSED} ({error}); {SAVE_AGAIN}") from error
            self._fill(learned, name)

    def _fill(self, learned: Learned, name: str) -> None:
        """Put the trained tensors into an adapter that PEFT has just made."""
        starts = [start.detach().clone() for start in _unscaled_parameters(self.model, name)]
        _set_adalora_ranks(self.model, learned, name)
        tensors = self._expected_tensors(learned, name)
        set_peft_model_state_dict(self.model, tensors, adapter_name=name)
        merge_into_copies(self.model)
        for parameter, start in zip(_unscaled_parameters(self.model, name), starts, strict=True):
            self._lines.append(Line(name, parameter, start, parameter.detach().clone()))

    def _expected_tensors(self, learned: Learned, name: str) -> dict[str, Tensor]:
        """The trained tensors that the configuration asks for, checked to have its shapes.

        PEFT would write any other tensor into the base, whose tensors are shared. A missing tensor
        would stay as PEFT drew it. Beside an adapted embedding PEFT also saves the base's own
        weights: they are left out if they equal this base's, and refused if not.
        """
        expected = get_peft_model_state_dict(
            self.model, self.model.state_dict(), adapter_name=name, save_embedding_layers=False
        )
        base_tensors = {
            f"base_model.model.{key}": tensor
            for key, tensor in self.base.model.state_dict().items()
        }
        tensors = {
            key: tensor
            for key, tensor in learned.tensors.items()
            if key in expected
            or not _is_rounded(base_tensors.get(key.replace(".base_layer.", ".")), tensor)
        }
        extra, missing = tensors.keys() - expected.keys(), expected.keys() - tensors.keys()
        for keys, verb in ((extra, "holds"), (missing, "lacks")):
            if keys:
                raise ValueError(
                    f"the adapter {verb} {min(keys)!r}, and its own configuration says otherwise; "
                    f"{SAVE_AGAIN}"
                )
        for key, tensor in tensors.items():
            if tensor.shape != expected[key].shape:
                raise ValueError(
                    f"the adapter's {key!r} has the shape {tuple(tensor.shape)}, and by its own "
                    f"configuration {tuple(expected[key].shape)}; {SAVE_AGAIN}"
                )
        return tensors


def _unscaled_parameters(model: PeftModel, name: str) -> Iterator[nn.Parameter]:
    """An adapter's parameters beside A and B: DoRA's magnitudes, and modules trained whole."""
    for module in model.modules():
        if isinstance(module, LoraLayer) and name in module.lora_magnitude_vector:
            yield module.lora_magnitude_vector[name].weight
        elif isinstance(module, ModulesToSaveWrapper) and name in module.modules_to_save:
            yield from module.modules_to_save[name].parameters()


def _config_for_loading(learned: Learned, model: nn.Module) -> PeftConfig:
    """The configuration without a regex or an initialisation that would change the base."""
    config = copy.deepcopy(learned.config)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    config.inference_mode = False  # PEFT would skip adapters added later
    config.base_model_name_or_path = None  # PEFT would warn that the saved name is not the folder
    if config.peft_type == PeftType.ADALORA:
        config.inference_mode = True  # PEFT allows one of them at most to be trained
        config.rank_pattern = None  # `_set_adalora_ranks` does it
    spell_patterns_out(config, model)
    return config


def _set_adalora_ranks(model: PeftModel, learned: Learned, name: str) -> None:
    """Give AdaLoRA's layers the ranks that they keep.

    PEFT does so too while it loads. But it looks for the adapter's name anywhere in a layer's name:
    an adapter called "a" would be found in "layers". And it rounds the adapter to the base's dtype.
    """
    if learned.config.peft_type == PeftType.ADALORA and learned.config.rank_pattern:
        pattern = {f"{key}.{name}": kept for key, kept in learned.config.rank_pattern.items()}
        model.base_model.resize_modules_by_rank_pattern(pattern, name)
        cast_adapter_dtype(model, name)


def _is_rounded(own: Tensor | None, tensor: Tensor) -> bool:
    """Whether a tensor is the base's own, or the base's own rounded to the base's precision."""
    return own is not None and own.shape == tensor.shape and torch.equal(own, tensor.to(own))


@contextmanager
def _built_by_peft(base: Base) -> Iterator[None]:
    """A block in which PEFT leaves the random state as it was, and its errors come in our words."""
    try:
        with own_randomness(base.device):
            yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, re.error) as error:
        raise ValueError(f"{REFUSED} ({error}); {SAVE_AGAIN}") from error


def _check_adapter_name(name: str) -> None:
    """Refuse a name that torch can't give to a module."""
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

    Warns:
        UserWarning: if a name in its target_modules reaches nothing in the base, or if it has
            learned nothing.

    Raises:
        FileNotFoundError: if the folder or the adapter in it is not there.
        ValueError: if it is a pickle, damaged, made for another base, or unlike its configuration.
    """
    check_is_base(base)
    folder = Path(folder)
    if not os.path.isdir(folder):  # Path's own fails for a long name
        raise FileNotFoundError(f"there is no folder {folder}; give one that holds an adapter")
    if name is None:
        name = re.sub(r"\W+", "_", folder.resolve().name) or "adapter"
        if name in PEFTS_PREFIX:  # PEFT would warn that the name is a part of its own prefix
            name = f"adapter_{name}"
        name += "_" * hasattr(nn.ModuleDict(), name)  # a folder called "training", or "keys"
    learned = Learned.load(folder)
    adapted = Adapted(base, learned, name=name, strength=strength)
    if learned.config is not None:
        warn_of_what_is_missing(base, learned.tensors, learned.config, folder)
    return adapted

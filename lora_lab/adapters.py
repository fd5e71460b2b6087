"""A recipe's adapter put on a base; saved, loaded, swapped, weakened. The door to PEFT."""

import copy
import difflib
import logging
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_lab.bases import Base
from lora_lab.places import make_folder_atomically
from lora_lab.recipe import Recipe

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it, and it may warn

import peft  # noqa: E402 - after its logger is quiet
from peft.tuners.lora import LoraLayer  # noqa: E402
from transformers.pytorch_utils import Conv1D  # noqa: E402

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ADAPTABLE = (nn.Linear, nn.Embedding, Conv1D)
CHANGES_THE_BASE = ("pissa", "olora")  # these begin by taking their product out of the base weight
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


# --- what a recipe adapts -------------------------------------------------------------------


def match_target_modules(model: nn.Module, target_modules: Iterable[str]) -> dict[str, list[str]]:
    """The layers that each target name reaches: {"q_proj": ["layers.0.q_proj", ...], ...}.

    PEFT complains only when no name matches at all, so one misspelt name among good ones trains a
    smaller adapter in silence (peft#1959). Here every name must reach a layer.

    Raises:
        ValueError: naming the first target that reaches nothing, and the nearest that would.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, ADAPTABLE)]
    matches = {
        target: [name for name in layers if name == target or name.endswith(f".{target}")]
        for target in target_modules
    }
    for target, reached in matches.items():
        if not reached:
            known = sorted({name.rsplit(".", 1)[-1] for name in layers})
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"no layer is called {target!r}; {hint}This model has: {', '.join(known)}"
            )
    return matches


def _linear_names(model: nn.Module) -> tuple[str, ...]:
    """The last names of all linear layers but the output's: what PEFT's "all-linear" means."""
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not output
    }
    return tuple(sorted(names))


def _check_layers(model: nn.Module, layers: tuple[int, ...]) -> None:
    count = model.config.get_text_config().num_hidden_layers
    beyond = [layer for layer in layers if layer >= count]
    if beyond:
        raise ValueError(
            f"layers_to_transform names layer {beyond[0]}, and this model has {count} layers, "
            f"counted from 0; give numbers from 0 to {count - 1}"
        )


def _check_reach(model: nn.Module, recipe: Recipe) -> None:
    """Refuse a recipe that reaches nothing in this model; warn of an r wider than a layer."""
    targets = recipe.target_modules
    if targets == "all-linear":
        targets = _linear_names(model)
    if isinstance(targets, str):
        names = [name for name, module in model.named_modules() if isinstance(module, ADAPTABLE)]
        try:
            reached = [name for name in names if re.fullmatch(targets, name)]
        except re.error as error:
            raise ValueError(
                f"target_modules={targets!r} is not a regex ({error}); give one that matches "
                f'whole module names, such as ".*q_proj", or a tuple of names'
            ) from error
        if not reached:
            raise ValueError(
                f"target_modules={targets!r} is read as a regex and matches no whole module name; "
                f"a name here looks like {names[-1]!r}. For a plain name give a tuple: "
                f"({targets!r},)"
            )
    else:
        reached = [
            name for names in match_target_modules(model, targets).values() for name in names
        ]
    if recipe.layers_to_transform is not None:
        _check_layers(model, recipe.layers_to_transform)
    if recipe.modules_to_save:
        modules = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules() if name}
        for name in recipe.modules_to_save:
            if name not in modules:
                close = difflib.get_close_matches(name, modules, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                raise ValueError(
                    f"modules_to_save names {name!r}, which this model does not have; {hint}"
                    f"It has, for example: {', '.join(sorted(modules)[:12])}"
                )
    narrowest = min(min(model.get_submodule(name).weight.shape) for name in reached)
    if recipe.r > narrowest:
        warnings.warn(
            f"r={recipe.r} is above {narrowest}, the width of the narrowest adapted layer: a "
            f"change can have no higher rank than that, so the parameters above are wasted",
            stacklevel=3,
        )


def to_peft(recipe: Recipe, base: Base | None = None) -> "PeftConfig":
    """The PEFT configuration that does what the recipe says.

    Args:
        recipe: with method "lora" or "adalora".
        base: needed to spell out "all-linear" where `layers_to_transform` is given, since PEFT
            refuses layers together with a string.

    Raises:
        ValueError: for method "full", which has no adapter, or where `base` is needed.
    """
    if recipe.method == "full":
        raise ValueError("method='full' trains every weight and has no PEFT configuration")
    targets = recipe.target_modules
    if isinstance(targets, str) and recipe.layers_to_transform is not None:
        if base is None or targets != "all-linear":
            raise ValueError(
                f"target_modules={targets!r} with layers_to_transform is refused by PEFT; give a "
                'tuple of names, or "all-linear" together with `base`'
            )
        targets = _linear_names(base.model)
    shared = {
        "target_modules": targets if isinstance(targets, str) else list(targets),
        "lora_alpha": recipe.lora_alpha,
        "lora_dropout": recipe.lora_dropout,
        "layers_to_transform": recipe.layers_to_transform and list(recipe.layers_to_transform),
        "modules_to_save": list(recipe.modules_to_save) or None,
        "task_type": "CAUSAL_LM",
    }
    if recipe.method == "adalora":
        return peft.AdaLoraConfig(
            **shared,
            init_r=recipe.init_r,
            target_r=recipe.target_r,
            tinit=recipe.tinit or 0,
            tfinal=recipe.tfinal or 0,
            deltaT=recipe.deltaT,
            beta1=recipe.beta1,
            beta2=recipe.beta2,
            orth_reg_weight=recipe.orth_reg_weight,
            total_step=recipe.steps,
        )
    return peft.LoraConfig(
        **shared,
        r=recipe.r,
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        init_lora_weights=recipe.init_lora_weights,
    )


# --- a model of one's own, on the base's tensors --------------------------------------------


def share_tensors(model: nn.Module) -> nn.Module:
    """A new module tree over the same tensors. What is put on it leaves `model` as it was."""
    memo = {
        id(parameter): nn.Parameter(parameter.data, requires_grad=False)
        if type(parameter) is nn.Parameter  # a quantised one has a state of its own: kept whole
        else parameter
        for parameter in model.parameters()
    }
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, memo)


def _copy_tensors(model: nn.Module) -> nn.Module:
    """A whole copy in float32: steps of full fine-tuning are too small for 16-bit weights."""
    return copy.deepcopy(model).float().requires_grad_(True)


def _not_yet(recipe: Recipe) -> None:
    if recipe.method == "adalora":
        raise NotImplementedError(
            "method='adalora' is checked but not trained yet; give method='lora'"
        )
    if recipe.quantize is not None:
        raise NotImplementedError(
            f"quantize={recipe.quantize!r} is checked but not trained yet; give quantize=None"
        )


def adapt(base: Base, recipe: Recipe) -> nn.Module:
    """The base with the recipe's fresh adapter on it, ready to train.

    The result is a module tree of its own that shares the base's tensors (method "full": a float32
    copy of them). The base keeps its weights, its `requires_grad` and its modules. The adapter's
    start is drawn from `recipe.seed`; the global random state is left as it was.

    Raises:
        ValueError: if a target module, layer or module to save is not in this model.
        NotImplementedError: for what a recipe may say and this version does not train yet.
    """
    _not_yet(recipe)
    if recipe.method == "full":
        return _copy_tensors(base.model)
    _check_reach(base.model, recipe)
    model = share_tensors(base.model)
    if str(recipe.init_lora_weights).startswith(CHANGES_THE_BASE):
        for module in model.modules():
            if isinstance(module, ADAPTABLE):  # its weight will be written to: give it its own
                module.weight.data = module.weight.data.clone()
    with torch.random.fork_rng(devices=_cuda_devices(base)):
        torch.manual_seed(recipe.seed)
        return peft.get_peft_model(model, to_peft(recipe, base))


def _cuda_devices(base: Base) -> list[torch.device]:
    return [base.device] if base.device.type == "cuda" else []


# --- what a fine-tune learnt ----------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """What a fine-tune changed: an adapter as PEFT keeps it, or every weight of the model."""

    config: "PeftConfig | None"  # None: `tensors` is a whole model's state dict
    tensors: dict[str, Tensor]  # PEFT's names, without the adapter's own name

    def save(self, folder: Path) -> None:
        """Write it into an empty folder, in the format that PEFT or transformers read."""
        tensors = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()
        }
        if self.config is None:
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        else:
            self.config.save_pretrained(folder)
            save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})

    @classmethod
    def load(cls, folder: Path) -> "Learnt":
        """Read what `save` wrote, or an adapter that PEFT wrote.

        Raises:
            FileNotFoundError: if there is no adapter in the folder.
            ValueError: if its weights are a pickle, or damaged.
        """
        if (folder / "model.safetensors").exists():
            return cls(None, _read_tensors(folder / "model.safetensors"))
        if not (folder / CONFIG_FILE).exists():
            raise FileNotFoundError(
                f"{folder} holds no {CONFIG_FILE}, so it is not an adapter; give a folder that "
                "save_adapter or PEFT's save_pretrained wrote"
            )
        if not (folder / WEIGHTS_FILE).exists():
            pickles = [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt")]
            if pickles:
                raise ValueError(
                    f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is "
                    f"read; save it again as {WEIGHTS_FILE} (PEFT's save_pretrained does)"
                )
            raise FileNotFoundError(f"{folder} holds a {CONFIG_FILE} but no {WEIGHTS_FILE}")
        config = peft.PeftConfig.from_pretrained(str(folder))
        return cls(config, _read_tensors(folder / WEIGHTS_FILE))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged or not a safetensors file ({error}); save the adapter again"
        ) from error


def learnt(model: nn.Module, recipe: Recipe, start: dict[str, Tensor]) -> Learnt:
    """What a model made by `adapt` has learnt, in the form in which it is kept.

    PiSSA and OLoRA train on a changed base. Their change, BA - B₀A₀, has rank 2r at most, and is
    given as a plain LoRA of that rank for the unchanged base, as PEFT converts it.

    Args:
        model: from `adapt(base, recipe)`, trained since.
        recipe: the same.
        start: the adapter's tensors before the first step, from `adapter_tensors(model)`.
    """
    if recipe.method == "full":
        return Learnt(None, dict(model.named_parameters()))  # tied weights once, as files want it
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    tensors = adapter_tensors(model)
    if str(recipe.init_lora_weights).startswith(CHANGES_THE_BASE):
        for name, tensor in tensors.items():
            if "lora_A" in name:
                tensors[name] = torch.cat([tensor, start[name]], dim=0)  # (2r, in)
            elif "lora_B" in name:
                tensors[name] = torch.cat([tensor, -start[name]], dim=1)  # (out, 2r)
        config.r = 2 * recipe.r
        config.lora_alpha = recipe.lora_alpha * (2**0.5 if recipe.use_rslora else 2)
        config.init_lora_weights = True
    return Learnt(config, tensors)


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names, each a copy. Empty for a model without one."""
    if not isinstance(model, peft.PeftModel):
        return {}
    tensors = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


class Trained(Protocol):
    """A Run or a Training: something that learnt from a recipe."""

    recipe: Recipe

    @property
    def learnt(self) -> Learnt:
        """What it learnt."""


def save_adapter(trained: Trained, folder: str | Path) -> Path:
    """Write a run's adapter in plain PEFT format: `PeftModel.from_pretrained` reads it.

    Args:
        trained: a Run or a Training.
        folder: a new or an empty folder.

    Raises:
        ValueError: for method "full", which has no adapter.
        FileExistsError: if the folder holds something already.
    """
    folder = Path(folder)
    if trained.recipe.method == "full":
        raise ValueError(
            "method='full' changed every weight, so there is no adapter to save; "
            "train with method='lora', or save the model: run.model.save_pretrained(folder)"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder; give a new one, nothing is lost")
    with make_folder_atomically(folder) as whole:
        trained.learnt.save(whole)
    return folder


# --- adapters in use ------------------------------------------------------------------------


class Adapted:
    """A base with one or more learnt adapters, of which one is in use.

    Its module tree is its own and shares the base's tensors. `strength` scales the change: 0
    answers as the base does, 1 as trained, and more goes on in the same direction.
    """

    def __init__(
        self, base: Base, learnt: Learnt, *, name: str = "adapter", strength: float = 1.0
    ) -> None:
        self.base, self.tokenizer, self.names, self.active = base, base.tokenizer, [name], name
        self._between: list[tuple[str, nn.Parameter, Tensor, Tensor]] = []  # owner, at 0, at 1
        if learnt.config is None:
            self.model: nn.Module | PeftModel = share_tensors(base.model)
            self._follow_whole_model(learnt.tensors)
        else:
            _check_fit(base, learnt)
            self.model = peft.get_peft_model(share_tensors(base.model), _inert(learnt), name)
            self._fill(learnt, name)
        self.model.eval().requires_grad_(False)
        self.strength = strength

    def load(self, folder: str | Path, name: str) -> "Adapted":
        """Load another adapter beside the ones there are, without using it yet."""
        if name in self.names:
            raise ValueError(f"there is an adapter called {name!r} already; give another name")
        learnt = Learnt.load(Path(folder))
        if learnt.config is None or not isinstance(self.model, peft.PeftModel):
            raise ValueError("a fully fine-tuned model can't be loaded beside an adapter")
        _check_fit(self.base, learnt)
        self.model.add_adapter(name, _inert(learnt))
        self._fill(learnt, name)
        self.model.eval().requires_grad_(False)
        self.names.append(name)
        return self.use(self.active)

    def use(self, name: str) -> "Adapted":
        """Answer with another loaded adapter. Nothing is read from disk."""
        if name not in self.names:
            close = difflib.get_close_matches(name, self.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"no adapter is called {name!r}; {hint}There are: {self.names}")
        if isinstance(self.model, peft.PeftModel):
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
            if isinstance(module, LoraLayer):
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
            if hasattr(module, "modules_to_save") and name in module.modules_to_save
            for one in module.modules_to_save[name].parameters()
        }
        result = peft.set_peft_model_state_dict(self.model, learnt.tensors, adapter_name=name)
        if result.unexpected_keys:
            raise ValueError(
                f"the adapter holds {result.unexpected_keys[0]!r}, which its own configuration "
                "does not name; save it again with PEFT's save_pretrained"
            )
        for layer in self.model.modules():
            if id(layer) in vectors:
                one = layer.lora_magnitude_vector[name].weight
                self._between.append((name, one, vectors[id(layer)], one.detach().clone()))
        for parameter in self.model.parameters():
            if id(parameter) in wholes:
                at_1 = parameter.detach().clone()
                self._between.append((name, parameter, wholes[id(parameter)], at_1))

    def _follow_whole_model(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            at_1 = tensors[name].to(parameter.device)
            self._between.append((self.active, parameter, parameter.data, at_1))


def _inert(learnt: Learnt) -> "PeftConfig":
    """The configuration, without an initialisation that would change the base."""
    config = copy.deepcopy(learnt.config)
    if hasattr(config, "init_lora_weights"):
        config.init_lora_weights = True
    config.inference_mode = False  # PEFT would skip adapters added later
    return config


def _check_fit(base: Base, learnt: Learnt) -> None:
    """Refuse an adapter that was trained on another base, saying which shapes differ."""
    layers = {
        name: module for name, module in base.model.named_modules() if isinstance(module, ADAPTABLE)
    }
    problems = []
    for key, tensor in learnt.tensors.items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_(A|B)\.weight", key)
        if not found:
            continue
        name, part = found.groups()
        if name not in layers:
            problems.append(f"{name}: not in {base.name}")
            continue
        layer = layers[name]
        wide, tall = layer.weight.shape[1], layer.weight.shape[0]
        if isinstance(layer, Conv1D):
            wide, tall = tall, wide
        has, wants = (tensor.shape[1], wide) if part == "A" else (tensor.shape[0], tall)
        if has != wants:
            side = "inputs" if part == "A" else "outputs"
            problems.append(f"{name}: the adapter has {has} {side}, {base.name} has {wants}")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"this adapter was trained on another base than {base.name}: "
            f"{'; '.join(problems[:3])}{more}. Load the base it was trained on"
            f" ({learnt.config.base_model_name_or_path or 'its configuration does not say which'})"
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
    name = name or re.sub(r"\W+", "_", folder.resolve().name) or "adapter"
    return Adapted(base, Learnt.load(folder), name=name, strength=strength)


def eight_bit_adamw(groups: list[dict], lr: float, *, paged: bool) -> torch.optim.Optimizer:
    """AdamW with bitsandbytes' 8-bit states, paged out of GPU memory when it runs short.

    Raises:
        ImportError: where bitsandbytes is not installed.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(
            "8-bit optimizers need bitsandbytes, which is not installed here; "
            "pip install bitsandbytes, or give optimizer='adamw'"
        ) from error
    kind = bitsandbytes.optim.PagedAdamW8bit if paged else bitsandbytes.optim.AdamW8bit
    return kind(groups, lr=lr)

"""What a recipe reaches: PEFT's rule by which names choose a model's layers. Its one home."""

import re
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

import regex

from lora_lab.recipe import Recipe, nearest

SECONDS = 1.0  # that a pattern may take for all names of a model; a good one takes a thousandth
LETTERS = 100_000  # that a pattern may have
LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # a layer's number in a name, as PEFT reads it


@dataclass(frozen=True, slots=True)
class Matrix:
    """One linear layer or embedding of a model, by the name under which the model keeps it."""

    name: str  # "model.layers.0.self_attn.q_proj"
    in_features: int  # an embedding's number of tokens
    out_features: int  # an embedding's width
    bias: bool = False
    kind: str = "linear"  # "embedding" | "output": these are no part of "all-linear"
    tied: bool = False  # its weights are those of an earlier matrix: one tensor for both

    @property
    def weights(self) -> int:
        """How many numbers the matrix holds, its bias left out."""
        return self.in_features * self.out_features

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.weights + self.bias * self.out_features


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """What of a model a recipe can name: its matrices, and whatever else holds parameters."""

    name: str  # the model's
    matrices: tuple[Matrix, ...]  # in the model's own order
    others: tuple[tuple[str, int], ...]  # norms, and what else is no matrix: module, parameters
    num_layers: int


def layer_of(name: str) -> int | None:
    """The layer that a module's name tells: 7 of "model.layers.7.mlp.up_proj"; None: no layer."""
    found = LAYER.match(name)
    return int(found[1]) if found else None


def last_name(name: str) -> str:
    """A module's own name: "up_proj" of "model.layers.7.mlp.up_proj"."""
    return name.rpartition(".")[2]


def adapted(model: Modules, recipe: Recipe) -> tuple[Matrix, ...]:
    """The matrices that get an adapter, chosen as PEFT chooses them. None for method "full".

    One thing PEFT lets pass is refused: a name among good ones that reaches nothing. PEFT complains
    only when none matches at all, and trains a smaller adapter in silence (peft#1959). The experts
    of a mixture are no matrices, and not told of here.

    Raises:
        ValueError: for a target, a layer or a module to save that the model does not have, and for
            what PEFT refuses.

    Source:
        `check_target_module_exists` in peft/tuners/tuners_utils.py, PEFT 0.21.
    """
    if recipe.method == "full":
        return ()
    layers = recipe.layers_to_transform
    if layers and max(layers) >= model.num_layers:
        raise ValueError(
            f"layers_to_transform names layer {max(layers)}, and {model.name} has "
            f"{model.num_layers} layers, counted from 0; give numbers from 0 to "
            f"{model.num_layers - 1}"
        )
    saved = saved_modules(model, recipe)
    reached = [one for one in _targets(model, recipe) if not inside(one.name, saved)]
    if not reached:
        raise ValueError(
            f"target_modules={recipe.target_modules!r} names nothing in {model.name} that is in "
            f"layers {layers} and not in modules_to_save={recipe.modules_to_save}; give other names"
        )
    embeddings = [one.name for one in reached if one.kind == "embedding"]
    if recipe.method == "adalora" and embeddings:
        raise ValueError(
            f"method='adalora' can't adapt the embedding {embeddings[0]!r}: PEFT knows it for "
            "linear layers; give method='lora', or other target_modules"
        )
    return tuple(reached)


def _targets(model: Modules, recipe: Recipe) -> list[Matrix]:
    """The matrices that `target_modules` names, in the layers that are wanted."""
    wanted, layers = recipe.target_modules, recipe.layers_to_transform

    def in_layers(name: str) -> bool:
        return layers is None or layer_of(name) in layers

    if wanted == "all-linear":
        return [one for one in model.matrices if one.kind == "linear" and in_layers(one.name)]
    if isinstance(wanted, str):
        if layers is not None:
            raise ValueError(
                f"target_modules={wanted!r} with layers_to_transform is refused by PEFT; give a "
                'tuple of names, or "all-linear"'
            )
        return _matched(model, wanted)
    known = tuple(sorted({last_name(one.name) for one in model.matrices}))
    for target in wanted:
        if not any(ends(one.name, target) for one in model.matrices):
            raise ValueError(
                f"{model.name} has no layer called {target!r}; {nearest(target, known)}"
                f"it has: {', '.join(known)}"
            )
    return [  # a whole name is reached in any layer: PEFT looks at layers_to_transform after it
        one
        for one in model.matrices
        if one.name in wanted
        or (in_layers(one.name) and any(ends(one.name, target) for target in wanted))
    ]


def _matched(model: Modules, pattern: str) -> list[Matrix]:
    """The matrices whose whole name a regex matches."""
    names = {*matching(pattern, (one.name for one in model.matrices))}
    reached = [one for one in model.matrices if one.name in names]
    if not reached:
        example = next((one for one in model.matrices if one.kind == "linear"), model.matrices[0])
        raise ValueError(
            f"target_modules={pattern!r} is read as a regex and matches no whole module name of "
            f"{model.name}; a name here looks like {example.name!r}. For a plain "
            f"name give a tuple: ({pattern!r},)"
        )
    return reached


def matching(pattern: str, names: Iterable[str], field: str = "target_modules") -> list[str]:
    """The names that a regex matches from end to end: what `re.fullmatch` finds, in bounded time.

    Python's own `re`, which PEFT uses, may try a pattern in countless ways and can't be stopped.

    Args:
        pattern: in the syntax of `re`.
        names: of modules.
        field: where the pattern stands, for the error.

    Raises:
        ValueError: for what is no regex, and for one that takes longer than `SECONDS`.
    """
    if len(pattern) > LETTERS:
        raise ValueError(
            f"{field} is a regex of {len(pattern):,} letters; give a shorter one, such as "
            '".*q_proj", or a tuple of names'
        )
    try:
        re.compile(pattern)  # `regex` knows more than `re` does
        compiled = regex.compile(pattern)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(
            f"{field}={pattern!r} is not a regex ({error}); give one that matches whole "
            'module names, such as ".*q_proj", or a tuple of names'
        ) from error
    end = time.monotonic() + SECONDS
    try:
        return [
            name
            for name in names
            if compiled.fullmatch(name, timeout=max(end - time.monotonic(), 1e-6))
        ]
    except TimeoutError as error:
        raise ValueError(
            f"{field}={pattern!r} takes more than {SECONDS:g} s to match this model's module "
            "names: a repeat inside a repeat, as in (a+)+, can be tried in countless ways; give a "
            'simpler regex, such as ".*q_proj", or a tuple of names'
        ) from error


def spelt_out(names: Iterable[str]) -> str:
    """A regex that matches just these names, and that is tried in one way only."""
    return "|".join(map(re.escape, names))


def column_of(name: str) -> str:
    """A module's name with its layer's number left open: "model.layers.*.mlp.up_proj"."""
    found = LAYER.match(name)
    return name if found is None else f"{name[: found.start(1)]}*{name[found.end(1) :]}"


def naming(model: Modules, chosen: Collection[str]) -> dict[str, object]:
    """The fields of a recipe that reach the chosen matrices and no others, as short as can be.

    "all-linear" if that does; else the modules' last names, with `layers_to_transform` where not
    all layers are wanted; else a regex, which can say anything.

    Raises:
        ValueError: if nothing is chosen, or what the model does not have.
    """
    unknown = sorted(set(chosen) - {one.name for one in model.matrices})
    if unknown or not chosen:
        problem = f"{unknown[0]!r} is no matrix of {model.name}" if unknown else "nothing is chosen"
        raise ValueError(f"{problem}; give names such as {model.matrices[1].name!r}")
    names = tuple(
        dict.fromkeys(last_name(one.name) for one in model.matrices if one.name in chosen)
    )
    layers = tuple(sorted({layer_of(one) for one in chosen} - {None}))
    ways = [{"target_modules": "all-linear"}, {"target_modules": names}]
    if layers:
        ways.append({"target_modules": names, "layers_to_transform": layers})
    for way in ways:
        with suppress(ValueError):
            if {one.name for one in adapted(model, Recipe(**way))} == set(chosen):
                return way
    return {"target_modules": _regex(model, chosen)}


def _regex(model: Modules, chosen: Collection[str]) -> str:
    """A regex for the whole names of just these matrices: one part for each set of layers."""
    layers: dict[tuple[str, str], list[int | None]] = {}  # of each column, what is wanted
    for one in model.matrices:
        if one.name in chosen:
            start, _, tail = column_of(one.name).partition("*")
            layers.setdefault((start, tail), []).append(layer_of(one.name))
    tails: dict[tuple[str, tuple], list[str]] = {}  # of the columns that share their layers
    for (start, tail), own in layers.items():
        tails.setdefault((start, tuple(own)), []).append(re.escape(tail))
    return "|".join(
        re.escape(start) + ("" if own == (None,) else _either(map(str, own))) + _either(shared)
        for (start, own), shared in tails.items()
    )


def _either(parts: Iterable[str]) -> str:
    first, *rest = parts
    return f"({'|'.join([first, *rest])})" if rest else first


def ends(name: str, target: str) -> bool:
    """Whether a module's name is `target`, or ends in it after a dot."""
    return name == target or name.endswith(f".{target}")


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is one of `modules`, or within one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def saved_modules(model: Modules, recipe: Recipe) -> tuple[str, ...]:
    """The modules that are trained whole beside the adapter, by `modules_to_save`.

    PEFT takes every module whose name *ends* so: "norm" takes "input_layernorm" as well.
    """
    names = [one.name for one in model.matrices] + [name for name, _ in model.others]
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    for wanted in recipe.modules_to_save:
        if not any(ends(module, wanted) for module in modules):
            known = sorted({last_name(module) for module in modules})
            known = tuple(one for one in known if not one.isdecimal())
            raise ValueError(
                f"modules_to_save names {wanted!r}, which {model.name} does not have; "
                f"{nearest(wanted, known)}it has, for example: {', '.join(known[:12])}"
            )
    found = sorted(module for module in modules if module.endswith(recipe.modules_to_save))
    return tuple(one for one in found if not inside(one.rpartition(".")[0], found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Modules):
    """All that a budget needs to know of a model: its matrices, and a few sizes."""

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    config: str  # transformers' config as JSON, the model's class in it: the model can be built

    @property
    def other_parameters(self) -> int:
        """Norms, and whatever else is no matrix and no bias of one."""
        return sum(count for _, count in self.others)

    @property
    def parameters(self) -> int:
        """All of the model's parameters; a tied matrix is counted once."""
        whole = sum(one.parameters for one in self.matrices) + self.other_parameters
        return whole - sum(one.weights for one in self.matrices if one.tied)

    @property
    def tied(self) -> bool:
        """Whether the output layer multiplies with the input embedding."""
        return any(one.tied and one.kind == "output" for one in self.matrices)

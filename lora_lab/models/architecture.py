"""The layers of a model that a recipe reaches: PEFT's rule by which names choose them."""

import re
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

import regex

from lora_lab.recipe import LAYERS, Recipe, nearest, shown

SECONDS = 1.0  # a pattern's limit for all names of a model; a good pattern takes a thousandth
LETTERS = 100_000  # the limit of a pattern's length
LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")  # a layer's number in a name, as PEFT reads it


@dataclass(frozen=True, slots=True)
class Matrix:
    """A linear layer or embedding, by the name under which the model keeps it."""

    name: str  # "model.layers.0.self_attn.q_proj"
    in_features: int  # an embedding's number of tokens
    out_features: int  # an embedding's width
    bias: bool = False
    kind: str = "linear"  # or "embedding" or "output", which "all-linear" leaves out
    tied: bool = False  # it shares the tensor of an earlier matrix

    @property
    def weights(self) -> int:
        """The count of the matrix's numbers, without its bias."""
        return self.in_features * self.out_features

    @property
    def parameters(self) -> int:
        """Weights and bias."""
        return self.weights + self.bias * self.out_features


@dataclass(frozen=True, slots=True, kw_only=True)
class Modules:
    """The parts of a model that a recipe can name: matrices, and other modules with parameters."""

    name: str  # the model's
    matrices: tuple[Matrix, ...]  # in the model's own order
    others: tuple[tuple[str, int], ...]  # norms and the like: (module, its parameters)
    num_layers: int


def check_layers(config: object, name: str) -> None:
    """Refuse a model's config with more layers than any model has: they would be made one by one.

    Raises:
        ValueError: with the number that it says.
    """
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(count, int) and count > LAYERS:
        raise ValueError(
            f"the config of {name} says num_hidden_layers={shown(count)}, and no model has more "
            f"than {LAYERS:,}; give the config as it was published"
        )


def context_of(model: object) -> int | None:
    """The tokens that a model has positions for; None: it doesn't say."""
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context if isinstance(context, int) and context > 0 else None


def layer_of(name: str) -> int | None:
    """The layer's number in a module's name: 7 of "model.layers.7.mlp.up_proj"; None: no layer."""
    match = LAYER.match(name)
    return int(match[1]) if match else None


def last_name(name: str) -> str:
    """A module's own name: "up_proj" of "model.layers.7.mlp.up_proj"."""
    return name.rpartition(".")[2]


def adapted_matrices(model: Modules, recipe: Recipe) -> tuple[Matrix, ...]:
    """The matrices that get an adapter, chosen as PEFT chooses them; empty for method "full".

    One thing that PEFT accepts is refused here: several names of which one matches nothing. PEFT
    complains only if no name matches at all; else it silently trains a smaller adapter (peft#1959).
    The experts of a mixture aren't matrices, so they are left out.

    Raises:
        ValueError: for a target, a layer or a module to save that the model does not have, and for
            a recipe that PEFT refuses.

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
    reached = [
        matrix for matrix in _target_matrices(model, recipe) if not inside(matrix.name, saved)
    ]
    if not reached:
        raise ValueError(
            f"target_modules={recipe.target_modules!r} names nothing in {model.name} that is in "
            f"layers {layers} and not in modules_to_save={recipe.modules_to_save}; give other names"
        )
    embeddings = [matrix.name for matrix in reached if matrix.kind == "embedding"]
    if recipe.method == "adalora" and embeddings:
        raise ValueError(
            f"method='adalora' can't adapt the embedding {embeddings[0]!r}: PEFT knows it for "
            "linear layers; give method='lora', or other target_modules"
        )
    return tuple(reached)


def _target_matrices(model: Modules, recipe: Recipe) -> list[Matrix]:
    """The matrices that `target_modules` names, in the layers of `layers_to_transform`."""
    targets, layers = recipe.target_modules, recipe.layers_to_transform

    def in_layers(name: str) -> bool:
        return layers is None or layer_of(name) in layers

    if targets == "all-linear":
        return [
            matrix
            for matrix in model.matrices
            if matrix.kind == "linear" and in_layers(matrix.name)
        ]
    if isinstance(targets, str):
        if layers is not None:
            raise ValueError(
                f"target_modules={targets!r} with layers_to_transform is refused by PEFT; give a "
                'tuple of names, or "all-linear"'
            )
        return _matched(model, targets)
    known = tuple(sorted({last_name(matrix.name) for matrix in model.matrices}))
    for target in targets:
        if not any(ends(matrix.name, target) for matrix in model.matrices):
            raise ValueError(
                f"{model.name} has no layer called {target!r}; {nearest(target, known)}"
                f"it has: {', '.join(known)}"
            )
    return [  # a whole name matches in any layer: PEFT looks at layers_to_transform after it
        matrix
        for matrix in model.matrices
        if matrix.name in targets
        or (in_layers(matrix.name) and any(ends(matrix.name, target) for target in targets))
    ]


def _matched(model: Modules, pattern: str) -> list[Matrix]:
    """The matrices whose whole name a regex matches."""
    names = {*matching(pattern, (matrix.name for matrix in model.matrices))}
    reached = [matrix for matrix in model.matrices if matrix.name in names]
    if not reached:
        linear = (matrix for matrix in model.matrices if matrix.kind == "linear")
        example = next(linear, model.matrices[0])
        raise ValueError(
            f"target_modules={pattern!r} is read as a regex and matches no whole module name of "
            f"{model.name}; a name here looks like {example.name!r}. For a plain "
            f"name give a tuple: ({pattern!r},)"
        )
    return reached


def matching(pattern: str, names: Iterable[str], field: str = "target_modules") -> list[str]:
    """The names that a regex matches from end to end, as `re.fullmatch` does, in bounded time.

    Python's own `re`, which PEFT uses, may try a pattern in countless ways and can't be stopped.

    Args:
        pattern: in the syntax of `re`.
        names: of modules.
        field: where the pattern stands, for the error.

    Raises:
        ValueError: if the pattern is not a regex, or takes longer than `SECONDS`.
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
    """A regex that matches just these names, and that can be tried in one way only."""
    return "|".join(map(re.escape, names))


def column_of(name: str) -> str:
    """A module's name with its layer's number left open: "model.layers.*.mlp.up_proj"."""
    match = LAYER.match(name)
    return name if match is None else f"{name[: match.start(1)]}*{name[match.end(1) :]}"


def naming(model: Modules, chosen: Collection[str]) -> dict[str, object]:
    """The shortest fields of a recipe that reach the chosen matrices and no others.

    "all-linear" if that does; else the modules' last names, with `layers_to_transform` where only
    some layers are chosen; else a regex, which can name any choice.

    Raises:
        ValueError: if nothing is chosen, or a name that the model does not have.
    """
    unknown = sorted(set(chosen) - {matrix.name for matrix in model.matrices})
    if unknown or not chosen:
        problem = f"{model.name} has no matrix {unknown[0]!r}" if unknown else "nothing is chosen"
        raise ValueError(f"{problem}; give names such as {model.matrices[1].name!r}")
    names = tuple(
        dict.fromkeys(last_name(matrix.name) for matrix in model.matrices if matrix.name in chosen)
    )
    layers = tuple(sorted({layer_of(name) for name in chosen} - {None}))
    attempts = [{"target_modules": "all-linear"}, {"target_modules": names}]
    if layers:
        attempts.append({"target_modules": names, "layers_to_transform": layers})
    for fields in attempts:
        with suppress(ValueError):
            if {matrix.name for matrix in adapted_matrices(model, Recipe(**fields))} == set(chosen):
                return fields
    return {"target_modules": _regex(model, chosen)}


def _regex(model: Modules, chosen: Collection[str]) -> str:
    """A regex for the whole names of just these matrices, with a part for each set of layers."""
    layers: dict[tuple[str, str], list[int | None]] = {}  # the chosen layers of each column
    for matrix in model.matrices:
        if matrix.name in chosen:
            start, _, tail = column_of(matrix.name).partition("*")
            layers.setdefault((start, tail), []).append(layer_of(matrix.name))
    tails: dict[tuple[str, tuple], list[str]] = {}  # of the columns that share their layers
    for (start, tail), numbers in layers.items():
        tails.setdefault((start, tuple(numbers)), []).append(re.escape(tail))
    return "|".join(
        re.escape(start)
        + ("" if numbers == (None,) else _either(map(str, numbers)))
        + _either(shared)
        for (start, numbers), shared in tails.items()
    )


def _either(parts: Iterable[str]) -> str:
    """A regex that matches any of the parts."""
    first, *rest = parts
    return f"({'|'.join([first, *rest])})" if rest else first


def ends(name: str, target: str) -> bool:
    """Whether a module's name is `target`, or ends in it after a dot."""
    return name == target or name.endswith(f".{target}")


def inside(name: str, modules: Iterable[str]) -> bool:
    """Whether a module is among `modules`, or inside one of them."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def saved_modules(model: Modules, recipe: Recipe) -> tuple[str, ...]:
    """The modules of `modules_to_save`, which are trained whole beside the adapter.

    PEFT takes every module whose name *ends* in one of them: "norm" takes "input_layernorm" too.
    """
    names = [matrix.name for matrix in model.matrices] + [name for name, _ in model.others]
    parts = [name.split(".") for name in names]
    modules = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
    for name in recipe.modules_to_save:
        if not any(ends(module, name) for module in modules):
            last_names = {last_name(module) for module in modules}
            known = tuple(sorted(last for last in last_names if not last.isdecimal()))
            raise ValueError(
                f"modules_to_save names {name!r}, which {model.name} does not have; "
                f"{nearest(name, known)}it has, for example: {', '.join(known[:12])}"
            )
    saved = sorted(module for module in modules if module.endswith(recipe.modules_to_save))
    return tuple(module for module in saved if not inside(module.rpartition(".")[0], saved))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape(Modules):
    """What a budget needs to know about a model: its matrices, and a few sizes."""

    hidden_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    config: str  # transformers' config as JSON, the model's class in it: the model can be built

    @property
    def other_parameters(self) -> int:
        """The count of parameters outside matrices and their biases: norms, mostly."""
        return sum(count for _, count in self.others)

    @property
    def parameters(self) -> int:
        """The count of all parameters; a tied matrix is counted once."""
        total = sum(matrix.parameters for matrix in self.matrices) + self.other_parameters
        return total - sum(matrix.weights for matrix in self.matrices if matrix.tied)

    @property
    def tied(self) -> bool:
        """Whether the output layer multiplies with the input embedding."""
        return any(matrix.tied and matrix.kind == "output" for matrix in self.matrices)

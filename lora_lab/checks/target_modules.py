"""Checks for notebook 07, Target modules: a rank for a budget, a regex, a count by PEFT's rule."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.checks.one_token import llama_shapes
from lora_lab.models.architecture import ends, last_name, layer_of, matching
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.fit import fit
from lora_lab.training.store import Run
from lora_lab.wording import percent

Shapes = Mapping[str, tuple[int, int]]  # (out, in) of each matrix, by name

POCKET = llama_shapes(128, 384, 4, 4, 32)
SMOLLM2 = llama_shapes(576, 1536, 9, 3, 64)
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def _llama(of_a_layer: Shapes, layers: int) -> dict[str, tuple[int, int]]:
    """The matrices of a Llama by their whole names."""
    blocks = {name: "mlp" if name in MLP else "self_attn" for name in of_a_layer}
    parts = {f"{blocks[name]}.{name}": sizes for name, sizes in of_a_layer.items()}
    return _stacked("model.layers", layers, parts)


def _stacked(prefix: str, layers: int, of_a_layer: Shapes) -> dict[str, tuple[int, int]]:
    """The matrices of equal layers by their whole names: `h.0.mlp.c_fc`, `h.1.mlp.c_fc`, …"""
    return {
        f"{prefix}.{layer}.{name}": sizes
        for layer in range(layers)
        for name, sizes in of_a_layer.items()
    }


# --- choose under a budget ------------------------------------------------------------------


def _rank_for_budget(shapes: Shapes, parameters: int) -> int:
    """The largest r at which LoRA on all these matrices has at most so many parameters.

    `shapes`: (out, in) of each matrix, by name.
    """
    return parameters // sum(outs + ins for outs, ins in shapes.values())


def _budget_cases() -> Iterator[Case]:
    pocket, smollm2 = _llama(POCKET, 4), _llama(SMOLLM2, 30)
    for model, names, parameters in (
        (pocket, ("q_proj", "v_proj"), 20_480),
        (pocket, MLP, 20_480),
        (pocket, (*ATTENTION, *MLP), 30_000),
        (smollm2, ("q_proj", "v_proj"), 1_221_120),
        (smollm2, ATTENTION, 1_000_000),
    ):
        shapes = {name: sizes for name, sizes in model.items() if name.endswith(names)}
        yield {"shapes": shapes, "parameters": parameters}


def _per_rank(count: Function) -> Function:
    """A slip: the budget divided by another count for each (out, in)."""
    return lambda shapes, parameters: parameters // sum(count(*shape) for shape in shapes.values())


def _exact(shapes: Shapes, parameters: int) -> float:
    return parameters / sum(outs + ins for outs, ins in shapes.values())


rank_for_budget = Exercise(
    _rank_for_budget,
    _budget_cases,
    slips={
        "it is rounded up, and then the adapter is above the budget: round down, with //": (
            lambda shapes, parameters: math.ceil(_exact(shapes, parameters))
        ),
        "it is rounded to the nearest, which may be above the budget: round down, with //": (
            lambda shapes, parameters: round(_exact(shapes, parameters))
        ),
        "a rank is a whole number: divide with //": _exact,
        "these are the base's own weights, out times in; A and B have r (in + out)": (
            _per_rank(lambda outs, ins: outs * ins)
        ),
        "only lora_A is counted: lora_B has r out parameters more": (
            _per_rank(lambda outs, ins: ins)
        ),
        "this is one matrix; the budget is for all of them together": (
            lambda shapes, parameters: parameters // sum(next(iter(shapes.values())))
        ),
        "every matrix counts as if it were square; a gate is wider than its input": (
            _per_rank(lambda outs, ins: 2 * min(outs, ins))
        ),
    },
)

# --- write the regex ------------------------------------------------------------------------


def _reach_regex(modules: tuple[str, ...], layers: tuple[int, ...]) -> str:
    """A regex that matches the whole names of these modules in these layers, and no other name.

    Names look like "model.layers.7.self_attn.q_proj".
    """
    return rf".*\.({'|'.join(map(str, layers))})\..*\.({'|'.join(modules)})"


def _regex_cases() -> Iterator[Case]:
    for modules, layers in (
        (("q_proj", "v_proj"), (1, 12)),
        (("down_proj",), (2, 3)),
        (ATTENTION, (21, 22, 23)),
        (("o_proj", "up_proj"), (0,)),
    ):
        yield {"modules": modules, "layers": layers}


def _reached(function: Function, case: Case) -> dict[str, int]:
    """The matrices that the regex reaches in a Llama of 24 layers, by `re.fullmatch` as in PEFT."""
    regex = function(**case)
    if not isinstance(regex, str):
        raise WrongAnswer("return one string: PEFT reads a list as names, and a string as a regex.")
    try:
        reached = {*matching(regex, _llama(POCKET, 24), "your regex")}
    except ValueError as error:
        raise WrongAnswer(f"{error}.") from error
    targets = {
        name
        for name in _llama(POCKET, 24)
        if last_name(name) in case["modules"] and layer_of(name) in case["layers"]
    }
    return {
        "wanted and reached": len(reached & targets),
        "reached unwanted": len(reached - targets),
    }


def _parts(modules: tuple[str, ...], layers: tuple[int, ...]) -> tuple[str, str]:
    return "|".join(modules), "|".join(map(str, layers))


def _regex_slip(write: Function) -> Function:
    """A slip: a regex from the modules and the layers, each joined by |."""
    return lambda modules, layers: write(*_parts(modules, layers))


TRIAL_MODULES, TRIAL_LAYERS, TRIAL_STEPS = MLP, (2, 3), 60


def _trial(function: Function) -> Verdict:
    """Let PEFT read the learner's regex, count what it reaches, and train pocket with that."""
    base = load_base("pocket", dtype="float32")
    task = replace(load_task("new-facts", base, n=60), old_knowledge=(), strangers=())

    def trained(targets: object) -> Run:
        recipe = Recipe(target_modules=targets, learning_rate=1e-2, steps=TRIAL_STEPS)
        return fit(base, task, recipe, store=None)

    run = trained(function(modules=TRIAL_MODULES, layers=TRIAL_LAYERS))
    reached = {name.rpartition(".lora_")[0] for name in run.learned.tensors}
    wanted = len(TRIAL_MODULES) * len(TRIAL_LAYERS)
    places = {(last_name(name), layer_of(name)) for name in reached}
    if places != {(module, layer) for module in TRIAL_MODULES for layer in TRIAL_LAYERS}:
        return Verdict(
            False,
            f"But in pocket, which has 4 layers, it reaches {len(reached)} matrices where "
            f"{wanted} are wanted.",
        )
    count = sum(tensor.numel() for tensor in run.learned.tensors.values())
    attention = trained(_reach_regex(ATTENTION, TRIAL_LAYERS)).scores.value
    return Verdict(
        True,
        f"PEFT adapted {wanted} matrices of pocket with it, the MLP of its upper half: {count:,} "
        f"numbers. Trained for {TRIAL_STEPS} steps, they learned {percent(run.scores.value)} of 60 "
        f"new facts; the attention of the same layers learned {percent(attention)}.",
    )


reach_regex = Exercise(
    _reach_regex,
    _regex_cases,
    slips={
        "PEFT matches the whole name, from its first letter: begin with .*": (
            _regex_slip(lambda modules, layers: rf"layers\.({layers})\..*\.({modules})")
        ),
        "the layer's number has no dot before and after it, so that 1 is found in 12 and 21": (
            _regex_slip(lambda modules, layers: rf".*({layers}).*({modules})")
        ),
        "[12] is one character, 1 or 2; several numbers are (1|12)": (
            lambda modules, layers: (
                rf".*\.[{''.join(map(str, layers))}]\..*\.({_parts(modules, layers)[0]})"
            )
        ),
        "a | without brackets cuts the whole regex in two; write (q_proj|v_proj)": (
            _regex_slip(lambda modules, layers: rf".*\.{layers}\..*\.{modules}")
        ),
        "this reaches the modules in every layer": (
            _regex_slip(lambda modules, layers: rf".*\.({modules})")
        ),
        "this reaches every module of those layers": (
            _regex_slip(lambda modules, layers: rf".*\.({layers})\..*")
        ),
        "a star alone is a shell's word for anything; in a regex it is .*": (
            _regex_slip(lambda modules, layers: rf"model.layers.({layers}).*({modules})")
        ),
    },
    ask=_reached,
    trial=_trial,
)

# --- predict a count ------------------------------------------------------------------------


def _count_trained(
    shapes: Shapes, target_modules: tuple[str, ...], layers: tuple[int, ...] | None, r: int
) -> int:
    """The number of LoRA's parameters on the matrices that PEFT's rule reaches.

    `shapes`: (out, in) of each matrix, by whole name. A target reaches the names that end in it, as
    whole words between dots. The first number in a name is its layer; only the matrices in `layers`
    count, or all matrices if `layers` is None.
    """
    return sum(
        r * sum(sizes)
        for name, sizes in shapes.items()
        if _is_reached(name, target_modules, layers)
    )


def _is_reached(name: str, targets: tuple[str, ...], layers: tuple[int, ...] | None) -> bool:
    return _is_target(name, targets) and _in_layers(name, layers)


def _is_target(name: str, targets: tuple[str, ...]) -> bool:
    return any(ends(name, target) for target in targets)


def _in_layers(name: str, layers: tuple[int, ...] | None) -> bool:
    return layers is None or layer_of(name) in layers


def _count_cases() -> Iterator[Case]:
    t5_layer = {
        **{f"layer.0.SelfAttention.{name}": (64, 48) for name in "qkv"},
        "layer.0.SelfAttention.o": (48, 64),
        "layer.1.DenseReluDense.wi": (160, 48),
        "layer.1.DenseReluDense.wo": (48, 160),
    }
    gpt2_layer = {
        "attn.c_attn": (2304, 768),
        "attn.c_proj": (768, 768),
        "mlp.c_fc": (3072, 768),
        "mlp.c_proj": (768, 3072),
    }
    t5, gpt2 = _stacked("encoder.block", 6, t5_layer), _stacked("transformer.h", 12, gpt2_layer)
    for shapes, targets, layers, r in (
        (_llama(SMOLLM2, 30), ("q_proj", "v_proj"), (1, 2), 8),
        (t5, ("q", "o"), None, 4),
        (gpt2, ("attn.c_proj",), (1, 11), 16),
        (gpt2, ("c_proj", "c_fc"), None, 2),
    ):
        yield {"shapes": shapes, "target_modules": targets, "layers": layers, "r": r}


def _counting(reaches: Function, count: Function = lambda sizes, r: r * sum(sizes)) -> Function:
    """A slip: the sum of a count over the matrices for which `reaches(name, targets, layers)`."""

    def slip(shapes: Shapes, target_modules: tuple, layers: tuple | None, r: int) -> int:
        return sum(
            count(sizes, r)
            for name, sizes in shapes.items()
            if reaches(name, target_modules, layers)
        )

    return slip


count_trained = Exercise(
    _count_trained,
    _count_cases,
    slips={
        "a target is found anywhere in a name here; PEFT wants it at the end, after a dot": (
            _counting(
                lambda name, t, n: any(target in name for target in t) and _in_layers(name, n)
            )
        ),
        'a name need only end in the target\'s letters here, so "o" reaches "wo"; PEFT wants a dot '
        "before it": (_counting(lambda name, t, n: name.endswith(t) and _in_layers(name, n))),
        'only the last word of a name is looked at; a target may have several: "attn.c_proj"': (
            _counting(lambda name, t, n: last_name(name) in t and _in_layers(name, n))
        ),
        "the layers are not looked at": _counting(lambda name, t, n: _is_target(name, t)),
        "layer 1 is found in 11 and 21 here; compare whole numbers": (
            _counting(
                lambda name, t, n: (
                    _is_target(name, t) and (n is None or any(str(layer) in name for layer in n))
                )
            )
        ),
        "layers=None means every layer, not none": (
            _counting(lambda name, t, n: n is not None and _is_reached(name, t, n))
        ),
        "these are the base's own weights, out times in; A and B have r (in + out)": (
            _counting(_is_reached, lambda sizes, r: sizes[0] * sizes[1])
        ),
        "r is missing: A and B together have r (in + out) parameters": (
            _counting(_is_reached, lambda sizes, r: sum(sizes))
        ),
    },
)

"""The values that each choice of a fine-tune may have, checked one by one."""

import difflib
import math
import numbers
import re
from typing import Any

CHOICES = {  # field: the values it knows
    "method": ("lora", "adalora", "full"),
    "quantize": (None, "nf4", "fp4", "int8"),
    "compute_dtype": ("auto", "float32", "bfloat16", "float16"),
    "optimizer": ("adamw", "sgd", "adamw_8bit", "paged_adamw_8bit"),
    "lr_scheduler_type": ("linear", "cosine", "constant"),
    "loss_on": ("answer", "all"),
}
INITIALISATIONS = ("gaussian", "pissa", "olora", "orthogonal", "loftq")  # beside True and False

# Whole numbers, with the least value that makes sense. None is allowed where the default is None.
WHOLE = {
    "r": (1, "leaves nothing to train; give 1 or more (8 is usual)"),
    "init_r": (1, "leaves nothing to train; give 1 or more (12 is PEFT's default)"),
    "target_r": (1, "leaves nothing to train; give 1 or more (8 is PEFT's default)"),
    "tinit": (0, "is not a number of steps; give 0 or more, or None"),
    "tfinal": (0, "is not a number of steps; give 0 or more, or None"),
    "deltaT": (1, "would never allocate; give 1 or more steps between allocations"),
    "warmup_steps": (0, "is not a number of steps; give 0 for no warm-up"),
    "batch_size": (1, "gives a step no example; give 1 or more (16 is usual)"),
    "gradient_accumulation_steps": (1, "gives a step no batch; give 1 for no accumulation"),
    "max_length": (2, "leaves no room for a prompt and an answer; give 2 or more (256 is usual)"),
    "steps": (1, "trains nothing; give 1 or more"),
    "eval_steps": (1, "would never validate; give 1 or more, or None for no validation"),
    "patience": (0, "is not a number of validations; give 1 or more, or None to train all steps"),
    "seed": (0, "is not a seed; give 0 or more"),
}
MOST = 1_000_000_000  # greatest whole number of any field: no run takes so many
GREATEST = {  # whole numbers with a bound of their own, and what it is
    **dict.fromkeys(("r", "init_r", "target_r"), (1_000_000, "wider than any layer; 8 is usual")),
    "seed": (2**32 - 1, "the greatest that NumPy takes; any small number does as well"),
}
LAYERS = 10_000  # more than any model has
MOST_SHOWN = 300  # letters of a value in an error
FLOAT32 = (1e-37, 1e37)  # what float32 holds with room for a step that takes ten times as much
# Real numbers: (least, least allowed itself?, greatest, greatest allowed itself?, what would fit)
REAL = {
    "lora_alpha": (0, False, math.inf, False, "give a number above 0 (2 * r is a usual start)"),
    "lora_dropout": (0, True, 1, False, "give 0 for none, or for example 0.05"),
    "loraplus_lr_ratio": (0, False, math.inf, False, "give 1 for plain LoRA, 16 for LoRA+"),
    "beta1": (0, False, 1, False, "give a share between them (0.85 is PEFT's default)"),
    "beta2": (0, False, 1, False, "give a share between them (0.85 is PEFT's default)"),
    "orth_reg_weight": (0, True, math.inf, False, "give 0 or more (0.5 is PEFT's default)"),
    "learning_rate": (0, False, math.inf, False, "give for example 2e-4, or 3e-3 for pocket"),
    "weight_decay": (0, True, math.inf, False, "give 0 for none, or for example 0.01"),
    "max_grad_norm": (0, False, math.inf, True, "give 1.0, or math.inf for no clipping"),
}
MAY_BE_NONE = ("tinit", "tfinal", "eval_steps", "patience")  # whole numbers that can be left out
FLAGS = ("use_rslora", "use_dora", "double_quant", "gradient_checkpointing")

HELP = {  # what each field does, in one sentence: the controls' help and the command line's
    "method": "lora trains a small adapter beside the frozen weights; adalora lets its layers "
    "compete for rank, without using r; full trains every weight.",
    "r": "The adapter's rank: how many directions the change of a weight matrix may have.",
    "lora_alpha": "The change is multiplied by lora_alpha / r: the adapter's volume.",
    "target_modules": "Which layers get an adapter: names, all-linear, or a regex.",
    "lora_dropout": "The share of the adapter's input that each step leaves out at random.",
    "use_rslora": "Multiply by lora_alpha / sqrt(r), so that a large r is not muted.",
    "use_dora": "Train each output's magnitude apart from its direction.",
    "init_lora_weights": "How the adapter starts: true (it changes nothing), pissa, olora, loftq …",
    "layers_to_transform": "Which layers are adapted, counted from 0; none: all of them.",
    "modules_to_save": "Layers that are trained whole, beside the adapter.",
    "loraplus_lr_ratio": "B's learning rate, as a multiple of A's (LoRA+).",
    "init_r": "AdaLoRA: the rank of each layer at the start.",
    "target_r": "AdaLoRA: the mean rank of the layers at the end.",
    "tinit": "AdaLoRA: steps before the ranks shrink; none: an eighth of all.",
    "tfinal": "AdaLoRA: steps after the ranks have shrunk; none: half of all.",
    "deltaT": "AdaLoRA: steps from one allocation of the ranks to the next.",
    "beta1": "AdaLoRA: how slowly the measured importance follows each step.",
    "beta2": "AdaLoRA: how slowly the measured uncertainty follows each step.",
    "orth_reg_weight": "AdaLoRA: how strongly an adapter's directions are kept at right angles.",
    "quantize": "Train on a copy of the base whose weights have fewer bits.",
    "double_quant": "With 4 bits: store the blocks' constants in 8 bits, too.",
    "compute_dtype": "With 4 bits: the precision of the products.",
    "optimizer": "How a gradient becomes a step; the 8-bit ones keep a smaller state.",
    "learning_rate": "How far each step goes; too far, and the loss jumps up.",
    "lr_scheduler_type": "How the learning rate falls: linear, cosine, or not at all.",
    "warmup_steps": "Steps over which the learning rate rises from 0.",
    "weight_decay": "How strongly the trained weights are pulled towards 0.",
    "max_grad_norm": "A longer gradient is cut to this length.",
    "batch_size": "How many examples each step looks at.",
    "gradient_accumulation_steps": "How many batches each step adds up.",
    "gradient_checkpointing": "Keep only each layer's input, and compute the rest a second time.",
    "max_length": "How many tokens an example may have; a longer one is left out.",
    "loss_on": "What is learnt: the answer alone, or the prompt as well.",
    "steps": "How many times the weights are moved.",
    "eval_steps": "Steps from one validation loss to the next; none: it is not measured.",
    "patience": "Stop after so many validations without a better loss; the best is kept.",
    "seed": "Decides the adapter's random start and the order of the examples.",
}


def nearest(name: object, known: tuple[object, ...]) -> str:
    """`did you mean 'x'? ` for the known name nearest to a misspelt name; else an empty text."""
    name = name if isinstance(name, str) else shown(name)
    if len(name) > MOST_SHOWN:  # too long for a typing slip, and a million letters take seconds
        return ""
    close = difflib.get_close_matches(name, list(map(str, known)), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


def shown(value: object) -> str:
    """A value as an error shows it: as Python writes it, but never longer than a line or two."""
    if isinstance(value, int) and value.bit_length() > 300:  # only its order of magnitude
        return f"{'-' * (value < 0)}1e{int(value.bit_length() * math.log10(2))}"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a list with a number of 5,000 digits in it
        return f"a {type(value).__name__} that can't be written out"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}… ({len(text):,} letters)"


def checked_value(name: str, value: Any) -> Any:
    """The value of a field in Python's own types; refused if it fits no recipe at all.

    A NumPy number becomes an int or a float, which JSON can hold, and a list becomes a tuple.
    """
    value = _own_type(value)
    if name in CHOICES:
        known = CHOICES[name]
        if not isinstance(value, str | None) or value not in known:
            raise ValueError(
                f"{name}={shown(value)} is not known; {nearest(value, known)}"
                f"give {', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
            )
    elif name in FLAGS:
        if not isinstance(value, bool):
            raise TypeError(f"{name}={shown(value)} is not a yes or no; give a bool")
    elif name in WHOLE:
        if value is not None or name not in MAY_BE_NONE:
            _check_whole(name, value, *WHOLE[name])
    elif name in REAL:
        _check_real(name, value, *REAL[name])
    elif name == "init_lora_weights":
        _check_initialisation(value)
    else:
        return _checked_names(name, value)
    return None if (name, value) == ("patience", 0) else value  # the same choice, the same run


def _own_type(value: Any) -> Any:
    """NumPy's and others' numbers and texts as Python's own; everything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value) if isinstance(value, str) else value


def _checked_names(name: str, value: Any) -> Any:
    """A list as a tuple; refused if it holds neither names nor numbers."""
    example = {
        "target_modules": '("q_proj", "v_proj"), "all-linear" or a regex',
        "modules_to_save": '("lm_head",), or () for none',
        "layers_to_transform": "(0, 1), or None for all layers",
    }[name]
    of_layers = name == "layers_to_transform"
    if value is None and of_layers:
        return value
    if isinstance(value, str) and name == "target_modules" and value:
        _check_name(name, value, value, example)
        return value
    lists = tuple | list | set | range if of_layers else tuple | list | set
    if not isinstance(value, lists):
        raise TypeError(f"{name}={shown(value)} does not fit; give {example}")
    if of_layers and value and (isinstance(value, range) and value[LAYERS:] or len(value) > LAYERS):
        raise ValueError(
            f"{name}={shown(value)} names more than {LAYERS:,} layers, and no model has so many; "
            "give the numbers of some, such as range(0, 4)"
        )
    entries = tuple(map(_own_type, value))
    kind = int if of_layers else str
    if not all(isinstance(entry, kind) and not isinstance(entry, bool) for entry in entries):
        raise TypeError(f"{name}={shown(value)} does not fit; give {example}")
    if not entries and name != "modules_to_save":
        raise ValueError(f"{name}={shown(value)} names nothing to adapt; give {example}")
    if of_layers and min(entries) < 0:
        raise ValueError(f"{name}={shown(value)} counts layers from 0; give {example}")
    if of_layers and max(entries) >= LAYERS:
        raise ValueError(
            f"{name} names layer {shown(max(entries))}, and no model has more than {LAYERS:,}; "
            f"give {example}"
        )
    for entry in () if of_layers else entries:
        _check_name(name, value, entry, example)
    return tuple(sorted(entries)) if isinstance(value, set) else entries


def _check_name(name: str, value: Any, entry: str, example: str) -> None:
    """Refuse a module's name that no module can have."""
    if not entry.strip():
        raise ValueError(f"{name}={shown(value)} names no module; give {example}")
    if any("\ud800" <= sign <= "\udfff" for sign in entry):
        raise ValueError(
            f"{name}={shown(value)} holds half a letter (a surrogate alone), which is in no "
            f"module's name; give {example}"
        )


def _check_initialisation(value: Any) -> None:
    is_text = isinstance(value, str)
    niter = is_text and re.fullmatch(r"pissa_niter_[0-9]{1,2}", value)
    if isinstance(value, bool) or niter or (is_text and value in INITIALISATIONS):
        return
    raise ValueError(
        f"init_lora_weights={shown(value)} is not known; {nearest(value, INITIALISATIONS)}"
        f"give True, False, {', '.join(map(repr, INITIALISATIONS))} or 'pissa_niter_4' (to 99)"
    )


def _check_whole(name: str, value: Any, least: int, otherwise: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name}={shown(value)} is not a whole number; give for example {max(least, 8)}"
        )
    if value < least:
        raise ValueError(f"{name}={shown(value)} {otherwise}")
    fits = otherwise.rpartition("; ")[2]
    most, why = GREATEST.get(name, (MOST, f"more than any run takes; {fits}"))
    if value > most:
        raise ValueError(f"{name}={shown(value)} is above {most:,}, {why}")


def _check_real(
    name: str, value: Any, low: float, low_fits: bool, high: float, high_fits: bool, otherwise: str
) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}={shown(value)} is not a number; {otherwise}")
    above = value > low or (low_fits and value == low)
    below = value < high or (high_fits and value == high)
    if not (above and below):  # NaN is neither
        span = f"{'from' if low_fits else 'above'} {low}"
        if high != math.inf:
            span += f" {'to' if high_fits else 'to below'} {high}"
        finite = "" if high_fits else "a finite number "
        raise ValueError(f"{name}={shown(value)} is not {finite}{span}; {otherwise}")
    if value and value != math.inf and not FLOAT32[0] <= value <= FLOAT32[1]:
        raise ValueError(
            f"{name}={shown(value)} is out of the reach of float32, in which steps are computed: "
            f"{FLOAT32[0]:g} to {FLOAT32[1]:g}; {otherwise}"
        )

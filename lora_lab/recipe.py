"""Every choice of a fine-tune, in one flat record that is checked when it is made."""

import difflib
import math
import numbers
import re
from dataclasses import dataclass, fields
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
FLAGS = ("use_rslora", "use_dora", "double_quant", "gradient_checkpointing")
# Fields that belong to a single method, and do nothing with the others.
ONLY = {
    "lora": ("use_rslora", "use_dora", "init_lora_weights", "loraplus_lr_ratio"),
    "adalora": ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2")
    + ("orth_reg_weight",),
}
OF_4_BITS = ("double_quant", "compute_dtype")  # fields that do nothing with other weights


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
    close = difflib.get_close_matches(str(name), list(map(str, known)), n=1)
    return f"did you mean {close[0]!r}? " if close else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run. Flat, so a sweep is `dataclasses.replace(recipe, r=16)`.

    Names and meanings are PEFT's and transformers'. A value that can't work is refused when the
    recipe is made; whether the target modules exist is checked against the base when it is used.
    """

    method: str = "lora"  # "lora", "adalora" or "full"
    r: int = 8  # the LoRA paper sees no gain from 8 to 64 (arXiv:2106.09685, Table 6)
    lora_alpha: float = 16  # twice r: the usual start, so that scaling is 2
    target_modules: str | tuple[str, ...] = "all-linear"  # names, or PEFT's "all-linear", a regex
    lora_dropout: float = 0.0  # PEFT's default: a short run sees each example about once
    use_rslora: bool = False  # scaling alpha / sqrt(r) in place of alpha / r
    use_dora: bool = False  # a trained magnitude beside the low-rank direction
    init_lora_weights: bool | str = True  # B = 0: training starts at the base
    layers_to_transform: tuple[int, ...] | None = None  # None: all of them
    modules_to_save: tuple[str, ...] = ()  # trained whole, beside the adapter
    loraplus_lr_ratio: float = 1.0  # B's learning rate over A's (LoRA+); 1: plain LoRA
    init_r: int = 12  # AdaLoRA's ranks at the start: PEFT's default
    target_r: int = 8  # AdaLoRA's mean rank at the end: PEFT's default
    tinit: int | None = None  # AdaLoRA: steps before the ranks shrink; None: an eighth
    tfinal: int | None = None  # AdaLoRA: steps after the last allocation; None: half
    deltaT: int = 1  # AdaLoRA: steps between allocations
    beta1: float = 0.85  # AdaLoRA: smoothing of the sensitivity
    beta2: float = 0.85  # AdaLoRA: smoothing of the uncertainty
    orth_reg_weight: float = 0.5  # AdaLoRA: weight of the orthogonality term
    quantize: str | None = None  # train on a quantised copy: "nf4", "fp4" or "int8"
    double_quant: bool = True  # quantise the block constants too (QLoRA, section 3)
    compute_dtype: str = "auto"  # of the products with quantised weights
    optimizer: str = "adamw"
    learning_rate: float = 2e-4  # the LoRA paper's for GPT-3; small models want more
    lr_scheduler_type: str = "linear"  # transformers' default
    warmup_steps: int = 0  # transformers' default
    weight_decay: float = 0.0  # decay on A and B pulls the model back towards its base
    max_grad_norm: float = 1.0  # transformers' default
    batch_size: int = 16  # examples in one pass
    gradient_accumulation_steps: int = 1  # passes in one step
    gradient_checkpointing: bool = False  # less memory, more time
    max_length: int = 256  # tokens; a longer example is counted and left out, never cut
    loss_on: str = "answer"  # "all": the prompt earns a loss too
    steps: int = 100  # optimizer steps
    eval_steps: int | None = None  # steps between validations; None: none
    patience: int | None = None  # validations without a better loss, then stop; None or 0: never
    seed: int = 0  # any fixed number; a claim is made from several

    def __post_init__(self) -> None:
        """Refuse values that cannot work: name the value, why it does not fit, and what would."""
        for field in fields(self):
            value = checked_value(field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)  # frozen, but not yet seen by anyone
        self._check_together()

    @property
    def facts(self) -> dict[str, object]:
        """The fields that identify a run: `patience`, which older runs lack, only where in use."""
        used = [name for name in _DEFAULTS if name != "patience" or self.patience]
        return {name: getattr(self, name) for name in used}

    def _check_together(self) -> None:
        """Refuse values that are valid alone and can't work together."""
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps={self.warmup_steps} leaves none of steps={self.steps} at the full "
                f"learning rate; give at most {self.steps - 1}"
            )
        if self.patience and self.eval_steps is None:
            raise ValueError(
                f"patience={self.patience} counts validations, and eval_steps=None makes none; "
                f"give for example eval_steps={max(1, self.steps // 20)}, or leave patience out"
            )
        for name, product in (
            ("lora_alpha / r", self.scaling),
            ("learning_rate * loraplus_lr_ratio", self.learning_rate * self.loraplus_lr_ratio),
        ):
            if not FLOAT32[0] <= product <= FLOAT32[1]:
                raise ValueError(
                    f"{name} is {product:.3g}, which float32 can't hold together with the steps "
                    f"that multiply it; give values whose product is between {FLOAT32[0]:g} and "
                    f"{FLOAT32[1]:g}"
                )
        for method, names in ONLY.items():
            for name in names:
                if self.method != method and getattr(self, name) != _DEFAULTS[name]:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} means nothing with "
                        f"method={self.method!r}; give method={method!r}, or leave it out"
                    )
        if self.method == "full" and self.quantize is not None:
            raise ValueError(
                f"quantize={self.quantize!r} can't train with method='full': quantised weights "
                "have no gradient; give method='lora'"
            )
        if self.quantize not in ("nf4", "fp4"):
            for name in OF_4_BITS:
                if getattr(self, name) != _DEFAULTS[name]:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} means nothing with "
                        f"quantize={self.quantize!r}; give quantize='nf4', or leave it out"
                    )
        if self.method == "adalora":
            if self.patience:
                raise ValueError(
                    f"patience={self.patience} could stop method='adalora' before its ranks are "
                    "decided; give method='lora', or leave patience out"
                )
            self._check_schedule()
        if self.init_lora_weights == "orthogonal" and self.r % 2:
            raise ValueError(
                f"init_lora_weights='orthogonal' needs an even rank, and r={self.r} is odd; "
                f"give r={self.r + 1}"
            )
        if self.use_dora and self.changes_the_base:
            raise ValueError(
                f"use_dora=True with init_lora_weights={self.init_lora_weights!r} can't be saved "
                "as an adapter for the unchanged base; give one of the two"
            )
        if self.init_lora_weights == "loftq" and self.quantize not in ("nf4", "fp4"):
            raise ValueError(
                "init_lora_weights='loftq' makes up for what 4 bits lose, and "
                f"quantize={self.quantize!r} keeps more; give quantize='nf4', or "
                "init_lora_weights=True"
            )
        if self.quantize and self.changes_the_base:
            raise ValueError(
                f"init_lora_weights={self.init_lora_weights!r} takes its start out of the base's "
                f"weights, and quantize={self.quantize!r} would round what is left; give 'loftq', "
                "which is made for it"
            )

    def _check_schedule(self) -> None:
        """Refuse ranks that can't shrink, and phases that leave no step to shrink them."""
        if self.target_r >= self.init_r:
            raise ValueError(
                f"target_r={self.target_r} leaves nothing to prune from init_r={self.init_r}; "
                f"give a target_r of at most {self.init_r - 1}, or a larger init_r"
            )
        tinit, tfinal = self.schedule
        met = self.steps - tfinal
        phases = f"tinit={tinit} and steps - tfinal = {self.steps} - {tfinal} = {met}"
        if met <= max(tinit, 1):  # PEFT measures importance up to the step before `met`
            raise ValueError(
                f"the ranks shrink between steps {phases}, and after step 1: no step is left for "
                "it; give more steps, or a smaller tinit or tfinal"
            )
        if self.deltaT > met - tinit:
            raise ValueError(
                f"deltaT={self.deltaT} is longer than the {met - tinit} steps between {phases}, in "
                f"which the ranks shrink; give at most {met - tinit}"
            )

    @property
    def schedule(self) -> tuple[int, int]:
        """AdaLoRA's (tinit, tfinal): as given, or where None an eighth and a half of the steps.

        The budget is met at step `steps - tfinal`. The authors' scripts for GLUE wait for 9 %
        (MNLI) and 15 % (RTE) of the steps, and train on for 58 % and 46 %.
        """
        tinit = self.steps // 8 if self.tinit is None else self.tinit
        tfinal = self.steps // 2 if self.tfinal is None else self.tfinal
        return tinit, tfinal

    @property
    def changes_the_base(self) -> bool:
        """Whether the adapter's initialisation subtracts its product from the base's weights."""
        return str(self.init_lora_weights).startswith(("pissa", "olora"))

    @property
    def scaling(self) -> float:
        """The factor that PEFT really applies to BA; for full fine-tuning, which has none, 1.

        AdaLoRA's is α/init_r throughout, as in PEFT's `SVDLinear.update_layer`.
        """
        if self.method == "full":
            return 1.0
        if self.method == "adalora":
            return scaling_of(self.lora_alpha, self.init_r)
        return scaling_of(self.lora_alpha, self.r, self.use_rslora)


def scaling_of(lora_alpha: float, r: int, use_rslora: bool = False) -> float:
    """The factor in front of BA: α/r (arXiv:2106.09685), for rsLoRA α/√r (arXiv:2312.03732)."""
    return lora_alpha / (math.sqrt(r) if use_rslora else r)


_DEFAULTS = {field.name: field.default for field in fields(Recipe)}


def checked_value(name: str, value: Any) -> Any:
    """The value of a field, a list as a tuple; refused if it fits no recipe at all."""
    if name in CHOICES:
        if value not in (known := CHOICES[name]):
            raise ValueError(
                f"{name}={value!r} is not known; {nearest(value, known)}"
                f"give {', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
            )
    elif name in FLAGS:
        if not isinstance(value, bool):
            raise TypeError(f"{name}={value!r} is not a yes or no; give a bool")
    elif name in WHOLE:
        if value is not None or _DEFAULTS[name] is not None:
            _check_whole(name, value, *WHOLE[name])
    elif name in REAL:
        _check_real(name, value, *REAL[name])
    elif name == "init_lora_weights":
        _check_initialisation(value)
    else:
        return _checked_names(name, value)
    return None if (name, value) == ("patience", 0) else value  # the same choice, the same run


def _checked_names(name: str, value: Any) -> Any:
    """A list as a tuple; refused if it holds neither names nor numbers."""
    if isinstance(value, range) and value[LAYERS:]:
        raise ValueError(
            f"{name}={value!r} names more than {LAYERS:,} layers, and no model has so many; "
            "give the numbers of some, such as range(0, 4)"
        )
    if isinstance(value, list | set | range):
        value = tuple(sorted(value) if isinstance(value, set) else value)
    kind = int if name == "layers_to_transform" else str
    if (value is None and kind is int) or (
        isinstance(value, str) and name == "target_modules" and value
    ):
        return value
    example = {
        "target_modules": '("q_proj", "v_proj"), "all-linear" or a regex',
        "modules_to_save": '("lm_head",), or () for none',
        "layers_to_transform": "(0, 1), or None for all layers",
    }[name]
    if not isinstance(value, tuple) or not all(
        isinstance(entry, kind) and not isinstance(entry, bool) for entry in value
    ):
        raise TypeError(f"{name}={value!r} does not fit; give {example}")
    if not value and name != "modules_to_save":
        raise ValueError(f"{name}={value!r} names nothing to adapt; give {example}")
    if kind is int and min(value) < 0:
        raise ValueError(f"{name}={value!r} counts layers from 0; give {example}")
    return value


def _check_initialisation(value: Any) -> None:
    niter = isinstance(value, str) and re.fullmatch(r"pissa_niter_[0-9]{1,3}", value)
    if isinstance(value, bool) or value in INITIALISATIONS or niter:
        return
    raise ValueError(
        f"init_lora_weights={value!r} is not known; {nearest(value, INITIALISATIONS)}"
        f"give True, False, {', '.join(map(repr, INITIALISATIONS))} or 'pissa_niter_4'"
    )


def _check_whole(name: str, value: Any, least: int, otherwise: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name}={value!r} is not a whole number; give for example {max(least, 8)}")
    if value < least:
        raise ValueError(f"{name}={_digits(value)} {otherwise}")
    fits = otherwise.rpartition("; ")[2]
    most, why = GREATEST.get(name, (MOST, f"more than any run takes; {fits}"))
    if value > most:
        raise ValueError(f"{name}={_digits(value)} is above {most:,}, {why}")


def _digits(value: numbers.Real) -> str:
    """A number's digits; only their order of magnitude, where there are very many."""
    if isinstance(value, int) and value.bit_length() > 300:
        return f"{'-' * (value < 0)}1e{int(value.bit_length() * math.log10(2))}"
    return str(value)


def _check_real(
    name: str, value: Any, low: float, low_fits: bool, high: float, high_fits: bool, otherwise: str
) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}={value!r} is not a number; {otherwise}")
    above = value > low or (low_fits and value == low)
    below = value < high or (high_fits and value == high)
    if not (above and below):  # NaN is neither
        span = f"{'from' if low_fits else 'above'} {low}"
        if high != math.inf:
            span += f" {'to' if high_fits else 'to below'} {high}"
        finite = "" if high_fits else "a finite number "
        raise ValueError(f"{name}={_digits(value)} is not {finite}{span}; {otherwise}")
    if value and value != math.inf and not FLOAT32[0] <= value <= FLOAT32[1]:
        raise ValueError(
            f"{name}={_digits(value)} is out of the reach of float32, in which steps are computed: "
            f"{FLOAT32[0]:g} to {FLOAT32[1]:g}; {otherwise}"
        )

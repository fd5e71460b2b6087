"""Every choice of a fine-tune, in one flat record that is checked when it is made."""

import math
from dataclasses import dataclass, fields

from lora_lab.choices import (
    CHOICES,
    FLAGS,
    FLOAT32,
    HELP,
    INITIALISATIONS,
    LAYERS,
    REAL,
    WHOLE,
    checked_value,
    nearest,
    shown,
)

__all__ = [  # with the names of `choices` that other modules import from here
    "CHOICES",
    "FLAGS",
    "FLOAT32",
    "HELP",
    "INITIALISATIONS",
    "LAYERS",
    "OF_4_BITS",
    "ONLY",
    "REAL",
    "WHOLE",
    "Recipe",
    "check_is_recipe",
    "checked_value",
    "nearest",
    "scaling_of",
    "shown",
]

# Fields that belong to a single method, and do nothing with the others.
ONLY = {
    "lora": ("use_rslora", "use_dora", "init_lora_weights", "loraplus_lr_ratio"),
    "adalora": ("init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2")
    + ("orth_reg_weight",),
}
OF_4_BITS = ("double_quant", "compute_dtype")  # fields that do nothing with other weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that decides a run. Flat, so a sweep is `dataclasses.replace(recipe, r=16)`.

    Names and meanings are PEFT's and transformers'. Whether the target modules exist is checked
    against the base when the recipe is used.

    Raises:
        ValueError: if a value can't work, alone or together with the others.
        TypeError: if a value is of the wrong type.
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
        """The fields that identify a run. `patience` counts only if it is set: old runs lack it."""
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


def check_is_recipe(given: object) -> None:
    """Refuse anything that is not a Recipe, such as a dict with its fields."""
    if not isinstance(given, Recipe):
        how = "**settings" if isinstance(given, dict) else "r=8, steps=100"
        raise TypeError(f"{shown(given)} isn't a recipe; give lab.Recipe({how})")


def scaling_of(lora_alpha: float, r: int, use_rslora: bool = False) -> float:
    """The factor in front of BA: α/r (arXiv:2106.09685), for rsLoRA α/√r (arXiv:2312.03732)."""
    return lora_alpha / (math.sqrt(r) if use_rslora else r)


_DEFAULTS = {field.name: field.default for field in fields(Recipe)}

"""Controls for the choices of a recipe, each with a sentence of help; and the code for them."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from lora_lab.machine.devices import named
from lora_lab.models.bases import Base
from lora_lab.models.built_in import BUILT_IN
from lora_lab.recipe import (
    CHOICES,
    FLAGS,
    HELP,
    INITIALISATIONS,
    LAYERS,
    OF_4_BITS,
    ONLY,
    Recipe,
)
from lora_lab.widgets import markup

FOLDED = ("method", "r", "lora_alpha", "learning_rate", "steps", "batch_size", "seed")

_ADAPTERS = ("lora", "adalora")
_USED_BY = {  # the methods that use a field; with others it has no effect
    "r": ("lora",),
    **dict.fromkeys(("lora_alpha", "lora_dropout", "target_modules"), _ADAPTERS),
    **dict.fromkeys(("layers_to_transform", "modules_to_save"), _ADAPTERS),
    **{field: (method,) for method, fields in ONLY.items() for field in fields},
}
# A recipe refuses these if they have no effect, so a disabled control gives their default.
_REFUSED = (*ONLY["lora"], *ONLY["adalora"], *OF_4_BITS)
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Recipe)}
TARGETS = (  # of a Llama, and of models whose matrices bear the same names
    "all-linear",
    *((name,) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *((name,) for name in ("gate_proj", "up_proj", "down_proj")),
    ("q_proj", "v_proj"),
)
_WIDE = {"description_width": "7.5em"}
NONE = "none"  # stands for None, which for a Dropdown means that nothing is chosen


# --- the kinds of controls ----------------------------------------------------------------------


def _number_control(
    kind: type[widgets.Widget], **limits: object
) -> Callable[[object], widgets.Widget]:
    return lambda value: kind(value=value, **limits)


def _choice_control(
    options_with: Callable[[object], Sequence],
) -> Callable[[object], widgets.Widget]:
    return lambda value: widgets.Dropdown(value=_option(value), options=options_with(value))


def _option(value: object) -> object:
    return NONE if value is None else value


def _target_options(targets: str | tuple[str, ...]) -> list[tuple[str, str | tuple[str, ...]]]:
    """The options for `target_modules`, each with its label; the value at hand comes first."""
    options = dict.fromkeys([targets, *TARGETS])
    return [
        (option if isinstance(option, str) else ", ".join(option), option) for option in options
    ]


def _start_options(start: bool | str) -> list[tuple[str, bool | str]]:
    """The options for `init_lora_weights`; the value at hand is among them."""
    options = dict.fromkeys([True, False, *INITIALISATIONS, start])
    return [(str(option).lower(), option) for option in options]


_OPTIONS = {"target_modules": _target_options, "init_lora_weights": _start_options}


# --- values that are written as text ------------------------------------------------------------


def _text_of(value: object) -> str:
    """A value as its text box has it: `0, 1`; empty for None and for no names."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else f"{value:g}"


def _whole_or_none(field: str, text: str) -> int | None:
    if not text.strip():
        return None
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"{field}={text!r} is not a whole number; give one, or leave it empty"
        ) from None


def _real(field: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{field}={text!r} is not a number; give 1, or inf for none") from None


def _names(_: str, text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _layers_or_none(field: str, text: str) -> tuple[int, ...] | None:
    """`0, 1, 4-6` as (0, 1, 4, 5, 6); None for an empty text."""
    layers: list[int] = []
    for part in _names(field, text):
        ends = part.split("-")
        if len(ends) > 2 or not all(end.strip().isdecimal() for end in ends):
            raise ValueError(
                f"{part!r} in {field} isn't a layer; give numbers from 0, such as 0, 1 or 0-3, or "
                "leave it empty for all layers"
            )
        first, last = int(ends[0]), int(ends[-1])
        if last > LAYERS:
            raise ValueError(f"{field}={text!r} goes beyond {LAYERS:,} layers; give fewer")
        layers += range(first, last + 1)
    return tuple(dict.fromkeys(layers)) or None


_READ = {  # how the value of a text box is read
    **dict.fromkeys(("tinit", "tfinal", "eval_steps", "patience"), _whole_or_none),
    "layers_to_transform": _layers_or_none,
    "modules_to_save": _names,
    "max_grad_norm": _real,  # inf too, which a number box can't send to the browser
}

_COUNT = _number_control(widgets.BoundedIntText, min=1, max=1024)
_STEPS = _number_control(widgets.BoundedIntText, min=1, max=100_000)
_SHARE = _number_control(widgets.FloatText, step=0.05)
_CONTROL = {
    "r": _COUNT,
    "lora_alpha": _number_control(widgets.FloatText, step=1),
    **dict.fromkeys(("init_r", "target_r", "batch_size", "gradient_accumulation_steps"), _COUNT),
    **dict.fromkeys(("steps", "deltaT"), _STEPS),
    "learning_rate": _number_control(widgets.FloatText, step=0.0001),
    "loraplus_lr_ratio": _number_control(widgets.FloatText, step=1),
    "warmup_steps": _number_control(widgets.BoundedIntText, min=0, max=100_000),
    "weight_decay": _number_control(widgets.FloatText, step=0.01),
    **dict.fromkeys(("lora_dropout", "beta1", "beta2", "orth_reg_weight"), _SHARE),
    "max_length": _number_control(widgets.BoundedIntText, min=2, max=1_000_000),
    "seed": _number_control(widgets.BoundedIntText, min=0, max=10**9),
    **dict.fromkeys(FLAGS, lambda value: widgets.Checkbox(value=value, indent=False)),
    **{
        field: _choice_control(lambda _, known=known: [*map(_option, known)])
        for field, known in CHOICES.items()
    },
    **{field: _choice_control(options) for field, options in _OPTIONS.items()},
    **dict.fromkeys(_READ, lambda value: widgets.Text(value=_text_of(value))),
}


class RecipeControls:
    """A control for each field, made from a recipe; `recipe` is that recipe with their values.

    Args:
        recipe: gives every value that has no control.
        fields: names of recipe fields, in order.
    """

    def __init__(self, recipe: Recipe, fields: Sequence[str]) -> None:
        unknown = [field for field in fields if field not in _CONTROL]
        if unknown:
            raise ValueError(
                f"there is no control for {unknown[0]!r}; there are: {', '.join(_CONTROL)}"
            )
        self._recipe = recipe
        self.changed: Callable[[], None] = lambda: None  # called after a control was moved
        self.controls = {field: _CONTROL[field](getattr(recipe, field)) for field in fields}
        for field, control in self.controls.items():
            control.description, control.style = field, _WIDE
            control.layout.width = "16em"
            control.observe(lambda _: self._on_change(), names="value")
        self._on_change()

    def _on_change(self) -> None:
        """Disable controls that have no effect with the other choices, and call `changed`."""
        chosen = {field: self._value_of(field) for field in ("method", "quantize")}
        for field, control in self.controls.items():
            control.disabled = not _has_effect(field, **chosen)
        self.changed()

    def _value_of(self, field: str) -> object:
        """The control's value, or the recipe's own value if there is no control."""
        control = self.controls.get(field)
        if control is None:
            return getattr(self._recipe, field)
        if field in _READ:
            return _READ[field](field, control.value)
        return None if control.value == NONE else control.value

    def row(self, field: str) -> widgets.Widget:
        """The control with its help, folded behind a question mark."""
        parts = [self.controls[field], widgets.HTML(markup.help_text(HELP[field]))]
        return widgets.HBox(parts, layout={"align_items": "center"})

    def narrow_row(self, field: str) -> widgets.Widget:
        """The same, no wider than its words: for controls that stand side by side."""
        control = self.controls[field]
        control.style.description_width, control.layout.width = "initial", "auto"
        return self.row(field)

    def aligned_rows(self, fields: Sequence[str]) -> list[widgets.Widget]:
        """The same for several fields: their labels as wide as the longest name."""
        label = 0.6 * max(map(len, fields))
        for field in fields:
            control = self.controls[field]
            control.style.description_width = f"{label:.1f}em"
            control.layout.width = f"{label + 8:.1f}em"
            if isinstance(control, widgets.Checkbox):
                control.indent = True  # its name stands to the right of the box
                control.layout.width = f"{label + max(8, 0.6 * len(field) + 3):.1f}em"
        return [self.row(field) for field in fields]

    @property
    def recipe(self) -> Recipe:
        """The recipe that is chosen now.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        return self.recipe_with()

    def recipe_with(self, **changes: object) -> Recipe:
        """The chosen recipe with some fields changed; disabled controls give the defaults."""
        values = {field: self._value_of(field) for field in self.controls if field not in changes}
        whole = dataclasses.asdict(self._recipe) | values | changes
        chosen = {field: whole[field] for field in ("method", "quantize")}
        for field in values:
            if field in _REFUSED and not _has_effect(field, **chosen):
                values[field] = _DEFAULTS[field]
        return dataclasses.replace(self._recipe, **values, **changes)

    def choose(self, **values: object) -> None:
        """Set controls by their fields, as a learner would; all of them, or none.

        Raises:
            ValueError: for a field without a control, with the fields that have controls; for
                values that no recipe takes, with what would fit.
        """
        for field in values:
            if field not in self.controls:
                raise ValueError(
                    f"there is no control for {field!r} here, only for: {', '.join(self.controls)}"
                )
        recipe = self.recipe_with(**values)
        for field in values:
            self._set(field, getattr(recipe, field))

    def reset(self, recipe: Recipe) -> None:
        """Take every value from another recipe."""
        self._recipe = recipe
        for field in self.controls:
            self._set(field, getattr(recipe, field))
        self._on_change()

    def _set(self, field: str, value: object) -> None:
        control = self.controls[field]
        if field in _READ:
            control.value = _text_of(value)
            return
        if field in _OPTIONS:
            control.options = _OPTIONS[field](value)
        elif isinstance(control, widgets.BoundedIntText):
            control.max = max(control.max, value)
        control.value = _option(value)


def _has_effect(field: str, method: str, quantize: str | None) -> bool:
    """Whether a field does something with a method and a quantisation."""
    return method in _USED_BY.get(field, (method,)) and (
        field not in OF_4_BITS or quantize in ("nf4", "fp4")
    )


def recipe_code(recipe: Recipe) -> str:
    """The expression that makes this recipe: `lab.Recipe(r=4, steps=60)`, defaults left out."""
    arguments = [
        f"{field.name}={getattr(recipe, field.name)!r}"
        for field in dataclasses.fields(recipe)
        if getattr(recipe, field.name) != field.default
    ]
    line = f"lab.Recipe({', '.join(arguments)})"
    if len(line) <= 80:
        return line
    return "lab.Recipe(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"


def task_code(name_or_file: str, **columns: str) -> str:
    """The expression that loads a task: `lab.load_task("my.csv", base, prompt="question")`."""
    given = [json.dumps(name_or_file, ensure_ascii=False), "base"]
    given += [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in columns.items()]
    return f"lab.load_task({', '.join(given)})"


def script(base: Base, task: str | None, recipe: Recipe) -> str:
    """The fine-tune in Python. `task` is the expression that loads the task, or None."""
    name = base.name if base.name in BUILT_IN else str(base.path)
    return (
        "import lora_lab as lab\n\n"
        f'base = lab.load_base("{name}", dtype="{named(base.dtype)}")\n'
        f"task = {task or '...  # the Task that this lab was given'}\n"
        f"recipe = {recipe_code(recipe)}\n"
        "run = lab.fit(base, task, recipe)"
    )

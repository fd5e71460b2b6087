"""Controls for the choices of a recipe, each with a sentence of help; and the code for them."""

import dataclasses
import json
from collections.abc import Callable, Sequence

import ipywidgets as widgets

from lora_lab.machine.devices import named
from lora_lab.models.bases import Base
from lora_lab.models.built_in import BUILT_IN
from lora_lab.recipe import CHOICES, HELP, Recipe
from lora_lab.widgets import markup

FOLDED = ("method", "r", "lora_alpha", "learning_rate", "steps", "batch_size", "seed")

_USED_BY = {  # the methods that use a field; with others it has no effect
    "r": ("lora",),
    "lora_alpha": ("lora", "adalora"),
    "lora_dropout": ("lora", "adalora"),
}
TARGETS = (  # of a Llama, and of models whose matrices bear the same names
    "all-linear",
    *((name,) for name in ("q_proj", "k_proj", "v_proj", "o_proj")),
    *((name,) for name in ("gate_proj", "up_proj", "down_proj")),
    ("q_proj", "v_proj"),
)
_WIDE = {"description_width": "7.5em"}


def _number_control(
    kind: type[widgets.Widget], **limits: object
) -> Callable[[object], widgets.Widget]:
    return lambda value: kind(value=value, **limits)


def _target_options(targets: str | tuple[str, ...]) -> list[tuple[str, str | tuple[str, ...]]]:
    """The options for `target_modules`, each with its label; the value at hand comes first."""
    options = dict.fromkeys([targets, *TARGETS])
    return [
        (option if isinstance(option, str) else ", ".join(option), option) for option in options
    ]


NONE = "none"  # stands for None, which a Dropdown would take for "nothing is chosen"


def _option(value: object) -> object:
    return NONE if value is None else value


_CONTROL = {
    "method": lambda value: widgets.Dropdown(value=value, options=CHOICES["method"]),
    "r": _number_control(widgets.BoundedIntText, min=1, max=1024),
    "lora_alpha": _number_control(widgets.FloatText, step=1),
    "learning_rate": _number_control(widgets.FloatText, step=0.0001),
    "steps": _number_control(widgets.BoundedIntText, min=1, max=100_000),
    "batch_size": _number_control(widgets.BoundedIntText, min=1, max=1024),
    "gradient_accumulation_steps": _number_control(widgets.BoundedIntText, min=1, max=1024),
    "warmup_steps": _number_control(widgets.BoundedIntText, min=0, max=100_000),
    "weight_decay": _number_control(widgets.FloatText, step=0.01),
    "lora_dropout": _number_control(widgets.FloatText, step=0.05),
    "max_length": _number_control(widgets.BoundedIntText, min=2, max=1_000_000),
    "gradient_checkpointing": lambda value: widgets.Checkbox(value=value, indent=False),
    "loss_on": lambda value: widgets.Dropdown(value=value, options=CHOICES["loss_on"]),
    "seed": _number_control(widgets.BoundedIntText, min=0, max=10**9),
    "quantize": lambda value: widgets.Dropdown(
        value=_option(value), options=[*map(_option, CHOICES["quantize"])]
    ),
    "target_modules": lambda value: widgets.Dropdown(value=value, options=_target_options(value)),
}


class RecipeControls:
    """One control per field, made from a recipe; `recipe` is that recipe with their values.

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
        """Switch off what the method does not use, and call `changed`."""
        method = self._value_of("method")
        for field, methods in _USED_BY.items():
            if field in self.controls:
                self.controls[field].disabled = method not in methods
        self.changed()

    def _value_of(self, field: str) -> object:
        """What is chosen, or the recipe's own value where there is no control."""
        control = self.controls.get(field)
        if control is None:
            return getattr(self._recipe, field)
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

    @property
    def recipe(self) -> Recipe:
        """The recipe that is chosen now.

        Raises:
            ValueError: if the choices do not fit together, with what would.
        """
        values = {field: self._value_of(field) for field in self.controls}
        return dataclasses.replace(self._recipe, **values)

    def choose(self, **values: object) -> None:
        """Set controls by their fields, as a learner would.

        Raises:
            ValueError: for a field without a control, with those that have one.
        """
        for field, value in values.items():
            if field not in self.controls:
                raise ValueError(
                    f"no control for {field!r} is here; {', '.join(self.controls)} are"
                )
            self.controls[field].value = _option(value)

    def reset(self, recipe: Recipe) -> None:
        """Take every value from another recipe."""
        self._recipe = recipe
        for field, control in self.controls.items():
            if field == "target_modules":
                control.options = _target_options(recipe.target_modules)
            control.value = _option(getattr(recipe, field))
        self._on_change()


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
    """The fine-tune in Python. `task` is the expression that loads it; None: there is none."""
    name = base.name if base.name in BUILT_IN else str(base.path)
    return (
        "import lora_lab as lab\n\n"
        f'base = lab.load_base("{name}", dtype="{named(base.dtype)}")\n'
        f"task = {task or '...  # the Task that this lab was given'}\n"
        f"recipe = {recipe_code(recipe)}\n"
        "run = lab.fit(base, task, recipe)"
    )

"""A model's matrices to click: by module, by layer or one by one, or in PEFT's own words."""

import ast
import functools
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace

import ipywidgets as widgets

from lora_lab import plots
from lora_lab.cost.budget import adapter_parameters, trainable_parameters
from lora_lab.cost.estimates import find_shape
from lora_lab.models.architecture import (
    Matrix,
    adapted_matrices,
    column_of,
    last_name,
    layer_of,
    naming,
)
from lora_lab.recipe import Recipe
from lora_lab.widgets import markup
from lora_lab.widgets.boxes import LabBox, PictureView
from lora_lab.wording import fine_percent

NAME, SIZES = "12em", "16em"  # widths
DRAWN, SIZE = 16, (560, 330)  # layers that are drawn at most; the picture in pixels


class ModuleTree(LabBox):
    """The matrices that a recipe adapts, clicked or typed. Nothing is trained or loaded.

    `recipe` is the choice in PEFT's words; `chosen` holds the names of the matrices, and `trained`
    the number of parameters that are trained.

    Args:
        model: a Base, a name such as "llama-7b", a config or a folder, as `estimate` takes it.
        changes: recipe fields to begin with.

    Raises:
        ValueError: for an unknown model, or a recipe that does not fit it.
    """

    def __init__(self, model: object = "pocket", **changes: object) -> None:
        self.shape = find_shape(model)
        self._recipe = Recipe(**changes)
        self._columns: dict[str, list[Matrix]] = {}  # by kind of module: its matrix in each layer
        for matrix in self.shape.matrices:
            self._columns.setdefault(column_of(matrix.name), []).append(matrix)
        self._size = "30px" if self.shape.num_layers <= DRAWN else "20px"  # of a cell
        self._sizes: dict[str, widgets.HTML] = {}
        self._quiet = False  # while many cells change at once
        self.cells = {matrix.name: self._cell(matrix) for matrix in self.shape.matrices}
        self.r = widgets.BoundedIntText(self._recipe.r, 1, 1024, description="r")
        self.r.style.description_width, self.r.layout.width = "1em", "6em"
        self.typed = widgets.Text(
            placeholder='names, "all-linear", or a regex', continuous_update=False
        )
        self.typed.description, self.typed.layout.width = "target_modules", "32em"
        self.typed.style.description_width = "initial"
        self.state, self.code = widgets.HTML(), widgets.HTML()
        self.state.add_class("lora-lab-state")
        self.view = PictureView(SIZE[0])
        clear = _toggle_button("nothing", lambda: self._set(()), "6em")
        super().__init__(
            [
                widgets.HTML(markup.title(f"Which modules of {self.shape.name}?")),
                widgets.HBox([self.typed, self.r, clear], layout={"flex_flow": "row wrap"}),
                widgets.VBox(self._rows(), layout={"overflow": "auto", "max_width": "100%"}),
                self.state,
                self.code,
                *[self.view] * (self.shape.num_layers <= DRAWN),
            ]
        )
        self.typed.observe(lambda change: self._on_typed(change.new), names="value")
        self.r.observe(lambda _: self._show(), names="value")
        self.choose(self._recipe.target_modules, self._recipe.layers_to_transform)

    # --- the choice -----------------------------------------------------------------------------

    @property
    def chosen(self) -> tuple[str, ...]:
        """The names of the matrices that get an adapter, in the model's order."""
        return tuple(name for name, cell in self.cells.items() if cell.value)

    @property
    def recipe(self) -> Recipe:
        """The recipe that adapts the chosen matrices, written as shortly as possible.

        Raises:
            ValueError: if nothing is chosen.
        """
        places = {"layers_to_transform": None} | naming(self.shape, self.chosen)
        return replace(self._recipe, r=self.r.value, **places)

    @property
    def trained(self) -> int:
        """The number of parameters that this recipe trains; 0 if nothing is chosen."""
        return trainable_parameters(self.shape, self.recipe) if self.chosen else 0

    def choose(
        self, target_modules: str | Sequence[str], layers_to_transform: Sequence[int] | None = None
    ) -> None:
        """Choose by PEFT's two fields, as a recipe has them.

        Raises:
            ValueError: for a name or layer that the model does not have, with the nearest name.
        """
        recipe = replace(
            self._recipe, target_modules=target_modules, layers_to_transform=layers_to_transform
        )
        self._set({matrix.name for matrix in adapted_matrices(self.shape, recipe)})

    # --- clicks ---------------------------------------------------------------------------------

    def _toggle(self, names: Sequence[str]) -> None:
        """Switch these matrices on, or off if all of them are on."""
        chosen, these = set(self.chosen), set(names)
        self._set(chosen - these if these <= chosen else chosen | these)

    def _set(self, names: Collection[str]) -> None:
        self._quiet = True
        for name, cell in self.cells.items():
            cell.value = name in names
        self._quiet = False
        self._show()

    def _on_typed(self, text: str) -> None:
        if text.strip():
            try:
                self.choose(_read_target_modules(text.strip()))
            except (TypeError, ValueError) as error:  # the choice stays
                self.state.value = markup.error_text(error)

    # --- what is shown --------------------------------------------------------------------------

    def _rows(self) -> list[widgets.Widget]:
        layers = range(self.shape.num_layers)
        numbers = [
            _toggle_button(
                str(layer), functools.partial(self._toggle, self._names_in_layer(layer)), self._size
            )
            for layer in layers
        ]
        rows = [_line(_fixed_width(NAME, "layer"), _fixed_width(SIZES), *numbers)]
        for group, columns in self._groups().items():
            names = [matrix.name for column in columns for matrix in self._columns[column]]
            label = group or "outside the layers"
            button = _toggle_button(label, functools.partial(self._toggle, names), NAME)
            rows.append(_line(button))
            rows += map(self._row_of, columns)
        return rows

    def _row_of(self, column: str) -> widgets.Widget:
        """A kind of module: its name, its sizes, and a cell for each layer."""
        matrices = self._columns[column]
        names = [matrix.name for matrix in matrices]
        self._sizes[column] = _fixed_width(SIZES)
        by_layer = {layer_of(name): self.cells[name] for name in names}
        cells = [by_layer[None]] if None in by_layer else []
        if not cells:
            layers = range(self.shape.num_layers)
            cells = [by_layer.get(layer) or _fixed_width(self._size) for layer in layers]
        button = _toggle_button(last_name(column), functools.partial(self._toggle, names), NAME)
        return _line(button, self._sizes[column], *cells)

    def _groups(self) -> dict[str, list[str]]:
        """The columns by the module that holds them; the last, "", has those outside the layers."""
        stems = {column.partition("*")[0] for column in self._columns if "*" in column}
        groups: dict[str, list[str]] = {}
        for column in self._columns:
            group = column.rpartition(".")[0] if "*" in column else ""
            if len(stems) == 1:
                group = group.partition("*.")[2]
            groups.setdefault(group, []).append(column)
        outside = groups.pop("", [])
        return groups | ({"": outside} if outside else {})

    def _names_in_layer(self, layer: int) -> list[str]:
        """The names of the matrices in a layer."""
        return [name for name in self.cells if layer_of(name) == layer]

    def _cell(self, matrix: Matrix) -> widgets.ToggleButton:
        layout = {"width": self._size, "margin": "1px"}
        cell = widgets.ToggleButton(tooltip=matrix.name, layout=layout)
        cell.observe(lambda _: self._quiet or self._show(), names="value")
        return cell

    def _show(self) -> None:
        self._draw()
        for cell in self.cells.values():
            cell.button_style = "primary" if cell.value else ""
        for column, label in self._sizes.items():
            matrix = self._columns[column][0]
            count = adapter_parameters(matrix, replace(self._recipe, r=self.r.value))
            sizes = f"{matrix.in_features:,} → {matrix.out_features:,}"
            label.value = markup.faint(f"{sizes} · {count:,}{' (tied)' * matrix.tied}")
        if not self.chosen:
            self.state.value, self.code.value = "nothing is chosen", ""
            return
        matrices, count = f"{len(self.chosen)} of {len(self.cells)} matrices adapted", self.trained
        share = fine_percent(count / self.shape.parameters)
        self.state.value = f"{matrices} · {count:,} parameters · {share} of the model's"
        self.code.value = markup.code(_peft_code(self.recipe))

    def _draw(self) -> None:
        if self.shape.num_layers <= DRAWN:
            self.view.show(self.picture)

    @property
    def picture(self) -> plots.Picture:
        """The matrices in the layers to scale, with their adapters."""
        inside = [matrix for matrix in self.shape.matrices if layer_of(matrix.name) is not None]
        chosen = {name for name in self.chosen if layer_of(name) is not None}
        numbers = self.shape.name, inside, chosen, self.r.value
        return plots.picture(plots.draw_module_tree, *numbers, size=SIZE)

    def _repr_mimebundle_(self, **options: object) -> tuple[dict[str, object], dict[str, object]]:
        """The widget; and its picture for readers without a kernel."""
        still, alt = self.picture._repr_mimebundle_()
        return super()._repr_mimebundle_(**options) | still | {"text/plain": repr(self)}, alt

    def __repr__(self) -> str:
        return f"ModuleTree: {self.shape.name} · {len(self.cells)} matrices to choose from"


def _read_target_modules(text: str) -> str | tuple[str, ...]:
    """`target_modules` as typed: names with commas, quoted or not; "all-linear"; or a regex."""
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    if text == "all-linear" or set(text) & set(r"\*[](){}|^$+?"):
        return text
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _peft_code(recipe: Recipe) -> str:
    """PEFT's fields as they are written in Python, a regex raw."""
    targets = recipe.target_modules
    text = f'r"{targets}"' if isinstance(targets, str) and "\\" in targets else repr(targets)
    return f"r={recipe.r}, target_modules={text}, layers_to_transform={recipe.layers_to_transform}"


def _toggle_button(description: str, do: Callable[[], None], width: str) -> widgets.Button:
    layout = {"width": width, "margin": "1px", "padding": "0", "flex": "0 0 auto"}
    button = widgets.Button(description=description, tooltip=description, layout=layout)
    button.on_click(lambda _: do())
    return button


def _fixed_width(width: str, text: str = "") -> widgets.HTML:
    """A text that keeps its width, however narrow the page."""
    return widgets.HTML(text, layout={"width": width, "margin": "1px", "flex": "0 0 auto"})


def _line(*parts: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(parts, layout={"align_items": "center", "overflow": "visible"})

"""A picture of cells to click: each has a name, and the arrow keys go from cell to cell."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence

import ipywidgets as widgets

from lora_lab.plots import Picture
from lora_lab.widgets.boxes import PictureView

# ipywidgets has no event for a key. The attribute keeps the notebook's own keys away from a cell.
_ARROWS = """\
const box = this.closest('.lora-lab');
box.addEventListener('focusin', event => {
  const grid = event.target.closest('.lora-lab-cells');
  if (grid) grid.setAttribute('data-lm-suppress-shortcuts', 'true');
});
box.addEventListener('keydown', event => {
  const grid = event.target.closest('.lora-lab-cells');
  const cells = grid ? [...grid.querySelectorAll('button')] : [];
  const columns = grid ? getComputedStyle(grid).gridTemplateColumns.split(' ').length : 0;
  const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
  if (!step || !grid) return;
  event.preventDefault();
  event.stopPropagation();
  const at = cells.indexOf(event.target);
  const next = cells[at + step];
  const sameRow = Math.floor(at / columns) === Math.floor((at + step) / columns);
  if (!next || (Math.abs(step) === 1 && !sameRow)) return;
  next.focus();
  next.click();
});"""
_LOOK = """
.lora-lab-over { position: relative; overflow: visible; }
.lora-lab-over > .lora-lab-cells { position: absolute; margin: 0; overflow: visible; }
.lora-lab-cells > button.lora-lab-cell { width: auto; height: auto; min-width: 0; margin: 0;
  padding: 0; font-size: 0; background: none; box-shadow: none; border: none; border-radius: 2px; }
.lora-lab-cells > button.lora-lab-cell:hover { background: rgba(255, 255, 255, 0.15); }
.lora-lab-cells > button.lora-lab-cell.lora-lab-shown:enabled {
  box-shadow: inset 0 0 0 2px #fff, inset 0 0 0 4px #D55E00; }
.lora-lab-cells > button.lora-lab-cell:focus-visible { outline: 3px solid #D55E00; z-index: 1; }
"""


class CellGrid(widgets.Box):
    """A picture with a button over each of its cells; a click, or an arrow key, chooses one.

    A button's words are not seen: they are its name for a screen reader, and its tooltip.
    `chosen` is the cell that was chosen last; `cells` holds the buttons.

    Args:
        rows: the cells, row by row from the top, as keys.
        size: the picture's size in pixels on the screen.
        margins: around the cells, in pixels: left, right, bottom, top.
        on_choose: called with the key of a cell that is chosen.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Hashable]],
        size: tuple[int, int],
        margins: tuple[int, int, int, int],
        on_choose: Callable[[Hashable], None],
    ) -> None:
        self.view = PictureView(size[0])
        self.cells = {key: widgets.Button() for row in rows for key in row}
        self.chosen: Hashable | None = None
        self._on_choose = on_choose
        for key, cell in self.cells.items():
            cell.add_class("lora-lab-cell")
            cell.on_click(functools.partial(self._clicked, key))
        buttons = widgets.GridBox([*self.cells.values()], layout=_place(rows, size, margins))
        buttons.add_class("lora-lab-cells")
        super().__init__(
            [self.view, buttons, widgets.HTML(f'<style onload="{_ARROWS}">{_LOOK}</style>')],
            layout={"max_width": "100%"},
        )
        self.add_class("lora-lab-over")

    def choose(self, key: Hashable) -> None:
        """Choose a cell, as a click on it does."""
        if self.chosen is not None:
            self.cells[self.chosen].remove_class("lora-lab-shown")
        self.chosen = key
        self.cells[key].add_class("lora-lab-shown")
        self._on_choose(key)

    def show(self, picture: Picture, names: Mapping[Hashable, str]) -> None:
        """Put in a picture, with a name of each cell for people who do not see it."""
        self.view.show(picture)
        for key, name in names.items():
            self.cells[key].description = name

    def _clicked(self, key: Hashable, _: widgets.Button) -> None:
        self.choose(key)


def _place(
    rows: Sequence[Sequence[Hashable]],
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
) -> dict[str, str]:
    """Where the buttons are, in shares of the picture: it shrinks with a narrow page."""
    (width, height), (left, right, bottom, top) = size, margins
    return {
        "left": f"{100 * left / width:.3f}%",
        "top": f"{100 * top / height:.3f}%",
        "width": f"{100 * (width - left - right) / width:.3f}%",
        "height": f"{100 * (height - bottom - top) / height:.3f}%",
        "grid_template_columns": f"repeat({len(rows[0])}, 1fr)",
        "grid_template_rows": f"repeat({len(rows)}, 1fr)",
    }

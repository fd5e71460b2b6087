"""A heat-map over two fields of a recipe, with its ridge and its plateau."""

import math
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lora_lab.plots.canvas import BASE, INK, LEGEND, PALE, RUN, axis_end, tidy
from lora_lab.training.surface import Cell, Place, Surface
from lora_lab.wording import counted

DARKEST = 0.75  # the shade of the best possible score: the ridge stays visible on it
NAMES = {  # of a measure, and its unit
    "validation loss": "validation loss, nats per token",
    "loss": "loss on the test, nats per token",
    "KL": "KL to the teacher, nats per token",
    "perplexity": "perplexity on the test",
    "old_knowledge": "old facts kept, %",
    "strangers": "strangers still “not known”, %",
}
Point = tuple[float, float]


def draw_surface(ax: Axes, surface: Surface) -> Axes:
    """The mean and the 95 % interval of each setting, darker where better.

    The title asks for the best setting of each column, and says how it runs when all is trained. A
    black line, the ridge, links these settings. A frame encloses the plateau: the settings that
    are not significantly worse than the best. A bar shows how much of a cell is trained.

    Args:
        ax: where to draw.
        surface: the scores, as far as they are known.
    """
    xs, ys = surface.xs, surface.ys
    tidy(ax, _title(surface), surface.x, surface.y)
    ax.grid(visible=False)
    for place, cell in surface.cells.items():
        _draw_cell(ax, (xs.index(place[0]), ys.index(place[1])), cell, surface, place)
    _draw_ridge(ax, surface)
    _draw_plateau(ax, surface)
    ax.set(xlim=(-0.5, len(xs) - 0.5), ylim=(-0.5, len(ys) - 0.5))
    ax.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    ax.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    _draw_legend(ax, surface)
    ax.set_label(_surface_in_words(surface))
    return ax


draw_surface.margins = 72, 12, 78, 28  # pixels on the screen: left, right, bottom, top
draw_surface.colours = 128  # of its PNG: words on shaded cells take many bytes with all of them


def surface_size(columns: int, rows: int) -> tuple[int, int]:
    """The pixels of a surface's picture: room for two lines of words in each cell."""
    left, right, bottom, top = draw_surface.margins
    return left + right + max(388, 73 * columns), bottom + top + max(150, 43 * rows)


def _draw_cell(ax: Axes, at: Point, cell: Cell, surface: Surface, place: Place) -> None:
    dark = DARKEST * _goodness(surface, cell.mean) if cell.is_known else 0.0
    colour = mpl.colormaps["Blues"](dark) if cell.is_known else PALE
    ax.barh(at[1], 0.97, left=at[0] - 0.485, height=0.95, color=colour)
    look = {"ha": "center", "va": "center", "color": "white" if dark > 0.5 else INK, "zorder": 4}
    for words, up, size in _cell_words(surface, place):
        ax.text(at[0], at[1] + up, words, fontsize=size, **look)
    if 0 < cell.done < 1:
        for share, ink in ((1.0, "white"), (cell.done, RUN)):
            ax.barh(at[1] - 0.42, 0.9 * share, left=at[0] - 0.45, height=0.09, color=ink, zorder=5)


def _cell_words(surface: Surface, place: Place) -> list[tuple[str, float, float]]:
    """What stands in a cell: words, how far above its middle, points."""
    cell = surface.cells[place]
    if cell.diverged:
        return [("diverged", 0.08, 9.5), (counted(cell.diverged, "seed"), -0.24, 9)]
    if not cell.is_known:
        return [("…" if cell.done else "", 0.0, 10)]
    number, interval = _number(surface, cell.mean), surface.interval(place)
    if surface.seeds == 1:
        return [(number, 0.0, 10.5)]
    spread = "1 seed" if interval is None else _range(surface, interval)
    return [(number, 0.08, 10.5), (spread, -0.24, 9)]


def _draw_ridge(ax: Axes, surface: Surface) -> None:
    """Draw the line through the upper parts of the cells, above their words."""
    places = [(surface.xs.index(x), surface.ys.index(y) + 0.38) for x, y in surface.ridge.items()]
    look = {"color": BASE, "linewidth": 1.4, "marker": "o", "markersize": 4.5}
    line = Line2D(*_columns(places), drawstyle="steps-mid", zorder=7, **look)
    line.set_path_effects([withStroke(linewidth=3, foreground="white")])
    ax.add_line(line)


def _draw_plateau(ax: Axes, surface: Surface) -> None:
    """Draw the frame around the plateau, dashed while seeds are missing."""
    style = "-" if surface.is_whole else (0, (3, 2))
    for start, end in _edges(surface):
        edge = Line2D(*_columns([start, end]), color=BASE, linewidth=2.2, linestyle=style, zorder=6)
        edge.set_clip_on(False)
        ax.add_line(edge)


def _edges(surface: Surface) -> Iterator[tuple[Point, Point]]:
    """The outer sides of the plateau: sides of its cells whose neighbour is not in it."""
    inside = {(surface.xs.index(x), surface.ys.index(y)) for x, y in surface.plateau}
    for column, row in sorted(inside):
        for right, up in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            if (column + right, row + up) not in inside:
                middle = column + right / 2, row + up / 2
                yield (
                    (middle[0] - up / 2, middle[1] - right / 2),
                    (middle[0] + up / 2, middle[1] + right / 2),
                )


def _columns(places: list[Point]) -> tuple[list[float], list[float]]:
    return [x for x, _ in places], [y for _, y in places]


def _draw_legend(ax: Axes, surface: Surface) -> None:
    """Write below the axes what numbers, line and frame mean, and the number of seeds."""
    spread = ": mean, 95 % interval" if surface.seeds > 1 else ""
    numbers = f"{_name(surface)}{spread}; {_seeds_in_words(surface)}"
    keys = [Line2D([], [], color=BASE, linewidth=1.6, marker="o", markersize=4)]
    names = [f"best {surface.y} of each {surface.x}"]
    if surface.plateau:
        keys.append(Line2D([], [], color=BASE, marker="s", markersize=9, linestyle=""))
        keys[-1].set_markerfacecolor("none")
        names.append("not told apart from the best")
    look = LEGEND | {"ncols": 2, "columnspacing": 1.4, "handlelength": 1.6}
    ax.figure.legend(
        keys, names, loc="lower left", bbox_to_anchor=(0, 0.05), borderaxespad=0, **look
    )
    ax.figure.text(0.012, 0.02, numbers, fontsize=9, color=INK)


def _goodness(surface: Surface, score: float) -> float:
    """0 for the worst score on the scale, 1 for the best possible."""
    if surface.is_share:
        return score
    most = max(cell.mean for cell in surface.cells.values() if cell.is_known)
    return 1 - max(0.0, score) / axis_end(most)


# --- in words -------------------------------------------------------------------------------


def _title(surface: Surface) -> str:
    """The question while runs are missing; then how the ridge runs."""
    best = [*surface.ridge.values()]
    if not surface.is_whole or not best:
        return f"Which {surface.y} for each {surface.x}?"
    if min(best) == max(best):
        return f"The best {surface.y} is {best[0]:g} at each {surface.x}"
    if best == sorted(best):
        return f"The best {surface.y} rises with {surface.x}"
    if best == sorted(best, reverse=True):
        return f"The best {surface.y} falls with {surface.x}"
    return f"The best {surface.y} is {min(best):g} to {max(best):g}"


def _name(surface: Surface) -> str:
    return NAMES.get(surface.measure, f"{surface.measure}, %")


def _number(surface: Surface, value: float) -> str:
    """A share in percent without its sign; a loss with two or three digits."""
    return f"{100 * value:.0f}" if surface.is_share else f"{value:.{_decimals(value)}f}"


def _range(surface: Surface, interval: tuple[float, float]) -> str:
    """`95 to 99` of a share, `± 0.03` of a loss."""
    low, high = interval
    if surface.is_share:
        return f"{100 * low:.0f} to {100 * high:.0f}"
    half = (high - low) / 2
    return f"± {half:.{_decimals((low + high) / 2)}f}"


def _decimals(value: float) -> int:
    return 2 if value >= 0.0995 else min(5, 1 - math.floor(math.log10(max(value, 1e-5))))


def _seeds_in_words(surface: Surface) -> str:
    """`10 seeds`, or `3 to 4 of 10 seeds` while they are trained."""
    counts = [len(cell.scores) + cell.diverged for cell in surface.cells.values()]
    all_seeds = counted(surface.seeds, "seed")
    so_far = " to ".join(dict.fromkeys(f"{count}" for count in (min(counts), max(counts))))
    whole = surface.is_whole or surface.seeds == 1  # with one seed, empty cells show it
    return all_seeds if whole else f"{so_far} of {all_seeds}"


def _place_in_words(surface: Surface, place: Place) -> str:
    return f"{surface.x} {place[0]:g}, {surface.y} {place[1]:g}"


def cell_in_words(surface: Surface, place: Place) -> str:
    """`r 4, learning_rate 0.003: 0.41 ± 0.03 (10 seeds)`."""
    cell = surface.cells[place]
    if cell.diverged:
        said = f"{cell.diverged} of {counted(surface.seeds, 'seed')} diverged"
    elif not cell.is_known:
        said = f"{100 * cell.done:.0f} % trained" if cell.done else "not trained yet"
    else:
        seeds, interval = counted(len(cell.scores), "seed"), surface.interval(place)
        spread = f" {_range(surface, interval)}" if interval and not surface.is_share else ""
        if interval and surface.is_share:
            seeds = f"{_range(surface, interval)}; {seeds}"
        unit = " %" if surface.is_share else ""
        said = f"{_number(surface, cell.mean)}{spread}{unit} ({seeds})"
    return f"{_place_in_words(surface, place)}: {said}"


def _surface_in_words(surface: Surface) -> str:
    settings = counted(len(surface.cells), "setting")
    known = sum(cell.is_known for cell in surface.cells.values())
    start = f"{_name(surface)}, by {surface.x} and {surface.y}"
    if surface.best is None:
        return f"{start}: none of {settings} has a score yet."
    sentences = [f"{start}; {_seeds_in_words(surface)}. Best: "]
    sentences[0] += cell_in_words(surface, surface.best)
    diverged = sum(cell.diverged > 0 for cell in surface.cells.values())
    if known + diverged < len(surface.cells):
        sentences.append(f"{known + diverged} of {settings} have a score so far")
    if diverged:
        sentences.append(f"{counted(diverged, 'setting')} diverged with a seed or more")
    if surface.plateau:
        alike = len(surface.plateau)
        sentences.append(f"{alike} of {settings}, the best included, can't be told apart from it")
    ridge = ", ".join(f"{y:g} at {surface.x} {x:g}" for x, y in surface.ridge.items())
    sentences.append(f"The best {surface.y}: {ridge}")
    return f"{'. '.join(sentences)}."

"""Sets of modules: the results of training them, and the matrices of a model that they reach."""

from collections.abc import Collection, Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.models.architecture import Matrix, last_name, layer_of
from lora_lab.plots.canvas import EARLIER, FULL, INK, LEGEND, NEW, PALE, RUN, corner, tidy
from lora_lab.training.summary import interval_of_scores
from lora_lab.wording import counted, percent, percent_range

TASK_LOOKS = ((NEW, "s"), (RUN, "o"), (FULL, "D"))  # a colour and a marker for each task


def draw_sets(ax: Axes, title: str, scores: Mapping[str, Mapping[str, Sequence[float]]]) -> Axes:
    """A row for each set of modules: its right answers on each task, with 95 % intervals.

    Args:
        ax: where to draw.
        title: what the chart shows, or its question.
        scores: the share of the test that is right for each seed, by task and set.
    """
    tidy(ax, title, "", "")
    sets = [*next(iter(scores.values()))]
    step, summaries = 0.66 / len(scores), []
    for number, (task, by_set) in enumerate(scores.items()):
        colour, marker = TASK_LOOKS[number]
        for place, name in enumerate(sets):
            seeds = by_set[name]
            mean = sum(seeds) / len(seeds)
            low, high = interval_of_scores(seeds, share=True)
            y = place + (number - (len(scores) - 1) / 2) * step
            ax.plot([0, 100 * mean], [y, y], color=colour, linewidth=1, alpha=0.35)
            ax.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2.5)
            label = None if place else task
            style = {"color": colour, "markersize": 6, "clip_on": False, "label": label}
            ax.plot([100 * mean], [y], marker, **style)
            summaries.append(f"{name}, {task}: {percent(mean)} ({percent_range(low, high)})")
    seeds = len(next(iter(next(iter(scores.values())).values())))
    corner(ax, counted(seeds, "seed"))
    ax.set(xlim=(-2, 102), ylim=(len(sets) - 0.45, -0.55))
    ax.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)])
    ax.set_yticks(range(len(sets)), sets, fontsize=9.5, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=len(scores), **LEGEND)
    ax.set_label(f"{title}. Right answers, means with 95 % intervals. {'; '.join(summaries)}.")
    return ax


def draw_hunt(
    ax: Axes,
    modules: Sequence[str],
    left: Mapping[Collection[str], float],
    secret: Collection[str] = (),
) -> Axes:
    """A row for each training: the modules that it trained, and the share of the error left.

    Args:
        ax: where to draw.
        modules: all modules that can be trained.
        left: the error after a training as a share of the base's, by the modules that it trained;
            the oldest training first.
        secret: the modules with the change, once they are known: they are framed.
    """
    tidy(ax, "Where is the change? The error that each training leaves", "", "")
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    rows, wide = max(len(left), 6), len(modules)
    for place, module in enumerate(modules):
        name = module.removesuffix("_proj")
        ax.text(place, -0.75, name, ha="center", va="center", fontsize=9.5, color=INK)
        if module in secret:
            frame = {"facecolor": "none", "edgecolor": NEW, "linewidth": 2.2, "zorder": 3}
            ax.bar(place, len(left) + 0.6, 0.98, bottom=-1.1, **frame)
    for row, (trained, share) in enumerate(left.items()):
        for place, module in enumerate(modules):
            colour = RUN if module in trained else PALE
            ax.barh(row, 0.84, left=place - 0.42, height=0.8, color=colour)
        ax.barh(row, 5 * min(share, 1), left=wide, height=0.5, color=EARLIER)
        where = wide + 5 * min(share, 1) + 0.15, row
        ax.text(*where, percent(share), va="center", fontsize=9.5, color=INK)
    ax.text(wide, -0.75, "error left", va="center", fontsize=9.5, color=INK)
    ax.set(xlim=(-0.6, wide + 6.2), ylim=(rows - 0.4, -1.2), xticks=[], yticks=[])
    said = "; ".join(f"{', '.join(trained)}: {percent(share)}" for trained, share in left.items())
    words = f"The share of the error that is left by what is trained: {said or 'no training yet'}."
    if secret:
        words += f" The change is in {' and '.join(secret)}."
    ax.set_label(words)
    return ax


def draw_module_tree(
    ax: Axes, model: str, matrices: Sequence[Matrix], chosen: Collection[str], r: int
) -> Axes:
    """A model's matrices to scale, a row per kind and a column per layer; adapted ones are blue.

    Args:
        ax: where to draw.
        model: the model's name.
        matrices: the matrices inside its layers, in the model's order.
        chosen: the names of the adapted matrices: A stands below the matrix, B to its right.
        r: the adapter's rank.
    """
    layers = sorted({layer_of(matrix.name) for matrix in matrices})
    tall: dict[str, float] = {}  # by kind: the height of its row
    for matrix in matrices:
        tall[last_name(matrix.name)] = max(tall.get(last_name(matrix.name), 0), matrix.out_features)
    widest = max(matrix.in_features for matrix in matrices)
    gap, rows, y = 0.3 * min(tall.values()), {}, 0.0
    for kind, height in tall.items():
        rows[kind] = y + height / 2
        y += height + gap
    tidy(ax, f"{model}: {len(chosen)} of {len(matrices)} matrices get an adapter", "layer", "")
    ax.grid(visible=False)
    thick, step = max(r, 0.1 * min(tall.values())), 1.35 * widest
    for matrix in matrices:
        out, wide = matrix.out_features, matrix.in_features
        left, middle = step * layers.index(layer_of(matrix.name)), rows[last_name(matrix.name)]
        reached = matrix.name in chosen
        look = {"edgecolor": RUN if reached else EARLIER, "color": PALE, "linewidth": 1}
        ax.barh(middle, wide, left=left, height=out, **look)
        if reached:
            ax.barh(middle, thick, left=left + wide + thick / 2, height=out, color=RUN)
            ax.barh(middle + out / 2 + thick, wide, left=left, height=thick, color=RUN)
    ax.set(xlim=(-0.05 * step, len(layers) * step), ylim=(y, -gap))
    middles = [step * place + widest / 2 for place in range(len(layers))]
    ax.set_xticks(middles, [str(layer) for layer in layers])
    ax.set_yticks([*rows.values()], [*rows], fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    kinds = dict.fromkeys(last_name(matrix.name) for matrix in matrices if matrix.name in chosen)
    ax.set_label(
        f"{len(chosen)} of the {len(matrices)} matrices in {model}'s "
        f"{counted(len(layers), 'layer')} get an adapter of rank {r}"
        f"{': ' if kinds else ''}{', '.join(kinds)}."
    )
    return ax

"""The next tokens, likeliest first; a row of tokens with its labels and losses; rows of a batch."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lora_lab.plots.canvas import EARLIER, FULL, INK, LEGEND, NEW, PALE, RUN, tidy
from lora_lab.wording import percent


def draw_next_token(ax: Axes, shares: Mapping[str, float]) -> Axes:
    """The likeliest next tokens as bars.

    Args:
        ax: where to draw.
        shares: each token's probability, 0 to 1, the likeliest first.
    """
    tidy(ax, "Which token comes next?", "probability, %", "")
    ax.grid(visible=False, axis="y")
    names = [f"“{token}”" for token in shares]  # a leading space is a part of the token
    ax.barh(range(len(shares)), [100 * share for share in shares.values()], color=RUN, height=0.6)
    for place, share in enumerate(shares.values()):
        words = {"va": "center", "fontsize": 9.5, "color": INK}
        ax.text(100 * share + 1.5, place, _percent_text(share), **words)
    ax.set(xlim=(0, 115), ylim=(len(shares) - 0.45, -0.55), xticks=range(0, 101, 25))
    ax.set_yticks(range(len(shares)), names, fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    summaries = [
        f"{name} {_percent_text(share)}" for name, share in zip(names, shares.values(), strict=True)
    ]
    ax.set_label(f"The likeliest next tokens: {', '.join(summaries)}.")
    return ax


Guess = tuple[str, float]  # the likeliest next token, and its probability


def draw_path(
    ax: Axes,
    tokens: Sequence[str],
    guesses: Sequence[Sequence[Guess]],
    asked: Sequence[str | None],
    losses: Sequence[float | None],
) -> Axes:
    """A row of tokens through a model: the guess after each layer, the label, the loss.

    Args:
        ax: where to draw.
        tokens: the row; its last token predicts nothing and has no column.
        guesses: for each layer, a guess at each place.
        asked: the token that each place's label asks for; None for −100.
        losses: in nats; None where there is no label.
    """
    labelled = [loss for loss in losses if loss is not None]
    mean = sum(labelled) / len(labelled)
    tidy(ax, f"What does each token have to predict? Loss {mean:.2f} nats per label", "", "")
    ax.grid(visible=False)
    last = len(guesses) + 2
    for place, token in enumerate(tokens[: len(losses)]):
        _draw_cell(ax, place, 0, token.strip(), PALE, 1)
        for layer, by_place in enumerate(guesses, start=1):
            guess, share = by_place[place]
            _draw_cell(ax, place, layer, guess.strip(), RUN, 0.06 + 0.94 * share)
        if losses[place] is None:
            _draw_cell(ax, place, last - 1, "−100", PALE, 0.35)
            _draw_cell(ax, place, last, "", PALE, 0.35)
        else:
            _draw_cell(ax, place, last - 1, asked[place].strip(), NEW, 0.45)
            heat = 0.08 + 0.92 * min(1, losses[place] / 20)
            _draw_cell(ax, place, last, f"{losses[place]:.2f}", FULL, heat)
    rows = ["token", *(f"guess after layer {layer}" for layer in range(1, len(guesses) + 1))]
    rows += ["label: predict …", "loss, nats"]
    ax.set(xlim=(-0.5, len(losses) - 0.5), ylim=(last + 0.5, -0.5), xticks=[])
    ax.set_yticks(range(len(rows)), rows, fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    named = [
        f"{tokens[place].strip()} must predict {asked[place].strip()}: {loss:.2f}"
        for place, loss in enumerate(losses)
        if loss is not None
    ]
    ax.set_label(
        f"{len(labelled)} of {len(losses)} places have a label. {'; '.join(named)}; "
        f"a mean of {mean:.2f} nats."
    )
    return ax


draw_path.colours = 128


def draw_reading(
    ax: Axes,
    sentences: Sequence[str],
    shares: Sequence[Sequence[float]],
    answer: str,
) -> Axes:
    """How much each layer looks at each sentence of a prompt as it begins its answer.

    Args:
        ax: where to draw.
        sentences: the notes, then the question; a row for each.
        shares: for each layer, the share of attention on each sentence.
        answer: the model's answer.
    """
    tidy(ax, f"Where does it look before it answers “{answer}”?", "", "")
    ax.grid(visible=False)
    for layer, looks in enumerate(shares):
        for row, share in enumerate(looks):
            _draw_cell(ax, layer, row, f"{100 * share:.0f} %", RUN, 0.04 + 0.96 * share)
    ax.set(xlim=(-0.5, len(shares) - 0.5), ylim=(max(len(sentences), 6) - 0.5, -0.5))
    ax.set_xticks(range(len(shares)), [f"layer {n}" for n in range(1, len(shares) + 1)], fontsize=9)
    ax.set_yticks(range(len(sentences)), sentences, fontsize=9.5)
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    means = [sum(looks) / len(shares) for looks in zip(*shares, strict=True)]
    seen = [f"{name} {100 * mean:.0f} %" for name, mean in zip(sentences, means, strict=True)]
    ax.set_label(
        f"Attention of the place that begins the answer, a mean of {len(shares)} layers: "
        f"{'; '.join(seen)}. The answer: {answer}."
    )
    return ax


draw_reading.colours = 128


def _draw_cell(ax: Axes, place: int, row: int, words: str, colour: str, strength: float) -> None:
    """A cell with words in it, darker where stronger."""
    ax.barh(row, 0.95, left=place - 0.475, height=0.88, color=colour, alpha=strength)
    dark = colour in (RUN, FULL) and strength > 0.55
    ink = "white" if dark else INK
    ax.text(place, row, words, ha="center", va="center", fontsize=9, color=ink)


def _percent_text(share: float) -> str:
    """A share of 1 in percent, with one decimal below 10 %: `62 %`, `9.5 %`, `0.1 %`."""
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"


SEGMENTS = {  # what a place of a batch holds: its colour, how strong it is, its words
    "prompt": (EARLIER, 0.45, "prompt"),
    "answer": (NEW, 0.75, "answer"),
    "end": (INK, 1, "end token"),
    "pad": (PALE, 0.6, "padding"),
    "cut": (FULL, 0.5, "cut off"),
}


def strips_size(rows: int) -> tuple[int, int]:
    """The size of `draw_strips` in pixels on the screen."""
    return 620, 96 + 20 * rows


def draw_strips(ax: Axes, title: str, rows: Sequence[Sequence[tuple[str, int]]]) -> Axes:
    """A batch as it goes into the model: a strip for each row, its tokens in colour by their kind.

    Args:
        ax: where to draw.
        title: what was done to the examples.
        rows: the segments of each row from left to right: a name of SEGMENTS, and how many tokens.
    """
    kept = sum(count for row in rows for name, count in row if name not in ("pad", "cut"))
    padding = sum(count for row in rows for name, count in row if name == "pad")
    parts = [name for row in rows for name, _ in row]
    lost = parts.count("prompt") - parts.count("end")
    share = f"{percent(padding / (kept + padding))} padding"
    said = f"{len(rows)} rows, {kept + padding} places, {share}"
    said += f", {lost} without an end token" if lost else ""
    tidy(ax, f"{title}: {said}", "place in the row, in tokens", "")
    ax.grid(visible=False)
    for place, row in enumerate(rows):
        start = 0
        for name, count in row:
            colour, strength, _ = SEGMENTS[name]
            look = {"color": colour, "alpha": strength, "height": 0.8, "linewidth": 0}
            ax.barh(place, count, left=start, **look)
            if name == "prompt" and start:  # another example begins
                ax.barh(place, 0.35, left=start - 0.2, color="white", height=0.9)
            start += count
    for colour, strength, words in SEGMENTS.values():
        ax.barh(0, 0, color=colour, alpha=strength, label=words)
    ax.set(ylim=(len(rows) - 0.4, -0.6), yticks=[], xlim=(0, None))
    ax.spines[["left"]].set_visible(False)
    ax.figure.legend(loc="outside lower left", ncols=len(SEGMENTS), **LEGEND)
    ax.set_label(f"{title}: {said}; {kept} tokens of examples.")
    return ax


draw_strips.colours = 32

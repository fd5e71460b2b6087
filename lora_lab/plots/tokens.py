"""The next tokens and their probabilities."""

from collections.abc import Mapping

from matplotlib.axes import Axes

from lora_lab.plots.canvas import INK, RUN, tidy


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


def _percent_text(share: float) -> str:
    """A share of 1 in percent, with one decimal below 10 %: `62 %`, `9.5 %`, `0.1 %`."""
    return f"{100 * share:.{0 if share >= 0.0995 else 1}f} %"

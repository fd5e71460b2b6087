"""Along which line of alpha and learning rate is the loss the same?"""

import math
from collections.abc import Mapping
from statistics import mean


def crossings(losses: Mapping[tuple[float, float], float], level: float) -> dict[float, float]:
    """For each alpha, the lowest learning rate at which the loss falls through a level.

    Between two rates that were tried, the loss is taken to be straight in the rate's logarithm. An
    alpha whose loss never falls through the level is left out.

    Args:
        losses: by (alpha, learning rate), in nats per token; nan where a run diverged.
        level: a loss.
    """
    found = {}
    for alpha in dict.fromkeys(alpha for alpha, _ in losses):
        rates = sorted(rate for one, rate in losses if one == alpha)
        for low, high in zip(rates, rates[1:], strict=False):
            above, below = losses[alpha, low], losses[alpha, high]
            if above >= level > below:  # never true of nan
                share = (above - level) / (above - below)
                found[alpha] = low * (high / low) ** share
                break
    return found


def slope(rates: Mapping[float, float]) -> float:
    """How steeply the learning rate falls with alpha along the line, both as logarithms.

    -1: twice the alpha does what twice the rate does; -2: what four times the rate does. By least
    squares.

    Args:
        rates: the learning rate on the line, by alpha.

    Raises:
        ValueError: for fewer than two alphas.
    """
    if len(rates) < 2:
        raise ValueError(
            f"{len(rates)} alphas make no line; give two or more, or a level that more reach"
        )
    x, y = [math.log(alpha) for alpha in rates], [math.log(rate) for rate in rates.values()]
    middle_x, middle_y = mean(x), mean(y)
    together = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return together / sum((a - middle_x) ** 2 for a in x)

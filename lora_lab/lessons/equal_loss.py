"""The line of alpha and learning rate along which the loss is the same."""

import math
from collections.abc import Mapping
from statistics import linear_regression


def crossings(losses: Mapping[tuple[float, float], float], level: float) -> dict[float, float]:
    """The lowest learning rate at which the loss falls through a level, by alpha.

    Between two rates that were tried, the loss is taken as linear in the rate's logarithm. An alpha
    whose loss never falls through the level is left out.

    Args:
        losses: by (alpha, learning rate), in nats per token; nan if a run diverged.
        level: a loss, in nats per token.
    """
    rate_at_level = {}
    for alpha in dict.fromkeys(alpha for alpha, _ in losses):
        rates = sorted(rate for other, rate in losses if other == alpha)
        for low, high in zip(rates, rates[1:], strict=False):
            above, below = losses[alpha, low], losses[alpha, high]
            if above >= level > below:  # never true for nan
                share = (above - level) / (above - below)
                rate_at_level[alpha] = low * (high / low) ** share
                break
    return rate_at_level


def slope(rates: Mapping[float, float]) -> float:
    """The slope of the line by least squares: the learning rate over alpha, both as logarithms.

    At -1, doubling alpha has the effect of doubling the rate; at -2, of four times the rate.

    Args:
        rates: the learning rate on the line, by alpha.

    Raises:
        ValueError: for fewer than two alphas.
    """
    if len(rates) < 2:
        raise ValueError(
            f"{len(rates)} alphas make no line; give two or more, or a level that more reach"
        )
    log_alphas, log_rates = map(math.log, rates), map(math.log, rates.values())
    return linear_regression([*log_alphas], [*log_rates]).slope

"""The measures: which are shares, for which less is better, and which difference matters."""

import math

MARGIN = 0.02  # of a share, unless another is given: 2 points
RIGHT = "right answers"
ANSWERS = ("exact match", "accuracy", "field F1", "valid JSON", "King James style")
SHARES = (RIGHT, *ANSWERS, "old_knowledge", "strangers")
FORGETTING = {  # fields of Scores, in words
    "old_knowledge": "old facts kept",
    "strangers": 'strangers still "not known"',
}
LOWER_IS_BETTER = {"loss": " nats", "KL": " nats", "perplexity": ""}  # with their units


def checked_margin(measure: str, margin: float | None) -> float | None:
    """The margin, or the measure's default; refused where it can't be meant."""
    share = measure not in LOWER_IS_BETTER
    if share and measure not in SHARES:
        known = ", ".join((*SHARES, *LOWER_IS_BETTER))
        raise ValueError(f"no measure is called {measure!r}; give one of {known}")
    if margin is None:
        return MARGIN if share else None
    if not 0 < margin < (1 if share else math.inf):
        fitting = "0.02 for 2 points of a share" if share else "a number above 0"
        raise ValueError(f"margin={margin:g} isn't a difference in {measure!r}; give {fitting}")
    return margin

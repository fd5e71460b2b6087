"""Pictures: the one door to matplotlib. Every draw function is (ax, numbers) -> ax.

`plots.picture(plots.draw_loss, records)` in a notebook shows one.
"""

import logging

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns while it first lists its fonts

from lora_lab.plots.alpha import (
    draw_alpha_map,
    draw_best_rates,
    draw_plane,
    draw_scalings,
    draw_twins,
)
from lora_lab.plots.by_rank import draw_cliff, draw_held, draw_new_and_old, draw_together
from lora_lab.plots.canvas import (
    BASE,
    EARLIER,
    FULL,
    INK,
    NEW,
    OLD,
    PALE,
    PAPER,
    RUN,
    SIZE,
    Picture,
    axes_for,
    axis_end,
    picture,
    png,
)
from lora_lab.plots.competing import draw_budget, draw_importance, draw_rivals
from lora_lab.plots.decay import draw_decay
from lora_lab.plots.learning_rates import draw_by_rate, draw_rate_finder, draw_rate_map
from lora_lab.plots.lengths import draw_cost_of_length, draw_lengths
from lora_lab.plots.losses import LossFilm, draw_loss
from lora_lab.plots.matrices import (
    draw_changes,
    draw_energy_kept,
    draw_ranks,
    draw_stable_ranks,
    draw_terms,
    draw_thin,
)
from lora_lab.plots.memory_bars import PARTS, draw_memory
from lora_lab.plots.meters import NOT_SHARES, draw_meters, meters
from lora_lab.plots.module_sets import draw_sets
from lora_lab.plots.noise import draw_differences, draw_noise
from lora_lab.plots.predicted import draw_prediction
from lora_lab.plots.quantized import draw_block_sizes, draw_rounding
from lora_lab.plots.tokens import draw_next_token
from lora_lab.plots.ways import draw_examples, draw_ways

__all__ = [
    "BASE",
    "EARLIER",
    "FULL",
    "INK",
    "NEW",
    "OLD",
    "PALE",
    "PAPER",
    "RUN",
    "SIZE",
    "Picture",
    "axis_end",
    "axes_for",
    "picture",
    "png",
    "draw_alpha_map",
    "draw_best_rates",
    "draw_plane",
    "draw_scalings",
    "draw_twins",
    "draw_budget",
    "draw_importance",
    "draw_rivals",
    "draw_by_rate",
    "draw_rate_finder",
    "draw_rate_map",
    "draw_decay",
    "draw_cost_of_length",
    "draw_lengths",
    "LossFilm",
    "draw_loss",
    "NOT_SHARES",
    "draw_meters",
    "meters",
    "draw_sets",
    "draw_cliff",
    "draw_held",
    "draw_new_and_old",
    "draw_together",
    "draw_changes",
    "draw_ranks",
    "draw_stable_ranks",
    "draw_energy_kept",
    "draw_terms",
    "draw_thin",
    "PARTS",
    "draw_memory",
    "draw_block_sizes",
    "draw_rounding",
    "draw_next_token",
    "draw_differences",
    "draw_noise",
    "draw_prediction",
    "draw_examples",
    "draw_ways",
]

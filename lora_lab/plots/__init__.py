"""Pictures: every draw function is (ax, numbers) -> ax. Only this room imports matplotlib.

`plots.picture(plots.draw_loss, records)` in a notebook shows one. The names are loaded when first
used, so that importing this room loads no matplotlib.
"""

from importlib import import_module

_NAMES = {  # module: its public names
    "canvas": (
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
        "axes_for",
        "axis_end",
        "picture",
        "png",
    ),
    "losses": ("LossFilm", "draw_loss", "loss_finding"),
    "meters": ("draw_meters", "meter_rows"),
    "tokens": ("draw_next_token", "draw_path", "draw_reading", "draw_strips", "strips_size"),
    "matrices": (
        "draw_changes",
        "draw_energy_kept",
        "draw_ranks",
        "draw_stable_ranks",
        "draw_terms",
        "draw_thin",
    ),
    "predicted": ("draw_prediction",),
    "guesses": ("draw_guesses",),
    "noise": ("draw_differences", "draw_noise"),
    "pairs": ("draw_curves", "draw_pairs", "pairs_size"),
    "by_rank": ("draw_cliff", "draw_together"),
    "learning_rates": ("draw_by_rate", "draw_rate_finder", "draw_rate_map"),
    "alpha": ("draw_alpha_map", "draw_first_steps", "draw_plane", "draw_scalings", "draw_twins"),
    "module_sets": ("draw_hunt", "draw_module_tree", "draw_sets"),
    "competing": ("draw_budget", "draw_importance", "draw_rivals"),
    "quantized": ("draw_arrival", "draw_block", "draw_block_sizes", "draw_rounding"),
    "memory_bars": ("PARTS", "draw_memory"),
    "batches": ("draw_by_batch", "draw_fan", "draw_last_losses"),
    "lengths": ("draw_by_limit", "draw_cost_of_length", "draw_lengths", "draw_right"),
    "full_or_lora": ("draw_directions", "draw_frontier"),
    "ways": ("draw_examples", "draw_ways", "ways_size"),
    "fleet": ("draw_combined", "draw_fleet"),
    "fields": ("draw_field", "field_size"),
    "lora_parts": ("draw_lora_parts", "lora_parts_size"),
    "evidence": ("KINDS", "draw_evidence", "evidence_size"),
    "surface": ("cell_in_words", "draw_surface", "surface_size"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [*_HOME]  # noqa: PLE0604 - the table is the list


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"lora_lab.plots has no {name!r}; it has {', '.join(_HOME)}")
    import_module("lora_lab.plots.canvas")  # quiets matplotlib before the others import it
    value = getattr(import_module(f"lora_lab.plots.{_HOME[name]}"), name)
    globals()[name] = value  # the next use finds it at once
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])

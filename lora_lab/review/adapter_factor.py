"""The factor in front of an adapter's BA, beside what tools and well-known scripts ship."""

import statistics
from collections.abc import Collection, Iterator

from lora_lab.findings.defaults import defaults
from lora_lab.models.adapter_config import Factor, Settings
from lora_lab.review.finding import Finding
from lora_lab.wording import significant


def _short(number: float) -> str:
    """A number with three digits; with an exponent if it is extremely large or small."""
    return significant(number) if 1e-4 < abs(number) < 1e6 else f"{number:.3g}"


def factor_in_words(settings: Settings, by_module: Collection[Factor]) -> str:
    """The factor that PEFT applies, with its arithmetic: `2 = lora_alpha / r = 16 / 8`."""
    scalings = sorted({factor.scaling for factor in by_module})
    if len(scalings) > 1:
        return f"{_short(scalings[0])} to {_short(scalings[-1])}, by layer"
    factor = next(iter(by_module))
    alpha, r = f"{factor.lora_alpha:g}", f"{factor.r}"
    if settings.is_adalora:
        return f"{_short(factor.scaling)} = lora_alpha / init_r = {alpha} / {r}"
    if settings.use_rslora:
        plain = _short(factor.lora_alpha / factor.r)
        return (
            f"{_short(factor.scaling)} = lora_alpha / √r = {alpha} / √{r} (rsLoRA; alpha / r "
            f"would be {plain})"
        )
    return f"{_short(factor.scaling)} = lora_alpha / r = {alpha} / {r}"


def shipped_in_words(scaling: float) -> str:
    """The factors that tools and well-known scripts ship: how many have this one, range, median."""
    shipped = {name: tool.scaling for name, tool in defaults().items() if tool.scaling is not None}
    same = [name for name, other in shipped.items() if abs(other - scaling) <= 0.01 * abs(scaling)]
    return (
        f"{len(shipped)} files: {_short(min(shipped.values()))} to "
        f"{_short(max(shipped.values()))}, middle "
        f"{_short(statistics.median(shipped.values()))}; "
        + (
            f"the same: {'; '.join(same[:3])}" + f"; {len(same) - 3} more" * (len(same) > 3)
            if same
            else "none has this one"
        )
    )


def factor_findings(settings: Settings, by_module: Collection[Factor]) -> Iterator[Finding]:
    """A factor that does nothing, or that no tool ships."""
    scalings = [factor.scaling for factor in by_module]
    shipped = [tool.scaling for tool in defaults().values() if tool.scaling is not None]
    low, high = min(map(abs, scalings)), max(map(abs, scalings))
    field = "lora_alpha / init_r" if settings.is_adalora else "lora_alpha / r"
    if low == 0:
        yield Finding(
            severity="grave",
            what=f"the factor in front of BA is 0 (lora_alpha={settings.lora_alpha:g})",
            why="ΔW is 0 whatever was trained: it answers as the base does",
            do="give the lora_alpha of the training",
            lesson="06",
        )
    elif high > max(shipped) or low < min(shipped) or min(scalings) < 0:
        outlier = next(
            scaling for scaling in scalings if scaling < min(shipped) or scaling > max(shipped)
        )
        yield Finding(
            severity="warning",
            what=f"the factor in front of BA is {outlier:.3g}, and those that {len(shipped)} tools "
            f"and scripts ship go from {min(shipped):g} to {max(shipped):g}",
            why=f"{field} decides how far a step moves the model: a slip in alpha or r shows here",
            do="compare alpha and r with the recipe: trained with this factor it is right; typed "
            "in afterwards it makes the change that much larger or smaller",
            lesson="06",
        )

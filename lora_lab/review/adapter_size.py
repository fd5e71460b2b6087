"""The size of an adapter's change, beside that of the weights which it changes."""

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping

from lora_lab.models.architecture import last_name, layer_of
from lora_lab.review.adapter_base import LocalBase
from lora_lab.review.finding import Finding
from lora_lab.wording import fine_percent, significant

BARELY = 1e-5  # ‖ΔW‖/‖W‖ below it everywhere: hardly a step was taken
TOO_FAR = 1.0  # ‖ΔW‖/‖W‖ above it: the change is larger than what it changes


def relative_sizes(changes: Mapping[str, float], norms: Mapping[str, float]) -> dict[str, float]:
    """‖ΔW‖/‖W‖ of each matrix whose ‖W‖ is known."""
    return {module: changes[module] / norm if norm else math.inf for module, norm in norms.items()}


def size_in_words(
    changes: Mapping[str, float], norms: Mapping[str, float], base_is_here: bool
) -> dict[str, str]:
    """Facts about the size of the change: beside W where ‖W‖ is known, else alone.

    Args:
        changes: ‖ΔW‖ of each matrix, with the factor in front.
        norms: ‖W‖, from `norms_of`.
        base_is_here: for the reason why ‖W‖ is not known.
    """
    if not norms:
        why = "the base's weights are packed" if base_is_here else "the base is not here"
        return {
            "size of ΔW": f"‖ΔW‖ {_range(changes.values(), significant)}",
            "beside W": f"not known: {why}, and nothing is fetched",
        }
    facts = {
        "size of ΔW": f"‖ΔW‖/‖W‖ {_range(relative_sizes(changes, norms).values(), fine_percent)}",
        "by module": _grouped(changes, norms, last_name),
    }
    if any(layer_of(module) is not None for module in norms):
        ordered = dict(sorted(norms.items(), key=lambda entry: layer_of(entry[0]) or 0))
        facts["by layer"] = _grouped(changes, ordered, lambda module: str(layer_of(module)))
    return facts


def norms_of(changes: Collection[str], base: LocalBase | None) -> dict[str, float]:
    """‖W‖ of each changed matrix that can be read here."""
    if base is None or base.is_quantized:
        return {}
    return base.norms([module for module in changes if module in base.places])


def size_findings(changes: Mapping[str, float], norms: Mapping[str, float]) -> Iterator[Finding]:
    """Findings about a change that is larger than W, or hardly there."""
    shares = relative_sizes(changes, norms)
    far = {module: share for module, share in shares.items() if share > TOO_FAR}
    if far:
        most = max(far, key=far.get)
        yield Finding(
            severity="warning",
            what=f"ΔW is larger than W in {len(far)} of {len(shares)} matrices, most in {most}: "
            f"‖ΔW‖/‖W‖ = {significant(far[most])}",
            why="little of the base is left there: old skills are lost, and answers may be noise",
            do="look whether the run diverged, and whether alpha and r are those of the training; "
            "else train with a lower learning_rate or alpha",
            lesson="06",
        )
    elif shares and 0 < max(shares.values()) < BARELY:
        yield Finding(
            severity="warning",
            what=f"ΔW is below {BARELY:.5f} of W in every matrix",
            why="the adapter has hardly moved: it answers nearly as the base does, and a merge in "
            "16 bits rounds the change away",
            do="look whether the loss fell; give more steps or a higher learning_rate",
            lesson="10",
        )


def _range(values: Collection[float], words: Callable[[float], str]) -> str:
    """The smallest, the largest and the median of some numbers."""
    low, high = min(values), max(values)
    return f"{words(low)} to {words(high)}, middle {words(statistics.median(values))}"


def _grouped(
    changes: Mapping[str, float], norms: Mapping[str, float], key: Callable[[str], str]
) -> str:
    """‖ΔW‖/‖W‖ of groups of matrices, each group as a whole: `q_proj: 0.9 %, v_proj: 1.2 %`."""
    groups: dict[str, list[str]] = {}
    for module in norms:
        groups.setdefault(key(module), []).append(module)

    def size(found: Mapping[str, float], modules: list[str]) -> float:
        return math.hypot(*(found[module] for module in modules))

    return ", ".join(
        f"{name}: {fine_percent(size(changes, modules) / (size(norms, modules) or math.inf))}"
        for name, modules in groups.items()
    )

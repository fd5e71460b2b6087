"""An adapter's configuration beside its weights, and beside the layers of its base."""

from collections.abc import Collection, Iterator

from lora_lab.models.adapter_config import (
    CONFIG_FILE,
    Settings,
    factors,
    reached,
    unmatched_targets,
)
from lora_lab.models.architecture import last_name, layer_of
from lora_lab.recipe import nearest, scaling_of
from lora_lab.review.adapter_base import LocalBase
from lora_lab.review.adapter_weights import Weights, layers_in_words, places
from lora_lab.review.finding import Finding, named
from lora_lab.wording import file_size, significant

LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OTHERS = ("qkv_proj", "gate_up_proj", "c_attn", "c_proj", "c_fc", "query_key_value", "dense")
USUAL_NAMES = (*LLAMA, *OTHERS, "fc1", "fc2", "lm_head", "embed_tokens")
FEW = 0.15  # share of the layers: a module that is missing in fewer layers is missing by accident
EXPERTS = ".experts."  # files name each expert, and transformers keeps them as one tensor


def config_findings(
    settings: Settings, weights: Weights, base: LocalBase | None, more_targets: bool
) -> Iterator[Finding]:
    """Findings about contradictions between the configuration, the weights and the base's layers.

    Args:
        settings: the configuration's fields.
        weights: the adapter's weights.
        base: if it is here; None: names are compared with the weights alone.
        more_targets: whether another field than target_modules names what is adapted.

    Raises:
        ValueError: if a pattern is not a regex, or takes too long.
    """
    yield from _of_targets(settings, weights, base)
    if base is None:
        yield from _of_gaps(weights)
    else:
        yield from _of_another_base(weights, base)
        yield from _of_missing(settings, weights, base)
    if not more_targets:
        yield from _of_dropped(settings, weights)
    yield from _of_ranks(settings, weights)
    yield from _of_kind(settings, weights)
    yield from _of_whole_modules(settings, weights)


def _of_targets(settings: Settings, weights: Weights, base: LocalBase | None) -> Iterator[Finding]:
    targets = settings.target_modules
    if not weights.changes or targets == "all-linear":
        return
    names = list(weights.changes if base is None else base.places)
    known = tuple(sorted(set(map(last_name, names)) | (set() if base else set(USUAL_NAMES))))
    for target in unmatched_targets(targets, names):
        hint = nearest(target, tuple(name for name in known if name != target))
        if base is None and last_name(target) in USUAL_NAMES:
            yield _lost(f"{target!r} is in target_modules, and no layer has weights for it")
            continue
        yield Finding(
            severity="grave" if hint and not isinstance(targets, str) else "warning",
            what=f"target_modules names {target!r}, which matches no layer"
            + (f" of {base.name}" if base else ", since none has weights of that name"),
            why="PEFT trains the names that match and says nothing of the others: "
            f"{len(weights.changes)} matrices were trained, fewer than asked for",
            do=f"{hint}correct the name in the recipe and train again; to ship this adapter as it "
            f"is, take the name out of {CONFIG_FILE}",
            lesson="07",
        )
    layers = settings.layers_to_transform
    if base is not None and layers is not None:
        last = max((layer_of(name) or 0 for name in base.places), default=0)
        beyond = sorted(
            layer for layer in ([layers] if isinstance(layers, int) else layers) if layer > last
        )
        if beyond:
            yield Finding(
                severity="warning",
                what=f"layers_to_transform names layers {named(list(map(str, beyond)))}, and "
                f"{base.name} ends with layer {last}",
                why="PEFT adapts the layers that there are and says nothing of the others",
                do=f"count from 0 to {last}",
                lesson="07",
            )


def _lost(what: str) -> Finding:
    return Finding(
        severity="grave",
        what=what,
        why="PEFT fills the gap with a fresh adapter that changes nothing there: what was trained "
        "in these layers is lost, with no more than a warning",
        do="save the adapter again from the trained model, or take an earlier checkpoint",
        lesson="07",
    )


def _of_missing(settings: Settings, weights: Weights, base: LocalBase) -> Iterator[Finding]:
    """Layers that the configuration reaches in the base, and that have no weights."""
    if not weights.changes or settings.target_modules in (None, "all-linear"):
        return
    missing = [
        name
        for name in reached(settings, list(base.places))
        if name not in weights.changes and EXPERTS not in name
    ]
    if missing:
        total = len(missing) + len(weights.changes)
        yield _lost(
            f"no weights for {len(missing)} of the {total} matrices that the configuration names "
            f"in {base.name}: {places(missing)}"
        )


def _of_gaps(weights: Weights) -> Iterator[Finding]:
    """Layers in which a module has no weights, while nearly all other layers have some."""
    by_name: dict[str, set[int]] = {}
    for module in weights.changes:
        if layer_of(module) is not None and EXPERTS not in module:
            by_name.setdefault(last_name(module), set()).add(layer_of(module))
    every = set().union(*by_name.values())
    for name, layers in by_name.items():
        gaps = sorted(every - layers)
        if 0 < len(gaps) < FEW * len(every):
            yield Finding(
                severity="warning",
                what=f"{name} has weights in {len(layers)} layers, and none in "
                f"{layers_in_words(gaps)}",
                why="if the base has that layer, PEFT puts a fresh adapter there, which changes "
                "nothing: what was trained is lost",
                do="compare with the base's layers; save the adapter again if one is missing",
                lesson="07",
            )


def _of_another_base(weights: Weights, base: LocalBase) -> Iterator[Finding]:
    """Modules that the base does not have, or that have another size there."""
    unknown = [
        module
        for module in weights.changes
        if module not in base.places and EXPERTS not in f"{module}."
    ]
    if unknown:
        yield Finding(
            severity="grave",
            what=f"{len(unknown)} of {len(weights.changes)} matrices are not in {base.name}: "
            f"{places(unknown)}",
            why="PEFT skips weights whose layer it does not find, with no more than a warning",
            do=f"give the base that it was trained on as base_model_name_or_path in {CONFIG_FILE}",
            lesson="07",
        )
    if base.is_quantized:
        return
    other = [
        f"{change.module} {change.shape}, {base.name} {base.shape(change.module)}"
        for change in weights.sound
        if change.module in base.places and change.shape != base.shape(change.module)
    ]
    if other:
        yield Finding(
            severity="grave",
            what=f"{len(other)} matrices have another size than {base.name}'s: {named(other, 2)}",
            why="it was trained on another base; PEFT stops with a size mismatch",
            do=f"give the base that it was trained on as base_model_name_or_path in {CONFIG_FILE}",
        )


def _of_dropped(settings: Settings, weights: Weights) -> Iterator[Finding]:
    """Weights that the configuration does not reach."""
    if settings.target_modules in (None, "all-linear"):
        return
    chosen = set(reached(settings, list(weights.changes)))
    dropped = [module for module in weights.changes if module not in chosen]
    if dropped:
        yield Finding(
            severity="grave",
            what=f"weights for {len(dropped)} matrices that the configuration does not name: "
            f"{places(dropped)}",
            why="PEFT builds what the configuration names, and skips these weights without an "
            "error: a part of the adapter does nothing",
            do=f"put their names into target_modules of {CONFIG_FILE} (and look at "
            "layers_to_transform), or take the file that belongs to these weights",
            lesson="07",
        )


def _of_ranks(settings: Settings, weights: Weights) -> Iterator[Finding]:
    if settings.is_adalora:
        yield from _of_rank_mask(settings, weights)
        return
    by_module = factors(settings, list(weights.changes))
    odd = [
        change
        for change in weights.changes.values()
        if change.rank and change.rank != by_module[change.module].r
    ]
    if odd:
        ranks = sorted({change.rank for change in odd})
        said = sorted({by_module[change.module].r for change in odd})
        by_config = by_module[odd[0].module].scaling
        alpha = by_module[odd[0].module].lora_alpha
        by_weights = scaling_of(alpha, odd[0].rank, settings.use_rslora)
        yield Finding(
            severity="grave",
            what=f"{CONFIG_FILE} says r={named(list(map(str, said)))}, and the weights have rank "
            f"{named(list(map(str, ranks)))} in {len(odd)} of {len(weights.changes)} matrices: "
            f"{places([change.module for change in odd])}",
            why="PEFT stops with a size mismatch. A tool that takes the configuration's r applies "
            f"the factor {significant(by_config)} instead of {significant(by_weights)}",
            do=f"give the rank of the weights as r, or in rank_pattern, in {CONFIG_FILE}; alpha "
            "stays as it was in training",
            lesson="05",
        )


def _of_rank_mask(settings: Settings, weights: Weights) -> Iterator[Finding]:
    """AdaLoRA's ranks in the configuration, compared with those in the file."""
    if not settings.rank_pattern:
        yield Finding(
            severity="warning",
            what=f"AdaLoRA without rank_pattern: every matrix keeps all {settings.init_r} ranks",
            why="the ranks were never shared out. No trainer of transformers calls "
            "update_and_allocate, so AdaLoRA then trains like LoRA at its largest rank",
            do="call model.base_model.update_and_allocate(step) after each optimizer step, before "
            "zero_grad, or train with method='lora'",
            lesson="08",
        )
        return
    kept = {
        name.removesuffix(".lora_E").removeprefix("base_model.model."): mask
        for name, mask in settings.rank_pattern.items()
    }
    odd = [
        f"{change.module}: {sum(kept[change.module])} kept, {change.rank} in the file"
        for change in weights.changes.values()
        if change.module in kept
        and change.norm is not None
        and sum(kept[change.module]) != change.rank
    ]
    odd += [f"{module}: not in rank_pattern" for module in weights.changes if module not in kept]
    odd += [
        f"{module}: {len(mask)} marks, init_r={settings.init_r}"
        for module, mask in kept.items()
        if len(mask) != settings.init_r
    ]
    if odd:
        yield Finding(
            severity="grave",
            what=f"rank_pattern does not fit the weights in {len(odd)} places: {named(odd)}",
            why="PEFT cuts each matrix to the ranks that rank_pattern keeps, and stops, or keeps "
            "the wrong ones",
            do="save the adapter again, after the last allocation",
            lesson="08",
        )


def _of_kind(settings: Settings, weights: Weights) -> Iterator[Finding]:
    """DoRA's magnitudes, and starts that belong to a changed base."""
    without = [module for module in weights.changes if module not in weights.magnitudes]
    if settings.use_dora and without:
        yield Finding(
            severity="grave",
            what=f"use_dora is on, and {len(without)} of {len(weights.changes)} matrices have no "
            f"lora_magnitude_vector: {places(without)}",
            why="DoRA's answer is a direction times a trained magnitude; PEFT puts the base's "
            "magnitude there, with no more than a warning",
            do="save the adapter again; or, if it was plain LoRA, set use_dora to false",
        )
    if weights.magnitudes and not settings.use_dora:
        yield Finding(
            severity="grave",
            what=f"use_dora is off, and the file holds {len(weights.magnitudes)} of DoRA's "
            "lora_magnitude_vector",
            why="PEFT leaves them out without an error and applies plain LoRA, which is another "
            "model than was trained",
            do=f"set use_dora to true in {CONFIG_FILE}",
        )
    start = settings.init_lora_weights
    if settings.starts_on_a_changed_base:
        yield Finding(
            severity="warning",
            what=f"init_lora_weights is {start!r}: A and B were taken out of the base's weights",
            why="it fits the base only after the same subtraction. PEFT repeats it while it loads; "
            "vLLM, llama.cpp, load_adapter and a merge into the plain base do not",
            do="convert it: save_pretrained(folder, path_initial_model_for_weight_conversion=...), "
            "which makes a plain LoRA of twice the rank",
        )
    elif isinstance(start, str) and start.lower() == "loftq":
        yield Finding(
            severity="note",
            what="init_lora_weights is 'loftq': A and B make up for the rounding of a 4-bit base",
            why="on the base in 16 bits there is no such rounding: the start of A and B is noise",
            do="serve it on the 4-bit base that it was trained on",
            lesson="09",
        )


def _of_whole_modules(settings: Settings, weights: Weights) -> Iterator[Finding]:
    whole = [module.removesuffix(".base_layer") for module in weights.whole]
    saved = settings.modules_to_save or []
    lost = [name for name in saved if not any(_is_inside(module, [name]) for module in whole)]
    if lost:
        yield Finding(
            severity="grave",
            what=f"modules_to_save names {named(list(map(repr, lost)))}, and the file holds "
            "no weights of it",
            why="it was trained whole beside the adapter; without its weights PEFT answers with "
            "the base's own, or stops",
            do="save the adapter again, or take the name out if it was not trained",
        )
    extra = {module: key for module, key in weights.whole.items() if not _is_inside(module, saved)}
    if extra:
        entries = weights.file.entries
        size = sum(entries[key].end - entries[key].start for key in extra.values())
        is_embedding = all(
            last_name(module.removesuffix(".base_layer")) in ("embed_tokens", "lm_head", "wte")
            for module in extra
        )
        yield Finding(
            severity="note" if is_embedding else "warning",
            what=f"the file holds {named(list(extra))} whole ({file_size(size)}), which "
            "modules_to_save does not name",
            why="PEFT saves the embedding and the head where the vocabulary may have changed, and "
            "writes them over the base's while it loads"
            if is_embedding
            else "PEFT writes them over the base's weights while it loads, without a word",
            do="save with save_embedding_layers=False if the vocabulary did not change"
            if is_embedding
            else "name them in modules_to_save if they were trained; else save without them",
        )


def _is_inside(module: str, saved: Collection[str]) -> bool:
    """Whether a module is saved whole: PEFT compares the end of its name, or of a parent's name."""
    parts = module.split(".")
    paths = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return any(path.endswith(tuple(saved)) for path in paths)

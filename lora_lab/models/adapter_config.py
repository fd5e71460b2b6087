"""An adapter's folder and configuration, read and checked by PEFT's rules, without torch."""

import json
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from lora_lab.models.architecture import LAYER, ends, inside, matching
from lora_lab.places import check_regular
from lora_lab.recipe import scaling_of

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
TEMPLATE_FILE, TOKENIZER_FILE = "chat_template.jinja", "tokenizer_config.json"
MODEL_FILE = "model.safetensors"  # every weight of a model, where there is no adapter
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # which run code when they are read
CARD_FILE, CARD_TAG = "README.md", "lora-lab"  # an export's card, and the tag that it carries
PREFIX = "base_model.model."  # how PEFT begins the name of each tensor
WRAPPED_TWICE = (
    "the model was wrapped twice: get_peft_model, or SFTTrainer with a peft_config, was given a "
    "model that was a PeftModel already"
)
UNWRAP = (
    "wrap the plain base once, and train again; or keep these numbers, and write the file again "
    f"without the second prefix: save_file({{name.replace({2 * PREFIX!r}, {PREFIX!r}, 1): tensor "
    "for name, tensor in load_file(path).items()}, path), both of safetensors.torch"
)
MOST_BYTES = 50_000_000  # of a configuration: AdaLoRA's ranks of a large model take 2 MB

Rank = Annotated[int, msgspec.Meta(ge=1)]
Names = str | list[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The fields of `adapter_config.json` that decide the answers, and what each may hold."""

    peft_type: Literal["LORA", "ADALORA"]
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: str | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None
    modules_to_save: list[str] | None = None
    r: Rank = 8
    init_r: Rank = 12  # AdaLoRA's
    lora_alpha: float = 8
    lora_dropout: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    rank_pattern: dict[str, Rank | list[bool]] | None = None  # AdaLoRA's are lists
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    lora_bias: bool = False
    fan_in_fan_out: bool = False
    inference_mode: bool = False
    init_lora_weights: bool | str | None = True  # how A and B began
    bias: Literal["none"] = "none"  # others change the base's own

    @property
    def is_adalora(self) -> bool:
        """Whether the matrices competed for rank."""
        return self.peft_type == "ADALORA"

    @property
    def starts_on_a_changed_base(self) -> bool:
        """Whether PEFT took A and B out of the base's weights, as PiSSA does, when it began."""
        start = self.init_lora_weights
        return isinstance(start, str) and start.lower().startswith(CHANGE_THE_BASE)


CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga")  # values of init_lora_weights

FIELDS_WITHOUT_EFFECT = {  # where it comes from, how AdaLoRA shared out the ranks
    *("auto_mapping", "peft_version", "revision", "runtime_config", "ensure_weight_tying"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"),
    *("megatron_core", "qalora_group_size"),  # set even where their features are off
}


def read_json(path: Path) -> dict[str, object]:
    """The object in a JSON file.

    Raises:
        ValueError: if it is a pipe, larger than a configuration, or holds no JSON object.
        OSError: if it can't be read.
    """
    check_regular(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size / 1e6:,.0f} MB, and a configuration has a few KB")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("its brackets are nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not an object in curly brackets")
    return found


def settings_of(config: dict[str, object], path: Path) -> Settings:
    """The fields of a configuration that decide the answers, checked; `path` is for the error.

    Raises:
        ValueError: if a field holds what it can't.
    """
    try:
        settings = msgspec.convert(config, Settings)
    except (ValueError, RecursionError) as error:
        raise ValueError(_not_known(path, error)) from error
    for name, value in _alphas(settings):
        if not math.isfinite(value):
            raise ValueError(f"{path} says {name}={value}; give a finite number")
    for name, rank in (settings.rank_pattern or {}).items():
        if isinstance(rank, list) != settings.is_adalora:
            right = "a list of yes and no for AdaLoRA" if settings.is_adalora else "a number"
            raise ValueError(f"{path} says rank_pattern of {name!r} is {rank!r}; give {right}")
    return settings


def unknown_fields(config: dict[str, object]) -> list[str]:
    """The fields that are switched on but not known here: they may change the answers."""
    known = {field.name for field in fields(Settings)} | FIELDS_WITHOUT_EFFECT
    return [name for name, value in config.items() if value and name not in known]


def read_settings(folder: Path) -> dict[str, object]:
    """The fields of `adapter_config.json`, checked.

    Raises:
        ValueError: if it can't be read, or switches on a field that is not known here.
    """
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(_not_known(path, error)) from error
    settings = settings_of(config, path)
    for name in unknown_fields(config):
        raise ValueError(
            f"{path} says {name}={config[name]!r}, which is not known here and may change the "
            "answers; load this adapter with the PEFT that wrote it, or merge it there into its "
            "base (merge_and_unload) and give the merged model's folder"
        )
    if settings.starts_on_a_changed_base:
        raise ValueError(
            f"{path} says init_lora_weights={settings.init_lora_weights!r}: A and B were taken out "
            "of the base's weights, and answer wrongly on the base as it is; save it for the "
            "unchanged base, with PEFT's save_pretrained(path_initial_model_for_weight_conversion)"
        )
    return config


def _not_known(path: Path, error: BaseException) -> str:
    return (
        f"{path} isn't a configuration of an adapter that is known here: {error}; PEFT's LORA "
        "and ADALORA for CAUSAL_LM are, with ranks of 1 or more and bias 'none'"
    )


def _alphas(settings: Settings) -> Iterable[tuple[str, float]]:
    yield "lora_alpha", settings.lora_alpha
    for name, alpha in (settings.alpha_pattern or {}).items():
        yield f"alpha_pattern of {name!r}", alpha


def check_files(folder: Path) -> str:
    """The name of the file with the weights in an adapter's or a model's folder.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
        ValueError: if its weights are a pickle.
    """
    if (folder / MODEL_FILE).exists():
        return MODEL_FILE
    if not (folder / CONFIG_FILE).exists():
        raise FileNotFoundError(
            f"{folder} holds no {CONFIG_FILE}, so it is not an adapter; give a folder that "
            "save_adapter or PEFT's save_pretrained wrote"
        )
    if not (folder / WEIGHTS_FILE).exists():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is "
                f"read; save it again as {WEIGHTS_FILE} (PEFT's save_pretrained does)"
            )
        raise FileNotFoundError(f"{folder} holds a {CONFIG_FILE} but no {WEIGHTS_FILE}")
    return WEIGHTS_FILE


def chat_template_of(folder: Path) -> str | None:
    """The chat template in a folder, as transformers finds it; None: there is none.

    Raises:
        ValueError: if the tokenizer's configuration is not valid.
        OSError: if it can't be read.
    """
    path = folder / TEMPLATE_FILE
    if path.is_file() and path.stat().st_size < MOST_BYTES:
        return path.read_text(encoding="utf-8", errors="replace")
    path = folder / TOKENIZER_FILE
    template = read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(template, list):  # several, by name
        try:
            by_name = {entry["name"]: entry["template"] for entry in template}
        except (TypeError, LookupError) as error:
            raise ValueError(f"{TOKENIZER_FILE} names its templates oddly: {error!r}") from error
        template = by_name.get("default") or next(iter(by_name.values()), None)
    return template if isinstance(template, str) else None


# --- what the configuration says about each module ----------------------------------------------


def reached(settings: Settings, names: Collection[str]) -> list[str]:
    """The names of those matrices that get an adapter, chosen as PEFT chooses them.

    Raises:
        ValueError: if a pattern is not a regex, or takes too long.

    Source:
        `check_target_module_exists` in peft/tuners/tuners_utils.py, PEFT 0.21.
    """
    targets = settings.target_modules or ()
    if isinstance(targets, str):
        chosen = set(matching(targets, names))
    else:
        whole, layers = set(targets), _layers(settings)
        chosen = {
            name
            for name in names
            if name in whole
            or (
                any(ends(name, target) for target in targets)
                and (layers is None or _layer_of(name, settings) in layers)
            )
        }
    excluded = settings.exclude_modules or ()
    if isinstance(excluded, str):
        chosen -= set(matching(excluded, names, "exclude_modules"))
    else:
        chosen -= {name for name in names if any(ends(name, ending) for ending in excluded)}
    saved = settings.modules_to_save or ()
    return [name for name in names if name in chosen and not _is_saved(name, saved)]


def _is_saved(name: str, saved: Collection[str]) -> bool:
    """Whether a module is trained whole: it is one of `saved`, or inside one."""
    parts = name.split(".")
    paths = (".".join(parts[: end + 1]) for end in range(len(parts)))
    return inside(name, [path for path in paths if any(ends(path, ending) for ending in saved)])


def unmatched_targets(targets: str | Collection[str] | None, names: Collection[str]) -> list[str]:
    """The names in `target_modules` that match none of these modules. PEFT does not mention them.

    A regex counts as one target.
    """
    if isinstance(targets, str):
        return [] if matching(targets, names) else [targets]
    return sorted(
        target for target in targets or () if not any(ends(name, target) for name in names)
    )


def _layers(settings: Settings) -> set[int] | None:
    """The layers that get an adapter; None: all."""
    layers = settings.layers_to_transform
    if layers is None or layers == []:
        return None
    return {layers} if isinstance(layers, int) else set(layers)


def _layer_of(name: str, settings: Settings) -> int | None:
    """A module's layer, by `layers_pattern` where that is given."""
    patterns = settings.layers_pattern or ()
    if not patterns:
        match = LAYER.match(name)
        return int(match[1]) if match else None
    parts = name.split(".")
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        for before, number in zip(parts, parts[1:-1], strict=False):
            if before == pattern and number.isdecimal():
                return int(number)
    return None


@dataclass(frozen=True, slots=True)
class Factor:
    """A module's rank and alpha by the configuration, and the factor in front of BA."""

    r: int  # AdaLoRA's init_r
    lora_alpha: float
    scaling: float


def factors(settings: Settings, names: Collection[str]) -> dict[str, Factor]:
    """Each module's rank, alpha and factor, with `rank_pattern` and `alpha_pattern` counted in.

    Raises:
        ValueError: if a pattern is not a regex, or takes too long.
    """
    r, alpha = settings.init_r if settings.is_adalora else settings.r, settings.lora_alpha
    ranks = {} if settings.is_adalora else _by_name(settings, "rank_pattern", names)
    alphas = {} if settings.is_adalora else _by_name(settings, "alpha_pattern", names)
    found = {}
    for name in names:
        own_r, own_alpha = ranks.get(name, r), alphas.get(name, alpha)
        scaling = scaling_of(own_alpha, own_r, settings.use_rslora and not settings.is_adalora)
        found[name] = Factor(own_r, own_alpha, scaling)
    return found


def _by_name(settings: Settings, field: str, names: Collection[str]) -> dict[str, object]:
    """The value for each name that matches a pattern; the first matching pattern counts.

    Source:
        `get_pattern_key` in peft/utils/other.py, PEFT 0.21.
    """
    found: dict[str, object] = {}
    for pattern, value in (getattr(settings, field) or {}).items():
        for name in matching(rf"(.*\.)?({pattern})", names, field):
            found.setdefault(name, value)
    return found

"""The base of an adapter, found by its name or its shapes; and its weights if they are here."""

import json
import math
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lora_lab.cost.known_models import known_shapes
from lora_lab.models.adapter_config import read_json
from lora_lab.models.architecture import last_name, layer_of
from lora_lab.models.built_in import BUILT_IN, base_folder
from lora_lab.models.tensor_files import TensorFile
from lora_lab.review.adapter_weights import Change
from lora_lab.review.base_names import known_configs

INDEX_FILE = "model.safetensors.index.json"
MOST_READ = 300_000_000  # bytes of a base's weights that are read for its norms

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "opt")
BY_TOKENS = ("embed_tokens", "lm_head")  # as large as the vocabulary, which trainings resize
CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")  # GPT-2's, whose weights are (in, out)


@dataclass(frozen=True, slots=True)
class LocalBase:
    """A base whose folder is here: its configuration, and its matrices by their headers."""

    name: str
    folder: Path
    config: dict
    places: dict[str, tuple[TensorFile, str]]  # by module: the file, and the tensor's name in it
    is_quantized: bool  # its weights are packed, so that shapes and norms say nothing
    stands_in: bool = False  # these are a rounded copy of the hub's weights

    def shape(self, module: str) -> tuple[int, int]:
        """A matrix's shape as its layer holds it: (out, in); an embedding's (tokens, width)."""
        file, key = self.places[module]
        rows, columns = file.entries[key].shape
        is_conv1d = self.config.get("model_type") == "gpt2" and last_name(module) in CONV1D
        return (columns, rows) if is_conv1d else (rows, columns)

    def norms(self, modules: Collection[str]) -> dict[str, float]:
        """The Frobenius norm of each matrix; of a large base from evenly spaced rows."""
        entries = {name: self.places[name][0].entries[self.places[name][1]] for name in modules}
        total = sum(entry.end - entry.start for entry in entries.values())
        every = max(1, math.ceil(total / MOST_READ))
        return {name: self._norm(name, every) for name in modules}

    def _norm(self, module: str, every: int) -> float:
        file, key = self.places[module]
        rows = file.array(key, every)
        squared = np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64)
        return math.sqrt(squared * file.entries[key].numbers / max(rows.size, 1))


def find_base(name: str, adapter: Path | None = None) -> LocalBase | None:
    """The base of this name if its folder is here: pocket, smollm2 or any other; else None.

    Nothing is fetched, and a pickle is not read.

    Args:
        name: as the adapter's configuration gives it.
        adapter: the adapter's folder. An export may have put the base into its subfolder "base".
    """
    known = next((base for base in BUILT_IN if name in (base, str(base_folder(base)))), None)
    stands_in = next((base for base in BUILT_IN if _is_hub_id_of(base, name)), None)
    folders = [(base_folder(base), base) for base in (known, stands_in) if base]
    if name:
        folders.append((Path(name).expanduser(), ""))
    if adapter is not None:
        folders.insert(0, (adapter / "base", ""))
    for folder, short in folders:
        if os.path.isfile(folder / "config.json"):
            try:
                base = read_base(folder, short or folder.resolve().name)
            except (ValueError, OSError):
                return None
            return replace(base, stands_in=short != "" and short == stands_in)
    return None


def _is_hub_id_of(short: str, name: str) -> bool:
    """Whether a name is the hub's id of a built-in base."""
    known = known_shapes().get(short)
    return known is not None and known.hub.lower() == name.lower()


def read_base(folder: Path, name: str) -> LocalBase:
    """The base in a folder.

    Raises:
        ValueError: for a damaged file.
        OSError: if a file is missing or can't be read.
    """
    config = read_json(folder / "config.json")
    places, is_quantized = {}, False
    for file in weight_files(folder):
        for key, entry in file.entries.items():
            is_quantized |= key.endswith(".weight") and not entry.is_floating_point
            if key.endswith(".weight") and len(entry.shape) == 2:
                places[key.removesuffix(".weight")] = (file, key)
    if config.get("model_type") == "gpt2" and not any(
        module.startswith("transformer.") for module in places
    ):
        places = {f"transformer.{module}": place for module, place in places.items()}
    embedding = next(
        (module for module in places if last_name(module) in ("embed_tokens", "wte")), None
    )
    if embedding and config.get("tie_word_embeddings", True):
        places.setdefault("lm_head", places[embedding])
    return LocalBase(name, folder, config, places, is_quantized)


def weight_files(folder: Path) -> list[TensorFile]:
    """The safetensors files of a model, with their headers read.

    Raises:
        FileNotFoundError: if there is none, or if a file that the index names is missing.
        ValueError: for a damaged file, or an index that names files elsewhere.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(map(str, (read_json(index).get("weight_map") or {}).values())))
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index} names files outside its folder")
        paths = [folder / name for name in names]
    else:
        paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .safetensors")
    return [TensorFile(path) for path in paths]


# --- the base, found by its shapes --------------------------------------------------------------


def models_that_fit(changes: Iterable[Change]) -> list[str]:
    """The built-in and well-known models whose matrices have these sizes, and enough layers."""
    changes = list(changes)
    configs = known_configs()
    for name in BUILT_IN:
        path = base_folder(name) / "config.json"
        if path.is_file():
            configs[name] = json.loads(path.read_text(encoding="utf-8"))
    return [name for name, config in configs.items() if fits(config, changes)]


def fits(config: dict, changes: Collection[Change]) -> bool:
    """Whether the sizes and the layers of changes are those of a configuration's model.

    Only matrices with Llama's names are judged. Without any of them, nothing fits.
    """
    expected = _llama_shapes(config)
    judged = [change for change in changes if last_name(change.module) in expected]
    last = max((layer_of(change.module) or 0 for change in changes), default=0)
    return (
        bool(judged)
        and all(change.shape == expected[last_name(change.module)] for change in judged)
        and last < config.get("num_hidden_layers", 0)
    )


def contradiction(config: dict, changes: Iterable[Change]) -> str:
    """Why the changes can't belong to a configuration's model, in words; "" if they may."""
    expected = _llama_shapes(config)
    last = config.get("num_hidden_layers", 0) - 1
    for change in changes:
        name, layer = last_name(change.module), layer_of(change.module)
        if name not in expected:
            continue
        if name not in BY_TOKENS and change.shape != expected[name]:
            size = f"{change.shape}, and that base's is {expected[name]}"
            return f"{change.module} is made for {size}"
        if layer is not None and layer > last:
            return f"{change.module} has weights, and that base ends with layer {last}"
    return ""


def _llama_shapes(config: dict) -> dict[str, tuple[int, int]]:
    """The shapes of a model's matrices by their last names, in Llama's words; {}: no such model."""
    if config.get("model_type") not in LLAMA_LIKE:
        return {}
    try:
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        inner, tokens = config.get("intermediate_size"), config["vocab_size"]
        width = config.get("head_dim") or hidden // heads
        queries = heads * width
        keys = (config.get("num_key_value_heads") or heads) * width
    except (KeyError, TypeError, ZeroDivisionError):
        return {}
    return {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "embed_tokens": (tokens, hidden),
        "lm_head": (tokens, hidden),
    }


def vocabulary_of(name: str, base: LocalBase | None) -> int | None:
    """The rows of a base's embedding; None: the base is neither here nor well known."""
    if base is not None:
        rows = base.config.get("vocab_size")
        return rows if isinstance(rows, int) else None
    for known in known_shapes().values():
        if known.hub.lower() == name.lower():
            return known.config.get("vocab_size")
    return None

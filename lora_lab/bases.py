"""Bases: a model with its tokenizer, on a device, in a dtype. The door to transformers."""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from lora_lab import assets, unpacking
from lora_lab.budget import Matrix, Shape, layer_of
from lora_lab.devices import choose_device, choose_dtype, in_words, named
from lora_lab.places import NotPrepared, cache_folder, data_folder
from lora_lab.quantization import Quantization, quantize_layers, share_tensors
from lora_lab.recipe import CHOICES, nearest

CONVERSION = {"packages": assets.ASSETS["smollm2"].package, "revision": 1}


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A base that can be loaded by its short name."""

    name: str
    about: str
    licence: str
    origin: str = ""  # what `Base.about` adds: whose weights they are, and what was done to them
    prepared: bool = True  # False: `lora-lab prepare` has to fetch it first


BUILT_IN = {
    "pocket": BuiltIn(
        "pocket",
        "a tiny Llama that knows one invented world: a run takes seconds on one core",
        "Apache-2.0",
    ),
    "smollm2": BuiltIn(
        "smollm2",
        "SmolLM2-135M-Instruct, a real language model; its weights are 4-bit values de-quantised",
        "Apache-2.0",
        "; its weights are 4-bit values de-quantised (SmolLM2-135M-Instruct, by Hugging Face, "
        "Apache-2.0)",
    ),
}


class _Default(str):
    """A name nobody gave: only then does LORA_LAB_BASE decide."""


@dataclass
class Base:
    """A model to fine-tune, as it came. Nothing in this package changes its weights."""

    name: str
    model: nn.Module
    tokenizer: object
    device: torch.device
    dtype: torch.dtype
    about: str
    path: Path  # a folder that plain transformers loads
    quantization: Quantization | None = None  # of its linear layers; None: they are as in `path`
    _print: tuple[list, str] | None = field(default=None, repr=False, compare=False)

    def fingerprint(self) -> str:
        """SHA-256 of the weights (names and bytes) and the tokenizer: which base this really is.

        Reckoned once, and again only if a tensor was replaced or written to.
        """
        tensors = sorted(self.model.state_dict(keep_vars=True).items())
        seen = [(name, one.data_ptr(), one._version) for name, one in tensors]
        if self._print is None or self._print[0] != seen:
            self._print = (seen, _fingerprint(tensors, self.tokenizer))
        return self._print[1]


def load_base(
    name_or_path: str | Path = _Default("pocket"),  # noqa: B008 - a constant, made once
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    quantize: str | None = None,
) -> Base:
    """A fresh model and tokenizer, in eval mode.

    Args:
        name_or_path: "pocket", "smollm2", a folder with safetensors, or a hub id such as
            "Qwen/Qwen2.5-0.5B". Not given: LORA_LAB_BASE, else pocket.
        device: "auto" takes CUDA, else Apple's MPS, else the CPU; or "cpu", "cuda:1", "mps" ….
        dtype: "auto" is float32 for a narrow model such as pocket; for a wide one bfloat16 on a GPU
            that has it, and on a CPU where it was measured faster, else float32; or "float32",
            "bfloat16", "float16".
        quantize: None; or "nf4", "fp4", "int8": its linear layers keep 4 or 8 bits a weight, and
            `dtype` is that of their products. Double quantisation, as QLoRA has it.

    Raises:
        ValueError: an unknown name, device, dtype or quantize, one that this machine lacks, or a
            folder that holds no safetensors (a pickle is never loaded).
        FileNotFoundError: a folder that is not there, or a hub id that can't be had.
        NotPrepared: smollm2, before `lora-lab prepare` has fetched it.
    """
    if isinstance(name_or_path, _Default):
        name_or_path = os.environ.get("LORA_LAB_BASE") or str(name_or_path)
    _check_quantize(quantize)
    name, folder = _find(name_or_path)
    where = choose_device(device)
    with _quietly(), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        config = _read(folder, "config", name)
        kind, why = choose_dtype(dtype, where, getattr(config, "hidden_size", None) or 0)
        model = _read(folder, "model", name, dtype=kind).eval()
        how = None if quantize is None else Quantization(quantize, compute_dtype=kind)
        if how is None:
            model.to(where)
        else:
            quantize_layers(model, how, where)
        tokenizer = _read(folder, "tokenizer", name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model, "generation_config", None) and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    about = f"{name}: {_counted(model)} parameters on {in_words(where)} in {named(kind)}{why}"
    if name in BUILT_IN:
        about += BUILT_IN[name].origin
    about += _quantised_words(how)
    path = folder if isinstance(folder, Path) else _snapshot(folder)
    return Base(name, model, tokenizer, where, kind, about, path, how)


def quantized_base(base: Base, how: Quantization) -> Base:
    """A base of its own whose linear layers are quantised; it shares the other tensors."""
    model = share_tensors(base.model)
    quantize_layers(model, how, base.device)
    return replace(
        base, model=model, about=base.about + _quantised_words(how), quantization=how, _print=None
    )


def _quantised_words(how: Quantization | None) -> str:
    return "" if how is None else f"; its linear layers are quantised to {how}"


def list_bases() -> list[BuiltIn]:
    """The bases with a short name, and whether each can be loaded now."""
    there = {
        "pocket": (_pocket() / "config.json").is_file(),
        "smollm2": _is_converted() or _is_fetched(),
    }
    return [replace(base, prepared=there[name]) for name, base in BUILT_IN.items()]


# --- where a base is ---------------------------------------------------------------------------


def _pocket() -> Path:
    return data_folder() / "pocket" / "model"


def _find(given: str | Path) -> tuple[str, Path | str]:
    """A base's name, and its folder or (a string) its hub id."""
    if given == "pocket":
        if not (_pocket() / "config.json").is_file():
            raise NotPrepared(
                f"pocket's weights are not in {_pocket()}: this copy of lora_lab is not whole; "
                "install it again"
            )
        return "pocket", _pocket()
    if given == "smollm2":
        return "smollm2", smollm2_folder()
    if not isinstance(given, str | Path) or not str(given):
        raise TypeError(f"{given!r} is not a base's name; give 'pocket', a folder or a hub id")
    folder = Path(given).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        return folder.resolve().name, folder
    if folder.is_file():
        raise ValueError(f"{str(given)!r} is a file; give the folder that holds config.json")
    if isinstance(given, str) and re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", given):
        return given, given
    if isinstance(given, Path) or set(given) & set("/\\~"):
        raise FileNotFoundError(f"there is no folder {str(given)!r}; give one that holds a model")
    raise ValueError(
        f"no base is called {given!r}; {nearest(given, tuple(BUILT_IN))}"
        f"give {', '.join(map(repr, BUILT_IN))}, a folder, or a hub id such as 'Qwen/Qwen2.5-0.5B'"
    )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is no model, or whose weights are a pickle."""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter, not a base; load the base that it was trained on, and "
            "give both to lab.load_adapter(base, folder)"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json; give a folder that save_pretrained wrote")
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(
        path.name for ending in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(ending)
    )
    if pickles:
        raise ValueError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), and loading a pickle can run "
            "any code; give a folder with .safetensors, for example from save_pretrained"
        )
    raise ValueError(f"{folder} has no .safetensors file; give a folder that holds weights")


def _read(folder: Path | str, what: str, name: str, **options: object) -> object:
    """The config, model or tokenizer; a local folder never reaches the network."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    reader = {"config": AutoConfig, "model": AutoModelForCausalLM, "tokenizer": AutoTokenizer}[what]
    if what == "model":
        options["use_safetensors"] = True
    try:
        return reader.from_pretrained(
            folder,
            local_files_only=isinstance(folder, Path),
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        said = " ".join(str(error).split())[:300]
        if isinstance(folder, Path):
            raise ValueError(
                f"the {what} of {name!r} ({folder}) can't be loaded: {said}; "
                "give a folder that save_pretrained wrote, tokenizer included"
            ) from error
        raise FileNotFoundError(
            f"{name!r} is no folder here, and its {what} can't be had from the hub (no network, no "
            f"such id, or no safetensors); give a folder, 'pocket' or 'smollm2' (it said: {said})"
        ) from error


def _snapshot(hub_id: str) -> Path:
    """The folder in the hub's cache that holds what was just loaded."""
    from transformers.utils import cached_file

    return Path(cached_file(hub_id, "config.json", local_files_only=True)).parent


@contextmanager
def _quietly() -> Iterator[None]:
    """No warnings, load reports or progress bars from transformers; its settings come back."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


# --- a model's shape ----------------------------------------------------------------------------


def shape_of(model: object, name: str = "") -> Shape:
    """The matrices and sizes of a model of transformers.

    Args:
        model: a model, which is only looked at; or its config, the config's fields as a dict, or a
            folder with config.json: then a model is built on the meta device, without weights.
            Of 70 B parameters that takes a tenth of a second and no memory.
        name: what to call it; left out: its config's type, as "llama".

    Raises:
        ValueError: for a model with weights that are no matrices, such as a mixture of experts, or
            whose layers bear no numbers.
        TypeError: for what is no model.
    """
    from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

    if isinstance(model, Path):
        model = _read(model, "config", name or model.name)
    elif isinstance(model, dict):
        model = AutoConfig.for_model(**model)
    if isinstance(model, PretrainedConfig):
        model = _on_meta(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} has no shape; give a model or a config of transformers, "
            "such as base.model or AutoConfig.from_pretrained(folder)"
        )
    name = name or model.config.model_type
    matrices, others = _matrices(model, name)
    if not any(layer_of(one.name) is not None for one in matrices):
        raise ValueError(
            f"{name} ({type(model).__name__}) has no module named like 'model.layers.0.mlp', so "
            "its layers can't be told apart; give a model with a language model's head"
        )
    config = model.config.get_text_config()
    heads, width = config.num_attention_heads, config.hidden_size
    return Shape(
        name=name,
        matrices=tuple(matrices),
        others=tuple(others),
        hidden_size=width,
        num_layers=config.num_hidden_layers,
        num_heads=heads,
        num_key_value_heads=_key_value_heads(config),
        head_dim=getattr(config, "head_dim", None) or getattr(config, "d_kv", width // heads),
        vocab_size=config.vocab_size,
    )


def _on_meta(config: object) -> nn.Module:
    """The model that a config describes, with shapes and no numbers."""
    import transformers as hf

    named = getattr(hf, (config.architectures or [""])[0], None)
    autos = (hf.AutoModelForCausalLM, hf.AutoModelForSeq2SeqLM, hf.AutoModelForMaskedLM)
    with _quietly(), torch.device("meta"):
        if named:
            return named(config)
        for auto in autos:
            with suppress(ValueError):  # this Auto class does not know the config
                return auto.from_config(config)
        return hf.AutoModel.from_config(config)


def _matrices(model: nn.Module, name: str) -> tuple[list[Matrix], list[tuple[str, int]]]:
    """The matrices in the model's order, and what else each module holds."""
    from transformers.pytorch_utils import Conv1D

    known = nn.Embedding | nn.Linear | Conv1D
    output = model.get_output_embeddings()
    seen = {id(one.bias) for one in model.modules() if isinstance(one, known) and _bias(one)}
    matrices, others = [], []
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        fresh = [one for one in own.values() if id(one) not in seen]
        seen |= {id(one) for one in fresh}
        if isinstance(module, known):
            kind = "embedding" if isinstance(module, nn.Embedding) else "linear"
            kind = "output" if module is output else kind
            tied = not any(one is module.weight for one in fresh)
            matrices.append(Matrix(path, *_sizes(module), _bias(module), kind, tied))
        elif any(one.ndim > 2 for one in fresh):
            raise ValueError(
                f"{name} keeps weights in {path} ({type(module).__name__}) that are no matrix; "
                "give a model of linear layers, embeddings and norms: no mixture of experts, no "
                "convolutions"
            )
        elif fresh:  # BERT's head holds the bias of its output layer: counted there
            others.append((path, sum(one.numel() for one in fresh)))
    return matrices, others


def _bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


def _sizes(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs; of an embedding, tokens and width."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features  # a quantised weight has another shape
    return module.nx, module.nf  # GPT-2's Conv1D, whose weight is (in, out)


def _key_value_heads(config: object) -> int:
    """How many heads share keys and values; Falcon says it in words of its own."""
    if getattr(config, "multi_query", False):  # said beside a newer key that overrules it
        return config.num_kv_heads if getattr(config, "new_decoder_architecture", False) else 1
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


# --- smollm2: from a GGUF file of 4-bit values to bfloat16 safetensors --------------------------


def smollm2_folder() -> Path:
    """The converted smollm2, checked by its checksums; made (about 10 s) if it is not whole."""
    folder = cache_folder() / "bases" / "smollm2"
    if assets.broken_seal(folder, CONVERSION):
        source = assets.prepared("smollm2")
        with assets.make_sealed(folder, CONVERSION, megabytes=300) as new:
            if new is not None:
                _convert(source, new)
                assets.seal(new, CONVERSION, made_by="lora_lab.bases, from GGUF")
    return folder


def prepare_bases(*, progress: assets.Progress | None = None) -> None:
    """Fetch smollm2 and convert it, if that is still to be done; `lora-lab prepare` calls it."""
    if not _is_converted():
        assets.prepare(["smollm2"], progress=progress)
        if progress:
            progress("smollm2", "turning its 4-bit values into bfloat16 (once)")
    smollm2_folder()


def _is_converted() -> bool:
    """Whether the conversion has been made; its checksums are left to `smollm2_folder`."""
    return assets.read_seal(cache_folder() / "bases" / "smollm2") is not None


def _is_fetched() -> bool:
    with suppress(NotPrepared):
        return assets.prepared("smollm2").is_dir()
    return False


def _convert(source: Path, new: Path) -> None:
    """Write config, weights, tokenizer and chat template as a plain transformers folder."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig

    (file,) = source.glob("*.gguf")
    settings, weights = unpacking.gguf_llama(file)
    tensors = {name: torch.tensor(one, dtype=torch.bfloat16) for name, one in weights.items()}
    config = LlamaConfig(**settings, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    special = {name: value for name, value in settings.items() if name.endswith("_token_id")}
    with _quietly():
        save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(new)
        shutil.copymode(new / "config.json", new / "model.safetensors")  # readable by all who may
        GenerationConfig(**special).save_pretrained(new)
        tokenizer = AutoTokenizer.from_pretrained(
            source, gguf_file=file.name, local_files_only=True
        )
        tokenizer.chat_template = without_system_prompt(tokenizer.chat_template)
        tokenizer.save_pretrained(new)


def without_system_prompt(template: str) -> str:
    """A chat template that adds no system prompt of its own: prompts are half as long without."""
    added = r"\{% if loop\.first and messages\[0\]\['role'\] != 'system' %\}.*?\{% endif %\}"
    return re.sub(added, "", template, count=1, flags=re.DOTALL)


def _counted(model: nn.Module) -> str:
    return f"{model.num_parameters() / 1e6:,.1f} M"


def _check_quantize(given: str | None) -> None:
    known = CHOICES["quantize"]
    if given not in known:
        raise ValueError(
            f"quantize={given!r} is not known; {nearest(given, known[1:])}"
            f"give {', '.join(map(repr, known))}"
        )


def _fingerprint(tensors: list[tuple[str, torch.Tensor]], tokenizer: object) -> str:
    digest = hashlib.sha256()
    tied: dict[tuple, str] = {}  # the same memory twice is read once
    for name, one in tensors:
        if not isinstance(one, torch.Tensor):
            continue
        place = (one.data_ptr(), tuple(one.shape), one.dtype)
        first = tied.setdefault(place, name)
        digest.update(f"{name} {first} {named(one.dtype)} {tuple(one.shape)}\n".encode())
        if first == name:
            content = one.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(content.numpy()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(f"{words}\n{tokenizer.chat_template}\n{tokenizer.eos_token_id}".encode())
    return digest.hexdigest()

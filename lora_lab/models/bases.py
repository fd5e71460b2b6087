"""Bases: a model of transformers with its tokenizer, loaded on a device in a dtype."""

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from lora_lab.machine.devices import choose_device, choose_dtype, in_words, named, own_randomness
from lora_lab.models.architecture import check_layers
from lora_lab.models.built_in import BUILT_IN, find_base
from lora_lab.models.chat_format import check_template
from lora_lab.models.quantization import Quantization, quantize_layers, share_tensors
from lora_lab.models.quiet import quietly
from lora_lab.recipe import CHOICES, nearest, shown


def check_is_base(given: object) -> None:
    """Refuse anything that is not a Base, such as a name."""
    if not isinstance(given, Base):
        name = repr(given) if isinstance(given, str) else '"pocket"'
        raise TypeError(
            f"{shown(given)} isn't a base, a model with its tokenizer; give lab.load_base({name})"
        )


class _Default(str):
    """The name of the base where a call gives none. LORA_LAB_BASE can overrule it."""


@dataclass
class Base:
    """A model to fine-tune, as it came. Nothing in this package changes its weights."""

    name: str
    model: nn.Module
    tokenizer: object
    device: torch.device
    dtype: torch.dtype
    parameters: int  # as counted when it was loaded
    path: Path  # a folder that plain transformers loads
    quantization: Quantization | None = None  # of its linear layers; None: they are as in `path`
    dtype_reason: str = ""  # why "auto" chose this dtype, in brackets
    origin: str = ""  # whose weights they are, and what was done to them
    _print: tuple[list, str] | None = field(default=None, repr=False, compare=False)
    _quantized: tuple[list, Quantization, dict] | None = field(
        default=None, repr=False, compare=False
    )

    @property
    def about(self) -> str:
        """The base in a sentence: name, size, device and dtype; then origin and quantisation."""
        parts = [
            f"{self.name}: {self.parameters / 1e6:,.1f} M parameters on {in_words(self.device)} "
            f"in {named(self.dtype)}{self.dtype_reason}"
        ]
        if self.origin:
            parts.append(self.origin)
        if self.quantization is not None:
            parts.append(f"its linear layers are quantised to {self.quantization}")
        return "; ".join(parts)

    def fingerprint(self) -> str:
        """SHA-256 of the weights (names and bytes) and of the tokenizer: the base's identity.

        It is computed once, and again only if a tensor was replaced or written to.
        """
        seen = self._seen()
        if self._print is None or self._print[0] != seen:
            tensors = sorted(self.model.state_dict(keep_vars=True).items())
            self._print = (seen, _fingerprint(tensors, self.tokenizer))
        return self._print[1]

    def quantized_layers(self, how: Quantization) -> dict[str, nn.Module]:
        """The layers that were already quantised in this way, by name. The caller adds new ones.

        They are kept for the last `how` only, and until a tensor is replaced or written to.
        """
        seen = self._seen()
        if self._quantized is None or self._quantized[:2] != (seen, how):
            self._quantized = (seen, how, {})
        return self._quantized[2]

    def _seen(self) -> list[tuple[str, int, int]]:
        """Each tensor's name, address and version: they change when it is written to."""
        tensors = sorted(self.model.state_dict(keep_vars=True).items())
        return [(name, tensor.data_ptr(), tensor._version) for name, tensor in tensors]

    def __getstate__(self) -> dict:
        """The state for another process. Quantised layers stay here: that process makes its own."""
        return vars(self) | {"_quantized": None}


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
        quantize: None; or "nf4", "fp4", "int8": linear layers keep 4 or 8 bits a weight, and
            `dtype` is that of their products. Double quantisation is on, as in QLoRA.

    Raises:
        ValueError: an unknown name, device, dtype or quantize; a device or dtype that this machine
            lacks; or a folder without safetensors (a pickle is never loaded).
        FileNotFoundError: a folder that is not there, or a hub id that can't be had.
        NotPrepared: smollm2, before `lora-lab prepare` has fetched it.
    """
    if isinstance(name_or_path, _Default):
        name_or_path = os.environ.get("LORA_LAB_BASE") or str(name_or_path)
    _check_quantize(quantize)
    name, folder = find_base(name_or_path)
    device = choose_device(device)
    with quietly(), own_randomness(device):
        config = read_part(folder, "config", name)
        check_layers(config, name)
        dtype, reason = choose_dtype(dtype, device, getattr(config, "hidden_size", None) or 0)
        model = read_part(folder, "model", name, dtype=dtype).eval()
        quantization = None if quantize is None else Quantization(quantize, compute_dtype=dtype)
        if quantization is None:
            model.to(device)
        else:
            quantize_layers(model, quantization, device)
        tokenizer = _read_tokenizer(folder, name)
    if getattr(model, "generation_config", None) and model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Base(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        parameters=model.num_parameters(),
        path=folder if isinstance(folder, Path) else _snapshot(folder),
        quantization=quantization,
        dtype_reason=reason,
        origin=BUILT_IN[name].origin if name in BUILT_IN else "",
    )


def load_tokenizer(name_or_path: str | Path) -> object:
    """A base's tokenizer alone, as `load_base` gives it; the errors are the same."""
    name, folder = find_base(name_or_path)
    with quietly():
        return _read_tokenizer(folder, name)


def _read_tokenizer(folder: Path | str, name: str) -> object:
    """A tokenizer that can pad: it uses the token that ends an answer if it has no pad token."""
    tokenizer = read_part(folder, "tokenizer", name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is not None:
        check_template(tokenizer, name)
    return tokenizer


def quantized_base(base: Base, how: Quantization) -> Base:
    """A second base whose linear layers are quantised, and which shares the other tensors.

    The quantised weights are kept with `base`, so that the next such base shares them.
    """
    model = share_tensors(base.model)
    quantize_layers(model, how, base.device, base.quantized_layers(how))
    return replace(base, model=model, quantization=how, _print=None, _quantized=None)


# --- where a base is ---------------------------------------------------------------------------


def read_part(folder: Path | str, part: str, name: str, **options: object) -> object:
    """The "config", "model" or "tokenizer" in a folder, or of a hub id.

    For a folder, nothing is asked of the network.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    reader = {"config": AutoConfig, "model": AutoModelForCausalLM, "tokenizer": AutoTokenizer}[part]
    if part == "model":
        options["use_safetensors"] = True
    try:
        return reader.from_pretrained(
            folder,
            local_files_only=isinstance(folder, Path),
            trust_remote_code=False,
            **options,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        message = " ".join(str(error).split())[:300]
        if isinstance(folder, Path):
            raise ValueError(
                f"the {part} of {name!r} ({folder}) can't be loaded: {message}; "
                "give a folder that save_pretrained wrote, tokenizer included"
            ) from error
        raise FileNotFoundError(
            f"{name!r} isn't a folder here, and its {part} can't be had from the hub (no network, "
            "no such id, or no safetensors); give a folder, 'pocket' or 'smollm2' "
            f"(it said: {message})"
        ) from error


def _snapshot(hub_id: str) -> Path:
    """The folder in the hub's cache that holds what was just loaded."""
    from transformers.utils import cached_file

    return Path(cached_file(hub_id, "config.json", local_files_only=True)).parent


def _check_quantize(quantize: str | None) -> None:
    known = CHOICES["quantize"]
    if quantize not in known:
        raise ValueError(
            f"quantize={quantize!r} is not known; {nearest(quantize, known[1:])}"
            f"give {', '.join(map(repr, known))}"
        )


def _fingerprint(tensors: list[tuple[str, torch.Tensor]], tokenizer: object) -> str:
    digest = hashlib.sha256()
    names: dict[tuple, str] = {}  # a tied tensor has its first name here: its memory is read once
    for name, tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            continue
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype)
        first = names.setdefault(place, name)
        digest.update(f"{name} {first} {named(tensor.dtype)} {tuple(tensor.shape)}\n".encode())
        if first == name:
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(content.numpy()))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    digest.update(f"{vocabulary}\n{tokenizer.chat_template}\n{tokenizer.eos_token_id}".encode())
    return digest.hexdigest()

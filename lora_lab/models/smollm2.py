"""smollm2, converted once from a GGUF file of 4-bit values to bfloat16 safetensors."""

import re
import shutil
from contextlib import suppress
from pathlib import Path

from lora_lab.assets import downloads, unpacking
from lora_lab.models.quiet import quietly
from lora_lab.places import NotPrepared, cache_folder

CONVERSION = {"packages": downloads.ASSETS["smollm2"].package, "revision": 1}


def converted_folder() -> Path:
    """The folder of the converted smollm2, there or not."""
    return cache_folder() / "bases" / "smollm2"


def smollm2_folder() -> Path:
    """The folder of the converted smollm2, checked by its checksums; made (10 s) if not whole."""
    folder = converted_folder()
    if downloads.broken_seal(folder, CONVERSION):
        source = downloads.prepared("smollm2")
        with downloads.make_sealed(folder, CONVERSION, megabytes=300) as new:
            if new is not None:
                _convert(source, new)
                downloads.seal(new, CONVERSION, made_by="lora_lab.models.smollm2, from GGUF")
    return folder


def prepare_bases(*, progress: downloads.Progress | None = None) -> None:
    """Fetch smollm2 and convert it, unless that is done; `lora-lab prepare` calls it."""
    if not _is_converted():
        downloads.prepare(["smollm2"], progress=progress)
        if progress:
            progress("smollm2", "turning its 4-bit values into bfloat16 (once)")
    smollm2_folder()


def _is_converted() -> bool:
    """Whether the conversion has been made; its checksums are left to `smollm2_folder`."""
    return downloads.read_seal(converted_folder()) is not None


def smollm2_is_here() -> bool:
    """Whether it can be loaded without a network: converted, or fetched and still to convert."""
    with suppress(NotPrepared):
        return _is_converted() or downloads.prepared("smollm2").is_dir()
    return False


def _convert(source: Path, new: Path) -> None:
    """Write config, weights, tokenizer and chat template as a plain transformers folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig

    (file,) = source.glob("*.gguf")
    settings, weights = unpacking.gguf_llama(file)
    tensors = {name: torch.tensor(array, dtype=torch.bfloat16) for name, array in weights.items()}
    config = LlamaConfig(**settings, architectures=["LlamaForCausalLM"], dtype="bfloat16")
    special = {name: value for name, value in settings.items() if name.endswith("_token_id")}
    with quietly():
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
    """A chat template that adds no system prompt of its own, which would double a prompt."""
    pattern = r"\{% if loop\.first and messages\[0\]\['role'\] != 'system' %\}.*?\{% endif %\}"
    return re.sub(pattern, "", template, count=1, flags=re.DOTALL)

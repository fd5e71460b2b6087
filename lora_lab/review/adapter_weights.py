"""The weights of an adapter: the factors of each adapted matrix, their size, and other tensors."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lora_lab.maths.change_norm import change_norm
from lora_lab.models.adapter_config import PREFIX, UNWRAP, WRAPPED_TWICE
from lora_lab.models.architecture import last_name, layer_of
from lora_lab.models.tensor_files import DTYPES, TensorFile
from lora_lab.review.finding import Finding, named
from lora_lab.wording import file_size

WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_embedding_[AB]|lora_[ABE]|lora_magnitude_vector)(?P<tail>\..+)?"
)
TAILS = (None, ".weight")  # of PEFT's names
TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # ends the name of single tokens' rows


@dataclass(slots=True)
class Change:
    """The change to one matrix: where its factors are in the file, and what they hold."""

    module: str  # "model.layers.0.self_attn.q_proj"
    keys: dict[str, str] = field(default_factory=dict)  # "A", "B", "E": names in the file
    is_embedding: bool = False
    rank: int = 0
    in_features: int = 0
    out_features: int = 0
    norm: float | None = None  # of BA, without the factor in front; None: it has none
    is_zero: bool = False  # BA is zero, as before the first step

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the matrix that is changed, as its file has it."""
        outer = self.out_features, self.in_features
        return outer[::-1] if self.is_embedding else outer


@dataclass(slots=True)
class Weights:
    """An adapter's tensors, sorted by what they are."""

    file: TensorFile
    changes: dict[str, Change]  # by module
    magnitudes: dict[str, str]  # DoRA's, by module: names in the file
    whole: dict[str, str]  # modules in the file as a whole, such as "lm_head"
    token_rows: dict[str, str]  # rows of single tokens, by module: names in the file
    odd_names: list[str]  # names that PEFT would not find
    twice: list[str]  # names with PEFT's prefix twice, which it would not find either
    with_adapter: list[str]  # names that hold an adapter's name, as "lora_A.default.weight"
    findings: list[Finding] = field(default_factory=list)

    @property
    def sound(self) -> list[Change]:
        """The changes whose factors fit each other and hold finite numbers."""
        return [change for change in self.changes.values() if change.norm is not None]


def read_weights(file: TensorFile) -> Weights:
    """An adapter's tensors, sorted and measured, with the findings about the tensors themselves."""
    weights = Weights(file, {}, {}, {}, {}, [], [], [])
    for key in file.entries:
        name = WRAPPERS.sub("", key)
        is_odd = name != key or not name.startswith(PREFIX)
        if name.startswith(2 * PREFIX):
            weights.twice.append(key)
        while name.startswith(PREFIX):
            name = name.removeprefix(PREFIX)
        match = PART.fullmatch(name)
        if match is None:
            if name.endswith(TOKEN_ROWS):
                weights.token_rows[name.removesuffix(TOKEN_ROWS)] = key
            elif name.endswith((".weight", ".bias")):
                weights.whole[name.rpartition(".")[0]] = key
        else:
            module, part, tail = match["module"], match["part"], match["tail"]
            if tail not in (*TAILS, ".bias"):
                weights.with_adapter.append(key)
            if part == "lora_magnitude_vector":
                weights.magnitudes[module] = key
            elif tail != ".bias":
                change = weights.changes.setdefault(module, Change(module))
                change.is_embedding |= "embedding" in part
                change.keys[part[-1]] = key
        if is_odd:
            weights.odd_names.append(key)
    weights.findings += _of_names(weights)
    weights.findings += _of_numbers(file)
    weights.findings += _of_shapes(weights)
    weights.findings += _of_zeros(weights)
    return weights


def _of_names(weights: Weights) -> list[Finding]:
    if not weights.changes:
        size = weights.file.path.stat().st_size
        return [
            Finding(
                severity="grave",
                what=f"{weights.file.path.name} ({file_size(size)}) holds no lora_A and no lora_B",
                why="the adapter is not in the file: PEFT warns of missing keys and answers as the "
                "base does. DeepSpeed's ZeRO-3 writes such files if nothing gathers the parameters",
                do="save again from the trained model (with ZeRO-3 gather the parameters first, or "
                "set stage3_gather_16bit_weights_on_model_save)",
            )
        ]
    found = []
    if weights.odd_names:
        found.append(
            Finding(
                severity="grave",
                what=f"{len(weights.odd_names)} names in the file are not PEFT's, such as "
                f"{weights.odd_names[0]!r}",
                why="PEFT finds tensors by their names alone: it skips these with no more than a "
                "warning, and answers as the base does",
                do="save with model.save_pretrained(folder) from the unwrapped model, not with "
                f"torch's state_dict; PEFT's names look like '{PREFIX}model.layers.0."
                "self_attn.q_proj.lora_A.weight'",
            )
        )
    if weights.twice:
        found.append(
            Finding(
                severity="grave",
                what=f"{len(weights.twice)} names in the file begin with {PREFIX!r} twice, such as "
                f"{weights.twice[0]!r}",
                why=f"{WRAPPED_TWICE}. PEFT looks for the prefix once: it skips these weights with "
                "no more than a warning, and answers as the base does",
                do=UNWRAP,
            )
        )
    if weights.with_adapter:
        found.append(
            Finding(
                severity="warning",
                what=f"{len(weights.with_adapter)} names in the file hold an adapter's name, such "
                f"as {weights.with_adapter[0]!r}",
                why="PEFT finds them only where the adapter is loaded under that very name, and "
                "else answers as the base does; load_adapter and vLLM refuse or skip them",
                do="save with model.save_pretrained(folder), which leaves the name out, not with "
                "torch's state_dict",
            )
        )
    return found


def _of_numbers(file: TensorFile) -> list[Finding]:
    found = []
    whole = [key for key, entry in file.entries.items() if not entry.is_floating_point]
    if whole:
        found.append(
            Finding(
                severity="grave",
                what=f"{named(whole)} hold {file.entries[whole[0]].dtype}, not floating-point "
                "numbers",
                why="an adapter's factors are small real numbers; loaders refuse or round these",
                do="save the adapter again in float32, bfloat16 or float16",
            )
        )
    broken = [
        key
        for key, entry in file.entries.items()
        if entry.is_floating_point and not file.is_finite(key)
    ]
    if broken:
        found.append(
            Finding(
                severity="grave",
                what=f"NaN or infinite numbers in {len(broken)} of {len(file.entries)} tensors: "
                f"{named(broken)}",
                why="the training diverged or overflowed, and a single NaN makes every answer NaN",
                do="take an earlier checkpoint, or train again with a lower learning_rate, with "
                "max_grad_norm=1, and in bfloat16 or float32 instead of float16",
                lesson="04",
            )
        )
    return found


def _of_shapes(weights: Weights) -> list[Finding]:
    """Measure each change; returns the findings about the shapes of the factors."""
    empty, torn, odd = [], [], []
    entries = weights.file.entries
    for change in weights.changes.values():
        needed = {"A", "B"}
        if not needed <= change.keys.keys():
            torn.append(next(iter(change.keys.values())))
            continue
        shapes = {part: entries[key].shape for part, key in change.keys.items()}
        if any(shape == (0,) for shape in shapes.values()):
            empty.append(change.keys["A"])
            continue
        if not _fit(shapes):
            odd.append(f"{change.module}: A {shapes['A']}, B {shapes['B']}")
            continue
        change.rank, change.in_features = shapes["A"]
        change.out_features = shapes["B"][0]
        _measure(weights.file, change)
    found = []
    if empty:
        found.append(
            Finding(
                severity="grave",
                what=f"{len(empty)} tensors are empty, with the shape (0,): {named(empty)}",
                why="they were saved while DeepSpeed's ZeRO-3 had them elsewhere; PEFT stops with "
                "'size mismatch ... torch.Size([0])'",
                do="save again inside deepspeed.zero.GatheredParameters, or with "
                "stage3_gather_16bit_weights_on_model_save: this file holds no numbers",
            )
        )
    if torn:
        found.append(
            Finding(
                severity="grave",
                what=f"one factor without the other: {named(torn)}",
                why="a change is B times A; what is missing stays as PEFT draws it at random, or "
                "zero, without an error",
                do="save the adapter again, or take it from an earlier checkpoint",
                lesson="03",
            )
        )
    if odd:
        found.append(
            Finding(
                severity="grave",
                what=f"factors that do not fit each other: {named(odd)}",
                why="A is (r, inputs) and B (outputs, r) with the same r; PEFT stops with a size "
                "mismatch, and other loaders may stretch a row over the whole matrix",
                do="save the adapter again from the trained model",
                lesson="03",
            )
        )
    return found


def _fit(shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether A is (r, in), B (out, r), and AdaLoRA's E (r, 1)."""
    A, B, E = shapes["A"], shapes["B"], shapes.get("E")
    if len(A) != 2 or len(B) != 2 or A[0] != B[1] or not A[1] or not B[0]:
        return False
    return E is None or (A[0], 1) == E


def _measure(file: TensorFile, change: Change) -> None:
    """Fill in the norm of BA, or of B diag(E) A; it stays None if a number is not finite."""
    if not all(file.entries[key].is_floating_point for key in change.keys.values()):
        return
    A, B = (file.array(change.keys[part]).astype(np.float64) for part in "AB")
    if "E" in change.keys:
        B = B * file.array(change.keys["E"]).T  # (out, r) * (1, r)
    change.is_zero = not (B.any() and A.any())
    with np.errstate(all="ignore"):
        norm = change_norm(A, B, 1.0)
    change.norm = norm if np.isfinite(norm) else None


def _of_zeros(weights: Weights) -> list[Finding]:
    """Findings about matrices that never learned; AdaLoRA's matrices of rank 0 are left out."""
    changes = [change for change in weights.sound if change.rank]
    zero = [change.module for change in changes if change.is_zero]
    is_adalora = any("E" in change.keys for change in changes)
    part = "lora_E" if is_adalora else "lora_B"  # of an embedding it is lora_embedding_A
    if not zero:
        return []
    if len(zero) == len(changes):
        return [
            Finding(
                severity="grave",
                what=f"{part} is all zero in all {len(changes)} matrices",
                why="it is zero before the first step, so this adapter never learned: it answers "
                "exactly as the base does",
                do="look whether the loss fell at all. Usual causes: saved before training; no "
                "gradient (gradient checkpointing without enable_input_require_grads); every label "
                "masked; a learning_rate of 0",
                lesson="04",
            )
        ]
    return [
        Finding(
            severity="warning",
            what=f"{part} is all zero in {len(zero)} of {len(changes)} matrices: {places(zero)}",
            why="no gradient ever reached them, so that part of the adapter never learned. A "
            "frozen half, a pipeline stage that was not saved, or experts that no token chose look "
            "like this",
            do="look at the gradients of these layers in the first steps; leave them out of "
            "target_modules if that is meant",
            lesson="07",
        )
    ]


def places(modules: Sequence[str]) -> str:
    """The places of modules, in short: `q_proj, v_proj in layers 2 to 3`; else the first names."""
    columns = list(dict.fromkeys(last_name(module) for module in modules))
    layers = sorted({layer_of(module) for module in modules} - {None})
    if len(modules) < 2 or len(columns) > 8 or len(modules) != len(columns) * len(layers):
        return named(modules)
    return f"{', '.join(columns)} in {layers_in_words(layers)}"


def layers_in_words(layers: Sequence[int]) -> str:
    """Rising numbers of layers, in runs: `layer 3`, `layers 0 to 3, 7`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"layer{'s' * (len(layers) > 1)} {named(words, 6)}"


def dtypes_in_words(*files: TensorFile) -> str:
    """The dtypes of tensors, the most frequent first: `float32`, `bfloat16 (12), float32 (2)`."""
    counts = Counter(
        DTYPES.get(entry.dtype, (entry.dtype,))[0]
        for file in files
        for entry in file.entries.values()
    )
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common())

"""`check_adapter`: the review of an adapter's folder or a whole model's. No model is loaded."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_lab.models.adapter_config import (
    CONFIG_FILE,
    PICKLES,
    WEIGHTS_FILE,
    Settings,
    factors,
    read_json,
    settings_of,
    unknown_fields,
)
from lora_lab.models.architecture import last_name, layer_of
from lora_lab.models.tensor_files import TensorFile
from lora_lab.review.adapter_base import (
    LocalBase,
    contradiction,
    find_base,
    models_that_fit,
    vocabulary_of,
)
from lora_lab.review.adapter_config import config_findings
from lora_lab.review.adapter_factor import factor_findings, factor_in_words, shipped_in_words
from lora_lab.review.adapter_size import norms_of, size_findings, size_in_words
from lora_lab.review.adapter_token_rows import FIELD, token_row_findings
from lora_lab.review.adapter_tokenizer import look_at_tokenizer
from lora_lab.review.adapter_weights import Change, Weights, dtypes_in_words, read_weights
from lora_lab.review.base_names import config_of
from lora_lab.review.finding import Finding, Review, named
from lora_lab.review.recipe_curves import log_beside
from lora_lab.review.whole_model import check_model
from lora_lab.wording import file_size, in_short

TASKS = ("SEQ_CLS", "SEQ_2_SEQ_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")
LEFTOVERS = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "training_args.bin")


def check_adapter(folder: str | Path) -> Review:
    """What is odd about a saved adapter: its configuration, weights, base and tokenizer.

    In a checkpoint's folder, the log of the training (trainer_state.json) is checked too. Nothing
    is run, fetched or unpickled; no model is built. If the folder holds a whole model, merged or
    fully fine-tuned, only name, dtype, tokenizer and broken numbers are checked.

    Args:
        folder: written by PEFT or `save_adapter`; the path of its adapter_config.json does as well.

    Raises:
        FileNotFoundError: if the folder is not there, or holds neither an adapter nor a model.
    """
    folder = Path(folder).expanduser()
    if folder.name == CONFIG_FILE and folder.is_file():
        folder = folder.parent
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; give one that holds an adapter ({CONFIG_FILE})"
        )
    if (folder / CONFIG_FILE).exists():
        return _Adapter(folder).review()
    if (folder / "config.json").exists():
        return check_model(folder)
    raise FileNotFoundError(
        f"{folder} holds neither {CONFIG_FILE} nor config.json, so it is neither an adapter nor a "
        "model; give a folder that save_pretrained wrote"
    )


class _Adapter:
    """An adapter's folder on its way through the checks: each adds its facts and findings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, str] = {}
        self.findings: list[Finding] = []
        self.kind = "adapter"
        self.config: dict = {}
        self.settings: Settings | None = None
        self.weights: Weights | None = None
        self.base: LocalBase | None = None

    def review(self) -> Review:
        """All of the checks, in order; each goes on where an earlier one failed."""
        self._read_config()
        self._read_weights()
        self._find_base()
        if self.settings is not None and self.weights is not None:
            self._compare()
        self._look_at_tokenizer()
        self._look_at_files()
        self._look_at_log()
        return Review(
            subject=self.folder.resolve().name,
            kind=self.kind,
            facts=self.facts,
            findings=tuple(self.findings),
        )

    def _add(self, severity: str, what: str, why: str, do: str, lesson: str = "") -> None:
        self.findings.append(Finding(severity=severity, what=what, why=why, do=do, lesson=lesson))

    # --- the configuration ----------------------------------------------------------------------

    def _read_config(self) -> None:
        path = self.folder / CONFIG_FILE
        try:
            self.config = read_json(path)
        except (ValueError, OSError) as error:
            self._add(
                "grave",
                f"{CONFIG_FILE} can't be read: {error}",
                "without it nobody knows the rank, alpha and layers of the weights",
                "copy it from another checkpoint of the same training, or write it again with "
                "LoraConfig(...).save_pretrained(folder)",
            )
            return
        kind = self.config.get("peft_type")
        if kind not in ("LORA", "ADALORA"):
            self._of_another_tool(kind)
            return
        self.kind = f"{'AdaLoRA' if kind == 'ADALORA' else 'LoRA'} adapter of PEFT"
        plain = self.config | {"bias": "none"}
        if plain.get("task_type") in TASKS:
            self.facts["task"] = plain["task_type"]
            plain["task_type"] = None
        try:
            self.settings = settings_of(plain, path)
        except ValueError as error:
            self._add(
                "grave",
                str(error),
                "PEFT stops at such a value, or reads it as something else",
                f"correct it in {CONFIG_FILE}",
            )
            return
        fields = [field for field in unknown_fields(self.config) if field != FIELD]
        if self.config.get("bias", "none") != "none":
            fields.append("bias")
        for field in fields:
            self._add(
                "warning",
                f"{field}={str(self.config[field])[:60]!r} is not looked into",
                "it changes what the adapter computes, in a way that this check and load_adapter "
                "do not know",
                "load it with the PEFT that wrote it",
            )

    def _of_another_tool(self, kind: object) -> None:
        is_mlx = "lora_parameters" in self.config or "fine_tune_type" in self.config
        self.kind = "adapter of MLX-LM" if is_mlx else "adapter of a kind that is not known here"
        tool = "MLX-LM's" if is_mlx else f"of peft_type {kind!r}"
        self._add(
            "grave" if kind is None and not is_mlx else "warning",
            f"{CONFIG_FILE} is {tool}; LORA and ADALORA of PEFT are looked into",
            "PEFT, vLLM and load_adapter do not read MLX-LM's names and factors"
            if is_mlx
            else "its rank, factor and layers are not checked",
            "fuse it into the model with mlx_lm.fuse, or convert it to PEFT's format"
            if is_mlx
            else "load it with the PEFT that wrote it",
        )

    # --- the weights ----------------------------------------------------------------------------

    def _read_weights(self) -> None:
        path = self.folder / WEIGHTS_FILE
        pickles = self._pickles()
        if not path.exists():
            models = [name for name in pickles if name.startswith(("adapter", "pytorch", "model"))]
            if models:
                self._add(
                    "grave",
                    f"the weights are a pickle: {models[0]}. It was not read",
                    "a pickle runs any code that its writer put into it, when it is loaded",
                    f"let whoever trained it save it as {WEIGHTS_FILE}: model.save_pretrained("
                    "folder) of any PEFT since 2023",
                )
            else:
                there = sorted(file.name for file in self.folder.glob("*.safetensors"))
                self._add(
                    "grave",
                    f"there is no {WEIGHTS_FILE}" + (f", only {named(there)}" if there else ""),
                    "the configuration alone isn't an adapter",
                    "copy the file from the training's folder (git-lfs: git lfs pull)",
                )
            return
        size = path.stat().st_size
        try:
            file = TensorFile(path)
        except (ValueError, OSError) as error:
            is_pointer = path.is_file() and size < 1000 and path.read_bytes()[:8] == b"version "
            self._add(
                "grave",
                f"{WEIGHTS_FILE} ({file_size(size)}) is damaged: {error}"
                if not is_pointer
                else f"{WEIGHTS_FILE} is a git-lfs pointer of {size} bytes, not the weights",
                "no loader can read it",
                "fetch it again: git lfs pull"
                if is_pointer
                else "copy it again; compare its size and checksum with where it came from",
            )
            return
        self.weights = read_weights(file)
        self.findings += self.weights.findings
        entries = file.entries.values()
        self.facts["weights"] = (
            f"{in_short(sum(entry.numbers for entry in entries))} numbers in {len(entries)} "
            f"tensors, {file_size(size)} in {WEIGHTS_FILE}, {dtypes_in_words(file)}"
        )
        if self.weights.changes:
            self.facts["adapted"] = _adapted_in_words(self.weights)

    # --- the base -------------------------------------------------------------------------------

    def _find_base(self) -> None:
        name = self.config.get("base_model_name_or_path")
        name = name if isinstance(name, str) else ""
        self.base = find_base(name, self.folder)
        changes = [] if self.weights is None else self.weights.sound
        fitting = models_that_fit(changes) if changes else []
        by_shape = f"; by its shapes: {', '.join(fitting)}" if fitting else ""
        if self.base is not None:
            is_other = f"{name}; here {self.base.name} stands in, its weights rounded"
            here = is_other if self.base.stands_in else f"{self.base.name}, which is here"
            self.facts["base"] = here
            if _is_path(name):
                self._add(
                    "note",
                    f"base_model_name_or_path is a folder of this machine: {name!r}",
                    "elsewhere plain PEFT, vLLM and the hub do not find it",
                    f"write the base's hub id into {CONFIG_FILE} before you share the adapter",
                )
            return
        self.facts["base"] = f"{name or 'not named'}, not here{by_shape}"
        if not name:
            self._add(
                "warning",
                "base_model_name_or_path is empty",
                "nobody can tell which model the adapter changes"
                + (f"; by its shapes it may be {' or '.join(fitting)}" if fitting else ""),
                f"write the base's hub id into {CONFIG_FILE}",
            )
        elif _is_path(name):
            self._add(
                "warning",
                f"base_model_name_or_path is a folder of another machine: {name!r}",
                "plain PEFT, vLLM and the hub look there for the base and stop",
                f"write the base's hub id into {CONFIG_FILE}",
            )
        else:
            self._compare_with_known(name, changes, fitting)

    def _compare_with_known(
        self, name: str, changes: Sequence[Change], fitting: Sequence[str]
    ) -> None:
        """Compare the shapes with those of the well-known model that the configuration names."""
        config = config_of(name)
        odd = "" if config is None else contradiction(config, changes)
        if odd:
            self._add(
                "grave",
                f"the configuration names {name}, and the shapes are not its: {odd}"
                + (f". They are those of {', '.join(fitting)}" if fitting else ""),
                "on the base that it names, PEFT stops with a size mismatch, or skips the weights",
                f"write the base of the training into {CONFIG_FILE}",
            )

    # --- all together ---------------------------------------------------------------------------

    def _compare(self) -> None:
        settings, weights = self.settings, self.weights
        rows = vocabulary_of(settings.base_model_name_or_path or "", self.base)
        self.findings += token_row_findings(self.config.get(FIELD), weights, rows)
        more_targets = bool(self.config.get("target_parameters"))
        try:
            self.findings += config_findings(settings, weights, self.base, more_targets)
            by_module = factors(settings, list(weights.changes))
        except ValueError as error:
            self._add(
                "grave",
                str(error),
                "PEFT stops at it, or waits for a match without end",
                f"correct it in {CONFIG_FILE}",
                "07",
            )
            return
        if not by_module:
            return
        self.findings += factor_findings(settings, by_module.values())
        self.facts["factor"] = factor_in_words(settings, by_module.values())
        scalings = Counter(factor.scaling for factor in by_module.values())
        self.facts["beside what tools ship"] = shipped_in_words(scalings.most_common(1)[0][0])
        changes = {
            change.module: abs(by_module[change.module].scaling) * change.norm
            for change in weights.sound
        }
        if settings.use_dora:
            self.facts["change"] = "DoRA's magnitudes are not counted in, only BA"
        if changes:
            norms = norms_of(changes, self.base)
            self.facts |= size_in_words(changes, norms, self.base is not None)
            self.findings += size_findings(changes, norms)

    # --- beside the weights ---------------------------------------------------------------------

    def _look_at_tokenizer(self) -> None:
        name = self.config.get("base_model_name_or_path")
        rows = vocabulary_of(name if isinstance(name, str) else "", self.base)
        trains_embedding = bool(self.config.get(FIELD))
        if self.weights is not None:
            saved = (self.settings and self.settings.modules_to_save) or ()
            trains_embedding |= any(
                _is_embedding(module) for module in (*self.weights.changes, *saved)
            )
            for module, key in self.weights.whole.items():
                if rows is not None and _is_embedding(module):
                    rows = max(rows, self.weights.file.entries[key].shape[0])
        is_it = self.base is not None and not self.base.stands_in
        folder = self.base.folder if is_it else None
        facts, findings = look_at_tokenizer(self.folder, folder, rows, trains_embedding)
        self.facts |= facts
        self.findings += findings

    def _pickles(self) -> list[str]:
        return sorted(file.name for file in self.folder.iterdir() if file.suffix in PICKLES)

    def _look_at_files(self) -> None:
        pickles = self._pickles()
        left = [name for name in pickles if name in LEFTOVERS or name.startswith("rng_state")]
        if left:
            size = sum((self.folder / name).stat().st_size for name in left)
            self._add(
                "note",
                f"left over from training: {named(left)} ({file_size(size)})",
                "they are pickles for resuming a training; none was read, and no user needs them",
                f"ship {CONFIG_FILE}, {WEIGHTS_FILE} and the tokenizer alone",
            )
        others = [name for name in pickles if name not in left]
        if others and (self.folder / WEIGHTS_FILE).exists():
            self._add(
                "warning",
                f"beside {WEIGHTS_FILE} there is a pickle: {named(others)}. It was not read",
                "which of them a tool loads differs, and a pickle can run any code",
                "delete it",
            )
        if (self.folder / "config.json").exists():
            whole = sorted(file.name for file in self.folder.glob("model*.safetensors"))
            if whole:
                self._add(
                    "warning",
                    f"the folder holds an adapter and a whole model ({whole[0]})",
                    "tools differ in which they take; merged and adapted at once, the change "
                    "counts twice",
                    "put them into two folders",
                )

    def _look_at_log(self) -> None:
        facts, findings = log_beside(self.folder)
        self.facts |= facts
        self.findings += findings


# --- words --------------------------------------------------------------------------------------


def _is_embedding(module: str) -> bool:
    return last_name(module.removesuffix(".base_layer")) in ("embed_tokens", "wte")


def _is_path(name: str) -> bool:
    """Whether a base's name is a place on a disk, and no hub id."""
    return (
        name.startswith(("/", "~", ".", "\\"))
        or "\\" in name
        or name[1:2] == ":"
        or (name.count("/") > 1)
    )


def _adapted_in_words(weights: Weights) -> str:
    """The adapted matrices and their rank: `28 matrices in 4 layers (q_proj, …), rank 8`."""
    modules = list(weights.changes)
    layers = {layer_of(module) for module in modules} - {None}
    names = list(dict.fromkeys(map(last_name, modules)))
    ranks = sorted({change.rank for change in weights.changes.values()})
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return f"{len(modules)} matrices in {len(layers)} layers ({named(names, 9)}), rank {rank}"

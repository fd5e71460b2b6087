"""The GPU memory that others measured, or ran out of, beside what is estimated here.

The measurements are data/evidence/gpu-memory.csv: facts, each with its place. Half of the places
were held back when `lora_lab.cost.gpus.CACHED` was fitted.
"""

import csv
import functools
import hashlib
import json
from dataclasses import dataclass

from lora_lab.cost.budget import Batch
from lora_lab.cost.estimates import find_shape
from lora_lab.cost.gpus import GIB, TAKEN, cached, verdict_on
from lora_lab.cost.memory import stack_memory, usual_memory
from lora_lab.cost.stacks import Stack
from lora_lab.models.architecture import Shape
from lora_lab.models.read_architecture import shape_of
from lora_lab.places import data_folder
from lora_lab.recipe import Recipe
from lora_lab.records import Memory

UNITS = {"bytes": 1, "MiB": 2**20, "GiB": GIB, "GB": 10**9}
OUTCOMES = ("ran", "out of memory")  # for some runs, nothing but the outcome is known
MEASURED = (
    "allocated",
    "reserved",
    "process",
)  # tensors; the allocator's; all that nvidia-smi shows
CONTEXT = GIB // 2  # CUDA's context and the libraries: 0.3 to 0.4 GiB by reports (see gpus.TAKEN)


@dataclass(frozen=True, slots=True)
class Published:
    """A run as its source describes it, and the memory that it took."""

    fields: dict[str, str]  # the row of the file
    assumed: dict[str, str]  # what the source leaves open, by the name of the field

    def __getitem__(self, name: str) -> str:
        """A field's text, as the source states it or else as it is assumed."""
        stated = self.fields[name]
        return self.assumed.get(name, stated) if stated in ("", "not stated", "G") else stated

    @property
    def held_back(self) -> bool:
        """Whether the run was held back from the fit: decided by a hash of its place."""
        place = f"{self.fields['source']}\n{self.fields['where'].split(': mem_')[0]}"
        return int(hashlib.sha256(place.encode()).hexdigest(), 16) % 2 == 1

    @property
    def measured(self) -> float | None:
        """The measured bytes; None: the run only did or did not fit."""
        return float(self["measured"]) * UNITS[self["unit"]] if self["measured"] else None

    @property
    def shape(self) -> Shape:
        """The model's shape, by its name or by the config in the row."""
        if not self["config"]:
            return find_shape(self["model"])
        return shape_of(json.loads(self["config"]), self["model"])

    @property
    def recipe(self) -> Recipe:
        """The choices that decide its memory."""
        fields = {
            "method": self["method"],
            "batch_size": int(self["batch_size"]),
            "max_length": int(self["tokens"]),
            "gradient_checkpointing": self["gradient_checkpointing"] == "yes",
            "optimizer": self["optimizer"] or "adamw",
        }
        if self["method"] == "full":
            return Recipe(**fields)
        targets = self["target_modules"]
        fields["target_modules"] = targets if targets == "all-linear" else tuple(targets.split())
        if self["method"] == "adalora":
            fields |= {"init_r": int(self["r"]), "target_r": int(self["r"]) // 2}
        else:
            fields["r"] = int(self["r"])
        if self["quantize"]:
            fields["quantize"] = self["quantize"]
            fields["double_quant"] = self["double_quant"] != "no"
        fields["modules_to_save"] = tuple(self["modules_to_save"].split())
        fields["lora_dropout"] = float(self["lora_dropout"] or 0)
        return Recipe(**fields, use_dora=self["use_dora"] == "yes")

    @property
    def stack(self) -> Stack:
        """The program that trained."""
        return Stack(
            autocast=self["autocast"] == "yes",
            adapters=self["adapters"] or "float32",
            beside=self["beside"] or "float32",
            loss=self["loss"],
            eager=self["attention"] == "eager",
            exact_weights=False,  # each of these runs updates the weights as it loaded them
        )

    @property
    def batch(self) -> Batch:
        """Its largest batch: every position has a label."""
        examples, length = int(self["batch_size"]), int(self["tokens"])
        return Batch(examples, length, length, examples * length)

    def estimate(self) -> Memory:
        """The memory of its tensors, as estimated here."""
        return stack_memory(self.shape, self.recipe, self.batch, self["dtype"], self.stack)

    def expected(self, memory: Memory) -> int:
        """The bytes that the measurement would show if the tensors take this memory."""
        beside = {"allocated": 0, "reserved": cached(memory), "process": cached(memory) + CONTEXT}
        return memory.total + beside[self["kind"]]

    def error(self) -> float:
        """The error of the estimate, as a share of what was measured."""
        return self.expected(self.estimate()) / self.measured - 1

    def verdict(self) -> str:
        """The estimate's verdict on the run's card."""
        return verdict_on(int(float(self["card_gib"]) * GIB) - TAKEN, self.estimate())

    def bare_error(self) -> float:
        """The error of `usual_memory`: a bare loop's tensors, as papers count them."""
        bare = usual_memory(self.shape, self.recipe, self.batch, self["dtype"]).total
        return bare / self.measured - 1


@functools.cache
def published() -> tuple[Published, ...]:
    """The runs of data/evidence/gpu-memory.csv."""
    path = data_folder() / "evidence" / "gpu-memory.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(Published(row, _assumed(row["assumed"])) for row in csv.DictReader(file))


def _assumed(text: str) -> dict[str, str]:
    """The `field=value` of a row's assumptions; words behind a value explain it."""
    pairs = (part.split("=", 1) for part in text.split("; ") if "=" in part)
    return {name.strip(): value.split(" (")[0].strip() for name, value in pairs}


def comparable() -> tuple[Published, ...]:
    """The runs whose source says enough to estimate them."""
    return tuple(run for run in published() if not run["not_compared"])

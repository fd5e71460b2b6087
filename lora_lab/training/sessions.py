"""A session of ONNX Runtime for a graph and a model's weights. Only this module imports it."""

import warnings
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from torch import nn

from lora_lab.models.quiet import silent_stderr
from lora_lab.places import cache_folder

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

VARIABLE = "LORA_LAB_STEP"  # in the environment: "auto", "torch" or "traced"


class DamagedGraph(ValueError):
    """A graph that ONNX Runtime can't read."""


def new_session(graph: Path, model: nn.Module) -> "InferenceSession":
    """ONNX Runtime with a graph, and a model's weights as they are now.

    Raises:
        DamagedGraph: if ONNX Runtime can't read the graph.
        ImportError: if onnxruntime is not installed.
    """
    runtime = onnxruntime_here()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # as torch for a small model
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # it lays out memory anew for every shape of batch
    options.log_severity_level = 3  # errors
    weights = {
        name: runtime.OrtValue.ortvalue_from_numpy(parameter.detach().numpy())
        for name, parameter in model.named_parameters()
    }
    options.add_external_initializers(list(weights), list(weights.values()))
    try:
        return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _errors_of(runtime) as error:
        raise DamagedGraph(str(error)) from error


def _errors_of(runtime: ModuleType) -> tuple[type[Exception], ...]:
    """The errors of ONNX Runtime, which have no parent of their own."""
    kinds = vars(runtime.capi.onnxruntime_pybind11_state).values()
    return tuple(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception))


def put_away(graph: Path, error: Exception) -> None:
    """Delete a damaged graph from the cache, with a warning.

    Raises:
        ValueError: for pocket's own graph, which was shipped.
    """
    if cache_folder() not in graph.parents:
        raise ValueError(
            f"{graph} is damaged ({error}); install lora-lab again, or set {VARIABLE}=torch"
        ) from error
    graph.unlink(missing_ok=True)
    warnings.warn(
        f"the graph in {graph} was damaged and is deleted ({error}); {VARIABLE}=traced makes it "
        "anew, and without it torch takes the steps",
        stacklevel=2,
    )


@lru_cache(maxsize=1)
def onnxruntime_here() -> ModuleType:
    """The library onnxruntime.

    Raises:
        ImportError: where it is not installed.
    """
    try:
        with silent_stderr():
            import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"{VARIABLE}='traced' needs onnxruntime, which is not installed here; "
            f"pip install onnxruntime, or leave {VARIABLE} unset"
        ) from error
    return onnxruntime

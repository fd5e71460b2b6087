"""A batch's loss and gradients as a graph for ONNX Runtime, traced from PEFT's own model.

The graph holds no weights, only their names: it serves every model of the same architecture. ONNX
Runtime is given them when a session is made: by name, or as one file, in which they stand one after
the other. The adapters of all modules stand side by side in two matrices, A (r, sum of ins) and B
(sum of outs, r). So rank, batch, length and the number of labelled places are dynamic.
"""

import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from lora_lab.models.adapters import adapt
from lora_lab.models.bases import Base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import IGNORED

if TYPE_CHECKING:
    import onnx

WEIGHTS_FILE = "weights"  # where a graph looks for them: float32, in the order of their names
OPSET = 20  # of ONNX: what ONNX Runtime reads, in Python and in a browser
PREFIX = "base_model.model."  # what PEFT puts before the base's names
NO_MATTER = frozenset(  # fields of a configuration that leave a training step as it is
    "_name_or_path architectures dtype transformers_version initializer_range use_cache "
    "pad_token_id bos_token_id eos_token_id id2label label2id "
    "output_attentions output_hidden_states return_dict chunk_size_feed_forward "
    "is_encoder_decoder problem_type".split()
)
LORA = Recipe(r=6, lora_alpha=6)  # all linear layers, scaling 1: the real one is an input
aten = torch.ops.aten


@dataclass(frozen=True)
class Traceable:
    """A base with PEFT's adapter on all its linear layers, as pure functions of tensors."""

    base: Base

    @cached_property
    def model(self) -> nn.Module:
        """PEFT's model, with the attention that can be traced."""
        model = adapt(self.base, LORA).eval()
        model.get_base_model().set_attn_implementation("eager")
        return model.requires_grad_(False)

    @cached_property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Each adapted module by its name in the base: (in, out)."""
        return {
            name.removeprefix(PREFIX): (module.in_features, module.out_features)
            for name, module in self.model.named_modules()
            if hasattr(module, "lora_A")
        }

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The base's weights by their names there; a tied weight under its first name."""
        return {
            name.removeprefix(PREFIX).replace(".base_layer", ""): tensor
            for name, tensor in self.model.named_parameters()
            if "lora_" not in name
        }

    def logits(
        self,
        A: Tensor,
        B: Tensor,
        scale: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        places: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """The logits at some places of each row: (batch, places, vocab).

        Args:
            A: (r, sum of ins), the modules in their order.
            B: (sum of outs, r).
            scale: (modules,), each module's scaling; 0 for a module without an adapter.
            input_ids: (batch, tokens).
            attention_mask: (batch, tokens).
            places: (places,), positions in a row.
            weights: the base's, in the order of `weights`.
        """
        ins, outs = zip(*self.modules.values(), strict=True)
        given = dict(zip(self._peft_names, weights, strict=True))
        for module, a, b, factor in zip(
            self.modules, A.split(ins, 1), B.split(outs, 0), scale, strict=True
        ):
            given[f"{PREFIX}{module}.lora_A.default.weight"] = a * factor
            given[f"{PREFIX}{module}.lora_B.default.weight"] = b
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        options = {"logits_to_keep": places, "use_cache": False}
        return torch.func.functional_call(self.model, given, kwargs=inputs | options).logits

    @cached_property
    def _peft_names(self) -> list[str]:
        return [name for name, _ in self.model.named_parameters() if "lora_" not in name]

    def loss(
        self,
        A: Tensor,
        B: Tensor,
        scale: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        places: Tensor,
        labels: Tensor,
        weight: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """The cross-entropies of the labels, summed and multiplied by `weight`.

        Args:
            A: as in `logits`.
            B: as in `logits`.
            scale: as in `logits`.
            input_ids: as in `logits`.
            attention_mask: as in `logits`.
            places: as in `logits`.
            labels: (batch, places), the token that each place predicts; IGNORED: none.
            weight: a single number; 1 / (labels of the step) gives the step's mean.
            weights: as in `logits`.
        """
        logits = self.logits(A, B, scale, input_ids, attention_mask, places, *weights)
        counted = labels != IGNORED
        wanted = torch.where(counted, labels, 0).unsqueeze(-1)
        right = logits.log_softmax(-1).gather(-1, wanted).squeeze(-1)  # (batch, places)
        return -(right * counted.to(right.dtype)).sum() * weight

    def gradients(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and its gradients by A and by B, for the inputs of `loss`."""
        (a, b), loss = torch.func.grad_and_value(self.loss, argnums=(0, 1))(*inputs)
        return loss, a, b


def architecture_of(config: object) -> str:
    """The part of a model's configuration on which its graph depends, as JSON."""
    fields = json.loads(config.to_json_string(use_diff=False))
    kept = {name: value for name, value in fields.items() if name not in NO_MATTER}
    return json.dumps(kept, sort_keys=True)


# --- the graph of a function --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input:
    """An example of a graph's input: its shape is fixed except in the dynamic dimensions."""

    name: str
    example: Tensor
    dynamic: tuple[int, ...] = ()


def gradients_graph(base: Base) -> bytes:
    """The graph of `Traceable.gradients`, a file for ONNX Runtime: about a minute of work.

    Its inputs are those of `Traceable.loss` without the weights. Each weight is an initializer
    without data, under its name in the base; a session gets the data when it is made (see
    `graph_of`). Its outputs are `loss`, `A_gradient` and `B_gradient`. The metadata hold `modules`
    as JSON.

    Args:
        base: any base with this architecture, in float32 on the CPU; its weights do not matter.

    Raises:
        ImportError: where onnx or onnxscript is not installed.
    """
    traceable = Traceable(base)
    ins, outs = (sum(sizes) for sizes in zip(*traceable.modules.values(), strict=True))
    batch, tokens, places = 5, 25, 10  # all different, so that no two dimensions are taken for one

    def ones(*sizes: int) -> Tensor:  # a tensor of its own each time: one object is one input
        return torch.ones(sizes, dtype=torch.long)

    inputs = (
        Input("A", torch.ones(LORA.r, ins), (0,)),
        Input("B", torch.ones(outs, LORA.r), (1,)),
        Input("scale", torch.ones(len(traceable.modules))),
        Input("input_ids", ones(batch, tokens), (0, 1)),
        Input("attention_mask", ones(batch, tokens), (0, 1)),
        Input("places", torch.arange(places), (0,)),
        Input("labels", ones(batch, places), (0, 1)),
        Input("weight", torch.tensor(1.0)),
    )
    outputs = ("loss", "A_gradient", "B_gradient")
    metadata = {"modules": json.dumps(traceable.modules)}
    return graph_of(traceable.gradients, inputs, traceable.weights, outputs, metadata)


def graph_of(
    function: Callable[..., object],
    inputs: Sequence[Input],
    weights: Mapping[str, Tensor],
    outputs: Sequence[str],
    metadata: Mapping[str, str],
) -> bytes:
    """The graph of a function of tensors, whose derivatives may be taken inside.

    Args:
        function: takes the inputs, then the weights.
        inputs: in the function's order.
        weights: in float32. They become initializers without data, each a part of WEIGHTS_FILE.
        outputs: names for what the function returns.
        metadata: kept in the file.

    Raises:
        ImportError: where onnx or onnxscript is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it
    except ImportError as error:
        raise ImportError(
            "a graph is made with onnx and onnxscript, and they are not installed here; "
            "pip install 'lora-lab[web]'"
        ) from error
    examples = [each.example for each in inputs] + list(weights.values())
    dynamic = [each.dynamic for each in inputs] + [()] * len(weights)
    names = [each.name for each in inputs] + list(weights)
    with _silent_exporter():
        traced = _traced(function, examples, dynamic)
        shapes = tuple({dim: torch.export.Dim.DYNAMIC for dim in dims} for dims in dynamic)
        program = torch.export.export(traced, tuple(examples), dynamic_shapes=shapes)
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=names,
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
        )
    model = _tidied(exported.model_proto, list(weights))
    onnx.helper.set_model_props(model, dict(metadata))
    return model.SerializeToString(deterministic=True)


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """A block in which torch's exporter neither warns nor logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _traced(
    function: Callable[..., object], examples: Sequence[Tensor], dynamic: Sequence[tuple[int, ...]]
) -> nn.Module:
    """The function as a list of plain operations, its derivatives and in-place writes resolved."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    fakes = [
        mode.from_tensor(
            example,
            symbolic_context=StatelessSymbolicContext(
                dynamic_sizes=[
                    DimDynamic.DYNAMIC if dim in dims else DimDynamic.STATIC
                    for dim in range(example.ndim)
                ]
            ),
        )
        for example, dims in zip(examples, dynamic, strict=True)
    ]
    with mode:
        module = make_fx(
            torch.func.functionalize(function, remove="mutations"),
            decomposition_table=_decompositions(),
            tracing_mode="symbolic",
            _allow_non_fake_inputs=True,
        )(*fakes)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module.eval()


def _decompositions() -> dict:
    """The rules that write operations in simpler ones: torch's own table, and what it lacks."""

    def slice_backward(
        gradient: Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int
    ) -> Tensor:
        if step != 1:
            return NotImplemented
        dim %= len(sizes)
        start = start + sizes[dim] if start < 0 else start
        before = [0, 0] * (len(sizes) - 1 - dim)  # pads are given from the last dimension on
        return aten.constant_pad_nd(
            gradient, [*before, start, sizes[dim] - start - gradient.shape[dim]]
        )

    def power(x: Tensor, exponent: float) -> Tensor:
        if exponent not in (1, 2, 3):
            return NotImplemented
        return math.prod([x] * (int(exponent) - 1), start=x)

    def empty(size: Sequence[int], *_: object, dtype: torch.dtype, **__: object) -> Tensor:
        return aten.full(size, 0.0, dtype=dtype)

    return dict(torch.export.default_decompositions().items()) | {
        aten.slice_backward.default: slice_backward,
        aten.pow.Tensor_Scalar: power,
        aten.empty_permuted.default: empty,
    }


def _tidied(model: "onnx.ModelProto", weights: Sequence[str]) -> "onnx.ModelProto":
    """The graph with short names and without notes; its weights are initializers without data."""
    import onnx

    graph = model.graph
    given = {value.name: value for value in graph.input}
    offset = 0
    for name in weights:
        sizes = [dim.dim_value for dim in given[name].type.tensor_type.shape.dim]
        weight = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=sizes)
        weight.data_location = onnx.TensorProto.EXTERNAL
        length = 4 * math.prod(sizes)
        for key, value in (("location", WEIGHTS_FILE), ("offset", offset), ("length", length)):
            weight.external_data.add(key=key, value=str(value))
        offset += length
        graph.input.remove(given[name])
        graph.initializer.append(weight)
    kept = {*weights} | {value.name for value in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"v{len(short)}")

    for node in graph.node:
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
        node.ClearField("name")
    for constant in graph.initializer:
        constant.name = renamed(constant.name)
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output, graph, model):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    graph.ClearField("value_info")
    model.ClearField("functions")
    return model

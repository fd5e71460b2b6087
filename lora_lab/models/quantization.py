"""A model's weights in 4 or 8 bits, quantised by bitsandbytes, as QLoRA trains on them."""

import copy
from dataclasses import dataclass
from types import MethodType, ModuleType

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

OUTLIER = 6.0  # an input beyond it keeps its 16 bits: LLM.int8(), arXiv:2208.07339, section 3.2
BLOCKSIZE = 64  # weights that share a constant in 4 bits, as in bitsandbytes and QLoRA
DEVICES = ("cpu", "cuda")  # where bitsandbytes is known to train


@dataclass(frozen=True, slots=True)
class Quantization:
    """The type of the weights in a model's linear layers."""

    quantize: str  # "nf4", "fp4" or "int8"
    double_quant: bool = True  # 4 bits: the blocks' constants are quantised too
    compute_dtype: torch.dtype = torch.float32  # 4 bits: what a product is computed in

    def __str__(self) -> str:
        """The type in words: "nf4 with double quantisation"."""
        return f"{self.quantize}{' with double quantisation' * self._is_double}"

    @property
    def _is_double(self) -> bool:
        return self.double_quant and self.quantize != "int8"


def require_bitsandbytes(what: str, otherwise: str) -> ModuleType:
    """The library bitsandbytes.

    Raises:
        ImportError: where it is not installed, with what needs it and what works without it.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError(
            f"{what} bitsandbytes, which is not installed here; "
            f"pip install bitsandbytes, or give {otherwise}"
        ) from error
    return bitsandbytes


def quantize_layers(
    model: nn.Module,
    how: Quantization,
    device: torch.device,
    done: dict[str, nn.Module] | None = None,
) -> None:
    """Replace a model's linear layers by quantised ones, as transformers does.

    The output layer, embeddings and norms are not quantised: they become float32, as PEFT's
    `prepare_model_for_kbit_training` makes them. That function also freezes the model, as every
    adapter here does, and checkpoints activations, which the recipe decides here. The tensors that
    `model` had are not written to.

    Args:
        model: its modules are replaced in place.
        how: the type of the weights.
        device: where they will be: the CPU or CUDA; or "meta", for their sizes alone.
        done: layers of the same weights that were quantised before, by name: their tensors are
            taken, and the others are added. None: there are none.

    Raises:
        ValueError: for a device on which bitsandbytes does not work, or a layer it can't hold.
        ImportError: where bitsandbytes is not installed.

    Source:
        QLoRA, arXiv:2305.14314, section 3; for int8 LLM.int8(), arXiv:2208.07339.
    """
    if device.type not in (*DEVICES, "meta"):
        raise ValueError(
            f"quantize={how.quantize!r} needs CUDA or the CPU, and this base is on {device}; give "
            "device='cpu', or quantize=None"
        )
    library = require_bitsandbytes(f"quantize={how.quantize!r} needs", "quantize=None")
    output, done = model.get_output_embeddings(), {} if done is None else done
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear | Conv1D) and layer is not output:
            if name not in done:
                _check_width(name, layer, how, device)
                done[name] = _quantized(library, layer, how, device)
            model.set_submodule(name, share_tensors(done[name]).train(layer.training))
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.float()
    model.is_loaded_in_4bit = how.quantize != "int8"  # PEFT asks for these two
    model.is_loaded_in_8bit = how.quantize == "int8"
    model.to(device).requires_grad_(False)


def _check_width(
    name: str, layer: nn.Linear | Conv1D, how: Quantization, device: torch.device
) -> None:
    """Refuse rows of no whole blocks, which bitsandbytes 0.50 misreads with AVX-512."""
    width = layer.nx if isinstance(layer, Conv1D) else layer.in_features
    if how.quantize != "int8" and device.type == "cpu" and width % BLOCKSIZE:
        raise ValueError(
            f"{name} has {width} inputs, and bitsandbytes misreads 4-bit weights on some CPUs "
            f"where that isn't a multiple of {BLOCKSIZE}; give quantize='int8', or device='cuda'"
        )


def _quantized(
    library: ModuleType, layer: nn.Linear | Conv1D, how: Quantization, device: torch.device
) -> nn.Module:
    """A frozen layer of bitsandbytes with the same weights, (out, in), as near as its bits allow.

    bitsandbytes' own default for 4 bits is fp4, so the type is always named.
    """
    weight = layer.weight.data.T if isinstance(layer, Conv1D) else layer.weight.data
    sizes = {"input_features": weight.shape[1], "output_features": weight.shape[0]}
    sizes |= {"bias": layer.bias is not None, "device": "meta"}
    if device.type == "meta":
        return _with_sizes(library, weight, layer, how)
    weight = weight.cpu().contiguous()  # quantised on its way to the device
    if how.quantize == "int8":
        new = library.nn.Linear8bitLt(**sizes, has_fp16_weights=False, threshold=OUTLIER)
        new.weight = library.nn.Int8Params(weight, requires_grad=False).to(device)
        new.init_8bit_state()  # else the first answer would do it, behind a sharing model's back
    else:
        new = library.nn.Linear4bit(**sizes, compute_dtype=how.compute_dtype)
        new.support_avx512bf16_for_cpu = False  # else it repacks itself, to answer in bfloat16
        new.weight = library.nn.Params4bit(
            weight,
            requires_grad=False,
            quant_type=how.quantize,
            compress_statistics=how.double_quant,
        ).to(device)
    new.bias = layer.bias
    return new


def _with_sizes(
    library: ModuleType, weight: Tensor, layer: nn.Module, how: Quantization
) -> nn.Module:
    """The layer that `_quantized` gives, without numbers; in 8 bits it multiplies as on a CPU."""
    sizes = {"input_features": weight.shape[1], "output_features": weight.shape[0]}
    if how.quantize == "int8":
        new = library.nn.Linear8bitLt(**sizes, has_fp16_weights=False, device="meta")
        codes, rows, _ = library.functional.int8_vectorwise_quant(weight.half())
        new.weight = library.nn.Int8Params(codes, requires_grad=False)
        new.state.CB, new.state.SCB = new.weight.data, rows
        new.forward = MethodType(_multiply_as_on_cpu, new)
    else:
        new = library.nn.Linear4bit(**sizes, compute_dtype=how.compute_dtype, device="meta")
        new.support_avx512bf16_for_cpu = False
        kind = {"quant_type": how.quantize, "compress_statistics": how.double_quant}
        levels = library.functional.name2qmap  # bitsandbytes caches these, numbers and all
        levels.setdefault("dynamic", library.functional.create_dynamic_map())
        codes, state = library.functional.quantize_4bit(weight, blocksize=BLOCKSIZE, **kind)
        new.weight = library.nn.Params4bit(codes, quant_state=state, bnb_quantized=True)
    new.bias = layer.bias
    return new


def _multiply_as_on_cpu(layer: nn.Module, x: Tensor) -> Tensor:
    """The tensors of bitsandbytes' product on a CPU, which differ in training and scoring."""
    if layer.training:
        from bitsandbytes.autograd._functions import MatMul8bitFp

        return MatMul8bitFp.apply(x, layer.weight, None, layer.bias, layer.state)
    size, exact = (*x.shape[:-1], layer.out_features), x.half()
    codes = (exact * exact[..., :1].float()).round().to(torch.int8)
    del exact
    integers = torch.empty(size, dtype=torch.int32, device=x.device)
    both_constants, product = torch.empty_like(integers), integers * 1.0
    scaled = product * 1.0
    del codes, integers, both_constants, product
    return scaled.to(x.dtype)


# --- one set of tensors under several models ------------------------------------------------


def share_tensors(model: nn.Module) -> nn.Module:
    """A new module tree over the same tensors. An adapter put on it leaves `model` as it was."""
    memo = {id(parameter): _over_the_same(parameter) for parameter in model.parameters()}
    memo |= {id(buffer): buffer for buffer in model.buffers()}
    for layer in model.modules():  # an 8-bit layer keeps tensors beside its parameters
        state = vars(layer.state) if is_quantized(layer) and hasattr(layer, "state") else {}
        memo |= {id(value): value for value in state.values() if isinstance(value, Tensor)}
    return copy.deepcopy(model, memo)


def _over_the_same(parameter: nn.Parameter) -> nn.Parameter:
    if type(parameter) is nn.Parameter:
        return nn.Parameter(parameter.data, requires_grad=False)
    if parameter.is_meta:  # it has no numbers that could be overwritten
        return parameter
    if type(parameter).__name__ == "Params4bit":  # PEFT's merge writes to its attributes
        return copy.copy(parameter)
    return parameter


# --- what a quantised layer holds -----------------------------------------------------------


def is_quantized(layer: nn.Module) -> bool:
    """Whether a layer keeps its weight in 4 or 8 bits."""
    return type(layer).__name__ in ("Linear4bit", "Linear8bitLt")


def weight_of(layer: nn.Module) -> Tensor:
    """A layer's weight as its products see it, (out_features, in_features): dequantised if need be.

    The weight of a Conv1D is (in_features, out_features).
    """
    if not is_quantized(layer):
        return layer.weight.data
    functional = require_bitsandbytes("a quantised layer needs", "quantize=None").functional
    if type(layer).__name__ == "Linear4bit":
        return functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return functional.int8_vectorwise_dequant(layer.state.CB, layer.state.SCB)


def dequantized(model: nn.Module) -> nn.Module:
    """A plain copy of a quantised model, with the weights that its products really used.

    This is the base to merge a QLoRA adapter into: the outputs stay the same. Merged into the
    4-bit weights, the change is rounded to their levels, and a small change is lost. Merged into
    the weights from before quantisation, it corrects errors that are not there.
    `benchmarks/results/merging.md` has the cost of each.
    """
    model = share_tensors(model)
    for name, layer in list(model.named_modules()):
        if is_quantized(layer):
            bias = layer.bias is not None
            plain = nn.Linear(layer.in_features, layer.out_features, bias=bias, device="meta")
            plain.weight = nn.Parameter(weight_of(layer).float(), requires_grad=False)
            plain.bias = layer.bias
            model.set_submodule(name, plain.train(layer.training))
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = False
    return model

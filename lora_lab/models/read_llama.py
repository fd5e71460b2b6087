"""The parameters of a Llama and of its LoRA adapter, where nothing else decides what it computes.

`lean.py` computes with them. A model that is not fully known is left to its own forward pass.
"""

from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn.modules import module as modules_of_torch
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
SAME_ANGLES = {"default", "linear", "llama3", "yarn"}  # kinds of RoPE, whatever a batch's length


class Matrix(NamedTuple):
    """A linear layer: the frozen weight, and an adapter's A, B and scaling where there is one."""

    weight: Tensor  # (out, in)
    A: Tensor | None = None  # (r, in)
    B: Tensor | None = None  # (out, r)
    scaling: float = 0.0


class Norm(NamedTuple):
    """An RMSNorm: its weight, (width,), and the number that keeps it from dividing by 0."""

    weight: Tensor
    eps: float


class Layer(NamedTuple):
    """All parameters of one layer."""

    norm: Norm
    q: Matrix
    k: Matrix
    v: Matrix
    o: Matrix
    norm_2: Norm
    gate: Matrix
    up: Matrix
    down: Matrix


class Llama(NamedTuple):
    """All parameters of a model."""

    embedding: nn.Module
    rotation: nn.Module  # token positions -> cosines and sines
    layers: tuple[Layer, ...]
    norm: Norm
    head: nn.Module
    head_dim: int


def read(model: nn.Module) -> Llama | None:
    """A model's parameters, if `lean.py` computes what the model's own forward does; else None.

    The model must be a Llama in float32 on a CPU, as transformers builds it, with at most one LoRA
    or rsLoRA adapter of PEFT in use. The result is None for trained base weights, dropout, DoRA,
    AdaLoRA, merged or quantised weights, biases, hooks, gradient checkpointing, autocast, and any
    other attention.
    """
    whole = model.get_base_model() if isinstance(model, PeftModel) else model
    if type(whole) is not llama.LlamaForCausalLM or type(whole.model) is not llama.LlamaModel:
        return None
    body, config = whole.model, whole.config
    wrappers = [model, model.base_model] if whole is not model else []
    if wrappers and type(model.base_model) is not LoraModel:
        return None
    plain = (
        whole.device.type == "cpu"
        and whole.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not modules_of_torch._has_any_global_hook()
        and config._attn_implementation == "sdpa"
        and not (config.attention_dropout and whole.training)
        and all(map(_is_bare, [*wrappers, whole, body, body.rotary_emb]))
        and type(body.rotary_emb) is llama.LlamaRotaryEmbedding
        and body.rotary_emb.rope_type in SAME_ANGLES
        and len(body.layers) == config.num_hidden_layers
    )
    if not plain:
        return None
    norm = _read_norm(body.norm)
    layers = tuple(map(_read_layer, body.layers))
    if norm is None or None in layers or not layers:
        return None
    dim = body.layers[0].self_attn.head_dim
    return Llama(body.embed_tokens, body.rotary_emb, layers, norm, whole.lm_head, dim)


def _is_bare(module: nn.Module) -> bool:
    """Whether nothing is hooked onto a module, and its forward is its class's own."""
    own = vars(module)
    return "forward" not in own and not any(own[hooks] for hooks in HOOKS)


def _read_layer(layer: nn.Module) -> Layer | None:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    types = type(layer), type(attention), type(mlp)
    if types != (llama.LlamaDecoderLayer, llama.LlamaAttention, llama.LlamaMLP):
        return None
    if type(mlp.act_fn) is not SiLUActivation or layer.gradient_checkpointing:
        return None
    if attention.scaling != attention.head_dim**-0.5:
        return None
    if not all(map(_is_bare, (layer, attention, mlp, mlp.act_fn))):
        return None
    parts = (
        _read_norm(layer.input_layernorm),
        *map(_read_matrix, (attention.q_proj, attention.k_proj, attention.v_proj)),
        _read_matrix(attention.o_proj),
        _read_norm(layer.post_attention_layernorm),
        *map(_read_matrix, (mlp.gate_proj, mlp.up_proj, mlp.down_proj)),
    )
    return None if None in parts else Layer(*parts)


def _read_norm(module: nn.Module) -> Norm | None:
    if type(module) is not llama.LlamaRMSNorm or not _is_bare(module):
        return None
    return Norm(module.weight, module.variance_epsilon) if _is_frozen(module.weight) else None


def _read_matrix(module: nn.Module) -> Matrix | None:
    if type(module) is not LoraLinear:
        return Matrix(module.weight) if _is_linear(module) and _is_frozen(module.weight) else None
    base = module.base_layer
    if module.merged or not _is_bare(module) or not _is_linear(base) or not _is_frozen(base.weight):
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if module.disable_adapters or not names:
        return Matrix(base.weight)
    (name, *others), A, B = names, module.lora_A[names[0]], module.lora_B[names[0]]
    plain = (
        not others
        and name not in module.lora_variant
        and type(module.lora_dropout[name]) is nn.Identity
        and all(_is_linear(part) and part.weight.dtype == torch.float32 for part in (A, B))
    )
    return Matrix(base.weight, A.weight, B.weight, module.scaling[name]) if plain else None


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and module.bias is None and _is_bare(module)


def _is_frozen(weight: Tensor) -> bool:
    trained = weight.requires_grad and torch.is_grad_enabled()
    plain = type(weight) is nn.Parameter and weight.dtype == torch.float32
    return plain and not trained

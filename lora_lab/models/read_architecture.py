"""A model's shape, read off the model or its config: what a budget is computed from."""

import json
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from lora_lab.models.architecture import Matrix, Modules, Shape, check_layers, layer_of
from lora_lab.places import cached_value


def shape_of(model: object, name: str = "") -> Shape:
    """The matrices and sizes of a model of transformers.

    Args:
        model: a model, which is only looked at; or its config, the config's fields as a dict, or a
            folder with config.json: then a model is built on the meta device, without weights.
            With 70 B parameters that takes a tenth of a second and no memory.
        name: what to call it; left out: its config's type, as "llama".

    Raises:
        ValueError: for a model with weights that aren't matrices, such as a mixture of experts, or
            whose layers have no numbers in their names.
        TypeError: for anything but a model or its config.
    """
    from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

    if isinstance(model, Path):
        from lora_lab.models.bases import read_part

        model = read_part(model, "config", name or model.name)
    elif isinstance(model, dict):
        model = AutoConfig.for_model(**model)
    if isinstance(model, PretrainedConfig):
        model = on_meta(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"{type(model).__name__} has no shape; give a model or a config of transformers, "
            "such as base.model or AutoConfig.from_pretrained(folder)"
        )
    name = name or model.config.model_type
    modules = modules_of(model, name)
    _check_matrices(model, modules)
    if not any(layer_of(matrix.name) is not None for matrix in modules.matrices):
        raise ValueError(
            f"{name} ({type(model).__name__}) has no module named like 'model.layers.0.mlp', so "
            "its layers can't be distinguished; give a model with a language model's head"
        )
    config = model.config.get_text_config()
    heads, width = config.num_attention_heads, config.hidden_size
    return Shape(
        name=name,
        matrices=modules.matrices,
        others=modules.others,
        num_layers=modules.num_layers,
        hidden_size=width,
        num_heads=heads,
        num_key_value_heads=_key_value_heads(config),
        head_dim=getattr(config, "head_dim", None) or getattr(config, "d_kv", width // heads),
        vocab_size=config.vocab_size,
        config=_config_text(model),
    )


def _config_text(model: nn.Module) -> str:
    fields = json.loads(model.config.to_json_string()) | {"architectures": [type(model).__name__]}
    for name in ("_name_or_path", "dtype", "transformers_version"):  # no matter how it was loaded
        fields.pop(name, None)
    return json.dumps(fields, sort_keys=True)


def cached_shape(config: str, make: Callable[[], Shape]) -> Shape:
    """The shape that `make` reads off a config: read once, and then kept in the cache.

    Building a model of transformers takes seconds, most of them for imports.

    Args:
        config: its text, by which the shape is found again.
        make: `shape_of` that config.
    """
    return cached_value("shapes", (config, version("transformers")), Shape, make)


def on_meta(config: object) -> nn.Module:
    """The model that a config describes, with shapes and no numbers."""
    import transformers as hf

    from lora_lab.models.quiet import quietly

    check_layers(config, config.model_type)
    model_class = getattr(hf, (config.architectures or [""])[0], None)
    autos = (hf.AutoModelForCausalLM, hf.AutoModelForSeq2SeqLM, hf.AutoModelForMaskedLM)
    with quietly(), torch.device("meta"):
        if model_class:
            return model_class(config)
        for auto in autos:
            with suppress(ValueError):  # this Auto class does not know the config
                return auto.from_config(config)
        return hf.AutoModel.from_config(config)


def modules_of(model: nn.Module, name: str) -> Modules:
    """The parts of a model of transformers that a recipe can name; `name` is the model's."""
    from transformers.pytorch_utils import Conv1D

    layer_types = nn.Embedding | nn.Linear | Conv1D
    output = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, layer_types)]
    seen = {id(layer.bias) for layer in layers if _has_bias(layer)}
    matrices, others = [], []
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        new = [parameter for parameter in own.values() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in new}
        if isinstance(module, layer_types):
            kind = "embedding" if isinstance(module, nn.Embedding) else "linear"
            kind = "output" if module is output else kind
            tied = not any(parameter is module.weight for parameter in new)
            matrices.append(Matrix(path, *_layer_sizes(module), _has_bias(module), kind, tied))
        elif new:  # BERT's head holds the bias of its output layer: counted there
            others.append((path, sum(parameter.numel() for parameter in new)))
    return Modules(
        name=name,
        matrices=tuple(matrices),
        others=tuple(others),
        num_layers=model.config.get_text_config().num_hidden_layers,
    )


def _check_matrices(model: nn.Module, modules: Modules) -> None:
    for path, _ in modules.others:
        module = model.get_submodule(path)
        if any(parameter.ndim > 2 for parameter in module.parameters(recurse=False)):
            raise ValueError(
                f"{modules.name} keeps weights in {path} ({type(module).__name__}) that aren't "
                "matrices; give a model of linear layers, embeddings and norms: no mixture of "
                "experts, no convolutions"
            )


def _has_bias(module: nn.Module) -> bool:
    return getattr(module, "bias", None) is not None


def _layer_sizes(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs; of an embedding, tokens and width."""
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features  # a quantised weight has another shape
    return module.nx, module.nf  # GPT-2's Conv1D, whose weight is (in, out)


def _key_value_heads(config: object) -> int:
    """The number of key and value heads; Falcon has its own fields for it."""
    if getattr(config, "multi_query", False):  # a newer field overrules it
        return config.num_kv_heads if getattr(config, "new_decoder_architecture", False) else 1
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads

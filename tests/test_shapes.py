"""A model's shape: the matrices that transformers really builds, and sizes it really uses."""

import pytest
import transformers as hf
from torch import nn

from lora_lab.bases import shape_of
from tiny import tiny_base


def test_a_models_matrices_are_named_and_sized_as_its_layers():
    model = tiny_base().model
    shape = shape_of(model)
    sizes = {one.name: (one.in_features, one.out_features) for one in shape.matrices}
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert sizes == linears | {"model.embed_tokens": (260, 32)}
    assert shape.parameters == model.num_parameters()
    assert (shape.num_heads, shape.num_key_value_heads, shape.head_dim) == (4, 2, 8)
    assert (shape.intermediate_size, shape.vocab_size, shape.tied) == (96, 260, True)


def test_a_shape_is_the_same_from_a_config_and_from_its_model():
    model = tiny_base().model
    assert shape_of(model.config) == shape_of(model)


def test_a_mixture_of_experts_is_refused_in_words():
    with pytest.raises(ValueError, match="mixtral keeps weights in .*experts.*no mixture"):
        shape_of(hf.MixtralConfig(num_hidden_layers=1))


def test_what_is_neither_model_nor_config_is_refused_in_words():
    with pytest.raises(TypeError, match="str has no shape; give a model or a config"):
        shape_of("llama")

"""A model's shape: the matrices that transformers really builds, and sizes it really uses."""

import re
from pathlib import Path

import bitsandbytes as bnb
import pytest
import transformers as hf
from torch import nn

from lora_lab.cost.estimates import find_shape
from lora_lab.cost.known_models import known_shapes
from lora_lab.models.bases import load_base
from lora_lab.models.read_architecture import shape_of
from tiny import tiny_base


def test_a_models_matrices_are_named_and_sized_as_its_layers():
    model = tiny_base().model
    shape = shape_of(model)
    sizes = {matrix.name: (matrix.in_features, matrix.out_features) for matrix in shape.matrices}
    linears = {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    assert sizes == linears | {"model.embed_tokens": (260, 32)}
    assert shape.parameters == model.num_parameters()
    assert (shape.num_heads, shape.num_key_value_heads, shape.head_dim) == (4, 2, 8)
    assert (shape.vocab_size, shape.tied) == (260, True)


def test_a_shape_is_the_same_from_a_config_and_from_its_model():
    model = tiny_base().model
    assert shape_of(model.config) == shape_of(model)


def test_a_mixture_of_experts_is_refused_in_words():
    with pytest.raises(ValueError, match="mixtral keeps weights in .*experts.*no mixture"):
        shape_of(hf.MixtralConfig(num_hidden_layers=1))


def test_a_model_whose_layers_bear_no_numbers_is_refused_in_words():
    with pytest.raises(ValueError, match="gpt2 .GPT2Model. has no module named like 'model.layers"):
        shape_of(hf.GPT2Model(hf.GPT2Config(n_layer=1, n_embd=12, n_head=2, vocab_size=9)))


def test_what_is_no_model_is_refused_in_words():
    with pytest.raises(TypeError, match="str has no shape; give a model or a config"):
        shape_of("llama")
    with pytest.raises(TypeError, match="Linear has no shape"):
        shape_of(nn.Linear(2, 3))


def test_a_quantised_matrix_has_the_sizes_it_stands_for():
    model = tiny_base().model
    before = shape_of(model)
    model.model.layers[0].mlp.up_proj = bnb.nn.Linear4bit(32, 96, bias=False)
    model.model.layers[1].mlp.up_proj = bnb.nn.Linear8bitLt(32, 96, bias=False)
    assert shape_of(model) == before


# --- the models that have a name ----------------------------------------------------------------


@pytest.mark.parametrize("known", known_shapes().values(), ids=lambda known: known.name)
def test_a_known_shape_has_as_many_parameters_as_its_publisher_says(known):
    digits, unit = re.fullmatch(r"([\d.]+)([MB]?)", known.published).groups()
    unit = {"": 1, "M": 1e6, "B": 1e9}[unit] / 10 ** len(digits.partition(".")[2])
    assert abs(find_shape(known.name).parameters - float(digits.replace(".", "")) * unit) < unit


def test_there_are_the_models_that_the_course_speaks_of():
    assert len(known_shapes()) >= 14
    assert all("/" in known.hub for known in known_shapes().values())


def test_the_shapes_of_the_built_in_bases_are_those_of_their_models():
    assert find_shape("pocket") == find_shape(load_base("pocket"))


@pytest.mark.parametrize(
    ("name", "kv_heads", "head_dim", "inner", "tied"),
    [  # from the papers' and model cards' tables
        ("gpt2", 12, 64, 3072, True),
        ("llama-7b", 32, 128, 11008, False),
        ("llama-2-70b", 8, 128, 28672, False),
        ("llama-3.2-3b", 8, 128, 8192, True),
        ("qwen2.5-0.5b", 2, 64, 4864, True),
        ("qwen2.5-1.5b", 2, 128, 8960, True),
        ("qwen2.5-7b", 4, 128, 18944, False),
        ("smollm2-1.7b", 32, 64, 8192, True),
        ("gemma-2b", 1, 256, 16384, True),
        ("falcon-7b", 1, 64, 18176, True),
        ("t5-base", 12, 64, 3072, True),
        ("phi-3-mini", 32, 96, 8192, False),
        ("smollm2", 3, 64, 1536, True),
    ],
)
def test_heads_and_widths_are_the_published_ones(name, kv_heads, head_dim, inner, tied):
    shape = find_shape(name)
    assert (shape.num_key_value_heads, shape.head_dim, shape.tied) == (kv_heads, head_dim, tied)
    back = {
        matrix.in_features for matrix in shape.matrices if matrix.out_features == shape.hidden_size
    }
    assert inner in back  # what leads from the MLP's width back to the hidden size


def test_a_fused_projection_is_one_matrix_as_wide_as_its_parts():
    sizes = {
        (name, matrix.name.rpartition(".")[2]): matrix.out_features
        for name in ("phi-3-mini", "falcon-7b", "pythia-1.4b", "gpt2")
        for matrix in find_shape(name).matrices
    }
    assert sizes["phi-3-mini", "qkv_proj"] == 3 * 3072
    assert sizes["phi-3-mini", "gate_up_proj"] == 2 * 8192
    assert sizes["falcon-7b", "query_key_value"] == (71 + 2) * 64  # one head of keys and values
    assert sizes["pythia-1.4b", "query_key_value"] == 3 * 2048
    assert sizes["gpt2", "c_attn"] == 3 * 768


@pytest.mark.parametrize("given", ["LLaMA-7B", "huggyllama/llama-7b"])
def test_a_name_is_known_in_capitals_and_by_its_hub_id(given):
    assert find_shape(given) == find_shape("llama-7b")


def test_a_folder_needs_no_weights(tmp_path):
    tiny_base().model.config.save_pretrained(tmp_path / "mine")
    assert find_shape(str(tmp_path / "mine")).name == "mine"
    assert find_shape(tmp_path / "mine").matrices == shape_of(tiny_base().model).matrices


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ("llama7b", ValueError, "no model is known by the name 'llama7b'; did you mean 'llama-7b'"),
        ("my/model", ValueError, "known are pocket, gpt2, .*For another give its folder"),
        ("", ValueError, "no model is known by the name ''"),
        (Path("nowhere"), FileNotFoundError, "nowhere holds no config.json"),
        ("~/nowhere", FileNotFoundError, "holds no config.json; give a folder that"),
        (7, TypeError, "int has no shape"),
    ],
)
def test_an_unknown_model_is_refused_in_words(given, kind, words):
    with pytest.raises(kind, match=words):
        find_shape(given)

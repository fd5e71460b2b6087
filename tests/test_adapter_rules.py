"""PEFT's rules for an adapter's configuration, rebuilt without torch: PEFT is the oracle."""

import copy

import msgspec
import pytest
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import _ExcludedModule, check_target_module_exists

from adapters import adapted, pocket
from lora_lab.models.adapter_config import Settings, factors, reached, unmatched_targets

CHOICES = [
    {"target_modules": ["q_proj", "v_proj"]},
    {"target_modules": ["self_attn.q_proj", "model.layers.2.mlp.up_proj"]},
    {"target_modules": ["proj"]},  # a name's end, but not after a dot
    {"target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"},
    {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [0, 3]},
    {"target_modules": ["q_proj"], "layers_to_transform": 1},
    {"target_modules": ["q_proj"], "layers_to_transform": []},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]},
    {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h"]},
    {
        "target_modules": ["q_proj", "model.layers.0.self_attn.v_proj"],
        "layers_to_transform": [2],
    },
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["mlp.up_proj"]},
    {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*layers\.[12]\..*"},
    {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["lm_head"]},
    {"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["mlp"]},
]


@pytest.fixture(scope="module")
def names():
    return [
        name
        for name, module in pocket().named_modules()
        if getattr(module, "weight", None) is not None
    ]


@pytest.mark.parametrize("fields", CHOICES, ids=str)
def test_the_modules_that_get_an_adapter_are_those_that_peft_chooses(fields, names):
    settings = msgspec.convert({"peft_type": "LORA", **fields}, Settings)
    config = object.__new__(LoraConfig)  # PEFT would refuse some of these before it matches
    config.__dict__ |= {field: None for field in LoraConfig.__dataclass_fields__}
    config.__dict__ |= copy.deepcopy(fields)
    expected = []
    for name in names:
        found = check_target_module_exists(config, name)
        if found and not isinstance(found, _ExcludedModule):
            expected.append(name)
    assert reached(settings, names) == expected


def test_a_target_that_reaches_nothing_is_found_and_a_regex_is_one_target(names):
    assert unmatched_targets(["q_proj", "v_porj", "proj"], names) == ["proj", "v_porj"]
    assert unmatched_targets("q_proj", names) == ["q_proj"]  # a regex matches whole names
    assert unmatched_targets(".*q_proj", names) == []
    assert unmatched_targets(None, names) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 3}, "alpha_pattern": {"q_proj": 5}},
        {"rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 4, "q_proj": 2}},
        {"rank_pattern": {"^model.layers.1.self_attn.q_proj": 2}, "use_rslora": True},
        {"alpha_pattern": {"proj": 3}},
        {"lora_alpha": 0},
    ],
    ids=str,
)
def test_rank_and_factor_of_each_layer_equal_pefts(fields):
    model = adapted(**fields)
    layers = {
        name: layer
        for name, layer in model.base_model.model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    config = {"lora_alpha": 16, "r": 8} | fields
    found = factors(msgspec.convert({"peft_type": "LORA", **config}, Settings), list(layers))
    for name, layer in layers.items():
        assert found[name].r == layer.r["default"], name
        assert found[name].scaling == pytest.approx(layer.scaling["default"]), name

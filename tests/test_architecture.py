"""Which layers a recipe reaches, held to what PEFT adapts."""

import dataclasses
import re
import time
from contextlib import suppress

import peft
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab.models.adapters import spell_patterns_out, to_peft
from lora_lab.models.architecture import (
    adapted_matrices,
    column_of,
    last_name,
    layer_of,
    matching,
    naming,
)
from lora_lab.models.read_architecture import modules_of
from lora_lab.recipe import Recipe
from tiny import tiny_base

LLAMA = hf.LlamaConfig(
    vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=1, architectures=["LlamaForCausalLM"],
)  # fmt: skip
GPT2 = hf.GPT2Config(
    vocab_size=11,
    n_embd=8,
    n_layer=3,
    n_head=2,
    bos_token_id=0,
    eos_token_id=1,
    architectures=["GPT2LMHeadModel"],
)
BERT = hf.BertConfig(
    vocab_size=11, hidden_size=8, num_hidden_layers=3, num_attention_heads=2,
    intermediate_size=12, architectures=["BertForMaskedLM"],
)  # fmt: skip
MIXTRAL = hf.MixtralConfig(
    vocab_size=11, hidden_size=8, intermediate_size=12, num_hidden_layers=3,
    num_attention_heads=2, num_key_value_heads=1, num_local_experts=2,
    architectures=["MixtralForCausalLM"],
)  # fmt: skip


def model_of(config):
    with torch.device("meta"):
        return getattr(hf, config.architectures[0])(config)


def by_us(config, recipe):
    return {matrix.name for matrix in adapted_matrices(modules_of(model_of(config), "it"), recipe)}


def by_peft(config, recipe):
    theirs = peft.get_peft_model(
        model_of(config), dataclasses.replace(to_peft(recipe), task_type=None)
    )
    layers = theirs.base_model.model.named_modules()
    return {name for name, layer in layers if isinstance(layer, peft.tuners.lora.LoraLayer)}


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (LLAMA, {}),
        (LLAMA, {"target_modules": ("q_proj", "layers.1.mlp.up_proj")}),
        (LLAMA, {"target_modules": ("q_proj", "lm_head", "embed_tokens")}),
        (LLAMA, {"target_modules": r".*\.[02]\.self_attn\.[qv]_proj"}),
        (LLAMA, {"target_modules": ("v_proj",), "layers_to_transform": (0, 2)}),
        (LLAMA, {"target_modules": ("v_proj", "lm_head"), "layers_to_transform": (1,)}),
        (  # a whole name is taken before the layers are looked at
            LLAMA,
            {
                "target_modules": ("model.layers.0.mlp.up_proj", "q_proj"),
                "layers_to_transform": (2,),
            },
        ),
        (LLAMA, {"target_modules": ("q_proj", "mlp.up_proj"), "modules_to_save": ("mlp",)}),
        (GPT2, {}),
        (GPT2, {"target_modules": ("c_attn", "mlp.c_proj")}),
        (BERT, {"target_modules": ("attention.output.dense",)}),
        (BERT, {"target_modules": ("output.dense",), "layers_to_transform": (1,)}),
        (MIXTRAL, {"target_modules": ("q_proj", "v_proj")}),
    ],
    ids=lambda value: value.model_type if isinstance(value, hf.PretrainedConfig) else str(value),
)
def test_a_recipe_reaches_the_layers_that_peft_adapts(config, changes):
    recipe = Recipe(**changes)
    assert by_us(config, recipe) == by_peft(config, recipe) != set()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (("proj",), "it has no layer called 'proj'; "),
        (("q_proj", "v_porj"), "no layer called 'v_porj'; did you mean 'v_proj'"),
        ("q_proj", "matches no whole module name of it; a name here looks like 'model.layers.0.s"),
        ("(q_proj", "is not a regex"),
    ],
)
def test_a_target_that_reaches_nothing_is_refused_with_what_would(wanted, words):
    with pytest.raises(ValueError, match=words):
        by_us(LLAMA, Recipe(target_modules=wanted))


def test_peft_says_nothing_of_one_misspelt_name_among_good_ones():
    """The reason for our refusal; when PEFT refuses too, ours can go."""
    config = peft.LoraConfig(target_modules=["q_proj", "v_porj"])
    theirs = peft.get_peft_model(model_of(LLAMA), config)
    reached = {name for name, _ in theirs.named_modules() if name.endswith(".lora_A")}
    assert len(reached) == 3
    assert all("q_proj" in name for name in reached)


def test_full_fine_tuning_adapts_nothing():
    assert by_us(LLAMA, Recipe(method="full")) == set()


def test_a_name_tells_its_layer_and_its_last_part():
    assert layer_of("model.layers.12.mlp.up_proj") == 12
    assert layer_of("model.layers.1.experts.0.w1") == 1
    assert layer_of("lm_head") is None
    assert last_name("model.layers.0.mlp.up_proj") == "up_proj"
    assert last_name("lm_head") == "lm_head"


def test_a_models_modules_are_those_of_its_shape():
    modules = modules_of(tiny_base().model, "tiny")
    assert (modules.name, modules.num_layers) == ("tiny", 2)
    assert {matrix.name for matrix in modules.matrices if matrix.kind != "linear"} == {
        "model.embed_tokens",
        "lm_head",
    }
    assert ("model.norm", 32) in modules.others


# --- saying what was chosen ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "way"),
    [
        (LLAMA, {"target_modules": "all-linear"}),
        (LLAMA, {"target_modules": ("q_proj", "v_proj")}),
        (LLAMA, {"target_modules": ("q_proj", "up_proj"), "layers_to_transform": (0, 2)}),
        (LLAMA, {"target_modules": ("embed_tokens", "q_proj")}),
        (GPT2, {"target_modules": ("c_attn",)}),
    ],
    ids=str,
)
def test_what_names_can_say_is_said_by_names(config, way):
    modules = modules_of(model_of(config), "it")
    assert naming(modules, by_us(config, Recipe(**way))) == way


@settings(max_examples=60, deadline=None)
@given(data=st.data(), config=st.sampled_from([LLAMA, GPT2, BERT]))
def test_any_choice_of_matrices_is_named_so_that_just_these_are_reached(data, config):
    modules = modules_of(model_of(config), "it")
    names = [matrix.name for matrix in modules.matrices]
    chosen = data.draw(st.sets(st.sampled_from(names), min_size=1))
    assert {
        matrix.name for matrix in adapted_matrices(modules, Recipe(**naming(modules, chosen)))
    } == chosen


def test_a_choice_that_names_cannot_say_becomes_a_regex_with_whole_numbers():
    modules = modules_of(model_of(LLAMA), "it")
    chosen = {"model.layers.0.self_attn.q_proj", "model.layers.2.self_attn.q_proj", "lm_head"}
    chosen |= {"model.layers.1.mlp.up_proj"}
    assert naming(modules, chosen) == {
        "target_modules": r"model\.layers\.(0|2)\.self_attn\.q_proj"
        r"|model\.layers\.1\.mlp\.up_proj|lm_head"
    }


@pytest.mark.parametrize(("chosen", "words"), [((), "nothing is"), (("up",), "no matrix 'up'")])
def test_a_choice_of_nothing_is_refused(chosen, words):
    with pytest.raises(ValueError, match=words):
        naming(modules_of(model_of(LLAMA), "it"), chosen)


def test_a_column_is_a_name_without_its_layer():
    assert column_of("model.layers.7.mlp.up_proj") == "model.layers.*.mlp.up_proj"
    assert column_of("lm_head") == "lm_head"


# --- patterns ---------------------------------------------------------------------------------

NAMES = [name for name, _ in model_of(LLAMA).named_modules()]
ENDLESS = [
    r"(([a-z_.0-9])+)+[XY]",
    r"(.*)*(.*)*(.*)*$X|(a|[a-z._0-9]+)+Z|(\w+\.?)+\d!",
    r"(?:(\w|\.)+\1?)+!",
]


@pytest.mark.parametrize(
    "pattern",
    [
        ".*q_proj",
        r".*\.[12]\..*(q|v)_proj",
        "model",
        "",
        r"model\.layers\.(?!0).*mlp\..*",
        "(?i).*Q_PROJ",
    ],
)
def test_a_pattern_finds_what_pythons_own_re_finds(pattern):
    assert matching(pattern, NAMES) == [name for name in NAMES if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_that_can_be_tried_in_countless_ways_ends_in_seconds(pattern):
    before = time.monotonic()
    with suppress(ValueError):  # some are clever work for `regex`, and some take too long for it
        assert matching(pattern, [3 * name for name in NAMES]) == []
    assert time.monotonic() - before < 30  # `re` takes longer than anybody waits


def test_a_pattern_that_takes_too_long_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr("lora_lab.models.architecture.SECONDS", 0.0)
    with pytest.raises(ValueError, match=r"can be tried in countless ways; give a simpler regex"):
        matching(r"(?:(a|b|ab)*)*c(?:a|b)*\1", ["ab" * 200])


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(" * 5000 + ")" * 5000, "is not a regex"),
        ("[a", "is not a regex"),
        (r"\p{L}+", "is not a regex"),  # `regex` knows it, and PEFT's `re` does not
        ("a{99999999999999999999}", "is not a regex"),
        ("a" * 100_001, "target_modules is a regex of 100,001 letters; give a shorter one"),
    ],
    ids=["nested", "open", "unknown", "repeats", "long"],
)
def test_what_is_no_regex_is_refused_in_words(pattern, words):
    with pytest.raises(ValueError, match=words):
        matching(pattern, NAMES)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": r".*(down_proj|c_fc)", "exclude_modules": r".*\.2\..*"},
        {
            "target_modules": r".*(down_proj|c_fc)",
            "rank_pattern": {r"(layers|h)\.[01]\..*": 2, r".*\.2\..*": 3},
        },
        {"target_modules": r".*(down_proj|c_fc)", "alpha_pattern": {r"1\.mlp\.\w+": 5, "none": 7}},
    ],
    ids=["fewer", "ranks", "alphas"],
)
def test_patterns_spelt_out_adapt_what_the_patterns_adapt(config, changes):
    def made(spelt):
        given = peft.LoraConfig(r=4, **changes)
        model = model_of(config)
        if spelt:
            spell_patterns_out(given, model)
        layers = peft.get_peft_model(model, given).base_model.model.named_modules()
        found = {
            name: layer for name, layer in layers if isinstance(layer, peft.tuners.lora.LoraLayer)
        }
        return {
            name: (layer.r["default"], layer.scaling["default"]) for name, layer in found.items()
        }

    assert made(spelt=True) == made(spelt=False) != {}


@pytest.mark.parametrize(
    "changes",
    [
        {"modules_to_save": ["(l+)+m_head"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "(a+)+"},
    ],
    ids=["saved", "layers"],
)
def test_a_regex_where_peft_wants_a_name_is_refused(changes):
    with pytest.raises(ValueError, match="PEFT would take it for a regex; give plain names"):
        spell_patterns_out(peft.LoraConfig(**changes), model_of(LLAMA))

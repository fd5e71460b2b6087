import dataclasses
import json

import peft
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lora_lab.models.adapted import load_adapter
from lora_lab.models.adapters import adapt, adapter_tensors, to_peft
from lora_lab.models.learned import save_adapter
from lora_lab.models.quantization import share_tensors
from lora_lab.training.loop import Training
from tiny import letters_task, recipe, tiny_base


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def adapted_layers(model):
    return sorted(name for name in adapter_tensors(model) if "lora_A" in name)


def test_one_misspelt_target_among_good_ones_is_refused_with_the_right_name(base):
    with pytest.raises(
        ValueError, match="tiny has no layer called 'v_porj'; did you mean 'v_proj'"
    ):
        adapt(base, recipe(target_modules=("q_proj", "v_porj")))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": "q_porj"}, "is read as a regex and matches no whole module name"),
        ({"target_modules": "(q_proj"}, "is not a regex"),
        ({"target_modules": ".*mlp.*"}, "also matches 'model.layers.0.mlp' .LlamaMLP., which PEFT"),
        ({"layers_to_transform": (0, 2)}, "names layer 2, and tiny has 2 layers"),
        ({"modules_to_save": ("lm_haed",)}, "did you mean 'lm_head'"),
        (
            {"method": "adalora", "target_modules": ("q_proj", "embed_tokens")},
            "can't adapt the embedding 'model.embed_tokens'",
        ),
    ],
)
def test_what_the_base_does_not_have_is_refused(base, changes, words):
    with pytest.raises(ValueError, match=words):
        adapt(base, recipe(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_modules": ("q_proj", "down_proj")},
        {"target_modules": r".*layers\.1\..*_proj"},
        {"target_modules": ("q_proj",), "layers_to_transform": (1,)},
        {"use_dora": True},
        {"modules_to_save": ("lm_head",)},
        {"method": "adalora", "target_modules": ("q_proj", "down_proj")},
    ],
    ids=str,
)
def test_the_adapter_is_the_one_that_peft_makes_from_the_same_configuration(base, changes):
    wanted = recipe(**changes)
    torch.manual_seed(wanted.seed)
    theirs = peft.get_peft_model(tiny_base().model, to_peft(wanted))
    torch.testing.assert_close(
        dict(adapt(base, wanted).named_parameters()),
        dict(theirs.named_parameters()),
        rtol=0,
        atol=0,
    )


def test_peft_never_tries_the_pattern_and_what_is_saved_holds_it(base, monkeypatch, tmp_path):
    tried, pattern = [], r".*layers\.1\..*(q|v)_proj"
    real = peft.utils.other.match_target_against_key

    def noted(target, key):
        tried.append(target)
        return real(target, key)

    monkeypatch.setattr(peft.tuners.tuners_utils, "match_target_against_key", noted)
    trained = Training(base, letters_task(), recipe(target_modules=pattern, steps=1))
    assert to_peft(trained.recipe).target_modules == pattern
    save_adapter(trained, tmp_path / "ours")
    loaded = load_adapter(base, tmp_path / "ours").load(tmp_path / "ours", "again")
    layers = [
        module
        for module in loaded.model.modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    ]
    assert [list(layer.r) for layer in layers] == 2 * [["ours", "again"]]
    assert tried
    assert pattern not in tried
    torch.manual_seed(trained.recipe.seed)
    theirs = peft.get_peft_model(tiny_base().model, to_peft(trained.recipe))
    theirs.save_pretrained(tmp_path / "theirs")
    ours, peft_s = (
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("ours", "theirs")
    )
    assert ours["target_modules"] == pattern
    assert ours == peft_s | {"base_model_name_or_path": "tiny"}


def test_all_linear_with_layers_is_spelt_out_since_peft_refuses_it(base):
    wanted = recipe(target_modules="all-linear", layers_to_transform=(1,))
    with pytest.raises(ValueError, match="together with `base`"):
        to_peft(wanted)
    reached = adapted_layers(adapt(base, wanted))
    everywhere = adapted_layers(adapt(base, dataclasses.replace(wanted, layers_to_transform=None)))
    assert reached == [name for name in everywhere if ".layers.1." in name]
    assert len(everywhere) == 14


def test_a_rank_above_a_layers_width_is_allowed_with_a_word(base):
    with pytest.warns(UserWarning, match="r=40 is above 16, the width of the narrowest"):
        model = adapt(base, recipe(r=40))
    assert max(t.shape[0] for n, t in adapter_tensors(model).items() if "lora_A" in n) == 40
    with pytest.warns(UserWarning, match="init_r=40 is above 16"):
        adapt(base, recipe(method="adalora", init_r=40))


def test_an_adalora_recipe_becomes_pefts_configuration(base):
    wanted = recipe(method="adalora", init_r=6, target_r=2, deltaT=3, steps=99, tinit=5)
    config = to_peft(wanted)
    assert isinstance(config, peft.AdaLoraConfig)
    assert (config.init_r, config.target_r, config.deltaT, config.total_step) == (6, 2, 3, 99)
    assert (config.tinit, config.tfinal) == wanted.schedule == (5, 49)
    with pytest.raises(ValueError, match="no PEFT configuration"):
        to_peft(recipe(method="full"))


def test_a_shared_tree_holds_the_same_memory_and_its_own_modules(base):
    tree = share_tensors(base.model)
    for name, parameter in base.model.named_parameters():
        assert tree.get_parameter(name).data_ptr() == parameter.data_ptr()
        assert tree.get_parameter(name) is not parameter
    assert tree.lm_head.weight is tree.model.embed_tokens.weight  # still tied
    assert not {id(m) for m in tree.modules()} & {id(m) for m in base.model.modules()}


def test_adaloras_count_of_ranks_is_not_trained_on_a_16_bit_base():
    base = tiny_base(dtype=torch.bfloat16)
    model = adapt(base, recipe(method="adalora", init_r=4, target_r=2, steps=40))
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained
    assert not [name for name in trained if "ranknum" in name]


def test_gpt2s_conv1d_layers_are_found_and_adapted():
    config = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50)
    base = dataclasses.replace(tiny_base(), model=GPT2LMHeadModel(config))
    model = adapt(base, recipe(target_modules=("c_attn",)))
    shapes = {name[-13:]: tuple(t.shape) for name, t in adapter_tensors(model).items()}
    assert shapes == {"lora_A.weight": (3, 16), "lora_B.weight": (48, 3)}
    with pytest.raises(ValueError, match="did you mean 'c_attn'"):
        adapt(base, recipe(target_modules=("attn_c",)))

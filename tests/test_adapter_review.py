"""`check_adapter`: adapters that PEFT saved are found sound; each way to break one is named."""

import json
import pickle
import re
import shutil
import struct
import warnings
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, LlamaConfig
from typer.testing import CliRunner

from adapters import CONFIG, NAMES, WEIGHTS, adapted, configured, holding, pocket, saved, tensors_of
from lora_lab.cli.app import app
from lora_lab.models.built_in import base_folder
from lora_lab.models.smollm2 import smollm2_is_here
from lora_lab.review.adapter import check_adapter
from lora_lab.review.adapter_base import contradiction, models_that_fit
from lora_lab.review.adapter_size import size_in_words
from lora_lab.review.adapter_weights import Change
from lora_lab.review.base_names import config_of
from lora_lab.wording import fine_percent

A = "base_model.model.model.layers.{}.self_attn.{}.lora_A.weight"
B = A.replace("lora_A", "lora_B")
LLAMA = LlamaConfig(
    hidden_size=48,
    intermediate_size=80,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Adapters on pocket, saved by PEFT."""
    folder = tmp_path_factory.mktemp("kinds")
    fields = {
        "plain": {},
        "dora": {"use_dora": True},
        "head": {"modules_to_save": ["lm_head"]},
        "adalora": {"adalora": True},
    }
    for name, choices in fields.items():
        saved(adapted(**choices), folder / name)
    return folder


@pytest.fixture
def plain(kinds, tmp_path):
    """A copy of the plain adapter: r 8, alpha 16, q_proj and v_proj of 4 layers."""
    return Path(shutil.copytree(kinds / "plain", tmp_path / "adapter"))


def of(review, severity):
    return [found.what for found in review if found.severity == severity]


def only(folder, severity, words, lesson=None):
    """The one finding of this severity, with these words; the others are of lesser weight."""
    review = check_adapter(folder)
    (found,) = [finding for finding in review if finding.severity == severity]
    assert words in found.what, found.what
    assert found.why
    assert found.do
    if lesson is not None:
        assert found.lesson == lesson
    order = ("grave", "warning", "note")
    assert all(order.index(finding.severity) >= order.index(severity) for finding in review)
    return review


# --- no false alarm -----------------------------------------------------------------------------

SOUND = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"lora_bias": False, "r": 1, "lora_alpha": 32},
    {"modules_to_save": ["lm_head"]},
    {"modules_to_save": ["norm", "lm_head"]},
    {"target_modules": "all-linear"},
    {"target_modules": r".*layers\.[02]\.mlp\.(up|down)_proj"},
    {"target_modules": ["embed_tokens", "q_proj"]},
    {"target_modules": ["q_proj", "lm_head"]},
    {"rank_pattern": {"v_proj": 3, r"layers\.0.*q_proj": 5}, "alpha_pattern": {"q_proj": 4}},
    {"layers_to_transform": [1, 2]},
    {"layers_to_transform": [3], "layers_pattern": "layers"},
    {"exclude_modules": ["model.layers.0.self_attn.q_proj"]},
    {"init_lora_weights": "gaussian"},
]  # fmt: skip


@pytest.mark.parametrize("fields", SOUND, ids=str)
def test_nothing_is_wrong_with_an_adapter_as_peft_saves_it(fields, tmp_path):
    review = check_adapter(saved(adapted(**fields), tmp_path / "adapter"))
    assert of(review, "grave") == []
    assert of(review, "warning") == []


@pytest.mark.parametrize("base", ["folder", "not here"])
@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (LLAMA, {"target_modules": ["q_proj", "k_proj", "down_proj"]}),
        (LLAMA, {"target_modules": "all-linear", "use_dora": True}),
        (
            GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64),
            {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
        ),
    ],
    ids=["llama", "llama-dora", "gpt2"],
)
def test_nothing_is_wrong_with_an_adapter_on_a_model_in_a_folder(config, fields, base, tmp_path):
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    name = str(tmp_path / "base") if base == "folder" else "somebody/a-model"
    review = check_adapter(saved(adapted(model, **fields), tmp_path / "adapter", name))
    own_folder = f"base_model_name_or_path is a folder of this machine: {name!r}"
    assert of(review, "note") == ([own_folder] if base == "folder" else [])
    assert of(review, "grave") == of(review, "warning") == []
    assert ("‖ΔW‖/‖W‖" in review.facts["size of ΔW"]) == (base == "folder")


def test_nothing_is_wrong_with_an_adalora_that_met_its_budget(tmp_path):
    model = adapted(adalora=True)
    kept = [True, False, True, True, False, False]
    model.peft_config["default"].rank_pattern = {
        f"model.layers.{layer}.self_attn.{name}.lora_E.default": kept
        for layer in range(4)
        for name in NAMES
    }
    review = check_adapter(saved(model, tmp_path / "adapter"))
    assert [*review] == []
    assert review.facts["adapted"].endswith("rank 3")
    assert review.facts["factor"] == "2.67 = lora_alpha / init_r = 16 / 6"


# --- what is measured ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_rslora": True}, {"rank_pattern": {"v_proj": 3}}, {"adalora": True}],
    ids=str,
)
def test_the_size_of_the_change_equals_pefts_own_change_beside_the_weight(fields, tmp_path):
    model = adapted(**fields)
    shares, by_layer = {}, {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            change = layer.get_delta_weight("default").detach().norm().item()
            weight = layer.base_layer.weight.norm().item()
            shares[name] = change / weight
            by_layer.setdefault(name.split(".")[2], []).append((change**2, weight**2))
    facts = check_adapter(saved(model, tmp_path / "adapter")).facts
    low, high = fine_percent(min(shares.values())), fine_percent(max(shares.values()))
    assert facts["size of ΔW"].startswith(f"‖ΔW‖/‖W‖ {low} to {high}, ")
    expected = {
        layer: (sum(one for one, _ in pairs) / sum(two for _, two in pairs)) ** 0.5
        for layer, pairs in by_layer.items()
    }
    assert facts["by layer"] == ", ".join(
        f"{layer}: {fine_percent(share)}" for layer, share in expected.items()
    )


def test_layers_are_told_in_the_order_of_their_numbers():
    norms = {f"model.layers.{layer}.self_attn.q_proj": 2.0 for layer in (10, 2, 0)}
    facts = size_in_words(dict.fromkeys(norms, 1.0), norms, base_is_here=True)
    assert facts["by layer"] == "0: 50 %, 2: 50 %, 10: 50 %"


def test_where_the_base_is_not_here_the_change_is_given_alone_and_says_why(plain):
    configured(plain, base_model_name_or_path="somebody/a-model")
    facts = check_adapter(plain).facts
    tensors = tensors_of(plain)
    norms = [
        (2 * tensors[B.format(layer, name)] @ tensors[A.format(layer, name)]).norm().item()
        for layer in range(4)
        for name in NAMES
    ]
    assert facts["size of ΔW"].startswith(f"‖ΔW‖ {min(norms):.3g} to {max(norms):.3g}, ")
    assert facts["beside W"] == "not known: the base is not here, and nothing is fetched"
    assert facts["base"] == "somebody/a-model, not here; by its shapes: pocket"


def test_a_base_that_was_exported_beside_the_adapter_is_found(plain):
    configured(plain, base_model_name_or_path="anna/base")
    shutil.copytree(base_folder("pocket"), plain / "base")
    review = check_adapter(plain)
    assert [*review] == []
    assert "‖ΔW‖/‖W‖" in review.facts["size of ΔW"]


@pytest.mark.skipif(not smollm2_is_here(), reason="lora-lab prepare was not run")
@pytest.mark.parametrize("name", ["smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_smollm2_is_known_by_its_short_name_and_by_the_hubs(name, tmp_path):
    config = LlamaConfig.from_pretrained(base_folder("smollm2"), num_hidden_layers=2)
    model = adapted(AutoModelForCausalLM.from_config(config), layers_to_transform=[0, 1])
    review = check_adapter(saved(model, tmp_path / "adapter", name))
    assert [*review] == []
    assert "‖ΔW‖/‖W‖" in review.facts["size of ΔW"]
    assert ("stands in" in review.facts["base"]) == (name != "smollm2")


def test_the_factor_stands_beside_what_tools_ship(plain):
    facts = check_adapter(plain).facts
    assert facts["factor"] == "2 = lora_alpha / r = 16 / 8"
    shipped = facts["beside what tools ship"]
    assert shipped.startswith("27 files: 0.0625 to 32, middle 2; the same: TRL, default; ")
    configured(plain, use_rslora=True)
    assert check_adapter(plain).facts["factor"] == (
        "5.66 = lora_alpha / √r = 16 / √8 (rsLoRA; alpha / r would be 2)"
    )


# --- sixteen ways and more to break one ---------------------------------------------------------


def test_a_misspelt_target_beside_a_good_one_is_grave_and_peft_says_nothing(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = adapted(target_modules=["q_proj", "v_porj"])
    folder = saved(model, tmp_path / "adapter")
    review = only(
        folder, "grave", "target_modules names 'v_porj', which matches no layer of pocket", "07"
    )
    assert "did you mean 'v_proj'?" in review[0].do
    configured(folder, base_model_name_or_path="somebody/a-model")
    assert "'v_porj'" in only(folder, "grave", "none has weights of that name")[0].what


def test_a_target_of_another_architecture_is_a_warning(tmp_path):
    folder = saved(adapted(target_modules=["q_proj", "query_key_value"]), tmp_path / "adapter")
    only(folder, "warning", "'query_key_value'", "07")


def missing_by_peft(folder):
    """The names of layers for which PEFT says that keys are missing, when it loads the folder."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        peft.PeftModel.from_pretrained(pocket(), folder)
    said = [
        str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)
    ]
    return said[0] if said else ""


def test_layers_without_weights_are_those_that_peft_misses(plain):
    tensors = tensors_of(plain)
    lost = [key for key in tensors if "layers.2." in key or "layers.3." in key]
    holding(plain, {key: tensor for key, tensor in tensors.items() if key not in lost})
    only(
        plain, "grave", "no weights for 4 of the 8 matrices that the configuration names in pocket"
    )
    said = missing_by_peft(plain)
    assert all(key.replace(".weight", ".default.weight") in said for key in lost)
    assert "layers.1." not in said


def test_a_gap_in_one_layer_is_seen_without_the_base(tmp_path):
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(**LLAMA.to_dict() | {"num_hidden_layers": 8})
    )
    folder = saved(adapted(model), tmp_path / "adapter", "somebody/a-model")
    lost = {A.format(5, "v_proj"), B.format(5, "v_proj")}
    holding(folder, {key: tensor for key, tensor in tensors_of(folder).items() if key not in lost})
    only(folder, "warning", "v_proj has weights in 7 layers, and none in layer 5")


def test_weights_that_the_configuration_does_not_name_are_those_that_peft_drops(plain):
    configured(plain, target_modules=["q_proj"])
    only(
        plain,
        "grave",
        "weights for 4 matrices that the configuration does not name: v_proj in layers 0 to 3",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = peft.PeftModel.from_pretrained(pocket(), plain)
    assert not any("v_proj.lora" in name for name, _ in loaded.named_parameters())


def test_a_rank_unlike_the_weights_is_grave_as_peft_finds(plain):
    configured(plain, r=16)
    words = "says r=16, and the weights have rank 8 in 8 of 8 matrices"
    assert "the factor 1 instead of 2" in only(plain, "grave", words, "05")[0].why
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.PeftModel.from_pretrained(pocket(), plain)


def test_a_rank_pattern_unlike_the_weights_names_its_layers(plain):
    configured(plain, rank_pattern={r"layers\.1\.self_attn\.v_proj": 4})
    only(plain, "grave", "rank 8 in 1 of 8 matrices: model.layers.1.self_attn.v_proj", "05")


def test_dora_without_its_magnitudes_and_magnitudes_without_dora(kinds, tmp_path):
    folder = Path(shutil.copytree(kinds / "dora", tmp_path / "dora"))
    configured(folder, use_dora=False)
    only(folder, "grave", "use_dora is off, and the file holds 8")
    folder = Path(shutil.copytree(kinds / "plain", tmp_path / "plain"))
    configured(folder, use_dora=True)
    only(folder, "grave", "use_dora is on, and 8 of 8 matrices have no lora_magnitude_vector")


def test_a_module_to_save_that_is_not_in_the_file(kinds, plain, tmp_path):
    configured(plain, modules_to_save=["lm_head"])
    only(plain, "grave", "modules_to_save names 'lm_head', and the file holds no weights of it")
    folder = Path(shutil.copytree(kinds / "head", tmp_path / "head"))
    configured(folder, modules_to_save=None)
    only(folder, "note", "holds lm_head whole")


def test_a_weight_of_the_base_in_the_file_is_a_warning(plain):
    key = "base_model.model.model.norm.weight"
    holding(plain, tensors_of(plain) | {key: torch.ones(128)})
    only(plain, "warning", "holds model.norm whole (512 bytes)")


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        ({"lora_alpha": 0}, "grave", "the factor in front of BA is 0"),
        ({"lora_alpha": 8 * 33}, "warning", "the factor in front of BA is 33"),
        ({"lora_alpha": 0.25}, "warning", "the factor in front of BA is 0.0312"),
        ({"lora_alpha": -16}, "warning", "the factor in front of BA is -2"),
    ],
    ids=str,
)
def test_a_factor_that_no_tool_ships(plain, changes, severity, words):
    configured(plain, **changes)
    only(plain, severity, words, "06")


def test_a_factor_out_of_all_proportion_is_said_in_short(plain):
    configured(plain, lora_alpha=1e308)
    review = check_adapter(plain)
    assert of(review, "warning")[0].startswith("the factor in front of BA is 1.25e+307, and")
    assert review.facts["factor"] == "1.25e+307 = lora_alpha / r = 1e+308 / 8"


def test_an_adapter_that_never_learned(tmp_path):
    model = adapted()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()  # as PEFT begins
    only(saved(model, tmp_path / "adapter"), "grave", "lora_B is all zero in all 8 matrices", "04")


def test_an_adalora_that_never_learned(kinds, tmp_path):
    folder = Path(shutil.copytree(kinds / "adalora", tmp_path / "adapter"))
    tensors = tensors_of(folder)
    holding(
        folder, {key: tensor * 0 if "lora_E" in key else tensor for key, tensor in tensors.items()}
    )
    assert "lora_E is all zero in all 8 matrices" in check_adapter(folder)[0].what


def test_a_half_that_never_learned_is_named_by_its_layers(plain):
    tensors = tensors_of(plain)
    holding(
        plain,
        {
            key: tensor * 0
            if "lora_B" in key and ("layers.2." in key or "layers.3." in key)
            else tensor
            for key, tensor in tensors.items()
        },
    )
    only(plain, "warning", "all zero in 4 of 8 matrices: q_proj, v_proj in layers 2 to 3", "07")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_single_broken_number_is_found(plain, value, dtype):
    tensors = {key: tensor.to(dtype) for key, tensor in tensors_of(plain).items()}
    assert of(check_adapter(plain), "grave") == []
    tensors[A.format(1, "v_proj")][3, 5] = value
    holding(plain, tensors)
    only(
        plain, "grave", f"NaN or infinite numbers in 1 of 16 tensors: {A.format(1, 'v_proj')}", "04"
    )


def test_a_base_of_other_widths_and_layers_that_it_lacks(tmp_path):
    other = AutoModelForCausalLM.from_config(LLAMA)
    folder = saved(adapted(other), tmp_path / "narrow", "pocket")
    words = " ".join(of(check_adapter(folder), "grave"))
    assert "6 matrices have another size than pocket's" in words
    deep = LlamaConfig(**pocket().config.to_dict() | {"num_hidden_layers": 6})
    model = AutoModelForCausalLM.from_config(deep)
    folder = saved(adapted(model), tmp_path / "deep", "pocket")
    only(
        folder, "grave", "4 of 12 matrices are not in pocket: q_proj, v_proj in layers 4 to 5", "07"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "base_model_name_or_path is empty"),
        ("", "base_model_name_or_path is empty"),
        ("/data/anna/llama", "a folder of another machine: '/data/anna/llama'"),
        ("C:\\models\\llama", "a folder of another machine"),
        ("./checkpoints/llama", "a folder of another machine"),
    ],
)
def test_a_base_that_nobody_else_finds(plain, name, words):
    configured(plain, base_model_name_or_path=name)
    only(plain, "warning", words)


def test_a_well_known_base_that_its_shapes_contradict(tmp_path):
    config = LlamaConfig(
        hidden_size=4096, intermediate_size=16, num_hidden_layers=1, num_attention_heads=32
    )  # of Llama 7B's width
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model = adapted(model.to_empty(device="cpu"), r=1)
    folder = saved(model, tmp_path / "adapter", "huggyllama/llama-7b")
    assert "llama-7b" in check_adapter(folder).facts["base"]
    assert of(check_adapter(folder), "grave") == []
    configured(folder, base_model_name_or_path="meta-llama/Llama-3.2-3B")
    review = only(folder, "grave", "names meta-llama/Llama-3.2-3B, and the shapes are not its")
    assert (
        "(4096, 4096), and that base's is (3072, 3072). They are those of llama-7b"
        in review[0].what
    )


@pytest.mark.parametrize(
    "name",
    [
        "meta-llama/Llama-2-7b-hf",  # none of these ids is listed: each is a listed base's by name
        "unsloth/llama-2-7b-bnb-4bit",
        "mistralai/Mistral-7B-Instruct-v0.3",
        "Qwen/Qwen2.5-3B-Instruct",
    ],
)
def test_a_base_that_is_known_by_its_name_alone_and_that_its_shapes_contradict(plain, name):
    configured(plain, base_model_name_or_path=name)  # over pocket's weights, 128 wide
    review = only(plain, "grave", f"the configuration names {name}, and the shapes are not its")
    assert "q_proj is made for (128, 128), and that base's is (" in review[0].what


@pytest.mark.parametrize("name", ["unsloth/Phi-3.5-mini-instruct", "acme/llama-2-7b-pruned"])
def test_a_base_that_is_not_known_is_contradicted_by_no_shape(plain, name):
    configured(plain, base_model_name_or_path=name)
    assert of(check_adapter(plain), "grave") == []


def test_an_adapter_for_more_layers_than_its_named_base_has():
    config = config_of("meta-llama/Llama-2-7b-hf")
    q_proj = partial(Change, in_features=4096, out_features=4096)
    change = q_proj("model.layers.31.self_attn.q_proj")
    assert contradiction(config, [change]) == ""
    change = q_proj("model.layers.32.self_attn.q_proj")
    assert "ends with layer 31" in contradiction(config, [change])


def test_a_vocabulary_that_was_enlarged_is_no_other_base():
    change = Change("lm_head", in_features=4096, out_features=32004)  # Llama 2 has 32,000
    assert contradiction(config_of("meta-llama/Llama-2-7b-hf"), [change]) == ""


def test_only_bases_with_llamas_names_fit_by_their_shapes():
    change = Change("model.layers.0.self_attn.q_proj", in_features=768, out_features=768)
    assert models_that_fit([change]) == []  # BERT is as wide, and calls it query


def test_a_model_with_too_few_layers_does_not_fit_by_its_shapes():
    for layer, names in ((31, ["llama-7b"]), (32, [])):  # Llama 7B has 32 layers
        change = Change(f"model.layers.{layer}.mlp.down_proj", in_features=11008, out_features=4096)
        assert models_that_fit([change]) == names


class Fuse:
    """A pickle that would leave a mark if it were loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (Path(self.mark),))


def test_a_pickle_is_named_and_never_read(plain, tmp_path):
    mark = tmp_path / "mark"
    (plain / "adapter_model.bin").write_bytes(pickle.dumps(Fuse(str(mark))))
    (plain / "training_args.bin").write_bytes(pickle.dumps(Fuse(str(mark))))
    review = only(plain, "warning", "there is a pickle: adapter_model.bin. It was not read")
    assert of(review, "note")[0].startswith("left over from training: training_args.bin")
    (plain / WEIGHTS).unlink()
    only(plain, "grave", "the weights are a pickle: adapter_model.bin. It was not read")
    assert not mark.exists()


def test_adalora_whose_ranks_were_never_shared_out(kinds):
    only(
        kinds / "adalora", "warning", "AdaLoRA without rank_pattern: every matrix keeps all 6", "08"
    )


def test_adalora_whose_mask_does_not_fit(kinds, tmp_path):
    folder = Path(shutil.copytree(kinds / "adalora", tmp_path / "adapter"))
    kept = {
        f"model.layers.{layer}.self_attn.{name}.lora_E": [True, True, False, False, False, False]
        for layer in range(4)
        for name in NAMES
    }
    configured(folder, rank_pattern=kept)
    only(folder, "grave", "rank_pattern does not fit the weights in 8 places", "08")
    (folder / WEIGHTS).unlink()
    shutil.copy(kinds / "adalora" / WEIGHTS, folder)
    configured(folder, rank_pattern={name: [True] * 6 for name in list(kept)[1:]})
    only(folder, "grave", "in 1 places: model.layers.0.self_attn.q_proj: not in rank_pattern", "08")


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_began_on_a_changed_base(tmp_path, start):
    model = adapted(init_lora_weights=start)
    folder = saved(model, tmp_path / "adapter")
    only(folder, "warning", f"init_lora_weights is {start!r}")


def test_a_change_larger_than_the_weights_and_one_that_is_hardly_there(plain):
    whole = tensors_of(plain)
    for factor, words, lesson in (
        (1000, "ΔW is larger than W in 8 of 8 matrices", "06"),
        (1e-6, "ΔW is below 0.00001 of W in every matrix", "10"),
    ):
        holding(
            plain,
            {key: tensor * factor if "lora_B" in key else tensor for key, tensor in whole.items()},
        )
        only(plain, "warning", words, lesson)


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        (lambda key: key.removeprefix("base_model.model."), "'model.layers.0"),
        (lambda key: key.replace("model.model.", "model._orig_mod.model."), "_orig_mod"),
    ],
)
def test_names_that_peft_does_not_find(plain, rename, words):
    holding(plain, {rename(key): tensor for key, tensor in tensors_of(plain).items()})
    review = only(plain, "grave", "16 names in the file are not PEFT's, such as")
    assert words in review[0].what
    assert "lora_A" in missing_by_peft(plain)


def test_names_that_hold_an_adapters_name_are_found_by_peft_under_that_name_alone(plain):
    renamed = {
        key.replace(".weight", ".mine.weight"): tensor for key, tensor in tensors_of(plain).items()
    }
    holding(plain, renamed)
    only(plain, "warning", "16 names in the file hold an adapter's name, such as")
    assert "lora_A" in missing_by_peft(plain)


@pytest.fixture
def wrapped_twice(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=8, target_modules=NAMES, task_type="CAUSAL_LM")
        model = peft.get_peft_model(adapted(), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return saved(model, tmp_path / "adapter")


def test_an_adapter_of_a_model_that_was_wrapped_twice_is_told_so_and_can_be_saved(wrapped_twice):
    assert missing_by_peft(wrapped_twice)
    review = only(
        wrapped_twice, "grave", "16 names in the file begin with 'base_model.model.' twice"
    )
    assert review[0].why.startswith("the model was wrapped twice: get_peft_model, or SFTTrainer")
    (code,) = re.findall(r"save_file\(.+?, path\)", review[0].do)
    names = {"load_file": load_file, "save_file": save_file, "path": wrapped_twice / WEIGHTS}
    exec(code, names)  # the remedy, as it is printed
    assert not missing_by_peft(wrapped_twice)
    assert of(check_adapter(wrapped_twice), "grave") == []


def test_files_that_zero_3_leaves_behind(plain):
    holding(plain, {})
    only(plain, "grave", "holds no lora_A and no lora_B")
    shutil.copy(plain / CONFIG, plain / "keep.json")
    holding(plain, {A.format(0, "q_proj"): torch.ones(0), B.format(0, "q_proj"): torch.ones(0)})
    assert "1 tensors are empty, with the shape (0,)" in " ".join(of(check_adapter(plain), "grave"))


@pytest.mark.parametrize(
    ("key", "tensor", "words"),
    [
        (A.format(0, "q_proj"), torch.ones(1, 128), "factors that do not fit each other"),
        (B.format(0, "q_proj"), torch.ones(1, 8), "have another size than pocket's"),
        (A.format(0, "q_proj"), torch.ones(8), "factors that do not fit each other"),
        (A.format(0, "q_proj"), torch.ones(8, 128, 1), "factors that do not fit each other"),
        (B.format(0, "q_proj"), None, "one factor without the other"),
        (
            A.format(0, "q_proj"),
            torch.ones(8, 128, dtype=torch.int8),
            "hold I8, not floating-point",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_factors_of_odd_shapes(plain, key, tensor, words):
    tensors = tensors_of(plain) | {key: tensor}
    holding(plain, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    only(plain, "grave", words)


def header(declared):
    words = json.dumps(declared).encode()
    return struct.pack("<Q", len(words)) + words


HUGE = {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged"),
        (b"\x00" * 7, "is damaged"),
        (b"\xff" * 64, "is damaged"),
        (struct.pack("<Q", 1 << 62) + b"{}", "is damaged"),
        (header({"x": HUGE}), "is damaged"),
        (header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "is damaged"),
        (
            header({"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}) + b"0" * 8,
            "is damaged",
        ),
        (header({"x": {"shape": "big"}}), "is damaged"),
        (header([1, 2]), "is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value[:12]),
)
def test_a_damaged_file_of_weights(plain, content, words):
    (plain / WEIGHTS).write_bytes(content)
    only(plain, "grave", words)


def test_a_file_cut_short(plain):
    whole = (plain / WEIGHTS).read_bytes()
    (plain / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    only(plain, "grave", "is damaged")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "can't be read"),
        ("[]", "can't be read: it holds a list, not an object"),
        ("{", "can't be read"),
        ("[" * 100_000, "can't be read"),
        ("\x00\x01", "can't be read"),
        ("{}", "peft_type None"),
        ('{"peft_type": ["LORA"]}', "peft_type ['LORA']"),
    ],
    ids=lambda value: value[:9],
)
def test_a_configuration_that_is_none(plain, words, expected):
    (plain / CONFIG).write_text(words)
    review = check_adapter(plain)
    assert any(expected in found.what for found in review)
    assert review.facts["weights"].startswith("16.4 K numbers in 16 tensors, ")


@pytest.mark.parametrize(
    "changes",
    [
        {"r": "8"},
        {"r": 0},
        {"r": 10**30},
        {"lora_alpha": None},
        {"lora_alpha": float("nan")},
        {"target_modules": 3},
        {"target_modules": {"q_proj": 1}},
        {"target_modules": "((("},
        {"target_modules": "(([a-z_.0-9])+)+X"},
        {"layers_to_transform": "all"},
        {"rank_pattern": {"v_proj": "3"}},
        {"rank_pattern": {"(((": 3}},
        {"rank_pattern": {"v_proj": [True]}},
        {"alpha_pattern": 3},
        {"use_dora": "yes"},
        {"base_model_name_or_path": ["pocket"]},
    ],
    ids=str,
)
def test_a_field_of_the_wrong_kind_is_grave_and_named(plain, changes):
    configured(plain, **changes)
    review = check_adapter(plain)
    assert review.is_grave
    field = next(iter(changes))
    assert any(field in found.what or "r=1000" in found.what for found in review), review


def test_fields_that_are_not_known_here_are_named(plain):
    configured(plain, router="top-2", bias="all", use_other=[1])
    review = check_adapter(plain)
    assert not review.is_grave
    words = of(review, "warning")
    fields = sorted(word.split("=")[0] for word in words)
    assert fields == ["bias", "router", "use_other"]


# --- rows of single tokens, trained beside LoRA -------------------------------------------------

ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.fixture(scope="module")
def with_rows(tmp_path_factory):
    """An adapter that PEFT saved with trained rows of tokens 3, 4 and 5."""
    folder = tmp_path_factory.mktemp("rows")
    return saved(adapted(trainable_token_indices=[3, 4, 5]), folder)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([3, 4, 5], ["3 rows of model.embed_tokens are trained beside LoRA"]),
        (
            {"lm_head": [7], "embed_tokens": [7, 9]},
            ["1 row of lm_head is trained", "2 rows of model.embed_tokens are trained"],
        ),
    ],
    ids=["of the embedding", "by module"],
)
def test_rows_of_tokens_beside_lora_are_known(tmp_path, indices, words):
    folder = saved(adapted(trainable_token_indices=indices), tmp_path / "rows")
    review = check_adapter(folder)
    assert {found.severity for found in review} == {"note"}
    assert all(word in " ".join(of(review, "note")) for word in words), review
    assert len(review) == len(words)


def stops_peft(folder):
    """Whether PEFT can't load the adapter on pocket."""
    try:
        peft.PeftModel.from_pretrained(pocket(), folder)
    except (KeyError, RuntimeError, IndexError):
        return True
    return False


def test_rows_of_tokens_that_do_not_fit_the_configuration_are_grave(with_rows, tmp_path):
    folder = Path(shutil.copytree(with_rows, tmp_path / "rows"))
    tensors = tensors_of(folder)
    holding(folder, {name: tensor for name, tensor in tensors.items() if name != ROWS})
    only(folder, "grave", "names 3 tokens of the embedding, and the file holds no rows")
    assert stops_peft(folder)
    holding(folder, tensors | {ROWS: tensors[ROWS][:2]})
    only(folder, "grave", "names 3 tokens of model.embed_tokens, and the file holds 2 rows")
    assert stops_peft(folder)
    holding(folder, tensors)
    configured(folder, trainable_token_indices=None)
    only(folder, "grave", "holds trained rows of tokens for model.embed_tokens, which")
    assert not stops_peft(folder)  # it leaves them out without a word
    configured(folder, trainable_token_indices="3, 4, 5")
    assert "trainable_token_indices='3, 4, 5' gives no token numbers" in of(
        check_adapter(folder), "grave"
    )


def test_a_trained_token_beyond_the_vocabulary_is_warned_about(with_rows, tmp_path):
    folder = Path(shutil.copytree(with_rows, tmp_path / "rows"))
    size = pocket().config.vocab_size
    configured(folder, trainable_token_indices=[3, 4, size - 1])
    assert not of(check_adapter(folder), "warning")
    configured(folder, trainable_token_indices=[3, 4, size])
    only(folder, "warning", f"names token {size:,}, and the base's embedding ends with token")
    assert stops_peft(folder)


def test_layers_that_the_base_does_not_have(plain):
    configured(plain, layers_to_transform=[0, 1, 2, 3, 9])
    only(plain, "warning", "layers_to_transform names layers 9, and pocket ends with layer 3", "07")


def test_an_adapter_of_mlx_is_called_so(plain):
    (plain / CONFIG).write_text(
        json.dumps({"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}})
    )
    review = check_adapter(plain)
    assert review.kind == "adapter of MLX-LM"
    assert "mlx_lm.fuse" in review[0].do


def test_an_adapter_for_another_task_is_looked_into_as_well(plain):
    configured(plain, task_type="SEQ_CLS", r=4)
    assert only(plain, "grave", "says r=4").facts["task"] == "SEQ_CLS"


def test_an_adapter_beside_a_whole_model(plain):
    shutil.copy(base_folder("pocket") / "model.safetensors", plain)
    shutil.copy(base_folder("pocket") / "config.json", plain)
    only(plain, "warning", "the folder holds an adapter and a whole model (model.safetensors)")


# --- a whole model ------------------------------------------------------------------------------


# --- a checkpoint's folder ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adapter", "whole"])
def test_the_log_in_a_checkpoints_folder_is_looked_through_too(kind, request):
    folder = request.getfixturevalue("plain" if kind == "adapter" else "whole")
    state = {"log_history": [{"step": n, "loss": 1.2} for n in range(20)], "global_step": 20}
    (folder / "trainer_state.json").write_text(json.dumps(state | {"max_steps": 20}))
    review = only(folder, "warning", "the loss never fell: 1.2 at first, 1.2 at the end", "04")
    assert review.facts["training's steps"] == "20 of 20"
    state["log_history"] = [{"step": n, "loss": 2 - n / 20} for n in range(20)]
    (folder / "trainer_state.json").write_text(json.dumps(state | {"max_steps": 100}))
    only(folder, "note", "a checkpoint after 20 of 100 steps", "04")
    (folder / "trainer_state.json").write_text("[")
    only(folder, "note", "trainer_state.json can't be read")


@pytest.fixture
def whole(tmp_path):
    model = adapted().merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    return tmp_path / "merged"


def test_a_merged_model_is_called_so_and_little_is_checked(whole):
    review = check_adapter(whole)
    assert review.kind == "whole model (merged or fully fine-tuned)"
    assert [*review] == []
    assert review.facts["name"] == "LlamaForCausalLM"
    assert "float32" in review.facts["weights"]
    assert review.facts["to check"].startswith("no adapter is in it")


def test_a_whole_model_with_broken_numbers_or_an_adapter_left_in_it(whole):
    from safetensors.torch import load_file, save_file

    tensors = load_file(whole / "model.safetensors")
    tensors["model.norm.weight"][7] = float("nan")
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    only(whole, "grave", "NaN or infinite numbers in 1 tensors: model.norm.weight")
    tensors["model.norm.weight"][7] = 1
    tensors["model.layers.0.self_attn.q_proj.lora_A.default.weight"] = torch.ones(8, 128)
    save_file(tensors, whole / "model.safetensors", {"format": "pt"})
    only(whole, "grave", "1 tensors of an adapter are in the model's weights")


def test_a_whole_model_in_4_bits_may_have_rounded_its_adapter_away(tmp_path):
    bits = BitsAndBytesConfig(load_in_4bit=True)
    model = AutoModelForCausalLM.from_pretrained(base_folder("pocket"), quantization_config=bits)
    model.save_pretrained(tmp_path / "rounded")
    only(tmp_path / "rounded", "note", "the weights are in 4 bits (bitsandbytes)")


@pytest.mark.parametrize("odd", ["pickle", "index", "config"])
def test_a_whole_model_that_can_not_be_read(whole, odd):
    if odd == "config":
        (whole / "config.json").write_text("{")
        only(whole, "grave", "config.json can't be read")
        return
    (whole / "model.safetensors").unlink()
    if odd == "pickle":
        (whole / "pytorch_model.bin").write_bytes(b"")
        only(whole, "grave", "the weights are a pickle: pytorch_model.bin. It was not read")
    else:
        index = {"weight_map": {"a": "../../secret.safetensors"}}
        (whole / "model.safetensors.index.json").write_text(json.dumps(index))
        only(whole, "grave", "names files outside its folder")


# --- the command --------------------------------------------------------------------------------


def test_the_command_says_findings_and_ends_with_1_on_a_grave_one(plain):
    result = CliRunner().invoke(app, ["check", str(plain)])
    assert result.exit_code == 0
    assert "Nothing odd was found." in result.stdout
    configured(plain, target_modules=["q_proj", "v_proj", "gate_porj"])
    for path in (plain, plain / CONFIG):
        result = CliRunner().invoke(app, ["check", str(path), "--json"])
        assert result.exit_code == 1
        found = json.loads(result.stdout)
        assert found["kind"] == "LoRA adapter of PEFT"
        assert found["findings"][0]["severity"] == "grave"
        assert "gate_porj" in found["findings"][0]["what"]
        assert found["facts"]["factor"] == "2 = lora_alpha / r = 16 / 8"


def test_a_folder_that_is_neither_is_refused_with_what_would_be(tmp_path):
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(FileNotFoundError, match="give"):
            check_adapter(path)


def test_the_check_loads_neither_torch_nor_transformers(plain):
    import subprocess
    import sys

    code = (
        "import sys; from lora_lab.review.adapter import check_adapter; "
        f"check_adapter({str(plain)!r}); "
        "print(*{'torch', 'transformers', 'peft', 'pandas'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []

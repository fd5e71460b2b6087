"""An adapter that can't be right is refused in words, before it answers."""

import json
import shutil
import warnings
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import adapters
from lora_lab.cli.app import app
from lora_lab.models.adapted import load_adapter
from lora_lab.models.adapter_config import PREFIX
from lora_lab.models.learned import save_adapter
from lora_lab.training.fit import fit
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
PROMPT = torch.arange(1, 9)[None]
ADALORA = {"method": "adalora", "init_r": 6, "target_r": 1}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def saved(base, tmp_path_factory):
    """Adapters of several kinds, by name; `plain` has r 3."""
    folder = tmp_path_factory.mktemp("adapters")
    kinds = {
        "plain": {},
        "adalora": ADALORA,
        "dora": {"use_dora": True},
        "head": {"modules_to_save": ("lm_head",)},
        "embedding": {"target_modules": ("embed_tokens", "q_proj")},
    }
    for name, changes in kinds.items():
        training = train(base, TASK, recipe(steps=8, learning_rate=1e-2, **changes))
        list(training)
        save_adapter(training, folder / name)
    return folder


@pytest.fixture
def adapter(saved, tmp_path):
    """A copy of the plain adapter."""
    return Path(shutil.copytree(saved / "plain", tmp_path / "adapter"))


def configured(folder, **changes):
    words = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps(words))


def holding(folder, changes):
    """Change, add or (with None) take out tensors."""
    tensors = load_file(folder / WEIGHTS) | changes
    there = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(there, folder / WEIGHTS)


def refused(base, folder, match):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_adapter(base, folder)
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "words",
    ["", "[]", "null", '"x"', "3", "{", "[" * 100_000, "\x00\x01", '{"peft_type": "LORA"}}'],
    ids=lambda words: words[:9],
)
def test_a_configuration_that_is_none_is_named(base, adapter, words):
    (adapter / CONFIG).write_text(words)
    refused(base, adapter, f"{CONFIG} isn't a configuration of an adapter")


@pytest.mark.parametrize(
    "changes",
    [
        {"peft_type": "VERY_NEW"},
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"peft_type": ["LORA"]},
        {"task_type": "SEQ_CLS"},
        {"task_type": "NEW"},
        {"r": 0},
        {"r": -1},
        {"r": 3.0},
        {"r": "3"},
        {"r": True},
        {"r": None},
        {"r": 4},
        {"r": 10**12},
        {"r": 10**30},
        {"lora_alpha": float("nan")},
        {"lora_alpha": float("inf")},
        {"lora_alpha": "16"},
        {"lora_alpha": None},
        {"lora_alpha": [16]},
        {"lora_dropout": 2},
        {"lora_dropout": "a lot"},
        {"target_modules": 3},
        {"target_modules": [3]},
        {"target_modules": {"q_proj": 1}},
        {"target_modules": []},
        {"target_modules": None},
        {"target_modules": ["q_proj"]},
        {"target_modules": "nothing of that name"},
        {"target_modules": "((("},
        {"target_modules": "(([a-z_.0-9])+)+X"},  # in bounded time
        {"exclude_modules": ["q_proj"]},
        {"exclude_modules": 3},
        {"layers_to_transform": "all"},
        {"layers_to_transform": [0.5]},
        {"layers_to_transform": [0], "target_modules": ["up_proj"]},
        {"layers_pattern": 3},
        {"modules_to_save": "lm_head"},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": [3]},
        {"rank_pattern": {"up_proj": 4}},
        {"rank_pattern": {"up_proj": 0}},
        {"rank_pattern": {"up_proj": "3"}},
        {"rank_pattern": {"up_proj": [True]}},
        {"rank_pattern": ["up_proj"]},
        {"rank_pattern": {"(((": 3}},
        {"rank_pattern": {".*": 3}, "r": 10**12},
        {"alpha_pattern": {"up_proj": float("nan")}},
        {"alpha_pattern": {"up_proj": "x"}},
        {"alpha_pattern": 3},
        {"use_dora": "yes"},
        {"use_dora": True},
        {"use_rslora": 1},
        {"lora_bias": True},
        {"bias": "all"},
        {"bias": "some"},
        {"base_model_name_or_path": 3},
        {"router": "top-2"},
        {"use_qalora": True},
        {"trainable_token_indices": [1, 2]},
        {"layer_replication": [[0, 1]]},
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"target_parameters": ["mlp.up_proj.weight"]},
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit_is_refused_with_its_field(base, adapter, changes):
    configured(adapter, **changes)
    refused(base, adapter, "adapter|target_modules|regex|_pattern")
    result = CliRunner().invoke(app, ["chat", str(adapter), "hello", "--base", "pocket"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("lora-lab: ")


@pytest.mark.parametrize("off", [None, False, [], {}, 0, ""], ids=str)
def test_a_field_of_a_later_peft_that_is_switched_off_does_no_harm(base, adapter, off):
    expected = load_adapter(base, adapter).model(PROMPT).logits
    configured(adapter, router=off)
    assert torch.equal(load_adapter(base, adapter).model(PROMPT).logits, expected)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({A: torch.full((3, 32), float("nan"))}, f"NaN or infinite numbers in '{A}'"),
        ({B: torch.full((96, 3), float("-inf"))}, f"NaN or infinite numbers in '{B}'"),
        ({A: torch.ones(3, 32, dtype=torch.int64)}, f"'{A}' in torch.int64"),
        ({A: torch.ones(3, 32, dtype=torch.bool)}, f"'{A}' in torch.bool"),
        ({A: torch.ones(3, 32, dtype=torch.complex64)}, f"'{A}' in torch.complex64"),
        ({A: torch.ones(96)}, "are matrices"),
        ({A: torch.ones(())}, "are matrices"),
        ({A: torch.ones(3, 32, 1)}, "are matrices"),
        ({A: torch.ones(2, 32)}, "has rank 2, and its own configuration says 3"),
        ({B: torch.ones(96, 2)}, "has the shape .96, 2., and by its own configuration .96, 3."),
        ({B: None}, f"lacks '{B}'"),
        ({A: None, B: None}, f"lacks '{A}'"),
        ({A.replace("up", "upper"): torch.ones(3, 32)}, "another base"),
        ({A: None, B: None, PREFIX + A: torch.ones(3, 32)}, "twice, such as .+ was wrapped twice"),
        ({"something": torch.ones(2)}, "holds 'something'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_do_not_fit_are_named(base, adapter, changes, words):
    holding(adapter, changes)
    refused(base, adapter, words)


@pytest.mark.parametrize("name", ["mlp.up_proj", "mlp.up_proj.base_layer", "input_layernorm"])
def test_an_adapter_never_overwrites_a_weight_of_the_base(base, adapter, name):
    key = f"base_model.model.model.layers.0.{name}.weight"
    own = base.model.get_submodule(f"model.layers.0.{name.removesuffix('.base_layer')}").weight
    holding(adapter, {key: torch.zeros_like(own)})
    refused(base, adapter, f"holds '{key}'")


def test_the_bases_own_embedding_which_peft_saves_too_does_no_harm(base, saved, tmp_path):
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, saved / "embedding")
    theirs.save_pretrained(tmp_path, save_embedding_layers=True)
    assert any("base_layer" in name for name in load_file(tmp_path / WEIGHTS))
    loaded = load_adapter(base, tmp_path).model
    torch.testing.assert_close(loaded(PROMPT).logits, theirs.eval()(PROMPT).logits)


@pytest.mark.parametrize("kind", ["adalora", "dora", "head", "embedding"])
def test_other_kinds_with_a_tensor_missing_odd_or_nan_are_refused(base, saved, kind, tmp_path):
    tensors = load_file(saved / kind / WEIGHTS)
    special = {
        "adalora": "lora_E",
        "dora": "magnitude",
        "head": "lm_head",
        "embedding": "embedding_A",
    }
    name = next(key for key, tensor in tensors.items() if special[kind] in key and tensor.numel())
    tensor = tensors[name]
    odd = (None, tensor * float("nan"), torch.ones(*tensor.shape, 1), torch.ones(7))
    for place, change in enumerate(odd):
        folder = Path(shutil.copytree(saved / kind, tmp_path / str(place)))
        holding(folder, {name: change})
        refused(base, folder, "adapter")


@pytest.mark.parametrize(
    "changes",
    [
        {"init_r": 0},
        {"init_r": 10**12},
        {"init_r": "6"},
        {"rank_pattern": {"up_proj": 3}},
        {"rank_pattern": {}},
        {"rank_pattern": None},
        {"rank_pattern": {"no.such.layer.lora_E": [True]}},
        {"rank_pattern": {"model.layers.0.mlp.up_proj.lora_E": [True] * 99}},
        {"total_step": "x"},
    ],
    ids=str,
)
def test_an_adalora_with_odd_ranks_is_refused(base, saved, changes, tmp_path):
    folder = Path(shutil.copytree(saved / "adalora", tmp_path / "adapter"))
    configured(folder, **changes)
    refused(base, folder, "adapter|PEFT")


def test_ranks_and_alphas_by_layer_are_read_as_peft_reads_them(base, tmp_path):
    config = peft.LoraConfig(
        r=3,
        target_modules=["q_proj", "up_proj"],
        rank_pattern={"up_proj": 5, "^model.layers.1.self_attn.q_proj": 2},
        alpha_pattern={"q_proj": 20},
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    theirs = peft.get_peft_model(tiny_base().model, config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = load_adapter(base, tmp_path).model
    torch.testing.assert_close(loaded(PROMPT).logits, theirs(PROMPT).logits)


def test_an_adapter_that_is_refused_beside_others_leaves_them_as_they_were(base, adapter, saved):
    adapted = load_adapter(base, saved / "plain", name="good")
    expected = adapted.model(PROMPT).logits
    whole = load_file(adapter / WEIGHTS)
    holding(adapter, {B: None})
    with pytest.raises(ValueError, match="lacks"):
        adapted.load(adapter, "other")
    assert torch.equal(adapted.model(PROMPT).logits, expected)
    save_file(whole, adapter / WEIGHTS)
    assert adapted.load(adapter, "other").names == ["good", "other"]
    assert torch.equal(adapted.use("other").model(PROMPT).logits, expected)


def test_a_target_that_reaches_nothing_is_said_where_the_adapter_is_loaded(base, adapter, saved):
    words = json.loads((adapter / CONFIG).read_text())["target_modules"]
    configured(adapter, target_modules=[*words, "v_porj", "gate"])
    said = "names 'gate', 'v_porj' in target_modules, and tiny has no such layer"
    with pytest.warns(UserWarning, match=said):
        load_adapter(base, adapter)
    adapted = load_adapter(base, saved / "plain", name="good")
    with pytest.warns(UserWarning, match=said):
        adapted.load(adapter, "other")


@pytest.mark.parametrize(
    ("kind", "part"), [("plain", "lora_B"), ("adalora", "lora_E"), ("embedding", "lora_B")]
)
def test_an_adapter_that_never_learned_says_so_when_it_is_loaded(base, saved, kind, part, tmp_path):
    folder = Path(shutil.copytree(saved / kind, tmp_path / "adapter"))
    starts = (part, "lora_embedding_A")
    tensors = load_file(folder / WEIGHTS)
    holding(
        folder,
        {key: tensor * 0 for key, tensor in tensors.items() if any(s in key for s in starts)},
    )
    with pytest.warns(UserWarning, match=f"has learned nothing: {part} is all zero"):
        load_adapter(base, folder)


def test_a_template_that_is_not_the_bases_is_said_where_the_adapter_is_loaded(base, adapter):
    base.tokenizer.save_pretrained(adapter)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*chat template", UserWarning)
        load_adapter(base, adapter)
    (adapter / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.warns(UserWarning, match="holds a chat template of its own, and prompts are"):
        load_adapter(base, adapter)


def test_a_sound_adapter_is_loaded_without_a_word(base, saved):
    for kind in ("plain", "adalora", "dora", "head", "embedding"):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "the adapter in", UserWarning)
            load_adapter(base, saved / kind)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_that_began_on_a_changed_base_is_refused(start, tmp_path):
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj"], init_lora_weights=start, task_type="CAUSAL_LM"
    )
    peft.get_peft_model(tiny_base().model, config).save_pretrained(tmp_path)
    refused(tiny_base(), tmp_path, f"init_lora_weights='{start}': A and B were taken out")


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_a_file_cut_short_or_emptied_is_one_clear_line(adapter, size):
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:size])
    for words in (
        ["chat", str(adapter), "hello"],
        ["evaluate", str(adapter), "--task", "new-facts"],
    ):
        result = CliRunner().invoke(app, [*words, "--base", "pocket"])
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("lora-lab: ")
        assert "damaged or not a safetensors file" in line


def test_chat_says_what_a_misspelt_target_left_out(tmp_path):
    model = adapters.adapted(target_modules=["q_proj", "v_porj"])
    adapters.saved(model, tmp_path / "adapter")
    result = CliRunner().invoke(app, ["chat", str(tmp_path / "adapter"), "hello"])
    assert result.exit_code == 0
    assert "names 'v_porj' in target_modules, and pocket has no such layer" in result.stderr
    assert "did you mean 'v_proj'?" in result.stderr


@pytest.mark.parametrize(
    "name", ["training", "keys", "type", "forward", "a.b", "über – uns", "1", "a"]
)
def test_a_folder_with_an_adapter_may_have_any_name(base, saved, name, tmp_path):
    folder = shutil.copytree(saved / "plain", tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # PEFT's about a name like its own parts
        warnings.simplefilter("error", UserWarning)
        assert load_adapter(base, folder).model(PROMPT).logits.isfinite().all()


@pytest.mark.parametrize("name", ["training", "keys", "a.b", ""])
def test_a_name_that_torch_can_not_take_is_refused(base, saved, name):
    with pytest.raises(ValueError, match="an adapter can't be called"):
        load_adapter(base, saved / "plain", name=name)
    with pytest.raises(ValueError, match="an adapter can't be called"):
        load_adapter(base, saved / "plain").load(saved / "plain", name)


@pytest.mark.parametrize("odd", ["nan", "gone", "shape"])
def test_a_whole_model_that_does_not_fit_is_refused_too(base, odd, tmp_path):
    run = fit(base, TASK, recipe(method="full", steps=2), store=tmp_path, evaluate=False)
    folder = run.path / "learnt"
    file, name = folder / "model.safetensors", "model.norm.weight"
    tensors = load_file(file)
    changes = {"nan": torch.full((32,), float("nan")), "gone": None, "shape": torch.ones(1)}
    tensors[name] = changes[odd]
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, file)
    refused(base, folder, f"{name}")

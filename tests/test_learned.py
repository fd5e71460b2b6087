import dataclasses
import json
import pickle
import warnings

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_lab.models.adapted import Adapted, load_adapter
from lora_lab.models.learned import save_adapter
from lora_lab.training.evaluation import generate
from lora_lab.training.fit import fit
from lora_lab.training.loop import Diverged, train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
PROMPT = torch.arange(1, 9)[None]


@pytest.fixture(scope="module")
def base():
    return tiny_base()


def trained(base, **changes):
    training = train(base, TASK, recipe(**{"steps": 8, "learning_rate": 1e-2} | changes))
    list(training)
    return training


def logits(model):
    with torch.no_grad():
        return model.eval()(PROMPT).logits


ADALORA = {"method": "adalora", "init_r": 6, "target_r": 1}  # some layers are left with rank 0
KINDS = [
    {},
    {"use_rslora": True},
    {"use_dora": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora", "use_rslora": True},
    {"modules_to_save": ("lm_head",)},
    {"layers_to_transform": (1,)},
    {"target_modules": ("q_proj", "v_proj")},
    ADALORA,
    {"method": "adalora", "modules_to_save": ("lm_head",), "layers_to_transform": (1,)},
]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_plain_peft_loads_what_was_saved_and_gives_the_same_logits(base, changes, tmp_path):
    training = trained(base, **changes)
    folder = save_adapter(training, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(tiny_base().model, folder)
    expected = logits(training.model)
    assert (expected - logits(base.model)).abs().max() > 0.01  # it did learn something
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        logits(load_adapter(base, folder).model), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("changes", [*KINDS, {"method": "full", "learning_rate": 1e-3}], ids=str)
def test_strength_0_is_the_base_and_strength_1_is_as_trained(base, changes):
    training = trained(base, **changes)
    adapted = Adapted(base, training.learned)
    expected = logits(training.model)
    for strength, wanted in ((1, expected), (0, logits(base.model)), (1, expected)):
        adapted.strength = strength
        torch.testing.assert_close(logits(adapted.model), wanted, rtol=1e-4, atol=1e-5)
    adapted.strength = 0.5
    halfway = logits(adapted.model)
    assert (halfway - expected).abs().max() > 1e-4
    assert (halfway - logits(base.model)).abs().max() > 1e-4


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["lora", "adalora"])
def test_half_strength_is_half_the_change_of_each_weight(base, changes):
    training = trained(base, **changes)
    adapted = Adapted(base, training.learned, strength=0.5)
    merged = adapted.model.merge_and_unload().get_submodule("model.layers.0.mlp.up_proj").weight
    layer = training.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj")
    own = base.model.get_submodule("model.layers.0.mlp.up_proj").weight
    torch.testing.assert_close(merged, own + layer.get_delta_weight("default") / 2)


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["lora", "adalora"])
@pytest.mark.parametrize("of", ["training", "adapted"])
def test_merging_with_peft_does_not_reach_the_base(base, of, changes):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    training = trained(base, **changes)
    expected = logits(training.model)
    model = training.model if of == "training" else Adapted(base, training.learned).model
    torch.testing.assert_close(logits(model.merge_and_unload()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["lora", "adalora"])
def test_several_adapters_are_switched_without_reading_again(base, changes, tmp_path):
    folders, expected = {}, {}
    for name, seed in (("one", 0), ("two", 1)):
        training = trained(base, seed=seed, r=3 + seed, **changes)
        folders[name] = save_adapter(training, tmp_path / name)
        expected[name] = logits(training.model)
    adapted = load_adapter(base, folders["one"], name="one").load(folders["two"], "two")
    for folder in folders.values():
        for file in folder.iterdir():
            file.unlink()
    assert (adapted.names, adapted.active) == (["one", "two"], "one")
    for name in ("one", "two", "one"):
        torch.testing.assert_close(logits(adapted.use(name).model), expected[name])
    adapted.strength = 0
    torch.testing.assert_close(logits(adapted.use("two").model), logits(base.model))
    with pytest.raises(ValueError, match="did you mean 'two'"):
        adapted.use("twoo")
    with pytest.raises(ValueError, match="called 'one' already"):
        adapted.load(folders["two"], "one")


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["lora", "adalora"])
def test_an_adapter_in_use_leaves_the_base_and_the_random_state_alone(base, changes, tmp_path):
    folder = save_adapter(trained(base, **changes), tmp_path / "adapter")
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    state = torch.get_rng_state()
    adapted = load_adapter(base, folder, strength=0.7)
    generate(adapted, ["ab"])
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    shared = adapted.model.get_parameter("base_model.model.model.norm.weight")
    assert shared.data_ptr() == base.model.model.norm.weight.data_ptr()


@pytest.mark.parametrize("strength", [-0.1, 11, float("nan")])
def test_a_strength_that_makes_no_sense_is_refused(base, strength):
    with pytest.raises(ValueError, match="give 0 \\(the base\\) to 10"):
        Adapted(base, trained(base, steps=1).learned, strength=strength)


def test_a_folder_with_something_in_it_is_never_overwritten(base, tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        save_adapter(trained(base, steps=1), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    save_adapter(trained(base, steps=1), tmp_path / "empty")


def test_a_full_fine_tune_has_no_adapter_to_save(base, tmp_path):
    run = fit(base, TASK, recipe(method="full", steps=2), store=None)
    with pytest.raises(ValueError, match="there is no adapter to save; train with method='lora'"):
        save_adapter(run, tmp_path / "adapter")


def test_a_saved_adalora_holds_the_ranks_that_the_allocator_kept_and_no_more(base, tmp_path):
    training = trained(base, **ADALORA)
    folder = save_adapter(training, tmp_path / "adapter")
    ranks = next(record.ranks for record in reversed(training.records) if record.ranks)
    assert sum(ranks.values()) == 14 * 1
    assert min(ranks.values()) == 0
    assert max(ranks.values()) > 1
    tensors = load_file(folder / "adapter_model.safetensors")
    saved = peft.PeftConfig.from_pretrained(folder).rank_pattern
    for name, rank in ranks.items():
        assert tensors[f"base_model.model.{name}.lora_A"].shape[0] == rank
        assert tensors[f"base_model.model.{name}.lora_B"].shape[1] == rank
        assert sum(saved[f"{name}.lora_E"]) == rank
    adapted = load_adapter(base, folder)
    assert sum(p.numel() for n, p in adapted.model.named_parameters() if "lora_" in n) == sum(
        tensor.numel() for tensor in tensors.values()
    )


def test_adalora_stopped_before_its_budget_is_not_saved_but_answers_as_it_does(base, tmp_path):
    wanted = recipe(learning_rate=1e-2, deltaT=4, tfinal=5, **ADALORA)
    training = train(base, TASK, wanted)
    for record in training:
        if record.step == 5:  # one step after an allocation: the masked are no longer 0
            break
    with pytest.raises(ValueError, match="after step 5 of 12, and .* 12 - 5 = 7; .* init_r=6 .*2 "):
        save_adapter(training, tmp_path / "early")
    assert not (tmp_path / "early").exists()
    expected = logits(training.model)
    assert (expected - logits(base.model)).abs().max() > 0.01
    torch.testing.assert_close(logits(Adapted(base, training.learned).model), expected)
    for record in training:
        if record.step == 7:
            break
    save_adapter(training, tmp_path / "in time")
    torch.testing.assert_close(
        logits(load_adapter(base, tmp_path / "in time").model), logits(training.model)
    )


def test_an_adalora_run_that_diverged_before_its_budget_is_not_saved_either(base, tmp_path):
    with pytest.raises(Diverged) as stopped:
        fit(base, TASK, recipe(learning_rate=1e30, steps=50, method="adalora"), store=tmp_path)
    with pytest.raises(ValueError, match="of 50, and its ranks are decided at step .* = 25"):
        save_adapter(stopped.value.run, tmp_path / "adapter")


def test_an_adalora_may_be_called_like_a_part_of_its_layers_names(base, tmp_path):
    training = trained(base, **ADALORA)
    folder = save_adapter(training, tmp_path / "adapter")
    for name in ("a", "model", "q_proj"):
        loaded = load_adapter(base, folder, name=name).model
        torch.testing.assert_close(logits(loaded), logits(training.model))


def test_an_adalora_on_a_16_bit_base_is_loaded_to_the_last_bit(tmp_path):
    base = tiny_base(dtype=torch.bfloat16)
    training = trained(base, **ADALORA)
    loaded = load_adapter(base, save_adapter(training, tmp_path / "it"), name="it").model
    there = {name.replace(".it", ""): parameter for name, parameter in loaded.named_parameters()}
    for name, tensor in training.learned.tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(there[name], tensor)


def test_lora_and_adalora_are_not_mixed(base, tmp_path):
    save_adapter(trained(base, steps=1), tmp_path / "lora")
    save_adapter(trained(base, **ADALORA), tmp_path / "ada")
    with pytest.raises(ValueError, match="type ADALORA, and those here are LORA; load it on its"):
        load_adapter(base, tmp_path / "lora").load(tmp_path / "ada", "ada")


def test_an_adalora_for_another_base_is_refused_too(base, tmp_path):
    wide = trained(tiny_base("wide", hidden=64), **ADALORA)
    with pytest.raises(ValueError, match="the adapter has 64 inputs, tiny has 32"):
        load_adapter(base, save_adapter(wide, tmp_path / "adapter"))


def test_a_pickled_adapter_is_refused_without_being_opened(base, tmp_path):
    folder = save_adapter(trained(base, steps=1), tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (folder / "adapter_model.bin").write_bytes(pickle.dumps([Trap(), len(tensors)]))
    with pytest.raises(ValueError, match="adapter_model.bin, a pickle"):
        load_adapter(base, folder)
    assert not (tmp_path / "sprung").exists()


def test_an_adapter_for_another_base_is_refused_with_the_shapes_that_differ(base, tmp_path):
    folder = save_adapter(trained(tiny_base("wide", hidden=64), steps=1), tmp_path / "adapter")
    with pytest.raises(ValueError, match="the adapter has 64 inputs, tiny has 32.*more") as refusal:
        load_adapter(base, folder)
    assert "another base than tiny" in str(refusal.value)
    deep = save_adapter(trained(tiny_base("deep", layers=3), steps=1), tmp_path / "deep")
    with pytest.raises(ValueError, match="layers.2.mlp.down_proj: not in tiny"):
        load_adapter(base, deep)


def test_damaged_or_missing_files_are_named(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_adapter(base, tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no adapter_config.json"):
        load_adapter(base, tmp_path)
    folder = save_adapter(trained(base, steps=1), tmp_path / "adapter")
    whole = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        load_adapter(base, folder)


def test_a_tensor_that_the_configuration_does_not_name_is_not_ignored(base, tmp_path):
    folder = save_adapter(trained(base, steps=1, target_modules=("q_proj",)), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["layers_to_transform"] = [0]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds .*its own configuration says otherwise"):
        load_adapter(base, folder)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="lacks"):
        load_adapter(base, folder)


@pytest.mark.parametrize("changes", [{}, ADALORA], ids=["lora", "adalora"])
def test_saving_and_using_an_adapter_says_nothing(base, changes, tmp_path):
    training = trained(base, **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a notebook would show it
        warnings.simplefilter("error", RuntimeWarning)
        save_adapter(training, tmp_path / "first")
        load_adapter(base, tmp_path / "first").load(tmp_path / "first", "second")


def test_the_saved_configuration_names_no_path_of_this_machine(base, tmp_path):
    pathy = dataclasses.replace(base, model=tiny_base().model)
    pathy.model.config._name_or_path = str(tmp_path)
    folder = save_adapter(trained(pathy, steps=1), tmp_path / "adapter")
    assert str(tmp_path) not in (folder / "adapter_config.json").read_text()
    assert peft.PeftConfig.from_pretrained(folder).base_model_name_or_path == "tiny"

import copy
import dataclasses
import gc
import subprocess
import sys
import weakref

import bitsandbytes
import cloudpickle
import peft
import pytest
import torch
from peft.utils.loftq_utils import _low_rank_decomposition
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel

from lora_lab.models.adapted import Adapted, load_adapter
from lora_lab.models.adapters import adapt, as_trained
from lora_lab.models.bases import load_base, quantized_base
from lora_lab.models.learned import save_adapter
from lora_lab.models.quantization import (
    Quantization,
    dequantized,
    is_quantized,
    quantize_layers,
    share_tensors,
    weight_of,
)
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.planted import planted_task
from lora_lab.training.evaluation import evaluate, generate
from lora_lab.training.fit import fit
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
PROMPT = torch.arange(1, 9)[None]
KINDS = [("nf4", True), ("nf4", False), ("fp4", True), ("int8", True)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    base = tiny_base(hidden=64)
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def base():
    return tiny_base(hidden=64)


def theirs(folder, quantize, double_quant, dtype=torch.float32):
    """The same model, quantised by transformers as it loads it, and prepared by PEFT."""
    config = BitsAndBytesConfig(
        load_in_4bit=quantize != "int8",
        load_in_8bit=quantize == "int8",
        bnb_4bit_quant_type="fp4" if quantize == "int8" else quantize,
        bnb_4bit_use_double_quant=double_quant,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=config, device_map="cpu"
    )
    for layer in model.modules():
        if isinstance(layer, bitsandbytes.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False  # it answers in bfloat16 where there is that
    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def quantised(base, quantize="nf4", double_quant=True):
    return quantized_base(base, Quantization(quantize, double_quant))


def logits(model):
    with torch.no_grad():
        return model.eval()(PROMPT).logits


def contents(model):
    """Every tensor of a model, a copy."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(("quantize", "double_quant"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_weights_are_those_that_transformers_quantises_and_peft_prepares(
    folder, quantize, double_quant, dtype
):
    ours = quantized_base(
        load_base(folder, dtype=dtype), Quantization(quantize, double_quant, dtype)
    ).model
    model = theirs(folder, quantize, double_quant, dtype)
    torch.testing.assert_close(ours.state_dict(), model.state_dict(), rtol=0, atol=0)
    assert {n: p.dtype for n, p in ours.named_parameters()} == {
        n: p.dtype for n, p in model.named_parameters()
    }
    torch.testing.assert_close(logits(ours), logits(model), rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    thresholds = [
        [layer.state.threshold for layer in one.modules() if hasattr(layer, "state")]
        for one in (ours, model)
    ]
    assert thresholds[0] == thresholds[1]


@pytest.mark.parametrize("quantize", ["nf4", "fp4", "int8"])
def test_a_base_can_be_loaded_quantised_and_asked(folder, quantize):
    base = load_base(folder, quantize=quantize)
    double = quantize != "int8"
    torch.testing.assert_close(
        base.model.state_dict(), theirs(folder, quantize, double).state_dict(), rtol=0, atol=0
    )
    assert base.quantization == Quantization(quantize)
    assert f"quantised to {quantize}" in base.about
    assert len(generate(base, ["ab", "cd"], max_new_tokens=3)) == 2
    assert evaluate(base, TASK).loss > 0
    assert base.model.num_parameters() == tiny_base(hidden=64).model.num_parameters()


@pytest.mark.parametrize(("quantize", "double_quant"), KINDS)
def test_training_on_quantised_weights_is_training_on_the_weights_they_stand_for(
    base, quantize, double_quant
):
    wanted = recipe(steps=15, quantize=quantize, double_quant=double_quant)
    ours = [record.loss for record in train(base, TASK, wanted)]
    plain = dataclasses.replace(
        base, model=dequantized(quantised(base, quantize, double_quant).model)
    )
    expected = [r.loss for r in train(plain, TASK, recipe(steps=15))]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=0)
    assert ours != pytest.approx([r.loss for r in train(base, TASK, recipe(steps=15))], rel=1e-4)
    assert ours[-1] < 0.9 * ours[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"quantize": "nf4", "use_dora": True},
        {"quantize": "fp4", "gradient_checkpointing": True},
        {"quantize": "int8", "lora_dropout": 0.1},
    ],
    ids=str,
)
def test_the_variants_of_lora_train_on_quantised_weights(base, changes):
    losses = [r.loss for r in train(base, TASK, recipe(**changes, steps=15))]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantising_and_training_leave_the_base_as_it_was(base, quantize):
    before, addresses = contents(base.model), [p.data_ptr() for p in base.model.parameters()]
    training = train(base, TASK, recipe(quantize=quantize, steps=3))
    list(training)
    evaluate(training, TASK)
    torch.testing.assert_close(contents(base.model), before, rtol=0, atol=0)
    assert [p.data_ptr() for p in base.model.parameters()] == addresses
    assert not any(is_quantized(layer) for layer in base.model.modules())


@pytest.mark.filterwarnings("ignore:Merge lora module")
@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_merging_leaves_a_quantised_base_as_it_was(base, quantize):
    on = quantised(base, quantize)
    before, expected = contents(on.model), logits(on.model)
    states = [copy.copy(vars(parameter)) for parameter in on.model.parameters()]
    training = train(on, TASK, recipe(steps=6))
    list(training)
    logits(training.model.merge_and_unload())
    torch.testing.assert_close(contents(on.model), before, rtol=0, atol=0)
    assert [vars(parameter).get("bnb_quantized") for parameter in on.model.parameters()] == [
        state.get("bnb_quantized") for state in states
    ]
    torch.testing.assert_close(logits(on.model), expected, rtol=0, atol=0)


@pytest.fixture
def quantised_weights(monkeypatch):
    """The shape of each weight that bitsandbytes quantises, in order."""
    shapes = []
    for kind in (bitsandbytes.nn.Params4bit, bitsandbytes.nn.Int8Params):

        def counted(weight, device, quantiser=kind._quantize):
            shapes.append(tuple(weight.shape))
            return quantiser(weight, device)

        monkeypatch.setattr(kind, "_quantize", counted)
    return shapes


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_base_is_quantised_once_for_a_run_its_scores_and_all_that_is_asked_of_it(
    base, quantize, quantised_weights, tmp_path
):
    layers = base.model.model.layers.modules()
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, torch.nn.Linear)]
    wanted = recipe(quantize=quantize, steps=4)
    run = fit(base, TASK, wanted, store=tmp_path)
    assert quantised_weights == shapes
    logits(run.model)
    evaluate(fit(base, TASK, dataclasses.replace(wanted, seed=1), store=None), TASK)
    assert quantised_weights == shapes


@pytest.mark.parametrize(
    ("quantize", "changes"),
    [
        ("nf4", {}),
        ("nf4", {"init_lora_weights": "loftq"}),
        ("nf4", {"use_dora": True}),
        ("int8", {}),
    ],
)
def test_weights_quantised_before_give_the_same_run_as_weights_quantised_now(quantize, changes):
    wanted, base = recipe(quantize=quantize, steps=4, **changes), tiny_base(hidden=64)
    first, second = (fit(base, TASK, wanted, store=None) for _ in range(2))
    first.model.merge_and_unload()
    third, anew = (fit(on, TASK, wanted, store=None) for on in (base, tiny_base(hidden=64)))
    for run in (second, third, anew):
        assert run.records == first.records
        assert run.scores == first.scores
        torch.testing.assert_close(logits(run.model), logits(anew.model), rtol=0, atol=0)


def test_a_base_that_was_written_to_is_quantised_anew(base):
    layer = base.model.model.layers[0].mlp.up_proj
    before = weight_of(quantised(base).model.model.layers[0].mlp.up_proj)
    with torch.no_grad():
        layer.weight.mul_(2)
    after = weight_of(quantised(base).model.model.layers[0].mlp.up_proj)
    torch.testing.assert_close(after, 2 * before)
    layer.weight = torch.nn.Parameter(torch.zeros_like(layer.weight))
    assert not weight_of(quantised(base).model.model.layers[0].mlp.up_proj).any()


def test_one_kind_of_quantised_weights_is_kept_and_goes_with_its_base(base, quantised_weights):
    quantised(base, "nf4")
    layer = weakref.ref(base.quantized_layers(Quantization("nf4"))["model.layers.0.mlp.up_proj"])
    count = len(quantised_weights)
    quantised(base, "fp4")
    gc.collect()
    assert layer() is None
    quantised(base, "nf4")
    assert len(quantised_weights) == 3 * count


def test_quantised_weights_do_not_travel_to_another_process(base):
    size = len(cloudpickle.dumps(base))
    quantised(base)
    assert len(cloudpickle.dumps(base)) < 1.01 * size
    there = cloudpickle.loads(cloudpickle.dumps(base))
    torch.testing.assert_close(
        quantised(there).model.state_dict(), quantised(base).model.state_dict()
    )


def test_each_quantised_base_has_a_tree_of_its_own(base):
    first, second = (quantised(base).model.model.layers[0].mlp.up_proj for _ in range(2))
    assert first.weight.data_ptr() == second.weight.data_ptr()
    del first.weight
    assert second.weight is not None


def test_a_quantised_base_follows_the_settings_of_its_base(base):
    quantised(base)
    base.model.config.attention_dropout = 0.25
    base.model.train()
    model = quantised(base).model
    assert model.config.attention_dropout == 0.25
    assert all(module.training for module in model.modules())
    base.model.eval()


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_a_shared_tree_of_a_quantised_model_holds_the_same_memory(base, quantize):
    model = quantised(base, quantize).model
    tree = share_tensors(model)
    for name, parameter in model.named_parameters():
        assert tree.get_parameter(name).data_ptr() == parameter.data_ptr()
    layer, twin = (one.model.layers[0].mlp.up_proj for one in (model, tree))
    if quantize == "int8":
        assert layer.state.CB.data_ptr() == twin.state.CB.data_ptr()
        assert layer.state is not twin.state
    else:
        assert layer.weight.quant_state.absmax.data_ptr() == twin.weight.absmax.data_ptr()
    torch.testing.assert_close(logits(tree), logits(model), rtol=0, atol=0)


@pytest.mark.parametrize(("quantize", "double_quant"), KINDS)
def test_plain_peft_loads_the_adapter_on_a_base_that_transformers_quantised(
    base, folder, quantize, double_quant, tmp_path
):
    wanted = recipe(quantize=quantize, double_quant=double_quant, learning_rate=1e-2)
    run = fit(base, TASK, wanted, store=tmp_path / "store")
    adapter = save_adapter(run, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(theirs(folder, quantize, double_quant), adapter)
    expected = logits(run.model)
    torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-5)
    on = as_trained(base, wanted)
    torch.testing.assert_close(
        logits(load_adapter(on, adapter).model), expected, rtol=1e-4, atol=1e-5
    )
    assert (expected - logits(on.model)).abs().max() > 0.01  # it did learn something


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_adalora_shares_its_rank_out_on_quantised_weights_too(base, folder, quantize, tmp_path):
    wanted = recipe(method="adalora", quantize=quantize, learning_rate=5e-2)
    run = fit(base, TASK, wanted, store=None)
    plain = dataclasses.replace(base, model=dequantized(quantised(base, quantize, True).model))
    whole = fit(plain, TASK, dataclasses.replace(wanted, quantize=None), store=None)
    losses = [[record.loss for record in one.records] for one in (run, whole)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)
    ranks = [[record.ranks for record in one.records if record.ranks][-1] for one in (run, whole)]
    assert ranks[0] == ranks[1]
    assert sum(ranks[0].values()) == wanted.target_r * 14
    adapter = save_adapter(run, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(theirs(folder, quantize, True), adapter)
    torch.testing.assert_close(logits(model), logits(run.model), rtol=1e-4, atol=1e-5)


def test_a_run_is_scored_and_replayed_on_the_quantised_weights(base, tmp_path):
    wanted = recipe(quantize="nf4", learning_rate=1e-2)
    training = train(base, TASK, wanted)
    list(training)
    run = fit(base, TASK, wanted, store=tmp_path)
    again = fit(base, TASK, wanted, store=tmp_path)
    assert again.replayed
    assert (
        run.about
        == again.about
        == f"{base.about}; trained on a copy quantised to nf4 with double quantisation"
    )
    assert run.records == again.records == tuple(training.records)
    assert run.scores.loss == pytest.approx(evaluate(training, TASK).loss, rel=1e-5)
    assert run.scores.loss != pytest.approx(
        evaluate(Adapted(base, run.learned), TASK).loss, rel=1e-4
    )


@pytest.mark.slow
def test_smollm2_trains_in_4_bits():
    base = load_base("smollm2", dtype="float32")
    task = load_task("home-commands", base, n=16)
    wanted = dataclasses.replace(task.recipe, quantize="nf4", steps=8, eval_steps=None)
    on = as_trained(base, wanted)
    assert on.model.get_memory_footprint() < 0.35 * base.model.get_memory_footprint()
    losses = [record.loss for record in train(base, task, wanted)]
    assert losses[-1] < 0.5 * losses[0]


# --- merging --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Merge lora module")
def test_merging_is_exact_into_the_weights_that_4_bits_stand_for_and_not_into_4_bits(base):
    on = quantised(base)
    training = train(on, TASK, recipe(steps=30, learning_rate=1e-2))
    list(training)
    adapter, expected = training.learned, logits(training.model)
    learnt = (expected - logits(on.model)).norm()
    plain = dataclasses.replace(base, model=dequantized(on.model), quantization=None)

    def error(model):
        return ((logits(model) - expected).norm() / learnt).item()

    assert error(Adapted(plain, adapter).model.merge_and_unload()) < 1e-4
    into_whole = error(Adapted(base, adapter).model.merge_and_unload())
    into_4_bits = error(Adapted(on, adapter).model.merge_and_unload())
    assert into_whole > 0.01  # as far off as the quantisation was
    assert into_4_bits > 0.01


# --- LoftQ ----------------------------------------------------------------------------------


def test_loftq_begins_where_pefts_decomposition_does(base):
    model = adapt(base, recipe(quantize="nf4", init_lora_weights="loftq", r=3, lora_alpha=3))
    name = "model.layers.1.mlp.down_proj"
    layer = model.get_base_model().get_submodule(name)
    lost = base.model.get_submodule(name).weight.data - weight_of(layer.base_layer)
    parts = _low_rank_decomposition(lost, reduced_rank=3)
    ours = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(ours, parts["L"] @ parts["R"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{"lora_alpha": 12}, {"use_rslora": True}, {"r": 40}], ids=str)
@pytest.mark.filterwarnings("ignore:r=40 is above")
def test_loftqs_start_is_the_best_of_its_rank_whatever_the_scaling(base, changes):
    wanted = recipe(**{"r": 4, "quantize": "nf4", "init_lora_weights": "loftq"} | changes)
    model = adapt(base, wanted)
    for name in ("model.layers.0.self_attn.k_proj", "model.layers.1.mlp.up_proj"):
        layer = model.get_base_model().get_submodule(name)
        lost = base.model.get_submodule(name).weight.data - weight_of(layer.base_layer)
        left = (lost - layer.get_delta_weight("default")).norm()
        tail = torch.linalg.svdvals(lost)[wanted.r :].norm()  # Eckart and Young
        torch.testing.assert_close(left, tail, rtol=1e-4, atol=1e-5)
    assert (logits(model) - logits(base.model)).norm() < (
        logits(as_trained(base, wanted).model) - logits(base.model)
    ).norm()


def test_a_loftq_adapter_is_saved_as_a_plain_one(base, folder, tmp_path):
    wanted = recipe(quantize="nf4", init_lora_weights="loftq", learning_rate=1e-2)
    training = train(base, TASK, wanted)
    list(training)
    adapter = save_adapter(training, tmp_path / "adapter")
    model = peft.PeftModel.from_pretrained(theirs(folder, "nf4", True), adapter)
    torch.testing.assert_close(logits(model), logits(training.model), rtol=1e-4, atol=1e-5)


# --- other shapes, and what is refused ------------------------------------------------------


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_gpt2s_conv1d_layers_are_quantised_too(quantize):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=300)).eval()
    whole = dataclasses.replace(tiny_base(hidden=64), model=model)
    on = quantised(whole, quantize)
    layer = on.model.transformer.h[0].attn.c_attn
    assert (layer.in_features, layer.out_features) == (64, 192)
    difference = weight_of(layer).float() - model.transformer.h[0].attn.c_attn.weight.T
    assert difference.norm() < 0.2 * model.transformer.h[0].attn.c_attn.weight.norm()
    wanted = recipe(target_modules=("c_attn",), quantize=quantize, steps=3)
    assert len(list(train(whole, TASK, wanted))) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "full"}, "needs the whole weights"),
        ({"init_lora_weights": "pissa"}, "needs the whole weights"),
        ({"init_lora_weights": "loftq", "quantize": "nf4"}, "a recipe can quantise it for LoftQ"),
        ({"quantize": "fp4"}, "is quantised already: nf4 with double"),
        ({"quantize": "nf4", "double_quant": False}, "load the base without quantize"),
        ({"quantize": "nf4", "compute_dtype": "bfloat16"}, "computed in bfloat16"),
    ],
    ids=str,
)
def test_a_quantised_base_refuses_what_it_cannot_do(base, changes, words):
    with pytest.raises(ValueError, match=words):
        adapt(quantised(base), recipe(**changes))


def test_dora_on_8_bits_is_refused_on_a_cpu_where_peft_fails(base):
    with pytest.raises(ValueError, match="does not train on a CPU"):
        adapt(base, recipe(quantize="int8", use_dora=True))


def test_a_base_that_is_quantised_already_is_not_quantised_again(base):
    on = quantised(base)
    assert as_trained(on, recipe(quantize="nf4")) is on
    assert as_trained(on, recipe()) is on


@pytest.mark.parametrize("quantize", ["nf4", "fp4"])
def test_four_bits_stand_for_weights_about_a_tenth_away(base, quantize):
    for layer, whole in zip(
        quantised(base, quantize).model.modules(), base.model.modules(), strict=True
    ):
        if is_quantized(layer):
            assert 0.05 < (weight_of(layer) - whole.weight).norm() / whole.weight.norm() < 0.15


def test_widths_that_bitsandbytes_misreads_are_refused():
    with pytest.raises(ValueError, match="has 32 inputs, and bitsandbytes misreads"):
        quantised(tiny_base(hidden=32))
    assert quantised(tiny_base(hidden=32), "int8").quantization == Quantization("int8")


def test_a_change_is_not_planted_in_quantised_weights(base):
    with pytest.raises(ValueError, match="planted in whole weights"):
        planted_task(quantised(base), r=2, target_modules="q_proj")


def test_a_device_without_bitsandbytes_is_refused(base):
    with pytest.raises(ValueError, match="needs CUDA or the CPU, and this base is on mps"):
        quantize_layers(share_tensors(base.model), Quantization("nf4"), torch.device("mps"))


def test_a_missing_bitsandbytes_is_named(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match="pip install bitsandbytes, or give quantize=None"):
        quantised(base)


SILENT = """
import lora_lab as lab
from lora_lab.training.fit import fit
base = lab.load_base("pocket", quantize="QUANTIZE")
task = lab.load_task("sentiment", base)
import dataclasses
fit(base, task, dataclasses.replace(task.recipe, steps=3), store=None)
"""


@pytest.mark.parametrize("quantize", ["nf4", "int8"])
def test_quantised_training_says_nothing_and_needs_no_network(quantize):
    code = SILENT.replace("QUANTIZE", quantize)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

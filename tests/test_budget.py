"""The budget's arithmetic, held to PEFT's own counts and to torch's counter of FLOPs."""

import dataclasses
import functools

import peft
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import lora_lab as lab
from benchmarks.measuring import own_forward
from lora_lab.cost import budget
from lora_lab.cost.budget import Batch
from lora_lab.cost.estimates import batches_of, find_shape
from lora_lab.cost.known_models import known_shapes
from lora_lab.models.adapters import to_peft
from lora_lab.models.bases import load_base
from lora_lab.models.read_architecture import shape_of
from lora_lab.recipe import Recipe
from tiny import letters_task, recipe, tiny_base

LLAMA = {
    "q+v": ("q_proj", "v_proj"),
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "MLP": ("gate_proj", "up_proj", "down_proj"),
}
FUSED = {
    "q+v": ("query_key_value",),
    "attention": ("query_key_value", "dense"),
    "MLP": ("dense_h_to_4h", "dense_4h_to_h"),
}
BERT = {
    "q+v": ("query", "value"),
    "attention": ("query", "key", "value", "attention.output.dense"),
    "MLP": ("intermediate.dense", "output.dense"),
}
TARGETS = {  # by a config's type; a fused projection stands for q and v
    "gpt2": {
        "q+v": ("c_attn",),
        "attention": ("c_attn", "attn.c_proj"),
        "MLP": ("c_fc", "mlp.c_proj"),
    },
    "bert": BERT,
    "roberta": BERT,
    "deberta-v2": BERT | {"q+v": ("query_proj", "value_proj"), "attention": ("key_proj",)},
    "t5": {"q+v": ("q", "v"), "attention": ("q", "k", "v", "o"), "MLP": ("wi", "wo")},
    "opt": {
        "q+v": ("q_proj", "v_proj"),
        "attention": ("q_proj", "k_proj", "v_proj", "out_proj"),
        "MLP": ("fc1", "fc2"),
    },
    "gpt_neox": FUSED,
    "falcon": FUSED,
    "phi": LLAMA | {"attention": ("q_proj", "k_proj", "v_proj", "dense"), "MLP": ("fc1", "fc2")},
    "phi3": {
        "q+v": ("qkv_proj",),
        "attention": ("qkv_proj", "o_proj"),
        "MLP": ("gate_up_proj", "down_proj"),
    },
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "gemma": LLAMA,
}
METHODS = {
    "lora": {"r": 5},
    "rslora": {"r": 7, "use_rslora": True},
    "dora": {"r": 3, "use_dora": True},
    "adalora": {"method": "adalora", "init_r": 6, "target_r": 2},
}
NAMES = ["pocket", *known_shapes()]


def config_of(name):
    if name == "pocket":
        return load_base("pocket").model.config
    return hf.AutoConfig.for_model(**known_shapes()[name].config)


shape = functools.cache(find_shape)


def by_peft(config, recipe):
    """(trainable, all) as PEFT counts them on a model without weights."""
    kind = getattr(hf, (config.architectures or ["DebertaV2ForMaskedLM"])[0])
    settings = dataclasses.replace(to_peft(recipe), task_type=None)  # not all generate
    with torch.device("meta"):
        return peft.get_peft_model(kind(config), settings).get_nb_trainable_parameters()


def by_us(shape, recipe):
    return budget.trainable_parameters(shape, recipe), budget.total_parameters(shape, recipe)


def last_of(name, kind):
    """The last part of the name of the first matrix of a kind."""
    return next(matrix.name for matrix in shape(name).matrices if matrix.kind == kind).rpartition(
        "."
    )[2]


def recipes_for(name):
    sets = TARGETS[config_of(name).model_type]
    regex = r".*\.[13]\..*(" + "|".join(sets["MLP"]) + ")"
    embedding, output = last_of(name, "embedding"), last_of(name, "output")
    found = {}
    for target, modules in {"all-linear": "all-linear", **sets, "regex": regex}.items():
        for method, changes in METHODS.items():
            found[f"{method}, {target}"] = {"target_modules": modules, **changes}
    qv = {"target_modules": sets["q+v"]}
    found["some layers"] = qv | {"layers_to_transform": (0, 2)}
    found["an embedding"] = {"target_modules": (embedding, *sets["q+v"])}
    found["an embedding, dora"] = {"target_modules": (embedding,), "use_dora": True}
    found["output saved"] = qv | {"modules_to_save": (output,)}
    found["embedding saved, adalora"] = qv | {"modules_to_save": (embedding,), "method": "adalora"}
    return {key: Recipe(**changes) for key, changes in found.items()}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_equal_pefts_count_for_each_method_and_target_set(name):
    config = config_of(name)
    config.num_hidden_layers = 4  # as wide as ever; the slow test has them all
    small = shape_of(config)
    recipes = recipes_for(name)
    counts = {key: by_us(small, recipe) for key, recipe in recipes.items()}
    assert counts == {key: by_peft(config, recipe) for key, recipe in recipes.items()}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_whole_model_equal_pefts_count(name):
    for target in ("all-linear", TARGETS[config_of(name).model_type]["q+v"]):
        one = Recipe(target_modules=target)
        assert by_us(shape(name), one) == by_peft(config_of(name), one)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_the_whole_model_equal_pefts_count_for_each_method_and_target_set(name):
    recipes = recipes_for(name)
    counts = {key: by_us(shape(name), recipe) for key, recipe in recipes.items()}
    assert counts == {key: by_peft(config_of(name), recipe) for key, recipe in recipes.items()}


@pytest.mark.parametrize("saved", ["norm", "mlp", "self_attn", "0"])
def test_modules_trained_whole_are_those_whose_names_end_so_as_in_peft(saved):
    config = config_of("pocket")
    one = Recipe(r=3, modules_to_save=(saved,))
    assert by_us(shape("pocket"), one) == by_peft(config, one)


def test_full_fine_tuning_trains_every_parameter_once():
    for name in ("pocket", "bert-base", "t5-base"):  # each ties weights in its own way
        model = shape(name)
        assert by_us(model, Recipe(method="full")) == (model.parameters, model.parameters)
        by_layer = budget.trained_by_layer(model, Recipe(method="full"))
        assert sum(by_layer.values()) == model.parameters


@pytest.mark.parametrize(
    ("name", "r", "targets", "trained"),
    [
        ("llama-7b", 8, ("q_proj", "v_proj"), 4_194_304),
        ("llama-7b", 32, ("q_proj", "v_proj"), 16_777_216),
        ("llama-3.2-3b", 32, ("q_proj", "v_proj"), 9_175_040),
        ("falcon-7b", 16, ("query_key_value",), 4_718_592),  # widely printed; QLoRA's notebooks
    ],
)
def test_published_counts_come_out(name, r, targets, trained):
    one = Recipe(r=r, target_modules=targets)
    assert by_us(shape(name), one) == (trained, shape(name).parameters + trained)


def test_a_llama_7b_layer_has_624_640_parameters_in_all_its_linears_and_131_072_in_q_and_v():
    every = budget.trained_by_layer(shape("llama-7b"), Recipe(r=8))
    q_v = budget.trained_by_layer(
        shape("llama-7b"), Recipe(r=8, target_modules=("q_proj", "v_proj"))
    )
    # by hand: 4 of (4096 + 4096), 3 of (4096 + 11008); 2 of (4096 + 4096)
    assert every == {layer: 8 * (4 * 8192 + 3 * 15104) for layer in range(32)}
    assert set(every.values()) == {624_640}
    assert set(q_v.values()) == {131_072}


@settings(max_examples=30, deadline=None)
@given(
    hidden=st.integers(1, 6),
    layers=st.integers(1, 3),
    heads=st.sampled_from([(2, 1), (4, 2), (3, 3)]),
    inner=st.integers(3, 40),
    r=st.integers(1, 9),
    tied=st.booleans(),
    method=st.sampled_from(sorted(METHODS)),
)
def test_parameters_of_any_small_llama_equal_pefts_count(
    hidden, layers, heads, inner, r, tied, method
):
    config = hf.LlamaConfig(
        vocab_size=11,
        hidden_size=hidden * heads[0],
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=2 * hidden,
        tie_word_embeddings=tied,
        architectures=["LlamaForCausalLM"],
    )
    one = Recipe(**METHODS[method] | ({} if method == "adalora" else {"r": r}))
    assert by_us(shape_of(config), one) == by_peft(config, one)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target_modules": ("q_porj",)}, "llama-7b has no layer called 'q_porj'; did you mean"),
        ({"target_modules": "q_proj"}, "matches no whole module name of llama-7b; a name here"),
        ({"target_modules": "q_proj("}, "is not a regex"),
        ({"target_modules": ".*q_proj", "layers_to_transform": (0,)}, "refused by PEFT"),
        ({"layers_to_transform": (32,)}, "names layer 32, and llama-7b has 32 layers"),
        ({"modules_to_save": ("lm_haed",)}, "'lm_haed', which llama-7b .* did you mean 'lm_head'"),
        (
            {"target_modules": ("lm_head",), "modules_to_save": ("lm_head",)},
            "names nothing in llama-7b that is in .* not in modules_to_save",
        ),
        (
            {"method": "adalora", "target_modules": ("embed_tokens",)},
            "can't adapt the embedding 'model.embed_tokens'",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused_in_words(changes, words):
    with pytest.raises(ValueError, match=words):
        budget.trainable_parameters(shape("llama-7b"), Recipe(**changes))


# --- FLOPs --------------------------------------------------------------------------------------

EVERYWHERE = [  # what is exact
    {},
    {"method": "full"},
    {"target_modules": ("o_proj",)},
    {"target_modules": ("down_proj",)},
    {"target_modules": ("embed_tokens",)},
    {"target_modules": ("embed_tokens",), "use_dora": True},
    {"layers_to_transform": (2,)},
    {"modules_to_save": ("lm_head",)},
    {"modules_to_save": ("embed_tokens",)},
    {"use_dora": True},
    {"use_dora": True, "lora_dropout": 0.1},
    {"lora_dropout": 0.1},
    {"loss_on": "all"},
    {"gradient_accumulation_steps": 3},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": True, "method": "full"},
    {"gradient_checkpointing": True, "use_dora": True, "lora_dropout": 0.1},
    {"gradient_checkpointing": True, "target_modules": ("q_proj", "v_proj")},
]
NEARLY = [  # in the lowest layer, autograd leaves out a product of attention
    {"target_modules": ("q_proj", "v_proj")},
    {"target_modules": ("v_proj",)},
    {"target_modules": ("q_proj", "v_proj"), "layers_to_transform": (1, 2)},
]


def counted(base, task, recipe):
    """FLOPs of a step by the model's own forward pass, with attention in products torch knows."""
    with own_forward():
        training = lab.train(base, task, recipe)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            next(iter(training))
    return counter.get_total_flops()


def reckoned(base, task, recipe):
    one_step = dataclasses.replace(recipe, steps=1)
    batches = list(batches_of(task, base.tokenizer, one_step))
    return budget.flops(shape_of(base.model), recipe, batches)


@pytest.mark.parametrize("changes", EVERYWHERE, ids=str)
def test_flops_of_a_step_equal_torchs_count_exactly(changes):
    base, task, one = tiny_base(layers=3), letters_task(), recipe(**changes)
    assert reckoned(base, task, one) == counted(base, task, one)


@pytest.mark.parametrize("changes", NEARLY, ids=str)
def test_flops_are_within_a_hundredth_where_the_lowest_layer_is_adapted_in_part(changes):
    base, task, one = tiny_base(layers=3), letters_task(), recipe(**changes)
    assert reckoned(base, task, one) == pytest.approx(counted(base, task, one), rel=0.01)


@pytest.mark.parametrize(
    "changes", [{}, {"method": "full"}, {"layers_to_transform": (3,)}], ids=str
)
def test_flops_of_pocket_on_a_task_equal_torchs_count(changes):
    base = load_base("pocket")
    task, one = lab.load_task("sentiment", base), recipe(**changes)
    assert reckoned(base, task, one) == counted(base, task, one)


def test_flops_without_grouped_heads_or_a_gate_equal_torchs_count():
    for config in (  # GPT-2 has one fused projection, two layers an MLP, and no gate
        hf.GPT2Config(vocab_size=260, n_embd=36, n_layer=2, n_head=3, n_positions=64),
        hf.GPTNeoXConfig(
            vocab_size=260, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=80, use_parallel_residual=False,
        ),
    ):  # fmt: skip
        base = tiny_base()
        config.pad_token_id = base.tokenizer.pad_token_id
        base.model = hf.AutoModelForCausalLM.from_config(config).eval()
        for one in (recipe(), recipe(method="full"), recipe(layers_to_transform=(1,))):
            real = counted(base, letters_task(), one)
            assert reckoned(base, letters_task(), one) == pytest.approx(real, rel=0.02)


def test_full_fine_tuning_takes_about_three_flops_where_lora_takes_two():
    batch = [Batch(examples=1, length=512, places=16, labels=16)]
    full = budget.flops(shape("llama-7b"), Recipe(method="full"), batch)
    lora = budget.flops(shape("llama-7b"), Recipe(r=8), batch)
    assert full / lora == pytest.approx(3 / 2, rel=0.02)


def test_an_encoder_decoders_flops_are_refused_in_words():
    with pytest.raises(ValueError, match="t5-base has an encoder and a decoder.*parameters alone"):
        budget.flops(shape("t5-base"), Recipe(), [Batch(1, 8, 7, 7)])

"""Headless: cells, columns and layers are clicked or typed, and PEFT's words and counts follow."""

import html

import peft
import pytest
import transformers as hf

import lora_lab as lab
from lora_lab.models.bases import load_base
from lora_lab.widgets.module_tree import ModuleTree


def peft_counts(recipe):
    config = load_base("pocket").model.config
    model = peft.get_peft_model(hf.LlamaForCausalLM(config), lab.to_peft(recipe, load_base()))
    return model.get_nb_trainable_parameters()[0]


def button(tree, description):
    def walk(widget):
        yield widget
        for child in getattr(widget, "children", ()):
            yield from walk(child)

    (found,) = (node for node in walk(tree) if getattr(node, "description", None) == description)
    return found


@pytest.mark.parametrize(
    ("clicks", "places"),
    [
        (["q_proj", "v_proj"], {"target_modules": ("q_proj", "v_proj")}),
        (["mlp"], {"target_modules": ("gate_proj", "up_proj", "down_proj")}),
        (["self_attn", "mlp"], {"target_modules": "all-linear"}),
        (
            ["2", "3"],
            {
                "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj")
                + ("gate_proj", "up_proj", "down_proj"),
                "layers_to_transform": (2, 3),
            },
        ),
        (["mlp", "up_proj"], {"target_modules": ("gate_proj", "down_proj")}),
    ],
    ids=str,
)
def test_clicked_modules_groups_and_layers_become_pefts_words_and_its_count(clicks, places):
    tree = ModuleTree("pocket", r=3)
    button(tree, "nothing").click()
    assert (tree.chosen, tree.trained) == ((), 0)
    assert tree.state.value == "nothing is chosen"
    for one in clicks:
        button(tree, one).click()
    assert tree.recipe == lab.Recipe(r=3, **places)
    count = peft_counts(tree.recipe)
    assert tree.trained == count
    assert f" · {count:,} parameters · " in tree.state.value


def test_a_single_cell_can_be_clicked_and_r_moved():
    tree = ModuleTree("pocket", target_modules=("q_proj",))
    tree.cells["model.layers.1.mlp.up_proj"].value = True
    assert tree.recipe.target_modules == (
        r"model\.layers\.(0|1|2|3)\.self_attn\.q_proj|model\.layers\.1\.mlp\.up_proj"
    )
    tree.r.value = 5
    assert tree.trained == peft_counts(tree.recipe) == 5 * (4 * 256 + 512)
    assert tree.state.value == (
        "5 of 30 matrices adapted · 7,680 parameters · 0.71 % of the model's"
    )
    said = f'r=5, target_modules=r"{tree.recipe.target_modules}", layers_to_transform=None'
    assert said in html.unescape(tree.code.value)


@pytest.mark.parametrize(
    ("typed", "count"),
    [
        ("q_proj, v_proj", 8),
        ('("q_proj", "v_proj")', 8),
        ("q_proj", 4),
        ("all-linear", 28),
        (r".*\.[01]\.mlp\..*", 6),
        ("embed_tokens", 1),
    ],
)
def test_what_is_typed_is_read_as_names_or_as_a_regex(typed, count):
    tree = ModuleTree("pocket")
    tree.typed.value = typed
    assert len(tree.chosen) == count


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("q_proj, v_porj", "no layer called 'v_porj'; did you mean 'v_proj'"),
        ("(q_proj", "is not a regex"),
        ("7", "target_modules=7 does not fit"),
    ],
)
def test_what_cannot_be_meant_is_said_and_the_choice_stays(typed, words):
    tree = ModuleTree("pocket", target_modules=("k_proj",))
    before = tree.chosen
    tree.typed.value = typed
    assert words in html.unescape(tree.state.value)
    assert tree.chosen == before


def test_other_architectures_have_their_own_names_and_groups():
    tree = ModuleTree("gpt2", target_modules=("c_attn",))
    button(tree, "mlp").click()
    assert tree.chosen == tuple(
        f"transformer.h.{layer}.{name}"
        for layer in range(12)
        for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")
    )
    button(tree, "c_attn").click()
    assert {name.split(".")[3] for name in tree.chosen} == {"mlp"}


def test_a_notebook_keeps_the_same_words_at_each_run():
    tree = ModuleTree("pocket", target_modules=("q_proj", "v_proj"))
    shown, alt = tree._repr_mimebundle_()
    words = shown["text/plain"]
    assert alt["image/png"]["alt"] == tree.view.tooltip
    assert "8 of the 28 matrices in pocket's 4 layers get an adapter of rank 8" in tree.view.tooltip
    assert words == "ModuleTree: pocket · 30 matrices to choose from"

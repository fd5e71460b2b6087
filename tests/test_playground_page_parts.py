"""The playground's page, part by part: links, code, sets of modules, confounds, small formulas."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import lora_lab as lab
from lora_lab.models.bases import load_base
from playground import chromium
from playground_functions import BASE, MODULES, NAMES, TASKS, of, page_functions, usual

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def call(browser_path):
    with chromium(browser_path) as browser, page_functions(browser) as opened:
        yield opened


# --- links ----------------------------------------------------------------------------------------

CHANGES = [
    {},
    {"r": 64, "lora_alpha": 0.5, "learning_rate": 1e-5, "seed": 4_294_967_295, "n": 20},
    {"task": "json", "n": 300, "use_rslora": True, "lr_scheduler_type": "cosine"},
    {"modules": of("q_proj", "v_proj")},
    {"modules": [NAMES[0], NAMES[9], NAMES[27]], "loraplus_lr_ratio": 16, "warmup_steps": 7},
    {"modules": of("layers.2"), "weight_decay": 0.1, "max_grad_norm": 0.25, "batch_size": 3},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_link_holds_every_setting_and_what_it_hides(call, changes):
    settings = usual(call, **changes)
    link = call("settings", "linkOf", settings, ["r", "loss"], BASE)
    read = call("settings", "readLink", f"#{link}", TASKS, BASE)
    assert read["settings"] == settings
    assert read["hidden"] == ["r", "loss"]
    assert read["complaints"] == []


def test_modules_stand_in_a_link_by_the_shortest_name(call):
    named = [
        call("modules", "modulesInWord", names, MODULES)
        for names in (NAMES, of("q_proj", "v_proj"), [NAMES[0], NAMES[9]])
    ]
    assert named == ["all-linear", "q_proj,v_proj", "0.q_proj,1.v_proj"]


BROKEN = {
    "task=cooking": "task: “cooking” is not known here; there is new-facts, json",
    "task=own": "used somebody’s own examples, which a link does not carry",
    "learning_rate=NaN": "learning_rate: “NaN” is not a number; give for example 0.002",
    "learning_rate=": "learning_rate: “” is not a number",
    "r=2.5": "r: 2.5 is not a whole number; give for example 8",
    "r=1000": "r: 1000 is out of range; give a number from 1 to 64",
    "modules=x_proj": "“x_proj” isn’t a module of this model; it has q_proj, k_proj",
    "modules=9.q_proj": "“9.q_proj” isn’t a module of this model",
    "n=7": "n: “7” is not a choice; give 20, 60",
    "lr_scheduler_type=up": "“up” is not a choice; give linear, cosine, constant",
    "use_rslora=yes": "“yes” is not a choice; give true, false",
    "hide=everything": "“everything” isn’t a part of this page; there is guess, task, r",
    "colour=red": "“colour” isn’t a setting of this page",
}


@pytest.mark.parametrize(("link", "words"), BROKEN.items(), ids=list(BROKEN))
def test_a_broken_part_of_a_link_is_named_and_the_usual_value_stays(call, link, words):
    read = call("settings", "readLink", f"#{link}&seed=3", TASKS, BASE)
    assert len(read["complaints"]) == 1
    assert words in read["complaints"][0]
    assert read["settings"] == usual(call, seed=3)


def test_a_link_with_markup_in_it_gives_its_text_and_no_more(call):
    read = call("settings", "readLink", "#task=%3Cimg src=x%3E", TASKS, BASE)
    assert "“<img src=x>”" in read["complaints"][0]


def test_settings_that_do_not_fit_together_are_said(call):
    assert call("settings", "misfit", usual(call)) is None
    assert "No module is chosen" in call("settings", "misfit", usual(call, modules=[]))
    words = call("settings", "misfit", usual(call, steps=5, warmup_steps=5))
    assert "Give at most 4" in words


# --- code -----------------------------------------------------------------------------------------

SETS = [NAMES, of("q_proj", "v_proj"), of("layers.1"), [NAMES[3], NAMES[20]], of("up_proj")[:1]]


@pytest.mark.parametrize("names", SETS, ids=len)
def test_the_peft_code_adapts_the_modules_that_were_chosen(call, names):
    code = call("peft_code", "peftCode", usual(call, modules=names, r=4, use_rslora=True), BASE)
    config = code.partition("model = ")[0]
    given = {}
    exec(config, given)  # noqa: S102 - code of our own page
    assert isinstance(given["config"], LoraConfig)
    model = get_peft_model(load_base("pocket", device="cpu").model, given["config"])
    layers = {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}
    assert [name.removeprefix("base_model.model.") for name in layers] == names
    for layer in layers.values():
        assert (layer.r["default"], layer.scaling["default"]) == (4, 16 / 2)


@pytest.mark.parametrize("plus", [1, 16])
def test_the_peft_code_is_a_whole_script(call, plus, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    settings = usual(call, loraplus_lr_ratio=plus, warmup_steps=3, lr_scheduler_type="cosine")
    code = call("peft_code", "peftCode", settings, BASE)
    folder = load_base("pocket", device="cpu").path
    monkeypatch.chdir(tmp_path)
    given = {}
    exec(code.replace("path or name of your model", str(folder)), given)  # noqa: S102
    arguments = given["arguments"]
    assert (arguments.max_steps, arguments.per_device_train_batch_size) == (150, 32)
    assert (arguments.warmup_steps, str(arguments.lr_scheduler_type.value)) == (3, "cosine")
    groups = given["optimizer"].param_groups if plus > 1 else []
    rates = {group["lr"] for group in groups if group["params"]}
    assert rates == ({0.002, 0.002 * plus} if plus > 1 else set())


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_lab_code_is_the_same_recipe(call, changes, monkeypatch):
    settings = usual(call, **changes)
    trained = []
    monkeypatch.setattr(lab, "train", lambda *given: trained.append(given) or [])
    exec(call("peft_code", "labCode", settings, BASE), {})  # noqa: S102
    ((_, task, recipe),) = trained
    assert (task.name, len(task.train)) == (settings["task"], settings["n"])
    for name, value in settings.items():
        if name not in ("task", "n", "modules"):
            assert getattr(recipe, name) == value
    adapted = get_peft_model(load_base("pocket", device="cpu").model, lab.to_peft(recipe))
    layers = [name for name, layer in adapted.named_modules() if hasattr(layer, "lora_A")]
    assert [name.removeprefix("base_model.model.") for name in layers] == settings["modules"]


def test_the_parameters_that_the_grid_counts_are_those_of_peft(call):
    for names in SETS:
        model = load_base("pocket", device="cpu").model
        config = LoraConfig(r=5, target_modules=names)
        count, _ = get_peft_model(model, config).get_nb_trainable_parameters()
        assert call("modules", "trainedParameters", names, MODULES, 5) == count


# --- formulas -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("r", "out", "width"), [(1, 7, 5), (4, 20, 30), (16, 128, 384), (8, 5, 6)])
def test_the_singular_values_are_torchs(call, r, out, width):
    generator = torch.Generator().manual_seed(r)
    A, B = torch.randn(r, width, generator=generator), torch.randn(out, r, generator=generator)
    B[:, -1] *= 1e-3  # values of different sizes
    change = (-2.5 * B @ A).double()
    values = call.page.evaluate(
        """async ([A, B, r, scaling]) => {
            const { singularValues } = await import("/web/page/singular_values.mjs");
            return singularValues(Float32Array.from(A), Float32Array.from(B), r, scaling);
        }""",
        [A.flatten().tolist(), B.flatten().tolist(), r, -2.5],
    )
    wanted = torch.linalg.svdvals(change)[:r].numpy()
    np.testing.assert_allclose(values[: len(wanted)], wanted, rtol=1e-4, atol=1e-5 * wanted[0])
    assert len(values) == r


def test_the_singular_values_of_an_untrained_adapter_are_zero(call):
    values = call.page.evaluate(
        """async () => {
            const { singularValues } = await import("/web/page/singular_values.mjs");
            return singularValues(new Float32Array(12).fill(1), new Float32Array(10), 2, 2);
        }"""
    )
    assert values == [0, 0]


def test_the_thick_line_is_a_mean_of_the_last_steps(call):
    losses = [4.0, 2.0, 6.0, 0.0, 1.0]
    means = [np.mean(losses[max(0, at - 2) : at + 1]) for at in range(5)]
    assert call("smoothing", "smoothed", losses, 3) == pytest.approx(means)
    assert call("smoothing", "smoothed", losses, 1) == pytest.approx(losses)


@pytest.mark.parametrize(("value", "end"), [(9.73, 10), (10, 10), (10.1, 20), (0.03, 0.05), (1, 1)])
def test_an_axis_ends_at_the_next_round_number(call, value, end):
    assert call("smoothing", "axisEnd", value) == pytest.approx(end)


# --- words ----------------------------------------------------------------------------------------


def test_runs_that_differ_in_one_thing_have_no_confound(call):
    one = usual(call)
    for other in (
        usual(call, seed=5),
        usual(call, learning_rate=0.1),
        usual(call, r=16, lora_alpha=16, use_rslora=False, seed=1) | {"lora_alpha": 16, "r": 8},
        usual(call, steps=300),
    ):
        assert call("confounds", "confounds", one, other, BASE) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 4, "learning_rate": 0.1}, "they differ in rank and learning rate"),
        ({"r": 4}, "the scaling moved along (2 and 4)"),
        ({"batch_size": 8}, "(4,800 and 1,200 in all)"),
        ({"modules": of("q_proj")}, "trained parameters moved along (81,920 and 8,192)"),
        ({"task": "json"}, "not of the same test"),
        ({"n": 20, "r": 4}, "not of the same test"),
    ],
)
def test_what_moves_along_is_said(call, changes, words):
    (sentence,) = call("confounds", "confounds", usual(call), usual(call, **changes), BASE)
    assert words in sentence


def test_the_guess_is_one_of_ranges_without_gaps(call):
    for n in (32, 20, 7):
        ranges = call("guess", "ranges", n)
        covered = sorted(k for low, high in ranges for k in range(low, high + 1))
        assert covered == list(range(n + 1))


GROUPS = [
    {"name": "new facts", "kind": "new", "questions": [["?", "x"]] * 4},
    {"name": "old facts", "kind": "old", "questions": [["?", "x"]] * 4},
    {"name": "strangers", "kind": "stranger", "questions": [["?", "not known"]] * 4},
]


@pytest.mark.parametrize(
    ("marks", "title"),
    [
        (
            ["++++", "++-+", "----"],
            "It answers 4 of 4 new facts, has forgotten 1 of 4 old ones and invents answers about "
            "every stranger",
        ),
        (["--+-", "++++", "++++"], "It answers 1 of 4 new facts and has forgotten no old one"),
    ],
)
def test_the_films_title_says_what_was_found(call, marks, title):
    looks = [{"marks": ["????", "++++", "++++"]}, {"marks": marks}]
    assert call("findings", "filmFinding", GROUPS, looks, "new-facts") == title


@pytest.mark.parametrize(
    ("losses", "title"),
    [
        ([8, 4, 1], "fell from 8 to 1"),
        ([1, 2, 3], "rose from 1 to 3"),
        ([2, 2, 2], "stayed near 2"),
    ],
)
def test_the_loss_charts_title_says_where_the_loss_went(call, losses, title):
    assert title in call("findings", "lossFinding", [{"loss": loss} for loss in losses], True)

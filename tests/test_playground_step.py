"""The playground's step, by its graphs in ONNX Runtime: the losses of `Training`, run by torch."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lora_lab.models.bases import load_base
from lora_lab.tasks.examples import collate, order_of_examples, prompt_ids
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import labelled_places
from lora_lab.training import graphs
from lora_lab.training.evaluation import generate
from lora_lab.training.loop import train
from lora_lab.training.optimizers import learning_rate_at
from lora_lab.training.sessions import new_session
from lora_lab.web import build, export, step

TASKS = ("sentiment", "style", "new-facts", "json", "two-hop", "two-hop-chain")
STEPS = 20
EPS = np.array([step.EPS, step.CLIP_EPS], "f")


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def sessions(pocket):
    """The three graphs as they are kept, with pocket's weights."""
    gradients = build.base_folder("pocket").with_name("gradients.onnx")
    return {
        "gradients": new_session(gradients, pocket.model),
        "answers": new_session(export.GRAPHS / "answers.onnx", pocket.model),
        "adamw": new_session(export.GRAPHS / "adamw.onnx", torch.nn.Module()),  # no weights
    }


def run(session, **inputs):
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


def side_by_side(session, model):
    """A, B and scale as the graphs want them, from PEFT's model."""
    modules = json.loads(session.get_modelmeta().custom_metadata_map["modules"])
    layers = [model.get_base_model().get_submodule(name) for name in modules]
    (r,) = {layer.r["default"] for layer in layers if hasattr(layer, "lora_A")}
    a, b, scale = [], [], []
    for layer, (i, o) in zip(layers, modules.values(), strict=True):
        has = hasattr(layer, "lora_A")
        a.append(layer.lora_A["default"].weight.detach() if has else torch.zeros(r, i))
        b.append(layer.lora_B["default"].weight.detach() if has else torch.zeros(o, r))
        scale.append(layer.scaling["default"] if has else 0.0)
    return torch.cat(a, 1).numpy(), torch.cat(b, 0).numpy(), np.array(scale, "f")


def records_of_graphs(sessions, training):
    """(loss, gradient norm) of each step, by the graphs, from a training's very start."""
    recipe, tokenizer = training.recipe, training.tokenizer
    A, B, scale = side_by_side(sessions["gradients"], training.model)
    state = [A, B, *(np.zeros_like(each) for each in (A, B, A, B))]
    order = order_of_examples(len(training._encoded), recipe.seed)
    found = []
    for number in range(1, recipe.steps + 1):
        chosen = [training._encoded[next(order)] for _ in range(recipe.batch_size)]
        batch = collate(chosen, tokenizer.pad_token_id)
        places, labels = labelled_places(batch)
        loss, *gradients = run(
            sessions["gradients"],
            A=state[0],
            B=state[1],
            scale=scale,
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            places=places,
            labels=labels,
            weight=np.array(1 / int((labels != -100).sum()), "f"),
        )
        names = [*step.STATE, "A_gradient", "B_gradient"]
        norm, *state = run(
            sessions["adamw"],
            **dict(zip(names, [*state, *gradients], strict=True)),
            learning_rate=np.array(learning_rate_at(number, recipe), "f"),
            loraplus_lr_ratio=np.array(recipe.loraplus_lr_ratio, "f"),
            weight_decay=np.array(recipe.weight_decay, "f"),
            max_grad_norm=np.array(recipe.max_grad_norm, "f"),
            step=np.array(number, "f"),
            eps=EPS,
        )
        found.append((float(loss), float(norm)))
    return found, (state[0], state[1], scale)


def assert_equal_records(sessions, pocket, task, changes, rtol=1e-4):
    changes = {"steps": STEPS, "warmup_steps": 0} | changes
    training = train(pocket, task, dataclasses.replace(task.recipe, **changes))
    ours, adapter = records_of_graphs(sessions, training)
    theirs = [(record.loss, record.grad_norm) for record in training]
    assert np.isfinite(ours).all()
    losses, norms = zip(np.transpose(ours), np.transpose(theirs), strict=True)
    np.testing.assert_allclose(*losses, rtol=rtol)
    np.testing.assert_allclose(*norms, rtol=3 * rtol)
    return training, adapter


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")


CHANGES = [
    {"r": 1, "lora_alpha": 2},
    {"r": 4, "lora_alpha": 8, "target_modules": ("q_proj", "v_proj")},
    {"r": 8, "use_rslora": True, "learning_rate": 1e-3, "lr_scheduler_type": "cosine"},
    {"loraplus_lr_ratio": 8.0, "learning_rate": 5e-4, "weight_decay": 0.1, "warmup_steps": 5},
    {"max_grad_norm": 0.2, "target_modules": ("model.layers.1.mlp.down_proj", "o_proj")},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_losses_and_norms_are_torchs(sessions, pocket, changes):
    assert_equal_records(sessions, pocket, load_task("new-facts", n=60), changes)


def test_losses_are_torchs_at_a_high_rank(sessions, pocket):
    changes = {"r": 64, "lora_alpha": 64, "steps": 8, "max_grad_norm": float("inf")}
    assert_equal_records(sessions, pocket, load_task("new-facts", n=60), changes, rtol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("r", [1, 4, 8, 64])
@pytest.mark.parametrize("name", TASKS)
def test_losses_are_torchs_on_every_task(sessions, pocket, name, r):
    rtol = 5e-4 if r == 64 else 1e-4
    assert_equal_records(sessions, pocket, load_task(name), {"r": r, "lora_alpha": 2 * r}, rtol)


def test_the_likeliest_tokens_are_those_of_generate(sessions, pocket):
    task = load_task("new-facts", n=60)
    training, (A, B, scale) = assert_equal_records(sessions, pocket, task, {})
    prompts = [example.prompt for example in (*task.test[:20], *task.old_knowledge[:20])]
    said = []
    for prompt in prompts:
        ids = prompt_ids(pocket.tokenizer, prompt)
        start = len(ids)
        while len(ids) - start < 8 and ids[-1] != pocket.tokenizer.eos_token_id:
            (tokens,) = run(
                sessions["answers"],
                A=A,
                B=B,
                scale=scale,
                input_ids=np.array([ids]),
                attention_mask=np.ones((1, len(ids)), "i8"),
                places=np.array([len(ids) - 1]),
            )
            ids.append(int(tokens[0, 0]))
        said.append(pocket.tokenizer.decode(ids[start:], skip_special_tokens=True).strip())
    theirs = generate(training, prompts, max_new_tokens=8)
    assert sum(a != b for a, b in zip(said, theirs, strict=True)) <= 1
    assert len(set(theirs)) > 5


# --- AdamW alone: against torch's -----------------------------------------------------------------


@pytest.mark.parametrize("clip", [0.5, 1e6])
def test_the_step_is_torchs_clipping_and_adamw(clip):
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(size, generator=generator) for size in ((3, 40), (50, 3)))
    theirs = [torch.nn.Parameter(each.clone()) for each in (A, B)]
    groups = [{"params": [theirs[0]], "lr": 0.01}, {"params": [theirs[1]], "lr": 0.04}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    state = [A, B, *(torch.zeros_like(each) for each in (A, B, A, B))]
    numbers = [torch.tensor(value) for value in (0.01, 4.0, 0.1, clip)]
    for number in range(1, 30):
        size = 1e-6 if number > 20 else 1.0  # so small that eps matters
        gradients = [size * torch.randn(each.shape, generator=generator) for each in (A, B)]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs, clip)
        optimizer.step()
        ours, *state = step.adamw(
            *state, *gradients, *numbers, torch.tensor(float(number)), torch.from_numpy(EPS)
        )
        torch.testing.assert_close(ours, norm)
        torch.testing.assert_close(state[:2], [each.detach() for each in theirs])


def test_eps_keeps_a_gradient_of_zero_harmless(sessions):
    zeros = [np.zeros(size, "f") for size in ((2, 4608), (5632, 2))]
    names = [*step.STATE, "A_gradient", "B_gradient"]
    numbers = "learning_rate loraplus_lr_ratio weight_decay max_grad_norm step".split()
    _, *state = run(
        sessions["adamw"],
        **dict(zip(names, zeros * 4, strict=True)),
        **dict.fromkeys(numbers, np.array(1.0, "f")),
        eps=EPS,
    )
    assert all((each == 0).all() for each in state)


# --- the graphs that are kept ---------------------------------------------------------------------


def test_the_graphs_were_made_from_todays_sources():
    made_from = json.loads(export.MADE_FROM.read_text())
    assert made_from == {"sha256": export.source_digest()}, "python -m lora_lab.web.export"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_graphs_are_those_that_the_sources_make(pocket, tmp_path, monkeypatch):
    kept = {path.name: path.read_bytes() for path in export.GRAPHS.iterdir()}
    monkeypatch.setattr(export, "GRAPHS", tmp_path)
    export.write_graphs(pocket)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == kept
    gradients = build.base_folder("pocket").with_name("gradients.onnx").read_bytes()
    assert graphs.gradients_graph(pocket) == gradients


def test_the_graphs_hold_no_weights_but_where_they_are(pocket):
    import onnx

    sizes = {name: each.numel() for name, each in graphs.Traceable(pocket).weights.items()}
    for file in (export.GRAPHS / "answers.onnx", build.assets()["gradients.onnx"]):
        content = file if isinstance(file, bytes) else file.read_bytes()
        model, end = onnx.load_from_string(content), 0
        outside = [
            each
            for each in model.graph.initializer
            if each.data_location == onnx.TensorProto.EXTERNAL
        ]
        assert [each.name for each in outside] == list(sizes)
        for each in outside:
            place = {entry.key: entry.value for entry in each.external_data}
            assert place["location"] == graphs.WEIGHTS_FILE
            assert int(place["offset"]) == end
            assert int(place["length"]) == 4 * sizes[each.name]
            end += 4 * sizes[each.name]
        assert len(content) < 100_000

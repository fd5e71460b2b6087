"""The traced step: the same numbers as torch's and the Trainer's, and never where they differ."""

import copy
import dataclasses
import os
import threading
import warnings

import pytest
import torch

from lora_lab.models.bases import load_base
from lora_lab.models.quiet import silent_stderr
from lora_lab.recipe import Recipe
from lora_lab.tasks.loading import load_task
from lora_lab.training import graphs, sessions, traced
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.training.loop import Training, train
from lora_lab.training.store import open_run
from lora_lab.training.sweep import sweep
from test_loop import trainers_losses
from tiny import letters_task, tiny_base

TASK = letters_task()


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket")


@pytest.fixture(autouse=True)
def step(monkeypatch):
    """Steps are traced wherever they can be, be it faster or not; a test may say otherwise."""
    monkeypatch.setenv("LORA_LAB_STEP", "traced")
    return lambda value: monkeypatch.setenv("LORA_LAB_STEP", value)


def recipe(**changes):
    values = {"r": 8, "lora_alpha": 16, "learning_rate": 3e-3, "batch_size": 8, "steps": 20}
    return Recipe(**values | changes)


def is_traced(training):
    return isinstance(training._gradients, traced.TracedGradients)


def shaken(base, seed=1):
    """A base of pocket's shape with other weights."""
    model = copy.deepcopy(base.model)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return dataclasses.replace(base, model=model, _print=None)


def both(base, task, wanted, step):
    """The records of a traced training, and those of torch's."""
    training = train(base, task, wanted)
    assert is_traced(training)
    ours = list(training)
    step("torch")
    training = train(base, task, wanted)
    assert not is_traced(training)
    return ours, list(training)


def assert_same(ours, theirs, rtol=1e-4):
    assert len(ours) == len(theirs)
    for name in ("loss", "grad_norm", "learning_rate", "tokens"):
        mine, others = ([getattr(record, name) for record in run] for run in (ours, theirs))
        torch.testing.assert_close(mine, others, rtol=rtol, atol=0)


# --- equal ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss_on": "all", "use_rslora": True, "r": 3, "warmup_steps": 4},
        {"gradient_accumulation_steps": 3, "weight_decay": 0.1, "target_modules": ("q_proj",)},
    ],
    ids=["plain", "all", "accumulation"],
)
def test_losses_equal_those_of_transformers_trainer_with_peft(changes, tmp_path):
    wanted = recipe(**changes)
    training = train(load_base("pocket"), TASK, wanted)
    ours = [record.loss for record in training]
    theirs = trainers_losses(load_base("pocket"), wanted, tmp_path)
    assert is_traced(training)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    assert ours[-1] < 0.95 * ours[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 1, "lora_alpha": 2},
        {"r": 2, "lora_alpha": 32, "target_modules": ("q_proj", "v_proj")},
        {"r": 3, "use_rslora": True, "learning_rate": 1e-3},
        {"r": 8, "target_modules": ("down_proj",), "lr_scheduler_type": "cosine"},
        {"r": 64, "lora_alpha": 64, "learning_rate": 1e-3},
        {
            "target_modules": r".*layers\.(0|3)\.mlp\.(up|gate)_proj",
            "init_lora_weights": "gaussian",
        },
        {"layers_to_transform": (1, 2), "loss_on": "all"},
        {"loraplus_lr_ratio": 16.0, "learning_rate": 5e-4, "weight_decay": 0.1},
        {"optimizer": "sgd", "learning_rate": 0.3, "max_grad_norm": 0.5},
        {"batch_size": 1, "gradient_accumulation_steps": 4},
        {"batch_size": 33, "steps": 5},
    ],
    ids=str,
)
def test_losses_and_norms_equal_torchs(pocket, step, changes):
    task = load_task("new-facts", n=40)
    ours, theirs = both(pocket, task, recipe(**changes), step)
    assert_same(ours, theirs)
    assert any(record.grad_norm > 0 for record in ours)


@pytest.mark.parametrize("name", ["sentiment", "style", "json", "two-hop-chain"])
def test_losses_equal_torchs_on_each_kind_of_task(pocket, step, name):
    task = load_task(name)
    wanted = dataclasses.replace(task.recipe, steps=8, batch_size=4, warmup_steps=0)
    assert_same(*both(pocket, task, wanted, step))


def test_after_150_steps_the_answers_are_torchs(pocket, step):
    task = load_task("new-facts", n=40)
    wanted = recipe(steps=150, batch_size=5)
    scores = []
    for way in ("traced", "torch"):
        step(way)
        training = train(pocket, task, wanted)
        losses = [record.loss for record in training]
        scores.append(evaluate(training, task))
    ours, theirs = scores
    assert losses[-1] < 0.1 * losses[0]
    given = [[answer.given for answer in score.answers] for score in scores]
    assert sum(a != b for a, b in zip(*given, strict=True)) <= len(given[0]) // 50
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-2)


# --- the base's own weights -----------------------------------------------------------------------


def test_another_model_of_the_same_shape_is_trained_on_its_own_weights(pocket, step):
    other = shaken(pocket)
    ours, theirs = both(other, TASK, recipe(steps=5), step)
    assert_same(ours, theirs)
    step("traced")
    assert ours[0].loss != pytest.approx(next(iter(train(pocket, TASK, recipe()))).loss, rel=1e-2)


def test_weights_that_changed_since_the_last_training_are_noticed(pocket, step):
    base = shaken(pocket)
    before = next(iter(train(base, TASK, recipe()))).loss
    base.model.model.layers[2].mlp.up_proj.weight.data.mul_(3)  # no version counter sees `.data`
    ours, theirs = both(base, TASK, recipe(steps=3), step)
    assert_same(ours, theirs)
    assert ours[0].loss != pytest.approx(before, rel=1e-3)


def test_a_training_keeps_the_weights_with_which_it_began(pocket):
    base = shaken(pocket)
    unbroken = list(train(base, TASK, recipe(steps=4)))
    training = train(base, TASK, recipe(steps=4))
    records = [next(iter(training))]
    for parameter in base.model.parameters():
        parameter.data = torch.zeros_like(parameter)
    assert records + list(training) == unbroken


def test_the_base_stays_as_it_was(pocket):
    before = traced._digest(pocket.model)
    for _ in train(pocket, TASK, recipe(steps=3)):
        pass
    assert traced._digest(pocket.model) == before
    assert not any(parameter.requires_grad for parameter in pocket.model.parameters()) or all(
        parameter.grad is None for parameter in pocket.model.parameters()
    )


def test_few_sessions_are_kept_and_the_same_weights_share_theirs(pocket):
    first = traced.session_for(pocket, "traced")
    assert traced.session_for(load_base("pocket"), "traced") is first
    for seed in range(traced.SESSIONS):
        traced.session_for(shaken(pocket, seed), "traced")
    assert len(traced._sessions) == traced.SESSIONS
    assert traced.session_for(pocket, "traced") is not first


# --- the same records, however it is run ----------------------------------------------------------


def test_two_trainings_at_once_do_not_disturb_each_other(pocket):
    wanted = [recipe(seed=seed, r=r) for seed, r in ((0, 4), (1, 16))]
    alone = [list(train(pocket, TASK, each)) for each in wanted]
    at_once = [None, None]

    def work(place):
        at_once[place] = list(train(pocket, TASK, wanted[place]))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert at_once == alone


def test_a_resumed_training_goes_on_with_equal_records(pocket):
    wanted = recipe(steps=9)
    unbroken = list(train(pocket, TASK, wanted))
    stopped = train(pocket, TASK, wanted)
    for record in stopped:
        if record.step == 4:
            break
    again = Training(pocket, TASK, wanted)
    again.restore(stopped.checkpoint())
    assert is_traced(again)
    list(again)
    assert again.records == unbroken
    assert again.about == stopped.about


def test_a_training_that_torch_began_is_torchs_to_the_end(pocket, step):
    wanted = recipe(steps=6)
    step("torch")
    unbroken = list(train(pocket, TASK, wanted))
    stopped = train(pocket, TASK, wanted)
    next(iter(stopped))
    step("traced")
    again = Training(pocket, TASK, wanted)
    again.restore(stopped.checkpoint())
    list(again)
    assert again.records == unbroken
    assert "traced" not in again.about


def test_a_training_that_goes_on_by_torch_says_from_which_step(pocket, step):
    stopped = train(pocket, TASK, recipe(steps=6))
    next(iter(stopped))
    step("torch")
    again = Training(pocket, TASK, recipe(steps=6))
    again.restore(stopped.checkpoint())
    list(again)
    assert again.about.endswith(" until step 1, from there on by torch")
    assert_same(again.records, list(train(pocket, TASK, recipe(steps=6))))


@pytest.mark.parametrize("way", ["traced", pytest.param("torch", marks=pytest.mark.slow)])
def test_workers_and_this_process_give_equal_records(pocket, step, way):
    step(way)  # the warm workers of the first hear of the second
    recipes = [recipe(steps=6, r=2), recipe(steps=6, r=5)]
    here, there = (
        sweep(pocket, TASK, recipes, engine=engine, store=None, evaluate=False).runs
        for engine in ("sequential", "processes")
    )
    for ours, theirs in zip(here, there, strict=True):
        assert ours.records == theirs.records
        assert ours.about == theirs.about
        assert ("traced" in ours.about) == (way == "traced")


def test_a_stored_run_says_how_its_steps_were_taken(pocket, step):
    run = fit(pocket, TASK, recipe(steps=3), evaluate=False)
    assert run.about == f"{pocket.about}; {traced.TracedGradients(*_ready(pocket)).about}"
    assert open_run(run.path.name).about == run.about
    assert run.trained_on == pocket.about
    step("torch")
    assert fit(pocket, TASK, recipe(steps=3, seed=1), evaluate=False).about == pocket.about


def _ready(base):
    return train(base, TASK, recipe()).model, traced.session_for(base, "traced")


# --- where torch stays ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full", "learning_rate": 1e-4},
        {"method": "adalora", "init_r": 6, "target_r": 3, "steps": 24},
        {"use_dora": True},
        {"lora_dropout": 0.1},
        {"quantize": "nf4"},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"gradient_checkpointing": True},
        {"modules_to_save": ("norm",)},
        {"target_modules": ("q_proj", "embed_tokens")},
        {"target_modules": ("q_proj", "lm_head")},
        {"layers_to_transform": (2, 3)},  # torch's backward pass is the shorter there
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")  # PEFT's, of tied layers
def test_what_cannot_be_traced_is_torchs_bit_for_bit(pocket, step, changes):
    wanted = recipe(**{"steps": 3} | changes)
    training = train(pocket, TASK, wanted)
    assert not is_traced(training)
    assert "traced" not in training.about
    ours = list(training)
    step("torch")
    assert ours == list(train(pocket, TASK, wanted))


def test_a_teacher_long_examples_and_hooks_leave_the_step_to_torch(pocket, step):
    model = train(pocket, TASK, recipe()).model
    ways = [
        traced.gradients_for(pocket, recipe(), model, longest, teacher)
        for longest, teacher in (
            (traced.LONGEST, None),
            (traced.LONGEST + 1, None),
            (9, pocket.model),
        )
    ]
    assert [type(way).__name__ for way in ways] == ["TracedGradients"] + 2 * ["TorchGradients"]
    seen = []
    hook = pocket.model.model.norm.register_forward_hook(lambda *_: seen.append(1))
    try:
        next(iter(train(pocket, TASK, recipe())))
    finally:
        hook.remove()
    assert seen


def test_a_model_without_a_graph_is_torchs_until_a_graph_is_asked_for(step):
    step("auto")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*traced")
        assert not is_traced(train(tiny_base(), TASK, recipe()))


@pytest.mark.parametrize(
    ("speedup", "way", "taken"),
    [(1.5, "auto", True), (0.9, "auto", False), (0.9, "traced", True)],
)
def test_a_graph_is_taken_where_it_is_faster_or_asked_for(
    pocket, step, monkeypatch, speedup, way, taken
):
    monkeypatch.setattr(traced, "_speedup", lambda *_: speedup)
    step(way)
    assert is_traced(train(pocket, TASK, recipe())) == taken


def test_a_graphs_pace_is_measured_once_and_then_read(pocket, tmp_path, monkeypatch):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    session, graph = traced.session_for(pocket, "traced"), traced._graph_of(pocket, "auto")
    speedup = traced._speedup(pocket, graph, session)
    assert 0.1 < speedup < 20
    assert traced._speedup(pocket, graph, None) == speedup


@pytest.mark.parametrize("output", [0, 1, 2])
def test_a_graph_with_other_numbers_is_never_taken(pocket, tmp_path, monkeypatch, output):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    session = traced.session_for(pocket, "traced")

    class Wrong:
        get_modelmeta = session.get_modelmeta

        def run(self, *given):
            outputs = session.run(*given)
            outputs[output] = outputs[output] * 1.001
            return outputs

    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(traced, "new_session", lambda *_: Wrong())
    traced._sessions.clear()
    assert not is_traced(train(pocket, TASK, recipe()))
    traced._sessions.clear()


@pytest.mark.parametrize("content", [b"", b"no graph at all", None], ids=["empty", "other", "cut"])
def test_a_damaged_graph_in_the_cache_is_made_anew_or_left_to_torch(
    step, tmp_path, monkeypatch, content
):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(traced, "_sessions", type(traced._sessions)())
    monkeypatch.setattr(traced, "gradients_graph", lambda *_: whole)
    base = tiny_base()
    whole = traced.base_folder("pocket").with_name(traced.GRAPH).read_bytes()
    damaged = whole[:3000] if content is None else content
    path = traced._graph_of(base, "traced")
    path.write_bytes(damaged)
    with pytest.warns(UserWarning, match="was damaged and is deleted .*ONNXRuntimeError"):
        assert traced.session_for(base, "auto") is None
    assert not path.exists()


def test_a_damaged_graph_of_pocket_is_an_error_in_words(tmp_path):
    path = tmp_path / "gradients.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is damaged .*install lora-lab again, or set LORA_LAB_S"):
        sessions.put_away(path, sessions.DamagedGraph("why"))
    assert path.exists()


def test_an_unknown_step_is_refused_in_words(pocket, step):
    step("trced")
    with pytest.raises(ValueError, match="LORA_LAB_STEP='trced'.*did you mean 'traced'.*unset"):
        train(pocket, TASK, recipe())
    with pytest.raises(ValueError, match="did you mean 'traced'"):
        sweep(pocket, TASK, [recipe()], engine="processes", store=None)


def test_without_onnxruntime_torch_takes_the_steps_unless_a_graph_is_asked_for(
    pocket, step, monkeypatch
):
    monkeypatch.setattr(traced, "_sessions", type(traced._sessions)())
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    sessions.onnxruntime_here.cache_clear()
    with pytest.raises(ImportError, match="needs onnxruntime.*pip install.*leave LORA_LAB_STEP"):
        train(pocket, TASK, recipe())
    step("auto")
    assert not is_traced(train(pocket, TASK, recipe()))


def test_nothing_reaches_standard_error_while_onnxruntime_is_imported(capfd):
    os.write(2, b"before\n")
    with silent_stderr():
        os.write(2, b"GPU device discovery failed\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


# --- making a graph -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_graph_made_on_request_is_equal_to_torch_and_found_again(step, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    base = tiny_base(layers=1)
    with pytest.warns(UserWarning, match="traced, once"):
        assert_same(*both(base, TASK, recipe(batch_size=5, steps=6), step))
    step("traced")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*traced")
        assert is_traced(train(tiny_base(layers=1, seed=2), TASK, recipe()))


def test_without_onnxscript_no_graph_is_made_and_the_error_says_how(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_LAB_CACHE", str(tmp_path))
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with (
        pytest.warns(UserWarning, match="traced, once"),
        pytest.raises(ImportError, match=r"pip install 'lora-lab\[web\]'"),
    ):
        train(tiny_base(), TASK, recipe())


@pytest.mark.parametrize(
    "changes",
    [
        {"rms_norm_eps": 1e-5},
        {"num_attention_heads": 8},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"tie_word_embeddings": False},
        {"attention_dropout": 0.1},
    ],
    ids=str,
)
def test_a_change_of_the_architecture_is_another_graph(pocket, changes):
    config = copy.deepcopy(pocket.model.config)
    same = graphs.architecture_of(config)
    config.eos_token_id = 7
    assert graphs.architecture_of(config) == same
    config.update(changes)
    assert graphs.architecture_of(config) != same

import dataclasses

import pytest
import torch

from lora_lab.models.bases import load_base
from lora_lab.tasks.planted import planted_ranks, planted_task, teacher_model
from lora_lab.tasks.words import SPACED_WORDS
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from tiny import recipe, tiny_base


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket")


def test_the_planted_change_has_the_rank_the_places_and_the_size_that_were_asked(pocket):
    task = planted_task(pocket, r=3, target_modules=("v_proj", "up_proj"), layers=(1, 2))
    assert sorted(task.teacher) == [
        f"model.layers.{layer}.{name}"
        for layer in (1, 2)
        for name in ("mlp.up_proj", "self_attn.v_proj")
    ]
    for name, change in task.teacher.items():
        weight = pocket.model.get_submodule(name).weight
        values = torch.linalg.svdvals(change.double())
        assert int((values > 1e-4 * values[0]).sum()) == 3
        assert float(change.norm() / weight.norm()) == pytest.approx(1.0, rel=1e-4)


def test_each_named_matrix_gets_a_hidden_change_of_its_own_rank_and_of_the_size_asked(pocket):
    ranks = {"model.layers.0.self_attn.q_proj": 5, "model.layers.2.mlp.up_proj": 2}
    task = planted_ranks(pocket, ranks, size=0.5, n=10)
    assert {*task.teacher} == {*ranks}
    assert task.about.endswith("by hidden changes in 2 matrices, 7 ranks in all.")
    for name, change in task.teacher.items():
        weight = pocket.model.get_submodule(name).weight
        values = torch.linalg.svdvals(change.double())
        assert int((values > 1e-4 * values[0]).sum()) == ranks[name]
        assert float(change.norm() / weight.norm()) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match="no layer called 'model.layers.0.self_attn.q_porj'"):
        planted_ranks(pocket, {"model.layers.0.self_attn.q_porj": 1})


def test_the_teacher_is_the_base_plus_the_change_and_the_base_stays(pocket):
    task = planted_task(pocket, r=2, target_modules="q_proj", layers=(0,))
    name = "model.layers.0.self_attn.q_proj"
    before = pocket.model.get_submodule(name).weight.clone()
    teacher = teacher_model(pocket, task.teacher)
    own = pocket.model.get_submodule(name).weight
    assert torch.equal(own, before)
    torch.testing.assert_close(
        teacher.get_submodule(name).weight - own, task.teacher[name], rtol=1e-3, atol=1e-5
    )
    other = "model.layers.1.mlp.up_proj.weight"
    assert teacher.get_parameter(other).data_ptr() == pocket.model.get_parameter(other).data_ptr()


def test_a_student_of_the_planted_rank_comes_closer_to_the_teacher_than_one_of_less(pocket):
    task = planted_task(pocket, r=4, target_modules=("v_proj",), layers=(1, 2))
    left = {
        r: fit(pocket, task, dataclasses.replace(task.recipe, r=r, steps=120), store=None)
        for r in (2, 4)
    }
    start = evaluate(pocket, task).value
    distance = {r: run.scores.value for r, run in left.items()}
    assert distance[4] < 0.6 * distance[2] < 0.3 * start, (start, distance)


def test_texts_are_in_one_split_only_and_drawn_by_seed(pocket):
    task = planted_task(pocket, r=1, target_modules="q_proj", n=40, seed=3)
    texts = [example for split in (task.train, task.validation, task.test) for example in split]
    assert len(set(texts)) == len(texts) == 40 + 64 + 64
    assert {word for text in texts for word in text.prompt.split()} <= set(SPACED_WORDS)
    again = planted_task(pocket, r=1, target_modules="q_proj", n=40, seed=3)
    other = planted_task(pocket, r=1, target_modules="q_proj", n=40, seed=4)
    assert task.fingerprint() == again.fingerprint() != other.fingerprint()


def test_another_base_is_taught_on_plain_english():
    task = planted_task(tiny_base(), r=1, target_modules="q_proj", n=5)
    assert "lives in" in task.train[0].prompt
    run = fit(tiny_base(), task, recipe(steps=2, loss_on="all", max_length=512), store=None)
    assert run.scores.metric_name == "KL"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r=0 fits no change"),
        ({"r": 200}, "give 1 to 128"),
        ({"layers": (9,)}, "names layer 9, and pocket has 4 layers"),
        ({"target_modules": ("q_porj",)}, "did you mean 'q_proj'"),
    ],
)
def test_a_change_that_cannot_be_planted_is_refused(pocket, changes, words):
    with pytest.raises(ValueError, match=words):
        planted_task(pocket, **{"r": 2, "target_modules": ("q_proj",)} | changes)

"""A wrong object in place of a base, a task, a recipe, a list or a name gives a clear error."""

import dataclasses

import pytest

import lora_lab as lab
from lora_lab.models.adapters import adapt
from lora_lab.training.arguments import check_sweep
from tiny import letters_task, recipe, tiny_base

BASE, TASK = tiny_base(), letters_task()
LONG = "a" * 300  # systems allow 255
HALF = "q\ud800"  # half a letter, which JSON's escapes and file names may hold

ARGUMENTS = {
    "a name as base": (lambda: lab.fit("pocket", TASK, recipe()), "give lab.load_base('pocket')"),
    "no base": (lambda: lab.train(None, TASK, recipe()), "None isn't a base"),
    "a name as task": (lambda: lab.fit(BASE, "style", recipe()), "give lab.load_task('style')"),
    "settings as recipe": (lambda: lab.fit(BASE, TASK, {"r": 8}), "give lab.Recipe(**settings)"),
    "a wrong order": (lambda: lab.fit(TASK, BASE, recipe()), "isn't a base"),
    "a wrong order at the end": (lambda: lab.train(BASE, recipe(), TASK), "isn't a task"),
    "one recipe": (lambda: lab.sweep(BASE, TASK, recipe()), "give [recipe]"),
    "settings as recipes": (lambda: lab.sweep(BASE, TASK, [{}]), "{} isn't a recipe"),
    "a name in a sweep": (lambda: lab.sweep("pocket", TASK, [recipe()]), "'pocket' isn't a base"),
    "one seed": (lambda: lab.sweep(BASE, TASK, [recipe()], seeds=3), "or range(3) for so many"),
    "a seed twice": (
        lambda: lab.sweep(BASE, TASK, [recipe()], seeds=(0, 1, 0)),
        "seeds=(0, 1, 0) names 0 twice",
    ),
    "a name is evaluated": (lambda: lab.evaluate("pocket", TASK), "'pocket' can't be asked"),
    "a task's name": (lambda: lab.evaluate(BASE, "style"), "'style' isn't a task"),
    "a task is asked": (lambda: lab.generate(TASK, ["a"]), "can't be asked; give a base"),
    "a number as a prompt": (lambda: lab.generate(BASE, ["a", 3]), "prompts[1]=3 isn't a text"),
    "one prompt": (lambda: lab.generate(BASE, "a"), "give a list: ['a']"),
    "half a letter": (lambda: lab.generate(BASE, [HALF]), "which no tokenizer reads"),
    "room for 10**5000 tokens": (
        lambda: lab.generate(BASE, ["a"], max_new_tokens=-(10**5000)),
        "max_new_tokens=-1e5000 leaves no room",
    ),
    "an estimate of settings": (lambda: lab.estimate(BASE, {}), "{} isn't a recipe"),
    "a name to plant in": (
        lambda: lab.planted_task("pocket", r=2, target_modules="q_proj"),
        "'pocket' isn't a base",
    ),
    "a name to save": (lambda: lab.save_adapter("run", "x"), "'run' has learned nothing"),
    "a name to load on": (lambda: lab.load_adapter("pocket", "x"), "'pocket' isn't a base"),
    "a wide right angle": (
        lambda: lab.fit(BASE, TASK, recipe(init_lora_weights="orthogonal", r=4096)),
        "makes r=4096 directions at right angles, and 'model.layers.0.self_attn.k_proj' has no "
        "more than 16",
    ),
}
NAMES = {
    "base": lambda name: lab.load_base(name),
    "base's folder": lambda name: lab.load_base(f"./{name}"),
    "shape": lambda name: lab.estimate(name, recipe()),
    "task": lambda name: lab.load_task(name),
    "file": lambda name: lab.load_task(f"{name}.csv"),
    "adapter": lambda name: lab.load_adapter(BASE, name),
    "store": lambda name: lab.fit(BASE, TASK, recipe(steps=1), store=name),
    "folder to save in": lambda name: lab.save_adapter(lab.train(BASE, TASK, recipe()), name),
    "recipe to check": lambda name: lab.check_recipe(f"{name}.yaml"),
    "data to check": lambda name: lab.check_data(f"{name}.csv"),
}


@pytest.mark.parametrize("what", ARGUMENTS)
def test_what_is_given_in_place_of_something_else_is_refused_with_what_would_do(what):
    call, words = ARGUMENTS[what]
    with pytest.raises((TypeError, ValueError)) as refusal:
        call()
    assert words in str(refusal.value)


@pytest.mark.parametrize("what", NAMES)
@pytest.mark.parametrize(
    "name", [LONG, "a/" * 3000 + "a", HALF, "nul\0"], ids=["long", "deep", "half", "nul"]
)
def test_a_name_that_no_file_can_have_is_refused_in_words(what, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as refusal:
        NAMES[what](name)
    words = str(refusal.value)
    assert not isinstance(refusal.value, UnicodeEncodeError)
    assert "give" in words
    assert "Errno" not in words


def test_the_widest_start_at_right_angles_that_fits_is_made():
    adapt(BASE, recipe(init_lora_weights="orthogonal", r=16))


def test_what_fits_a_sweep_is_taken():
    recipes, seeds = check_sweep(BASE, TASK, (recipe(r=r) for r in (1, 2)), range(2))
    assert ([given.r for given in recipes], seeds) == ([1, 2], [0, 1])


def test_a_sweep_may_give_a_recipe_twice_since_settings_may_meet():
    twice = [dataclasses.replace(recipe(), steps=1)] * 2
    assert len(lab.sweep(BASE, TASK, twice, seeds=(1,), engine="sequential").runs) == 2

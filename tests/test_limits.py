"""What can't be trained here is refused before anything of it is made."""

import dataclasses

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from lora_lab.cost import limits
from lora_lab.cost.estimates import DRAWN, batches_of, estimate
from lora_lab.machine import resources
from lora_lab.models.adapters import adapt
from lora_lab.tasks.examples import check_passes
from lora_lab.training import loop
from lora_lab.training.loop import Training
from tiny import letters_task, recipe, tiny_base


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture
def with_free(monkeypatch):
    """Lets the machine have so many bytes of free memory, and no adapter be made."""

    def given(free):
        monkeypatch.setattr(resources, "memory", lambda: (free, free))
        monkeypatch.setattr(loop, "adapt", lambda *_: pytest.fail("an adapter was made"))

    return given


def gpt2():
    config = GPT2Config(
        vocab_size=300, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return dataclasses.replace(tiny_base(), model=GPT2LMHeadModel(config).eval())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"r": 10**6},
            r"r=1000000 makes an adapter of 1,\d+,000,000 numbers: .* GiB, and .* are free",
        ),
        ({"method": "adalora", "init_r": 10**6}, "init_r=1000000 makes .*; give a smaller init_r"),
        (
            {"r": 9000},
            "a step with batch_size=16 and r=9000 needs .* MiB more memory at least, and 95 MiB",
        ),
        (
            {"batch_size": 2400},
            "a step with batch_size=2400 and r=8 needs .*; give a smaller batch_size",
        ),
        (
            {"batch_size": 2400, "method": "full"},
            "a step with batch_size=2400 needs .* or method=lora",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_needs_more_memory_than_is_free_is_refused_before_it_is_made(
    base, with_free, changes, words
):
    with_free(10**8)
    with pytest.raises(ValueError, match=words):
        Training(base, letters_task(), recipe(**{"batch_size": 16, "r": 8} | changes))


def test_a_kind_of_model_whose_memory_is_not_known_is_held_to_the_least_that_it_takes(with_free):
    with_free(10**5)
    for changes in ({"r": 10_000}, {"batch_size": 1000}):
        with pytest.raises(ValueError, match="are free; give a smaller"):
            Training(gpt2(), letters_task(), recipe(**changes))


def test_nothing_is_refused_where_the_free_memory_is_not_known(base, monkeypatch):
    monkeypatch.setattr(resources, "memory", lambda: (None, None))
    assert Training(base, letters_task(), recipe(batch_size=2400)).step == 0


def test_the_least_that_an_adapter_takes_is_not_more_than_it_takes(base, monkeypatch):
    """What is refused for its r alone could not have been trained."""
    given = recipe(r=50)
    model = adapt(base, given)
    trained = sum(
        2 * parameter.numel() * 4 for parameter in model.parameters() if parameter.requires_grad
    )
    encoded = Training(base, letters_task(), given)._encoded
    monkeypatch.setattr(resources, "memory", lambda: (trained - 1, trained - 1))
    with pytest.raises(ValueError, match="r=50 makes an adapter"):
        limits.check_fits(base, encoded, given)
    monkeypatch.setattr(resources, "memory", lambda: (trained, trained))
    with pytest.raises(ValueError, match="a step with"):
        limits.check_fits(base, encoded, given)


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 10**9}, {"gradient_accumulation_steps": 10**9}, {"batch_size": 2401}],
    ids=str,
)
def test_a_step_through_the_examples_again_and_again_is_refused_before_it_is_drawn(base, changes):
    given = recipe(**{"batch_size": 1} | changes)
    words = (
        r"times through the 24 training examples in each step.*; give a product of at most 2,400"
    )
    with pytest.raises(ValueError, match=words):
        Training(base, letters_task(), given)
    with pytest.raises(ValueError, match=words):
        estimate(base, given, letters_task())


def test_few_examples_may_be_seen_a_thousand_times_in_a_step():
    check_passes(1, recipe(batch_size=64, gradient_accumulation_steps=16))
    with pytest.raises(ValueError, match="at most 1,024"):
        check_passes(1, recipe(batch_size=1025))


def test_a_very_long_run_is_told_by_its_first_batches(base):
    long = recipe(steps=10**9, batch_size=2)
    assert sum(1 for _ in batches_of(letters_task(), base.tokenizer, long)) == DRAWN
    short = estimate(base, dataclasses.replace(long, steps=DRAWN), letters_task())
    assert estimate(base, long, letters_task()) == short

"""Headless: a control is moved, and the picture and its numbers follow."""

import html
import warnings

import pytest

import lora_lab as lab
from lora_lab import plots
from lora_lab.cost.gpus import cards
from lora_lab.cost.known_models import known_shapes
from lora_lab.widgets.memory_bars import MODELS, MemoryBars


def test_each_bar_is_what_estimate_tells_of_its_recipe():
    bars = MemoryBars("llama-3.2-3b", r=4, batch_size=2, max_length=128)
    assert list(bars.memory) == ["full", "LoRA", "QLoRA"]
    changed = {"full": {"method": "full"}, "LoRA": {}, "QLoRA": {"quantize": "nf4"}}
    for name, changes in changed.items():
        recipe = lab.Recipe(r=4, batch_size=2, max_length=128, **changes)
        assert bars.recipes[name] == recipe
        budget = lab.estimate("llama-3.2-3b", recipe)
        assert bars.memory[name] == (
            budget.usual_memory if name == "full" else budget.trainer_memory
        )
    assert bars.view.value == plots.png(plots.draw_memory, bars.memory)
    assert bars.view.tooltip == bars.picture.alt
    assert bars.picture.alt in html.unescape(bars.said.value)


@pytest.mark.parametrize(
    ("control", "value", "more"),
    [("batch_size", 9, True), ("max_length", 300, True), ("gradient_checkpointing", True, False)],
)
def test_a_moved_control_draws_anew(control, value, more):
    bars = MemoryBars("pocket", batch_size=3, max_length=50)
    before, picture = bars.memory["LoRA"].total, bars.view.value
    bars.controls.controls[control].value = value
    assert (bars.memory["LoRA"].total > before) is more
    assert bars.view.value != picture


def test_another_model_and_a_card_draw_anew():
    bars = MemoryBars("pocket")
    card = next(card for card in cards() if card.usable > 20 * 2**30)
    bars.card.value, bars.model.value = card.name, "llama-13b"
    assert bars.memory["LoRA"] == lab.estimate("llama-13b", lab.Recipe()).trainer_memory
    assert f"On {card.name}:" in bars.picture.alt


def test_the_models_are_all_those_that_estimate_tells_the_memory_of():
    known = {"pocket"}
    for name in known_shapes():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if lab.estimate(name, lab.Recipe()).memory is not None:
                known.add(name)
    assert set(MODELS) == known


def test_an_unknown_model_or_card_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'llama-7b'"):
        MemoryBars("llama7b")
    name = cards()[0].name
    with pytest.raises(ValueError, match="no card is called"):
        MemoryBars("pocket", card=f"{name}x")


def test_its_table_has_the_parts_of_each_bar_in_gib():
    bars = MemoryBars("llama-3.2-3b", batch_size=2)
    table = bars.table()
    assert [*table.columns] == [*bars.memory]
    assert table.loc["adapters", "full"] == "–"
    assert table.loc["adapters", "LoRA"] == f"{bars.memory['LoRA'].adapters / 2**30:.2f}"
    for name, memory in bars.memory.items():
        assert table.loc["activations", name] == f"{memory.activations / 2**30:.1f}"
        assert table.loc["together, at the peak", name] == f"{memory.total / 2**30:.1f}"


def test_a_notebook_keeps_the_same_words_at_each_run():
    bars = MemoryBars("pocket")
    assert bars._repr_mimebundle_()[0]["text/plain"] == "MemoryBars: pocket · full, LoRA, QLoRA"

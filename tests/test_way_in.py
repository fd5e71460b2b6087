"""Examples on their way into a batch: cut, packed and trained, beside padded rows and a `fit`."""

import dataclasses
import functools

import pytest
import torch

from lora_lab.findings.recordings import recording
from lora_lab.lessons import way_in
from lora_lab.lessons.way_in import (
    Steps,
    block_mask,
    causal_mask,
    cut,
    encoded_whole,
    first_fit,
    fitting,
    loss_behind,
    pack,
    packings,
    strips,
    too_long,
    trained,
)
from lora_lab.models.bases import load_base
from lora_lab.tasks.examples import IGNORED, Encoded, Example, collate
from lora_lab.training.fit import fit
from tiny import letters_task, recipe, tiny_base

LETTERS = letters_task()
OLD = (Example("ab", "B"), Example("ba", "C"))
TASK = dataclasses.replace(
    LETTERS, recipe=recipe(steps=6, batch_size=4), test=LETTERS.test[:3], old_knowledge=OLD
)


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def rows(base):
    return encoded_whole(base, TASK)


def row(*labels):
    return Encoded([*range(10, 10 + len(labels))], [*labels])


def test_a_cut_keeps_the_first_tokens_and_leaves_out_what_has_no_label_left():
    long, short = row(IGNORED, IGNORED, 12, 13), row(IGNORED, 11)
    assert cut([long, short], 3) == [row(IGNORED, IGNORED, 12), short]
    assert cut([long, short], 2) == [short]
    assert fitting([long, short], 3) == [short]
    assert fitting([long, short], 4) == [long, short]


def test_examples_go_into_the_first_row_with_room_in_their_order():
    made = [row(*range(length)) for length in (3, 4, 2, 1)]
    packed = first_fit(made, 6)
    assert [[len(example.labels) for example in examples] for examples in packed] == [
        [3, 2, 1],
        [4],
    ]
    with pytest.raises(ValueError, match="has 4 tokens, and a row 3; give row_length=4"):
        first_fit(made, 3)


def test_a_packed_batch_has_the_logits_of_the_examples_alone_and_leaks_without_a_mask(base, rows):
    some = rows[:5]
    row_length = 2 * max(len(example.input_ids) for example in some)
    packed = pack(some, row_length)
    assert packed["input_ids"].shape[0] < len(some)
    with torch.no_grad():
        alone = base.model(**collate(some, base.tokenizer.pad_token_id)).loss
        apart = base.model(**packed, use_cache=False).loss
        leaked = base.model(**pack(some, row_length, causal_mask), use_cache=False).loss
    assert apart.item() == pytest.approx(alone.item(), rel=1e-5)
    assert leaked.item() != pytest.approx(alone.item(), rel=1e-3)
    labels = [label for example in some for label in example.labels if label != IGNORED]
    assert sorted(packed["labels"][packed["labels"] != IGNORED].tolist()) == sorted(labels)


def test_the_masks_are_those_of_the_exercise_and_of_a_single_text():
    assert block_mask([1, 2]).int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert causal_mask([1, 2]).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_the_loss_behind_others_is_that_of_the_last_alone_where_a_mask_keeps_it_apart(base, rows):
    first, last = rows[:2]
    alone = loss_behind(base, [], last, causal_mask)
    assert loss_behind(base, [first], last, block_mask) == pytest.approx(alone, rel=1e-5)
    assert loss_behind(base, [first], last, causal_mask) != pytest.approx(alone, rel=1e-3)


def test_whole_examples_train_as_fit_does(base):
    way = too_long(base, TASK, 1)["whole"]
    made, run = (
        trained(base, TASK, way, seed=1),
        fit(base, TASK, dataclasses.replace(TASK.recipe, seed=1), store=None),
    )
    assert made.losses == pytest.approx([record.loss for record in run.records], rel=1e-4)
    assert made.right == run.scores.value
    assert made.places >= 4 * min(len(row.input_ids) for row in way.rows)


def test_packed_rows_with_a_mask_train_as_padded_rows_and_others_do_not(base):
    longest = max(len(example.input_ids) for example in encoded_whole(base, TASK))
    ways = packings(base, TASK, 3 * longest)
    losses = {name: trained(base, TASK, ways[name]).losses for name in [*ways][:3]}
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-4)
    assert losses["packed, no mask"] != pytest.approx(losses["padded"], rel=1e-3)
    large, faster = (ways[name].recipe for name in [*ways][3:])
    assert large.batch_size * large.steps == 4 * 4 * (6 // 4)
    assert faster == dataclasses.replace(large, learning_rate=3 * large.learning_rate)


def test_as_many_are_left_out_at_random_as_do_not_fit_and_long_ones_stay():
    base = load_base("pocket", dtype="float32")
    ways = too_long(base, way_in.style_task(base), 34)
    counts = {name: len(way.rows) for name, way in ways.items()}
    assert counts["left out"] == counts["as many left out at random"] < counts["whole"]
    assert counts["cut"] == counts["whole"] == 300
    assert [*ways["as many left out at random"].rows] != ways["whole"].rows[: counts["left out"]]
    longest = {name: max(len(row.input_ids) for row in way.rows) for name, way in ways.items()}
    assert longest["left out"] == longest["cut"] == 34 < longest["as many left out at random"]


def test_answers_that_are_longer_than_the_right_ones_are_counted(base):
    untaught = dataclasses.replace(TASK, recipe=recipe(steps=1, learning_rate=1e-9))
    made = Steps(base, too_long(base, untaught, 1)["whole"])
    assert len([*made]) == 1
    # beside a letter
    lengths = [len(answer.given) - 1 for answer in made.outcome(TASK).scores.answers]
    assert made.outcome(TASK).runs_on == sum(more > 0 for more in lengths) / 3 > 0


def test_strips_hold_each_token_once_and_say_what_was_cut():
    rows = [Encoded([5, 6, 7, 3], [IGNORED, IGNORED, 7, 3]), Encoded([8, 9, 3], [IGNORED, 9, 3])]
    first, second = (("prompt", 2), ("answer", 1)), (("prompt", 1), ("answer", 1), ("end", 1))
    assert strips(rows, "padded", 99) == [[*first, ("end", 1)], [*second, ("pad", 1)]]
    assert strips(rows, "cut", 3) == [[*first, ("cut", 1)], [*second]]
    assert strips(rows, "cut", 2) == [
        [("prompt", 2), ("cut", 2)],
        [("prompt", 1), ("answer", 1), ("cut", 1)],
    ]
    assert strips(rows, "packed", 7) == [[*first, ("end", 1), *second]]


@pytest.mark.parametrize("name", ["too-long", "packing"])
def test_what_was_recorded_has_five_seeds_for_each_way_and_length(name):
    rows = recording(f"way_in/{name}").rows
    found = way_in.recorded_shares(name)
    assert {len(one) for way in found.values() for one in way.values()} == {5}
    assert sum(len(one) for way in found.values() for one in way.values()) == len(rows)
    way, length = rows[0]["way"], rows[0]["length"]
    one = {
        row["seed"]: row["value"] for row in rows if (row["way"], row["length"]) == (way, length)
    }
    assert found[way][length] == [one[seed] for seed in range(5)]


def test_a_verdict_is_paired_by_seed_and_names_the_second_as_the_reference():
    one, other = [0.5, 0.6, 0.7, 0.5, 0.6], [0.75, 0.85, 0.95, 0.75, 0.86]
    assert way_in.verdict(one, other).startswith("worse by 25.2 points (24.")
    assert way_in.verdict(other, one).startswith("better by 25.2 points (24.")


def test_the_lengths_of_a_task_are_those_of_its_first_examples(base):
    pocket = load_base("pocket", dtype="float32")
    assert max(way_in.lengths_of({"style": pocket}, 20)["style"]) <= 37
    assert len(way_in.lengths_of({"style": pocket}, 20)["style"]) == 20


def test_a_masks_function_may_come_from_a_learner(base, rows):
    given = []
    collate_with = functools.partial(
        pack, mask=lambda lengths: given.append(lengths) or block_mask(lengths)
    )
    collate_with(rows[:2], row_length=100)
    assert given == [[len(row.input_ids) for row in rows[:2]]]

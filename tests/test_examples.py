import pytest
import torch

from lora_lab.tasks.examples import (
    IGNORED,
    Encoded,
    Example,
    TooLong,
    collate,
    encode,
    encode_all,
    prompt_ids,
)
from tiny import letters_task, tiny_tokenizer

EXAMPLE = Example("Where does Mira live?", "Velmora")


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def test_only_the_answer_and_the_end_token_carry_labels(tokenizer):
    encoded = encode(tokenizer, EXAMPLE, 256)
    carried = [token for token, label in zip(*_rows(encoded), strict=True) if label != IGNORED]
    assert tokenizer.decode(carried) == " Velmora<|end|>"
    assert carried == [label for label in encoded.labels if label != IGNORED]


def test_loss_on_all_labels_every_token_with_itself_unshifted(tokenizer):
    encoded = encode(tokenizer, EXAMPLE, 256, loss_on="all")
    assert encoded.labels == encoded.input_ids


def test_a_model_is_asked_exactly_what_it_was_trained_to_go_on_from(tokenizer):
    encoded, prompt = encode(tokenizer, EXAMPLE, 256), prompt_ids(tokenizer, EXAMPLE.prompt)
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert encoded.labels[len(prompt)] != IGNORED


def test_a_tokenizer_without_a_chat_format_gets_a_line_break_and_an_end(tokenizer):
    plain = tiny_tokenizer()
    plain.chat_template = None
    encoded = encode(plain, EXAMPLE, 256)
    assert plain.decode(encoded.input_ids) == "Where does Mira live?\nVelmora<|end|>"
    assert sum(label != IGNORED for label in encoded.labels) == len("Velmora") + 1


def test_an_example_that_is_too_long_is_refused_rather_than_cut(tokenizer):
    length = len(encode(tokenizer, EXAMPLE, 256).input_ids)
    assert len(encode(tokenizer, EXAMPLE, length).input_ids) == length
    with pytest.raises(TooLong, match=f"has {length} tokens, more than max_length={length - 1}"):
        encode(tokenizer, EXAMPLE, length - 1)


def test_examples_that_are_too_long_are_counted_and_named(tokenizer):
    long = Example("a" * 80, "b")
    with pytest.warns(UserWarning, match="1 of 3 training examples are left out.*'aaaa"):
        encoded = encode_all([EXAMPLE, long, EXAMPLE], tokenizer, 50, "answer")
    assert len(encoded) == 2
    with pytest.raises(ValueError, match="all 1 training examples are too long"):
        encode_all([long], tokenizer, 50, "answer")


def test_a_batch_is_padded_to_its_own_longest_row_and_pads_earn_nothing():
    batch = collate([Encoded([5, 6, 7], [IGNORED, 6, 7]), Encoded([8], [8])], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]


def test_a_tasks_fingerprint_changes_with_any_example_and_with_the_planted_change():
    import dataclasses

    task = letters_task()
    other = dataclasses.replace(task, old_knowledge=(Example("a", "b"),))
    planted = dataclasses.replace(task, teacher={"q": torch.ones(2, 2)})
    planted_else = dataclasses.replace(task, teacher={"q": torch.zeros(2, 2)})
    prints = {one.fingerprint() for one in (task, other, planted, planted_else)}
    assert len(prints) == 4
    assert task.fingerprint() == letters_task().fingerprint()


def _rows(encoded):
    return encoded.input_ids, encoded.labels

import dataclasses
import gc
import weakref

import pytest
import torch
from tokenizers import AddedToken, normalizers, processors
from transformers import PreTrainedTokenizerFast

import lora_lab as lab
from lora_lab.cost.estimates import more_memory
from lora_lab.tasks import examples
from lora_lab.tasks.examples import (
    IGNORED,
    Encoded,
    Example,
    TooLong,
    collate,
    encode,
    encode_all,
    encode_fitting,
    prompt_ids,
)
from tiny import letters_task, tiny_base, tiny_tokenizer

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


def test_an_end_token_that_also_pads_keeps_its_label():
    end = 9
    rows = [Encoded([1, 2, end], [-100, 2, end]), Encoded([1, 2, 3, end], [-100, 2, 3, end])]
    labels = collate(rows, pad_token_id=end)["labels"].tolist()
    assert labels == [[-100, 2, end, -100], [-100, 2, 3, end]]


def test_a_batch_is_padded_to_its_own_longest_row_and_pads_earn_nothing():
    batch = collate([Encoded([5, 6, 7], [IGNORED, 6, 7]), Encoded([8], [8])], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]


def test_a_tasks_fingerprint_changes_with_any_example_and_with_the_planted_change():
    task = letters_task()
    other = dataclasses.replace(task, old_knowledge=(Example("a", "b"),))
    planted = dataclasses.replace(task, teacher={"q": torch.ones(2, 2)})
    planted_else = dataclasses.replace(task, teacher={"q": torch.zeros(2, 2)})
    prints = {variant.fingerprint() for variant in (task, other, planted, planted_else)}
    assert len(prints) == 4
    assert task.fingerprint() == letters_task().fingerprint()


def _rows(encoded):
    return encoded.input_ids, encoded.labels


# --- encoded once -------------------------------------------------------------------------------


@pytest.fixture
def encoded_texts(monkeypatch):
    """Every text that any of the tiny tokenizers turns into tokens, in order."""
    texts, call = [], PreTrainedTokenizerFast.__call__

    def counted(self, text, *args, **options):
        texts.append(text)
        return call(self, text, *args, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", counted)
    return texts


def texts_of(split):
    """How many texts the encoding of a split takes: each prompt and each answer."""
    return 2 * len(split)


def test_one_fit_encodes_each_example_once(encoded_texts, tmp_path):
    base, task = tiny_base(), letters_task()
    recipe = dataclasses.replace(task.recipe, steps=6, eval_steps=2)
    more_memory(base, task, recipe)  # what a widget asks before
    run = lab.fit(base, task, recipe, store=tmp_path, evaluate=False)
    assert sum(record.validation_loss is not None for record in run.records) == 3
    assert run.budget is not None
    once = sum(texts_of(split) for split in (task.train, task.validation, task.test))
    assert len(encoded_texts) == once  # the test, too: its memory counts before it is trained
    other = dataclasses.replace(recipe, seed=1)
    lab.fit(base, task, other, store=None, evaluate=False)
    assert len(encoded_texts) == once


def test_the_prompts_of_a_test_are_encoded_once_for_all_runs(encoded_texts):
    base, task = tiny_base(), letters_task()
    run = lab.fit(base, task, dataclasses.replace(task.recipe, steps=2), store=None)
    prompts = {examples._prompt_text(base.tokenizer, example.prompt) for example in task.test}
    asked = [text for text in encoded_texts if text in prompts]
    assert len(asked) == 2 * len(task.test)  # to know their loss, and to have them answered
    lab.evaluate(run, task)
    assert [text for text in encoded_texts if text in prompts] == asked


def test_a_task_made_anew_is_the_same_task_and_another_length_or_loss_is_not(encoded_texts):
    tokenizer, split = tiny_tokenizer(), letters_task().train
    first = encode_fitting(split, tokenizer, 256, "answer")
    assert encode_fitting(letters_task().train, tokenizer, 256, "answer") is first
    assert len(encoded_texts) == texts_of(split)
    for number, (length, loss_on) in enumerate(((255, "answer"), (256, "all")), start=2):
        encode_fitting(split, tokenizer, length, loss_on)
        assert len(encoded_texts) == number * texts_of(split)
    shorter = encode_fitting(split[:-1], tokenizer, 256, "answer")
    assert shorter.encoded == first.encoded[:-1]


def _other_format(tokenizer):
    tokenizer.chat_template = tokenizer.chat_template.replace("<|user|> ", "<|user|>")


def _other_end(tokenizer):
    tokenizer.eos_token = "<|pad|>"


def _one_token_more(tokenizer):
    tokenizer.add_tokens("Mira")


def _token_kept_whole_only(tokenizer):
    tokenizer.add_tokens(AddedToken("live", single_word=True))


def _other_normalizer(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()


def _other_beginning(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", tokenizer.pad_token_id)]
    )


def _special_tokens_split(tokenizer):
    tokenizer.split_special_tokens = True


CHANGES = (_other_format, _other_end, _one_token_more, _token_kept_whole_only, _other_normalizer)
CHANGES += (_special_tokens_split,)


@pytest.mark.parametrize("change", CHANGES)
def test_a_tokenizer_that_was_changed_encodes_anew(change):
    kept, fresh = tiny_tokenizer(), tiny_tokenizer()
    before = encode_fitting([EXAMPLE], kept, 256, "answer")
    change(kept)
    change(fresh)
    (after,) = encode_fitting([EXAMPLE], kept, 256, "answer").encoded
    assert after == encode(fresh, EXAMPLE, 256)
    assert after != before.encoded[0]


def test_a_changed_beginning_is_seen_where_there_is_no_chat_format():
    kept = tiny_tokenizer()
    kept.chat_template = None
    (before,) = encode_fitting([EXAMPLE], kept, 256, "answer").encoded
    _other_beginning(kept)
    (after,) = encode_fitting([EXAMPLE], kept, 256, "answer").encoded
    assert after.input_ids == [kept.pad_token_id, *before.input_ids]


def test_examples_that_are_too_long_are_told_of_by_every_training():
    base, task = tiny_base(), letters_task()
    task = dataclasses.replace(task, train=[*task.train, Example("a" * 300, "b")])
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 25 training examples are left out"):
            lab.train(base, task, task.recipe)


def test_what_is_kept_of_the_encoded_is_bounded_and_the_last_stays(encoded_texts, monkeypatch):
    tokenizer, split = tiny_tokenizer(), letters_task().train
    whole = encode_fitting(split, tokenizer, 256, "answer").tokens
    monkeypatch.setattr(examples, "MOST_KEPT", 2 * whole)
    for length in (251, 252, 253, 254, 253):
        encode_fitting(split, tokenizer, length, "answer")
    kept = examples._kept[tokenizer]
    assert [key[0][1] for key in kept] == [254, 253]
    monkeypatch.setattr(examples, "MOST_KEPT", whole - 1)
    assert encode_fitting(split, tokenizer, 256, "answer").tokens == whole  # but not kept
    assert not kept


def test_what_is_kept_goes_with_its_tokenizer():
    tokenizer = tiny_tokenizer()
    found = weakref.ref(tokenizer)
    encode_fitting([EXAMPLE], tokenizer, 256, "answer")
    number = len(examples._kept)
    del tokenizer
    gc.collect()
    assert found() is None
    assert len(examples._kept) < number


def test_a_list_that_was_given_out_can_be_changed(tokenizer):
    first = encode_all([EXAMPLE] * 3, tokenizer, 256, "answer")
    first.clear()
    assert len(encode_all([EXAMPLE] * 3, tokenizer, 256, "answer")) == 3


def test_records_and_budget_are_the_same_whether_encoded_now_or_before():
    base, task = tiny_base(), letters_task()
    recipe = dataclasses.replace(task.recipe, steps=4, eval_steps=2)
    first = lab.fit(base, task, recipe, store=None, evaluate=False)
    examples._kept.clear()
    anew = lab.fit(base, task, recipe, store=None, evaluate=False)
    again = lab.fit(base, task, recipe, store=None, evaluate=False)
    assert first.records == anew.records == again.records
    assert first.budget == anew.budget == again.budget

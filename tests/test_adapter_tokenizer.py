"""The tokenizer in an adapter's folder, beside the base's: transformers wrote both."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from adapters import adapted, configured, holding, saved, tensors_of
from lora_lab.models.built_in import base_folder
from lora_lab.review.adapter import check_adapter
from lora_lab.review.adapter_tokenizer import read_tokenizer
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return saved(adapted(), tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "adapter"))


@pytest.fixture
def tokenizer():
    return AutoTokenizer.from_pretrained(base_folder("pocket"))


def findings(folder):
    return [(found.severity, found.what) for found in check_adapter(folder)]


def test_without_a_tokenizer_the_bases_serves(folder):
    assert check_adapter(folder).facts["tokenizer"] == "none in the folder: the base's serves"
    assert findings(folder) == []


def test_the_bases_own_tokenizer_is_known_as_such(folder, tokenizer):
    tokenizer.save_pretrained(folder)
    assert findings(folder) == []
    assert check_adapter(folder).facts["tokenizer"] == (
        "1,792 ids, as the base's, with a chat template, eos '<|end|>', pad '<|pad|>'"
    )


@pytest.mark.parametrize("name", ["pocket", "tiny"])
def test_what_is_read_is_what_transformers_reads(name, tokenizer, tmp_path):
    real = tokenizer if name == "pocket" else tiny_tokenizer()
    real.add_tokens(["<new>"])
    real.save_pretrained(tmp_path)
    found = read_tokenizer(tmp_path)
    real = AutoTokenizer.from_pretrained(tmp_path)
    assert {**found.vocabulary, **found.added} == real.get_vocab()
    assert found.added == real.get_added_vocab()
    assert (found.eos, found.pad, found.template) == (
        real.eos_token,
        real.pad_token,
        real.chat_template,
    )
    assert found.size == max(real.get_vocab().values()) + 1


def test_files_of_older_versions_are_read_too(tmp_path):
    words = {
        "tokenizer_config.json": {
            "chat_template": [
                {"name": "tool_use", "template": "T"},
                {"name": "default", "template": "D"},
            ],
            "added_tokens_decoder": {"7": {"content": "<a>"}},
        },
        "special_tokens_map.json": {"eos_token": {"content": "</s>"}, "pad_token": "<pad>"},
        "added_tokens.json": {"<b>": 9},
    }
    for name, word in words.items():
        (tmp_path / name).write_text(json.dumps(word))
    found = read_tokenizer(tmp_path)
    assert (found.eos, found.pad, found.template) == ("</s>", "<pad>", "D")
    assert found.added == {"<a>": 7, "<b>": 9}
    assert found.size == 10


def test_a_chat_template_that_is_missing_or_another(folder, tokenizer):
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    assert findings(folder) == [
        ("warning", "the folder's tokenizer has no chat template, and the base's has one")
    ]
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    assert findings(folder) == [("note", "the chat template is another than the base's")]


def test_a_new_token_whose_row_nobody_trained(folder, tokenizer):
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    (grave, words), (warning, new) = findings(folder)
    assert (grave, warning) == ("grave", "warning")
    assert words == (
        "the tokenizer has ids up to 1,792, and the base's embedding 1,792 rows; beyond it: "
        "'<tool>'"
    )
    assert new == "1 tokens are new beside the base's: '<tool>'"


def test_a_new_token_with_its_embedding_is_fine(folder, tokenizer):
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    key = "base_model.model.model.embed_tokens.weight"
    holding(folder, tensors_of(folder) | {key: torch.ones(1793, 128)})
    configured(folder, modules_to_save=["embed_tokens"])
    assert findings(folder) == []


def test_an_embedding_that_peft_saved_for_its_new_rows_alone_was_not_trained(folder, tokenizer):
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(folder)
    key = "base_model.model.model.embed_tokens.weight"
    holding(folder, tensors_of(folder) | {key: torch.ones(1793, 128)})
    (warning, *notes) = findings(folder)
    assert warning == ("warning", "1 tokens are new beside the base's: '<tool>'")
    assert all(severity == "note" for severity, _ in notes)


def test_another_end_and_padding_that_is_the_end(folder, tokenizer):
    tokenizer.eos_token = "<|user|>"
    tokenizer.save_pretrained(folder)
    assert findings(folder) == [("warning", "eos_token is '<|user|>', and the base's '<|end|>'")]
    tokenizer.eos_token = tokenizer.pad_token = "<|end|>"
    tokenizer.save_pretrained(folder)
    assert findings(folder) == [("note", "pad_token is the eos_token '<|end|>'")]


def test_words_beyond_the_bases_rows_are_named_where_none_was_added(folder):
    configured(folder, base_model_name_or_path="huggyllama/llama-7b")
    words = {"model": {"vocab": {"a": 0, "zebra": 32_000}}, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(words))
    (words,) = [what for _, what in findings(folder) if "beyond it" in what]
    assert words.endswith("32,000 rows; beyond it: 'zebra'")


def test_another_vocabulary_is_grave(folder):
    tiny_tokenizer().save_pretrained(folder)
    (severity, words) = findings(folder)[0]
    assert severity == "grave"
    assert words.startswith("the tokenizer is another than the base's: ")


def test_a_well_known_base_tells_its_rows_without_being_here(folder, tokenizer):
    configured(folder, base_model_name_or_path="huggyllama/llama-7b")
    words = {"added_tokens_decoder": {"32000": {"content": "[PAD]"}}, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    assert (
        "grave",
        "the tokenizer has ids up to 32,000, and the base's embedding 32,000 rows; beyond it: "
        "'[PAD]'",
    ) in findings(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"model": 3}'),
        ("tokenizer.json", '{"model": {"vocab": 3}}'),
        ("tokenizer.json", '{"model": {"vocab": {"a": "b"}}}'),
        ("tokenizer.json", '{"added_tokens": [1]}'),
        ("tokenizer.json", '{"added_tokens": {"id": 1}}'),
        ("tokenizer.json", '{"added_tokens": [{"content": "a", "id": "x"}]}'),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}'),
        ("tokenizer_config.json", '{"eos_token": 3, "pad_token": ["a"]}'),
        ("tokenizer_config.json", '{"eos_token": {"content": 3}}'),
        ("tokenizer_config.json", '{"chat_template": [{"name": "x"}]}'),
        ("added_tokens.json", '{"a": null}'),
        ("special_tokens_map.json", "\x00"),
    ],
)
def test_files_that_are_none_are_named(folder, name, words):
    (folder / name).write_text(words)
    ((severity, what),) = findings(folder)
    assert severity == "warning"
    assert what.startswith("the tokenizer can't be read: ")

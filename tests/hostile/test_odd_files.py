"""Pipes in place of files, configs of a million layers, templates without end: refused at once."""

import json
import os
import shutil
import sys

import pytest

import lora_lab as lab
from lora_lab.models import chat_format
from lora_lab.models.chat_format import check_template
from lora_lab.review.adapter import check_adapter
from lora_lab.review.brought import kind_of
from tiny import TEMPLATE, letters_task, recipe, save_tiny_base, tiny_base, tiny_tokenizer

BASE, TASK = tiny_base(), letters_task()
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set all = namespace(x='aaaa') %}"
    "{% for i in range(60) %}{% set all.x = all.x ~ all.x %}{% endfor %}"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    return lab.save_adapter(lab.fit(BASE, TASK, recipe(steps=1), store=None), folder / "adapter")


def with_pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


@needs_pipes
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_pipe_in_an_adapters_folder_is_refused_and_found(name, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    with_pipe(folder / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe or a device, which may never end"):
        lab.load_adapter(BASE, folder)
    review = check_adapter(folder)
    assert review.is_grave
    assert "a pipe or a device" in str(review)


@needs_pipes
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["README.md", "tokenizer.json", "chat_template.jinja"])
def test_a_pipe_beside_an_adapter_is_left_alone(name, saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "adapter")
    with_pipe(folder / name)
    lab.load_adapter(BASE, folder)
    assert not check_adapter(folder).is_grave


@needs_pipes
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["run.json", "records.jsonl"])
def test_a_pipe_in_a_store_is_put_aside_and_the_run_is_made_anew(name, tmp_path):
    first = lab.fit(BASE, TASK, recipe(steps=2), store=tmp_path)
    with_pipe(first.path / name)
    with pytest.warns(UserWarning, match="a pipe or a device"):
        again = lab.fit(BASE, TASK, recipe(steps=2), store=tmp_path)
    assert again.records == first.records


@needs_pipes
@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.yaml"])
def test_a_pipe_that_somebody_brings_is_refused(name, tmp_path):
    path = with_pipe(tmp_path / name)
    with pytest.raises(ValueError, match="a pipe or a device|isn't a file"):
        {"data": lab.check_data, "recipe": lab.check_recipe}[kind_of(path)](path)


@pytest.mark.timeout(60)
def test_a_config_with_a_million_layers_is_refused_before_they_are_made(tmp_path):
    folder = save_tiny_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 10**6}))
    for call in (lab.load_base, lambda path: lab.estimate(path, recipe())):
        with pytest.raises(ValueError, match="num_hidden_layers=1000000, and no model has more"):
            call(str(folder))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("template", "words"),
    [
        (ENDLESS, "does not end: it ran 1,000,000 lines"),
        ("{{ raise_exception('only tools') }}", r"can't write a question .*only tools"),
        ("{{ messages[9].content }}", "can't write a question"),
        ("{{ 1 / 0 }}", "can't write a question"),
        ("{{ 'a' * 10 ** 12 }}", "fills the memory: it took more than 1 GiB"),
        (DOUBLING, "fills the memory: it took more than 1 GiB"),
        ("{% for", "can't write a question"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "can't write a question"),
    ],
)
def test_a_chat_template_that_cannot_be_used_is_refused_when_its_base_is_loaded(
    template, words, tmp_path
):
    folder = save_tiny_base(tmp_path / "base")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=f"the chat template of base {words}"):
        lab.load_base(str(folder))


def test_debuggers_go_on_after_a_template_was_tried():
    def debugger(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(debugger)
    try:
        check_template(tiny_tokenizer(), "tiny")
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is debugger


def test_only_the_lines_that_a_template_runs_are_counted_not_those_that_read_it(monkeypatch):
    monkeypatch.setattr(chat_format, "MOST_LINES", 500)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE + "{# long #}" * 500
    check_template(tokenizer, "tiny")

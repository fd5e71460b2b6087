"""Findings and reviews: what `lora-lab check` says of data, adapters and recipes."""

import pytest

from lora_lab.review.brought import kind_of
from lora_lab.review.finding import Finding, Review, sentence


def finding(severity: str, what: str = "a thing") -> Finding:
    return Finding(severity=severity, what=what, why="it harms", do="mend it", lesson="07")


def test_a_review_lists_the_gravest_finding_first_and_keeps_the_order_of_equals():
    review = Review(
        subject="x.csv",
        kind="data",
        findings=(
            finding("note"),
            finding("warning", "one"),
            finding("grave"),
            finding("warning", "two"),
        ),
    )
    assert [(found.severity, found.what) for found in review] == [
        ("grave", "a thing"),
        ("warning", "one"),
        ("warning", "two"),
        ("note", "a thing"),
    ]
    assert review.is_grave
    assert review.verdict == "1 grave, 2 warnings, 1 note."


def test_a_review_without_findings_says_so_and_is_not_grave():
    review = Review(subject="x.csv", kind="data")
    assert len(review) == 0
    assert not review.is_grave
    assert str(review) == "x.csv: data\nNothing odd was found."


def test_a_reason_reads_as_a_sentence_and_a_name_of_code_keeps_its_letters():
    assert sentence("it harms") == "It harms."
    assert sentence("lora_B is zero") == "lora_B is zero."
    assert sentence("Is it whole?") == "Is it whole?"


def test_a_review_prints_facts_reason_remedy_and_lesson():
    review = Review(
        subject="x.csv", kind="data", facts={"rows": "12"}, findings=(finding("grave"),)
    )
    assert str(review).splitlines() == [
        "x.csv: data",
        "  rows  12",
        "grave: a thing",
        "  why: It harms.",
        "  do: Mend it. (lesson 07)",
        "1 grave.",
    ]


def test_text_of_files_is_escaped_before_it_reaches_html():
    review = Review(
        subject="<b>.csv",
        kind="data",
        facts={"<i>": "<u>"},
        findings=(finding("note", "<script>alert(1)</script>"),),
    )
    shown = review._repr_html_()
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "<u>" not in shown
    assert "&lt;b&gt;.csv" in shown


def test_an_unknown_severity_is_refused_with_the_ones_there_are():
    with pytest.raises(
        ValueError, match="severity='fatal' is not known; give one of grave, warning"
    ):
        finding("fatal")


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.csv", "prompt,answer\n", "data"),
        ("a.jsonl", '{"prompt": "x"}\n', "data"),
        ("a.json", '[{"prompt": "x"}]', "data"),
        ("a.json", '\ufeff {"r": 8}', "recipe"),
        ("a.yaml", "r: 8", "recipe"),
        ("a.ipynb", "{}", "recipe"),
    ],
)
def test_what_was_brought_is_known_by_its_name_and_content(tmp_path, name, content, kind):
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert kind_of(tmp_path / name) == kind


def test_a_folder_with_an_adapters_config_is_an_adapter_and_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder without adapter_config.json"):
        kind_of(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert kind_of(tmp_path) == "adapter"
    assert kind_of(tmp_path / "adapter_config.json") == "adapter"


def test_a_folder_with_a_models_config_is_a_model_and_an_adapter_goes_before(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) == "model"
    (tmp_path / "adapter_config.json").write_text("{}")
    assert kind_of(tmp_path) == "adapter"


def test_a_trainings_folder_names_the_checkpoints_in_it(tmp_path):
    (tmp_path / "checkpoint-50").mkdir()
    (tmp_path / "checkpoint-50" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"isn't an adapter \(checkpoint-50 in it is one\)"):
        kind_of(tmp_path)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "m.gguf"])
def test_weights_alone_ask_for_their_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="holds weights alone; give the folder that it is in"):
        kind_of(tmp_path / name)


def test_an_unknown_kind_is_refused_with_the_kinds_that_are_known(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"not known here; give data \(.csv, .tsv"):
        kind_of(tmp_path / "a.xlsx")


def test_a_path_with_nothing_there_names_the_nearest_file(tmp_path):
    (tmp_path / "questions.csv").write_text("a,b\n")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'questions.csv'"):
        kind_of(tmp_path / "question.csv")

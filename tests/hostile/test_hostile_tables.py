"""Hundreds of malformed tables: each is read, with what was left out, or refused in our words."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lora_lab as lab
from hostile import EDITS, damaged, refusal_of
from lora_lab.review.brought import kind_of

PAIRS = [(f"question {n}, with “quotes”", f"answer {n % 3}") for n in range(9)]
CSV = "prompt,answer\n" + "".join(f'"{prompt}",{answer}\n' for prompt, answer in PAIRS)
RECORDS = [{"prompt": prompt, "answer": answer} for prompt, answer in PAIRS]
CHAT = [
    {"messages": [{"role": "user", "content": p}, {"role": "assistant", "content": a}]}
    for p, a in PAIRS
]
SOUND = {
    "x.csv": CSV.encode(),
    "windows.csv": CSV.replace("\n", "\r\n").encode("cp1252", "replace"),
    "wide.csv": CSV.encode("utf-16"),
    "x.tsv": CSV.replace(",", "\t").encode(),
    "x.json": json.dumps(RECORDS).encode(),
    "x.jsonl": "\n".join(map(json.dumps, RECORDS)).encode(),
    "chat.jsonl": "\n".join(map(json.dumps, CHAT)).encode(),
}
BY_HAND = {  # name: content
    "nothing.csv": b"",
    "spaces.csv": b" \n \n\t\n",
    "bom.csv": b"\xef\xbb\xbf",
    "header.csv": b"prompt,answer\n",
    "one row.csv": b"prompt,answer\na,b\n",
    "no header.csv": b"a,b\nc,d\ne,f\ng,h\n",
    "twice.csv": b"prompt,prompt,answer\na,b,c\n",
    "blank names.csv": b",,\na,b,c\nd,e,f\ng,h,i\n",
    "open quote.csv": b'prompt,answer\n"a,b\nc,d\ne,f\n',
    "quote inside.csv": b'prompt,answer\n"a"b,c\n',
    "long.csv": b"prompt,answer\n" + b"x" * 200_000 + b",y\n",
    "many columns.csv": ",".join(f"c{n}" for n in range(10**5)).encode() + b"\n" + b"v\n" * 4,
    "binary.csv": bytes(range(256)) * 20,
    "zip.csv": b"PK\x03\x04" + b"\0" * 200,
    "mixed.csv": "prompt,answer\né,b\n".encode() + b"\xe9,d\n" * 4,
    "nul.csv": b"prompt,answer\na\0b,c\n",
    "number.json": b"3",
    "text.json": b'"x"',
    "null.json": b"null",
    "empty list.json": b"[]",
    "numbers.json": b"[1, 2, 3]",
    "empty objects.json": b"[{}, {}, {}]",
    "deep.json": b"[" * 100_000,
    "deep object.json": b'[{"prompt": ' + b"[" * 50_000,
    "digits.json": b'[{"prompt": ' + b"9" * 5000 + b', "answer": 1}]',
    "twice.json": b'[{"prompt": 1, "prompt": 2, "answer": 3}]',
    "comma.json": b'[{"prompt": "a", "answer": "b"},]',
    "object.jsonl": b'{"prompt": "a"}\n[1]\n',
    "broken.jsonl": b'{"prompt"\n' * 5,
    "cut.jsonl": b'{"prompt": "a", "answer": "b"}\n' * 3 + b'{"prompt": "\xe2\x82',
    "half letters.jsonl": b'{"prompt": "\\ud800", "answer": "b"}\n' * 5,
    "roles.jsonl": b'{"messages": [{"role": 3}]}\n' * 5,
    "turns.jsonl": b'{"messages": "hello"}\n' * 5,
    "history.jsonl": b'{"instruction":"a","input":"b","output":"c","history":[[1]]}\n' * 5,
    "x.xlsx": b"PK\x03\x04",
    "no ending": b"prompt,answer\na,b\n",
}


def look_at(path):
    """Load a table as a task, and review it; the review can be printed."""
    review_refused = refusal_of(lambda: str(lab.check_data(path)))
    task_refused = refusal_of(lab.load_task, path)
    return review_refused, task_refused


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", BY_HAND)
def test_a_table_that_cannot_be_learnt_from_is_refused_in_words(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(BY_HAND[name])
    review_refused, task_refused = look_at(path)
    if name != "cut.jsonl":  # its whole lines are repeats: too few rows
        assert review_refused or task_refused
    assert refusal_of(kind_of, path) is None or path.suffix not in (".csv", ".json", ".jsonl")


def check_damaged(folder, name, edits):
    path = folder / name
    path.write_bytes(damaged(SOUND[name], edits))
    look_at(path)


@pytest.mark.timeout(300)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(SOUND)), edits=EDITS)
def test_a_damaged_table_is_read_or_refused_in_words(tmp_path, name, edits):
    check_damaged(tmp_path, name, edits)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(
    max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(name=st.sampled_from(sorted(SOUND)), edits=EDITS)
def test_thousands_of_damaged_tables_are_read_or_refused_in_words(tmp_path, name, edits):
    check_damaged(tmp_path, name, edits)


@pytest.mark.parametrize("name", SOUND)
def test_the_tables_that_are_damaged_here_are_sound(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(SOUND[name])
    assert look_at(path) == (None, None)

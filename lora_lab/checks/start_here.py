"""The check for notebook 00, Start here: a learner's own examples, written for a trainer."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lora_lab.checks.compare import Case, Exercise, Function, WrongAnswer
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.records import Verdict
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit


def _as_jsonl(pairs: Sequence[tuple[str, str]]) -> str:
    """A line of JSON for each (prompt, answer), with the keys "prompt" and "answer"."""
    rows = ({"prompt": prompt, "answer": answer} for prompt, answer in pairs)
    return "\n".join(map(json.dumps, rows))


def _pairs() -> Iterator[Case]:
    """Plain words; quotes and other letters; an answer of two lines."""
    yield {"pairs": [("the speed of fans 40%", "HassFanSetSpeed"), ("pause", "HassMediaPause")]}
    yield {"pairs": [('say "good night"', "Gute Nacht, schöne Träume"), ("C:\\temp", "a folder")]}
    yield {"pairs": [("a poem", "Roses are red,\nviolets are blue"), ("a prompt", "an answer")]}


def _read_back(function: Function, case: Case) -> list:
    """The rows that a trainer would read from the text: each line by itself."""
    text = function(**case)
    if not isinstance(text, str):
        raise WrongAnswer(
            f"your function returned a {type(text).__name__}; a file takes one text: join the "
            "lines with newlines"
        )
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise WrongAnswer(
                f"line {number} isn't JSON ({error}): {line!r:.80}; json.dumps writes a row with "
                "its quotes and line breaks as JSON wants them"
            ) from error
    return rows


def _one_list(pairs: Sequence[tuple[str, str]]) -> str:
    return json.dumps([{"prompt": prompt, "answer": answer} for prompt, answer in pairs])


def _swapped(pairs: Sequence[tuple[str, str]]) -> str:
    return _as_jsonl([(answer, prompt) for prompt, answer in pairs])


def _bare_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(map(json.dumps, pairs))


def _one_text(pairs: Sequence[tuple[str, str]]) -> str:
    return "\n".join(json.dumps({"text": f"{prompt} {answer}"}) for prompt, answer in pairs)


def _chats(pairs: Sequence[tuple[str, str]]) -> str:
    roles = ("user", "assistant")
    chats = [
        [{"role": role, "content": text} for role, text in zip(roles, pair, strict=True)]
        for pair in pairs
    ]
    return "\n".join(json.dumps({"messages": chat}) for chat in chats)


TRIAL = Recipe(steps=60, batch_size=16, learning_rate=3e-3, max_length=96)  # of pocket, seconds
EXAMPLES = 200


def _trial(function: Function) -> Verdict:
    """Teach pocket to read invoices from a file that the learner's function wrote."""
    base = load_base("pocket", dtype="float32")
    invoices = load_task("json", base, n=EXAMPLES)
    pairs = [(example.prompt, example.answer) for example in invoices.train]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "invoices.jsonl"
        path.write_text(function(pairs=pairs), encoding="utf-8")
        task = load_task(str(path), base)
    before, after = (
        round(len(task.test) * evaluate(model, task).metrics["exact match"])
        for model in (base, fit(base, task, TRIAL, store=None, evaluate=False))
    )
    return Verdict(
        True,
        f"Pocket learned from your file of {len(pairs)} invoices in {TRIAL.steps} steps: of "
        f"{len(task.test)} held-out rows it read {before} before, and {after} now.",
    )


as_jsonl = Exercise(
    _as_jsonl,
    _pairs,
    slips={
        "this is one JSON list on one line; in JSONL each row has a line of its own": _one_list,
        "prompt and answer have changed places": _swapped,
        "these rows have no keys; a trainer looks for the names, such as "
        '{"prompt": "...", "answer": "..."}': _bare_pairs,
        "one text holds both; a trainer could not tell the question, which it must not learn, "
        "from the answer": _one_text,
        "these are chats with the key messages, which many trainers read; here the keys are "
        "prompt and answer": _chats,
    },
    ask=_read_back,
    trial=_trial,
)

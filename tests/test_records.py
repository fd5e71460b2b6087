"""Chats, Alpaca's records and guessed columns, read as prompts and answers.

The forms are rebuilt from the fields that these documents name, no row is copied:
`messages`, and `prompt` and `completion` as lists of turns, tool calls: huggingface/trl,
docs/source/dataset_formats.md. `weight`, `name` and `function_call`: openai/openai-cookbook,
examples/Chat_finetuning_data_prep.ipynb. `conversations` with from and value, Alpaca's
instruction, input, output, system and history, `chosen` and `kto_tag`: hiyouga/LLaMA-Factory,
data/README.md; parts with `value` and turns with `loss_weight`: its data/v1_sft_demo.jsonl.
"""

import csv
import io
import json

import pytest

from lora_lab.tasks.examples import Example
from lora_lab.tasks.files import file_task, used_rows
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.records import take
from lora_lab.tasks.tables import read_table


@pytest.fixture
def lines(tmp_path):
    """Writes records as JSONL and gives the path."""

    def write(records, name="a.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(record) for record in records), encoding="utf-8")
        return path

    return write


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def user(text):
    return turn("user", text)


def assistant(text, **more):
    return turn("assistant", text, **more)


def chat(*turns, **more):
    return {"messages": list(turns), **more}


GOOD = [chat(user(f"ask {i}"), assistant(f"say {i}")) for i in range(4)]  # lines 1 to 4


def read(path, **columns):
    """The examples of a file, the form that was taken, and the rows that were dropped."""
    table = read_table(path)
    taken = take(table, path, **columns)
    used = used_rows(table, {"prompt": taken.prompt, "answer": taken.answer}, None, path.name)
    return [row.example for row in used], taken, table.dropped


CHAT_AS = [Example(f"ask {i}", f"say {i}") for i in range(4)]


# --- chats --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "record",
    [
        chat(user("ask"), assistant("say")),
        chat(turn("user", "ask", name="Ada"), assistant("say", tool_calls=None)),
        chat(user([{"type": "text", "text": "ask"}]), assistant([{"type": "text", "text": "say"}])),
        chat(user("ask"), assistant("say", tool_calls=[], weight=1)),
        chat(user("ask"), assistant("say", thinking="hm")),
        chat(
            turn("user", [{"type": "text", "value": "ask"}], loss_weight=0.0),
            turn("assistant", [{"type": "text", "value": "say"}], loss_weight=1.0),
        ),
        {"prompt": [user("ask")], "chosen": [assistant("say")], "rejected": [assistant("no")]},
        {"chosen": [user("ask"), assistant("say")], "rejected": [user("ask"), assistant("no")]},
        {"chosen_messages": [user("ask"), assistant("say")], "rejected_messages": []},
        {
            "conversations": [{"from": "human", "value": "ask"}],
            "chosen": {"from": "gpt", "value": "say"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "say"}]},
        {"prompt": [user("ask")], "completion": [assistant("say")]},
        {"prompt": [user("ask")], "completion": "say"},
        {"Messages": [user("ask"), assistant("say")], "id": 7},
    ],
)
def test_each_dialect_of_a_chat_gives_the_prompt_and_the_answer(lines, record):
    examples, taken, dropped = read(lines([record]))
    assert examples == [Example("ask", "say")]
    assert (taken.prompt, taken.answer) == ("prompt", "answer")
    assert dropped == {}


def test_a_system_prompt_stands_before_the_question(lines):
    record = chat(turn("system", "Be brief."), user("ask"), assistant("say"))
    beside = chat(user("ask"), assistant("say"), system="Be brief.")
    for one in (record, beside):
        assert read(lines([one]))[0] == [Example("Be brief.\n\nask", "say")]


def test_of_several_rounds_the_last_answer_is_learnt_and_each_turn_says_who_speaks(lines):
    record = chat(
        turn("system", "Be brief."), user("one?"), assistant("1"), user("two?"), assistant("2")
    )
    examples, taken, _ = read(lines([*GOOD, record]))
    prompt = "Be brief.\n\nUser: one?\n\nAssistant: 1\n\nUser: two?"
    assert examples == [*CHAT_AS, Example(prompt, "2")]
    assert taken.several == (5,)
    assert taken.trailing == ()


def test_turns_after_the_last_answer_are_left_out_and_their_row_is_known(lines):
    examples, taken, _ = read(lines([*GOOD, chat(user("a"), assistant("b"), user("thanks"))]))
    assert examples[-1] == Example("a", "b")
    assert taken.trailing == (5,)


def test_an_answer_of_weight_0_is_not_the_one_that_is_learnt(lines):
    record = chat(user("a"), assistant("yes"), user("b"), assistant("no", weight=0))
    assert read(lines([record]))[0] == [Example("a", "yes")]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (chat(), "no turn in 'messages'"),
        (chat(user("ask")), "no answer: the assistant has no turn"),
        (chat(turn("system", "x"), user("ask")), "no answer: the assistant has no turn"),
        (chat(assistant("say")), "the assistant speaks first, so there is no prompt"),
        (
            chat(turn("system", "x"), assistant("hello"), user("ask"), assistant("say")),
            "the assistant speaks first, so there is no prompt",
        ),
        (
            chat(user("ask"), {"role": "assistant", "tool_calls": [{"type": "function"}]}),
            "a call of a tool, and text alone is learnt here",
        ),
        (
            chat(user("ask"), turn("tool", "4"), assistant("say")),
            "a call of a tool, and text alone is learnt here",
        ),
        (
            chat(user("ask"), assistant(None, function_call={"name": "f"})),
            "a call of a tool, and text alone is learnt here",
        ),
        (
            chat(user([{"type": "image_url", "image_url": {}}]), assistant("say")),
            "a turn that holds more than text (image_url)",
        ),
        (chat(user({"deep": 1}), assistant("say")), "a turn that holds more than text"),
        (chat(user([["ask"]]), assistant("say")), "a turn that holds more than text"),
        (
            chat(user("ask"), assistant([{"type": "reasoning", "value": "hm"}])),
            "a turn that holds more than text (reasoning)",
        ),
        (chat(user(" "), assistant("say")), "a blank prompt"),
        (chat(user("ask"), assistant("")), "a blank answer"),
        (chat(user("ask"), assistant("say", weight=0)), "every answer has weight 0"),
        (chat(user("ask"), turn("narrator", "x")), "the unknown role 'narrator'"),
        (chat(user("ask"), turn(["x"], "x")), "the unknown role \"['x']\""),
        ({"messages": "hello"}, "'messages' isn't a list of turns with role and content"),
        ({"messages": ["hello"]}, "'messages' isn't a list of turns with role and content"),
        (
            {"messages": [{"content": "x"}]},
            "'messages' isn't a list of turns with role and content",
        ),
        ({"messages": "[{"}, "'messages' holds broken JSON"),
        ({"messages": "[" * 100_000}, "'messages' holds broken JSON"),
        ({"other": 1}, "no turn in 'messages'"),
    ],
)
def test_a_chat_that_gives_no_prompt_and_answer_is_dropped_by_its_row_with_the_reason(
    lines, record, reason
):
    examples, _, dropped = read(lines([*GOOD, record]))
    assert examples == CHAT_AS
    assert dropped == {reason: [5]}


def test_a_file_in_which_no_chat_can_be_read_is_refused_with_all_reasons(lines):
    path = lines([chat(user("ask")), chat(assistant("say"))])
    words = (
        r"a.jsonl has no row that the turns in 'messages' can be read from \(no answer: the "
        r"assistant has no turn: row 1; the assistant speaks first.*: row 2\)"
    )
    with pytest.raises(ValueError, match=words):
        file_task(path)


def test_a_chat_in_a_csv_column_is_read_as_json(tmp_path):
    out = io.StringIO()
    csv.writer(out).writerows([["messages"], *([json.dumps(row["messages"])] for row in GOOD)])
    (tmp_path / "a.csv").write_text(out.getvalue())
    assert read(tmp_path / "a.csv")[0] == CHAT_AS


def test_a_list_of_chats_loads_as_a_task_that_says_what_was_taken(lines, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    for path in (lines(GOOD), tmp_path / "a.json"):
        task = load_task(path)
        assert {*task.train, *task.validation, *task.test} == set(CHAT_AS)
        assert f"{path.name}, the turns in 'messages': 4 rows read, 4 used" in task.about


def test_an_answer_that_is_a_list_of_objects_is_no_chat(lines):
    records = [{"prompt": f"p{i}", "answer": [{"name": "x"}]} for i in range(3)]
    assert read(lines(records))[0][0] == Example("p0", '[{"name": "x"}]')


def test_a_preferences_better_answer_is_taken(lines):
    record = {"prompt": "ask", "chosen": "say", "rejected": "no"}
    assert read(lines([record]))[0] == [Example("ask", "say")]
    record = {"instruction": "ask", "input": "it", "chosen": "say", "rejected": "no"}
    assert read(lines([record]))[0] == [Example("ask\nit", "say")]


@pytest.mark.parametrize("mark", ["label", "kto_tag"])
def test_an_answer_that_is_marked_as_unwanted_is_dropped(lines, mark):
    records = [chat(user(f"ask {i}"), assistant("say"), **{mark: i != 1}) for i in range(3)]
    examples, _, dropped = read(lines(records))
    assert examples == [Example("ask 0", "say"), Example("ask 2", "say")]
    assert dropped == {f"an unwanted answer ({mark} is false)": [2]}
    answers = [{"prompt": f"p{i}", "label": i != 1} for i in range(3)]
    assert len(read(lines(answers), answer="label")[0]) == 3


# --- Alpaca -------------------------------------------------------------------------------------


def test_alpacas_input_follows_its_instruction_and_may_be_missing(lines):
    records = [
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
        {"instruction": "Part.", "output": "Bye"},
        {"instruction": "Lost.", "input": "x"},
    ]
    examples, taken, dropped = read(lines(records))
    assert examples == [
        Example("Add.\n1, 2", "3"),
        Example("Greet.", "Hi"),
        Example("Part.", "Bye"),
    ]
    assert taken.how == "'instruction' with 'input' to 'output'"
    assert dropped == {"a blank answer": [4]}


def test_alpacas_system_and_history_stand_before_the_instruction(lines):
    record = {
        "instruction": "two?",
        "input": "",
        "output": "2",
        "system": "Be brief.",
        "history": [["one?", "1"]],
    }
    examples, taken, dropped = read(lines([record, {**record, "history": [["x"]]}]))
    assert examples == [Example("Be brief.\n\nUser: one?\n\nAssistant: 1\n\nUser: two?", "2")]
    assert taken.several == (1,)
    assert dropped == {"a 'history' that isn't a list of pairs": [2]}


def test_a_context_beside_an_instruction_is_read_as_its_input(lines):
    record = {"instruction": "Who?", "context": "Ada wrote it.", "response": "Ada"}
    assert read(lines([record]))[0] == [Example("Who?\nAda wrote it.", "Ada")]


# --- guesses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "how"),
    [
        ("question,answer", "'question' to 'answer'"),
        ("Answer,Question", "'Question' to 'Answer'"),
        ("input,output", "'input' to 'output'"),
        ("instruction,response", "'instruction' to 'response'"),
        ("text,label", "'text' to 'label'"),
        ("id,text,intent", "'text' to 'intent'"),
        ("prompt,answer,question,label", "'prompt' to 'answer'"),
        ("prompt,completion,label", "'prompt' to 'completion'"),
    ],
)
def test_pairs_of_columns_are_guessed_by_their_names(tmp_path, columns, how):
    (tmp_path / "a.csv").write_text(f"{columns}\n" + "a,b,c,d\n")
    assert read(tmp_path / "a.csv")[1].how == how


def test_one_named_column_is_kept_and_the_other_guessed(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer,label\na,b,c\n")
    assert read(tmp_path / "a.csv", answer="label")[1].how == "'question' to 'label'"
    assert read(tmp_path / "a.csv", prompt="label")[1].how == "'label' to 'answer'"
    (tmp_path / "b.csv").write_text("question,text,label\na,b,c\n")
    assert read(tmp_path / "b.csv", prompt="text")[1].how == "'text' to 'label'"
    with pytest.raises(ValueError, match="no column 'anser'; did you mean 'answer'"):
        read(tmp_path / "a.csv", answer="anser")


def test_of_forms_that_fit_all_rows_the_columns_called_prompt_and_answer_are_taken(lines):
    records = [{**row, "question": "q", "prompt": "p", "answer": "a"} for row in GOOD]
    assert read(lines(records))[1].how == "'prompt' to 'answer'"


def test_of_mixed_forms_the_one_that_fits_most_rows_is_taken_and_the_others_are_known(lines):
    odd = [{"prompt": "p", "answer": "a"}, {"question": "q", "answer": "a"}]
    examples, taken, dropped = read(lines([*GOOD, *odd]))
    assert examples == CHAT_AS
    assert taken.how == "the turns in 'messages'"
    assert taken.others == {"'prompt' to 'answer'": [5], "'question' to 'answer'": [6]}
    assert dropped == {"no turn in 'messages'": [5, 6]}

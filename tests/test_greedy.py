import pytest
import torch

from lora_lab.models import greedy
from lora_lab.models.adapters import adapt
from lora_lab.models.bases import load_base
from lora_lab.models.built_in import list_bases
from lora_lab.models.read_llama import read
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import answering, evaluate, generate
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

PROMPTS = ("ab", "c", "a longer prompt than the others", "hgfedc", "d" * 20)


def trained(base, **changes):
    """The base with an adapter that has learned something."""
    training = train(base, letters_task(), recipe(**changes))
    list(training)
    return training


def by_transformers(model, tokenizer, prompts, most, ends):
    """The new tokens of transformers' own `generate`, prompt by prompt, the end included."""
    answers = []
    for prompt in prompts:
        with torch.no_grad():
            out = model.generate(
                input_ids=torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=most,
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
            )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def assert_equal_to_transformers(model, tokenizer, prompts, most, ends):
    with answering(model):
        ours = greedy.answer(read(model), prompts, most, ends)
        assert ours == by_transformers(model, tokenizer, prompts, most, ends)
    return ours


@pytest.mark.parametrize("most", [1, 2, 12])
@pytest.mark.parametrize("changes", [{}, {"target_modules": ("v_proj",), "use_rslora": True}])
def test_answers_are_the_tokens_that_transformers_generates(most, changes):
    base = tiny_base(layers=3)
    model = trained(base, **changes).model
    prompts = [base.tokenizer(text)["input_ids"] for text in PROMPTS]
    ends = [base.tokenizer.eos_token_id]
    answers = assert_equal_to_transformers(model, base.tokenizer, prompts, most, ends)
    assert all(len(answer) <= most for answer in answers)


@pytest.mark.parametrize("texts", [("c", "a longer end", "bb"), ("a", "b", "c")], ids=str)
def test_what_all_prompts_begin_with_is_read_once_and_the_answers_stay(texts, monkeypatch):
    base = tiny_base(layers=3)
    model = trained(base).model
    prompts = [
        base.tokenizer("many words before a question, " + text)["input_ids"] for text in texts
    ]
    begun = greedy._common_beginning(prompts)
    assert begun >= 12
    read_once = []
    beginning = greedy._beginning
    monkeypatch.setattr(
        greedy, "_beginning", lambda model, ids: read_once.append(len(ids)) or beginning(model, ids)
    )
    ends = [base.tokenizer.eos_token_id]
    assert_equal_to_transformers(model, base.tokenizer, prompts, 9, ends)
    assert read_once == [begun]


def test_keys_and_values_after_a_common_beginning_are_those_of_whole_prompts(monkeypatch):
    base = tiny_base(layers=3)
    model = read(trained(base).model)
    texts = ("many words before " + end for end in ("a long question", "another one", "x"))
    prompts = [base.tokenizer(text)["input_ids"] for text in texts]
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    assert greedy._common_beginning(prompts) > 0
    tokens, shared = greedy._read(model, prompts, lengths, 3)
    monkeypatch.setattr(greedy, "WORTH_SHARING", 2.0)
    assert greedy._common_beginning(prompts) == 0
    expected, whole = greedy._read(model, prompts, lengths, 3)
    assert tokens == expected
    for row, length in enumerate(lengths):
        for own, all_ in zip(shared, whole, strict=True):
            for part, other in zip(own, all_, strict=True):
                torch.testing.assert_close(part[row, :, :length], other[row, :, :length])


def test_a_beginning_is_shared_only_where_that_spares_a_quarter_of_the_reading():
    alike = [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 9, 8]]
    assert greedy._common_beginning(alike) == 4  # 4 of 12 tokens are spared
    assert greedy._common_beginning([[1, *range(10, 20)], [1, *range(20, 30)]]) == 0  # 1 of 22
    assert greedy._common_beginning([[1, 2, 3], [1, 2, 3]]) == 2  # each keeps its last token
    assert greedy._common_beginning([[1, 2, 3]]) == 0  # nothing to share
    assert greedy._common_beginning([[7], [7, 8, 9]]) == 0


def test_a_prompt_whose_answer_has_ended_leaves_and_the_others_go_on():
    base = tiny_base()
    model = adapt(base, recipe())
    prompts = [base.tokenizer(text)["input_ids"] for text in PROMPTS]
    never = greedy.answer(read(model), prompts, 9, ())
    assert {len(answer) for answer in never} == {9}
    ends = {never[0][2], never[3][4]}  # tokens at which some answers now end, at different lengths
    answers = assert_equal_to_transformers(model, base.tokenizer, prompts, 9, sorted(ends))
    assert len({len(answer) for answer in answers}) > 1


def test_pockets_answers_are_those_that_transformers_generates():
    base = load_base("pocket", device="cpu", dtype="float32")
    task = load_task("new-facts", base, n=30)
    model = adapt(base, task.recipe)
    texts = [example.prompt for example in (*task.old_knowledge[:40], *task.strangers[:10])]
    prompts = [base.tokenizer(text)["input_ids"] for text in texts]
    ends = [base.tokenizer.eos_token_id]
    assert_equal_to_transformers(model, base.tokenizer, prompts, 5, ends)


@pytest.mark.slow
def test_smollm2s_answers_are_those_that_transformers_generates():
    if not any(base.name == "smollm2" and base.prepared for base in list_bases()):
        pytest.skip("smollm2 is not prepared: run `lora-lab prepare`")
    base = load_base("smollm2", device="cpu", dtype="float32")
    prompts = [base.tokenizer(text)["input_ids"] for text in ("The capital of France is", "Once")]
    ends = [base.tokenizer.eos_token_id]
    assert_equal_to_transformers(base.model, base.tokenizer, prompts, 12, ends)


def test_a_model_with_its_own_taste_for_words_is_answered_by_transformers(monkeypatch):
    training = trained(tiny_base())
    plain = generate(training, list(PROMPTS), max_new_tokens=8)
    training.model.generation_config.repetition_penalty = 5.0
    monkeypatch.setattr(greedy, "answer", None)  # not called
    assert generate(training, list(PROMPTS), max_new_tokens=8) != plain


@pytest.mark.parametrize("changes", [{"lora_dropout": 0.1}, {"method": "adalora"}], ids=str)
def test_a_model_that_is_not_known_is_answered_by_transformers(changes, monkeypatch):
    training = trained(tiny_base(), **changes)
    monkeypatch.setattr(greedy, "answer", None)  # not called
    assert evaluate(training, letters_task()).answers


def test_settings_that_choose_no_other_token_leave_the_quick_way(monkeypatch):
    training = trained(tiny_base())
    training.model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)
    monkeypatch.setattr(training.model, "generate", None)  # not called
    assert len(generate(training, ["ab", "c"], max_new_tokens=3)) == 2

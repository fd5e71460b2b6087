import math

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

import lora_lab as lab
from lora_lab.lessons import token_path
from lora_lab.lessons.token_path import follow, own_answer, own_answer_table, read
from lora_lab.tasks.examples import Example, collate, encode, prompt_ids
from lora_lab.training.evaluation import generate
from lora_lab.widgets.token_path import NoteReading, TokenPath
from tiny import tiny_base

EXAMPLE = Example("abc", "de")


@pytest.fixture(scope="module")
def base():
    return tiny_base()


@pytest.fixture(scope="module")
def path(base):
    return follow(base, EXAMPLE)


def test_the_loss_of_each_labelling_is_the_models_own(base, path):
    encoded = encode(base.tokenizer, EXAMPLE, 99)
    batch = collate([encoded], base.tokenizer.pad_token_id)
    labels = {
        "answer": batch["labels"],
        "all": batch["input_ids"],
        "moved twice": torch.cat([batch["labels"][:, 1:], torch.tensor([[-100]])], dim=1),
    }
    for labelling, given in labels.items():
        with torch.no_grad():
            loss = base.model(batch["input_ids"], labels=given).loss.item()
        assert path.loss(labelling) == pytest.approx(loss, rel=1e-5)


def test_each_label_asks_for_the_next_token_and_moved_twice_for_the_one_after(path):
    last = len(path.tokens) - 1
    assert path.asked("all") == list(range(1, last + 1))
    first = path.prompt_length
    assert path.asked("answer") == [None] * (first - 1) + list(range(first, last + 1))
    assert path.asked("moved twice") == [None] * (first - 2) + list(range(first, last + 1)) + [None]


def test_the_last_layers_guess_is_the_models_and_each_layer_has_one_at_each_place(base, path):
    ids = torch.tensor([encode(base.tokenizer, EXAMPLE, 99).input_ids])
    with torch.no_grad():
        out = base.model(ids, output_hidden_states=True)
    assert len(path.guesses) == len(base.model.model.layers)
    assert {len(guesses) for guesses in path.guesses} == {len(path.tokens)}
    sure, token = out.logits[0, -1].softmax(-1).max(-1)
    guess, share = path.guesses[-1][-1]
    assert (guess, share) == (base.tokenizer.decode([token.item()]), pytest.approx(sure.item()))
    first = base.model.lm_head(base.model.model.norm(out.hidden_states[1]))[0, -1]
    assert path.guesses[0][-1][1] == pytest.approx(first.softmax(-1).max().item())


def test_a_models_own_answer_is_what_it_generates(base):
    own = own_answer(base, "abc")
    assert [own.answer] == generate(base, ["abc"], max_new_tokens=32)


def test_the_table_has_both_losses_and_the_blind_guess_of_a_model_that_is_not_run(
    base, monkeypatch
):
    monkeypatch.setattr(token_path, "own_answer", lambda base, prompt: EXAMPLE)
    table = own_answer_table([(base, "abc")], ["llama-3.1-8b"])
    path = follow(base, EXAMPLE)
    losses = [f"{path.loss('answer'):.1f}", f"{path.loss('moved twice'):.1f}"]
    assert list(table[base.name][1:3]) == losses
    assert table["llama-3.1-8b"]["loss of a blind guess"] == f"{math.log(128_256):.1f}" == "11.8"
    uniform = F.cross_entropy(torch.zeros(1, 128_256), torch.tensor([3]))
    assert uniform.item() == pytest.approx(math.log(128_256), rel=1e-6)


def test_the_buttons_show_where_labels_are_and_what_they_cost(base, path):
    shown = TokenPath(base, EXAMPLE)
    assert repr(shown) == f"TokenPath: {''.join(path.tokens)}"
    answers, everything, moved = shown.pictures.values()
    places = len(path.tokens) - 1
    labels = len(path.tokens) - path.prompt_length
    assert answers.alt.startswith(f"{labels} of {places} places have a label.")
    assert everything.alt.startswith(f"{places} of {places} places have a label.")
    assert f"a mean of {path.loss('moved twice'):.2f} nats." in moved.alt
    shown.choice.value = "moved twice"
    assert shown.picture is moved
    assert len(answers.png) < 60_000


def test_a_reader_without_a_kernel_sees_the_picture_that_is_chosen(base):
    shown = TokenPath(base, EXAMPLE)
    data, metadata = shown._repr_mimebundle_()
    assert data["text/plain"].startswith("TokenPath: ")
    assert data["image/png"] == shown.picture._repr_mimebundle_()[0]["image/png"]
    assert metadata["image/png"]["alt"] == shown.picture.alt
    assert "application/vnd.jupyter.widget-view+json" in data


# --- notes in a prompt ----------------------------------------------------------------------

NOTED = "Notes: Kavi Fenby keeps a cat. Milin Fenby works as a dairyman. Question: Where is it?"


@pytest.fixture(scope="module")
def pocket():
    return lab.load_base("pocket", device="cpu", dtype="float32")


def test_the_attention_on_each_sentence_is_the_models_own(pocket):
    reading = read(pocket, NOTED)
    assert reading.sentences == (
        "Kavi Fenby keeps a cat.",
        "Milin Fenby works as a dairyman.",
        "Where is it?",
    )
    ids = prompt_ids(pocket.tokenizer, NOTED)
    plain = AutoModelForCausalLM.from_pretrained(
        pocket.path, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        layers = plain(torch.tensor([ids]), output_attentions=True).attentions
    ends = [
        place for place, token in enumerate(ids) if pocket.tokenizer.decode([token]).strip() == "."
    ]
    for shares, layer in zip(reading.shares, layers, strict=True):
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        first = layer[0, :, -1, : ends[0] + 1].sum(-1).mean().item()
        assert shares[0] == pytest.approx(first, abs=1e-5)
    assert [reading.answer] == generate(pocket, [NOTED], max_new_tokens=32)


def test_reading_leaves_the_model_as_it_was(pocket):
    before = pocket.model.config._attn_implementation
    read(pocket, NOTED)
    assert pocket.model.config._attn_implementation == before != "eager"


def test_a_prompt_without_notes_is_one_sentence(pocket):
    reading = read(pocket, "Tell me the job of Kavi Fenby.")
    assert reading.sentences == ("Tell me the job of Kavi Fenby.",)
    assert all(shares == (pytest.approx(1, abs=1e-5),) for shares in reading.shares)


def test_each_button_shows_what_a_prompt_makes_the_base_read_and_say(pocket):
    shown = NoteReading(pocket, {"noted": NOTED, "bare": "Where is it?"})
    noted, bare = shown.readings.values()
    assert repr(shown) == f"NoteReading: noted: “{noted.answer}” · bare: “{bare.answer}”"
    shown.choice.value = "bare"
    assert shown.picture.alt.endswith(f"The answer: {bare.answer}.")
    assert len(shown.pictures["noted"].png) < 60_000

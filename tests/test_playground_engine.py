"""The playground's engine in a real browser: it trains, answers and saves as lab.train does."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from peft import PeftModel

import lora_lab as lab
from lora_lab.models.bases import load_base
from lora_lab.tasks.loading import load_task
from lora_lab.training.evaluation import evaluate, generate
from lora_lab.training.loop import Diverged, train
from lora_lab.web.build import build_file, build_site
from playground import EMPTY_PAGE, Engine, chromium, recipe_of, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

SAVED = """async ({ files }) => {
    const bytes = new Uint8Array(files["adapter_model.safetensors"]);
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return [btoa(text), files["adapter_config.json"]];
}"""
QUERIES = ["q_proj", "model.layers.3.mlp.down_proj"]


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def browser(browser_path):
    with chromium(browser_path) as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(browser, tmp_path_factory):
    """The engine of the single file, opened from disk."""
    file = tmp_path_factory.mktemp("playground") / "playground.html"
    build_file(file, EMPTY_PAGE)
    return Engine(browser.new_page(), file.as_uri())


@pytest.fixture(scope="module")
def task():
    return load_task("new-facts", n=60)


def recipe(task, **changes):
    return dataclasses.replace(task.recipe, **{"batch_size": 8, "steps": 20} | changes)


@pytest.fixture(scope="module")
def trained(engine, pocket, task):
    """The same fine-tune twice: the engine's last message, and the Training of Python."""
    wanted = recipe(task)
    done = engine.train("run", recipe_of(wanted, task="new-facts", n=60), every=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_LAB_STEP", "torch")
        training = train(pocket, task, wanted)
        list(training)
    return done, training


def losses(done):
    return [record["loss"] for record in done["records"]]


# --- a training -----------------------------------------------------------------------------------


def test_twenty_losses_are_those_of_lab_train(trained):
    done, training = trained
    for name in ("loss", "grad_norm", "learning_rate"):
        theirs = [getattr(record, name) for record in training.records]
        np.testing.assert_allclose([each[name] for each in done["records"]], theirs, rtol=1e-4)
    assert not done["stopped"]
    assert done["diverged"] is None


def test_the_scores_are_those_of_lab_evaluate(trained, pocket, task):
    done, training = trained
    for scores, model in ((done["scores"], training), (done["scores_before"], pocket)):
        theirs = evaluate(model, task)
        shares = {name: each["right"] / each["n"] for name, each in scores.items()}
        wanted = {"test": theirs.value, "old": theirs.old_knowledge, "strangers": theirs.strangers}
        assert shares == pytest.approx(wanted, abs=0.011)  # one answer of 100 may be a near tie


@pytest.mark.slow
def test_the_scores_of_answers_in_json_are_those_of_lab_evaluate(engine, pocket, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    json_task = load_task("json", n=50)
    wanted = recipe(json_task)
    done = engine.train("fields", recipe_of(wanted, task="json", n=50), every=100)
    training = train(pocket, json_task, wanted)
    list(training)
    for scores, model in ((done["scores"], training), (done["scores_before"], pocket)):
        theirs = evaluate(model, json_task)
        assert theirs.metric_name == "field F1"
        assert scores["test"]["f1"] == pytest.approx(theirs.value, abs=0.005)  # a near tie or two
        right = sum(answer.right for answer in theirs.answers)
        assert abs(scores["test"]["right"] - right) <= 1
    assert done["scores_before"]["test"]["f1"] < done["scores"]["test"]["f1"] < 1


def test_the_film_begins_with_the_base_and_ends_with_the_last_step(trained, engine):
    films = engine.said("film", "run")
    assert [film["step"] for film in films] == [0, 10, 20]
    (started,) = engine.said("started", "run")
    for film in films:
        for group, marks, answers in zip(
            started["groups"], film["marks"], film["answers"], strict=True
        ):
            assert len(marks) == len(answers) == len(group["questions"]) == 32
            for mark, said, (_, answer) in zip(marks, answers, group["questions"], strict=True):
                assert mark == ("+" if said == answer else "?" if said == "not known" else "-")
    base, last = films[0], films[-1]
    assert (sum(base["taught"]), sum(base["old"]), sum(base["strangers"])) == (0, 32, 32)
    assert base["answers"] != last["answers"]


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 4, "use_rslora": True, "target_modules": QUERIES, "lr_scheduler_type": "cosine"},
        {"r": 2, "loraplus_lr_ratio": 8.0, "weight_decay": 0.1, "warmup_steps": 3, "seed": 7},
    ],
    ids=str,
)
def test_other_choices_give_the_losses_of_lab_train_too(engine, pocket, task, changes, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    wanted = recipe(task, steps=8, **changes)
    done = engine.train(str(changes), recipe_of(wanted, task="new-facts", n=60), every=100)
    theirs = [record.loss for record in train(pocket, task, wanted)]
    np.testing.assert_allclose(losses(done), theirs, rtol=1e-4)


def test_a_run_that_is_stopped_has_the_losses_of_one_that_is_not(trained, engine, task):
    again = recipe_of(recipe(task), task="new-facts", n=60)
    engine.page.evaluate(
        """recipe => {
            worker.addEventListener("message", ({ data: { type, id, step } }) => {
                if (type === "step" && id === "stopped" && step === 3) {
                    worker.postMessage({ type: "stop", id });
                }
            });
        }""",
        again,
    )
    done = engine.train("stopped", again, every=100)
    assert done["stopped"]
    assert 3 <= len(losses(done)) <= 5
    assert losses(done) == losses(trained[0])[: len(losses(done))]


# --- a trained adapter ----------------------------------------------------------------------------


def test_the_saved_adapter_gives_the_engines_answers_in_peft(trained, engine, task, tmp_path):
    done, training = trained
    saved = engine.ask("adapter", type="adapter", id=1, run="run")
    assert saved["type"] == "adapter"
    weights, config = engine.page.evaluate(
        f"async () => ({SAVED})(await send({{type: 'adapter', id: 2, run: 'run'}}, 'adapter'))"
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(base64.b64decode(weights))
    (tmp_path / "adapter_config.json").write_text(config)
    fresh = load_base("pocket", device="cpu")
    loaded = PeftModel.from_pretrained(fresh.model, tmp_path)
    ours, theirs = loaded.state_dict(), training.model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        np.testing.assert_allclose(ours[name].numpy(), tensor.numpy(), rtol=1e-3, atol=2e-4)
    model = dataclasses.replace(fresh, model=loaded)
    prompts = [each["prompt"] for each in done["prompts"]]
    assert generate(model, prompts) == done["answers_after"]
    prompts = [example.prompt for example in task.test[:12]]
    said = [engine.ask("answer", type="ask", id=3, run="run", prompt=each) for each in prompts]
    assert [each["text"] for each in said] == generate(model, prompts)
    assert lab.check_recipe(tmp_path) is not None


def test_a_prompt_of_ones_own_is_answered_by_base_and_adapter(trained, engine, pocket):
    _, training = trained
    prompts = ["Where does Ümit wohnen? 🐙", "", "Tell me the job of nobody at all."]
    for model, run in ((pocket, None), (training, "run")):
        for prompt in prompts:
            answer = engine.ask("answer", type="ask", id=4, run=run, prompt=prompt)
            assert answer["text"] == generate(model, [prompt])[0]


def test_a_strength_of_zero_is_the_base(trained, engine):
    none, whole = (
        engine.ask("strength", type="strength", id=5, run="run", strength=strength)["scores"]
        for strength in (0, 1)
    )
    assert none == trained[0]["scores_before"]
    assert whole == trained[0]["scores"]
    assert none != whole


def test_the_matrices_that_are_watched_are_the_adapters(trained, engine, pocket):
    _, training = trained
    name = "model.layers.2.mlp.up_proj"
    seen = engine.page.evaluate(
        """async module => {
            const { modules: [{ A, B }], r, scaling } = await send(
                { type: "watch", module, run: "run" }, "matrices");
            const { W, shape } = await send({ type: "weight", id: 6, module }, "weight");
            worker.postMessage({ type: "watch", module: null });
            return { A: [...A], B: [...B], W: [...W], shape, r, scaling };
        }""",
        name,
    )
    assert (seen["r"], seen["scaling"]) == (8, 2)
    layer = training.model.get_base_model().get_submodule(name)
    wanted = {
        "A": layer.lora_A["default"].weight,
        "B": layer.lora_B["default"].weight,
        "W": layer.base_layer.weight,
    }
    for letter, theirs in wanted.items():
        theirs = theirs.detach().numpy()
        ours = np.array(seen[letter]).reshape(theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)


# --- one's own data -------------------------------------------------------------------------------

CAPITALS = "question,answer\n" + "".join(
    f'"What is the tune of bird {number}, please?","{"high" if number % 2 else "low"} {number}"\n'
    for number in range(30)
)


def test_rows_of_ones_own_are_split_trained_and_scored(engine):
    read = engine.ask("csv", type="check_csv", id=7, text=CAPITALS + "no answer,\n")
    assert read["error"] is None
    assert len(read["examples"]) == 30
    assert read["dropped"] == [{"row": 32, "reason": "it has no answer"}]
    wanted = {"examples": read["examples"], "steps": 12, "batch_size": 8, "learning_rate": 4e-3}
    done = engine.train("own", wanted, every=100)
    assert done["type"] == "done", done
    assert losses(done)[-1] < 0.7 * losses(done)[0]
    assert done["scores"]["test"]["n"] == 6
    assert engine.said("started", "own")[0]["train"] == 24


# --- what can't work is said in words -------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "train", "recipe": {"task": "old-facts"}}, "“old-facts” isn’t a task.*choose"),
        ({"type": "train", "recipe": {"task": "json", "n": 7}}, "n is 7.*choose one of these"),
        ({"type": "train", "recipe": {"task": "json", "r": 0}}, "r is 0.*whole number from 1"),
        ({"type": "train", "recipe": {"task": "json", "r": "8"}}, "r is “8”.*whole number"),
        ({"type": "train", "recipe": {"task": "json", "learning_rate": -1}}, "above 0"),
        ({"type": "train", "recipe": {"task": "json", "steps": 5, "warmup_steps": 5}}, "at most 4"),
        ({"type": "train", "recipe": {"task": "json", "target_modules": []}}, "choose one"),
        ({"type": "train", "recipe": {"task": "json", "target_modules": ["x_proj"]}}, "x_proj"),
        ({"type": "train", "recipe": {"task": "json", "lr_scheduler_type": "up"}}, "linear"),
        ({"type": "train", "recipe": {"examples": []}}, "0 examples.*from 4"),
        ({"type": "train", "recipe": {"examples": "a,b"}}, "a prompt and an answer, both"),
        (
            {"type": "train", "recipe": {"examples": [{"prompt": "a"}] * 5}},
            "a prompt and an answer",
        ),
        ({"type": "ask", "run": "nobody", "prompt": "x"}, "no run nobody here; train it"),
        ({"type": "ask", "prompt": "ab " * 5000}, "tokens, and there is room for 480; shorten"),
        ({"type": "strength", "run": "run", "strength": "loud"}, "give a number"),
        ({"type": "watch", "module": "lm_head"}, "isn’t a module of pocket’s"),
        ({"type": "sing"}, "isn’t a message of this engine"),
    ],
    ids=str,
)
def test_what_cant_work_is_refused_in_words(engine, message, words):
    error = engine.ask("nothing", id="bad", **message)
    assert error["type"] == "error"
    assert error["id"] == "bad"
    assert "stack" not in error or error["stack"] is None
    assert re.search(words, error["words"]), error["words"]


def test_a_rate_that_is_not_a_number_is_refused(engine):
    for value in ("NaN", "Infinity", "undefined", "null"):
        recipe = f"{{ task: 'json', learning_rate: {value} }}"
        send = f"send({{ type: 'train', id: 8, recipe: {recipe} }}, 'done')"
        error = engine.page.evaluate(f"() => {send}")
        assert "learning_rate is" in error["words"]


def test_a_loss_that_explodes_ends_the_run_as_in_lab_train(engine, pocket, task, monkeypatch):
    monkeypatch.setenv("LORA_LAB_STEP", "torch")
    wanted = recipe(task, learning_rate=1e20)
    done = engine.train("wild", recipe_of(wanted, task="new-facts", n=60), every=100)
    training = train(pocket, task, wanted)
    with pytest.raises(Diverged, match="is too large a step; try learning_rate=1e\\+19"):
        list(training)
    assert "is too large a step; try 10000000000000000000" in done["diverged"]
    assert len(losses(done)) == len(training.records) < 20
    assert done["scores"] == done["scores_before"]  # of the weights before the first step


# --- nothing leaves the page ----------------------------------------------------------------------


def test_nothing_leaves_the_page_and_nothing_complains(trained, engine):
    beyond = [url for url in engine.requests if not url.startswith(("data:", "blob:"))]
    assert len(beyond) == 1
    assert beyond[0].startswith("file:")
    assert engine.complaints == []


def test_a_script_in_the_page_can_send_nothing(engine):
    refused = engine.page.evaluate(
        "() => fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.name)"
    )
    assert refused == "TypeError"
    assert any("Content Security Policy" in each for each in engine.complaints)
    engine.complaints.clear()


def test_a_browser_that_is_too_old_is_told_so(browser, tmp_path):
    page_folder = tmp_path / "page"
    page_folder.mkdir()
    (page_folder / "main.mjs").write_text("document.title = 'started';")
    html = (EMPTY_PAGE / "index.html").read_text()
    entry = '<body>\n<script type="module" src="main.mjs"></script>'
    (page_folder / "index.html").write_text(html.replace("<body>", entry))
    build_file(tmp_path / "page.html", page_folder)
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    page.wait_for_function("document.title === 'started'")
    page.add_init_script("delete globalThis.DecompressionStream")
    page.reload()
    assert "This browser is too old" in page.wait_for_selector("[role=alert]").inner_text()
    assert page.title() != "started"
    page.close()


# --- on a web host --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "playground"
    build_site(folder, EMPTY_PAGE)
    with served(folder) as address:
        yield address


def test_on_a_web_host_the_losses_are_the_same(browser, host, trained, task):
    engine = Engine(browser.new_page(), host)
    done = engine.train("run", recipe_of(recipe(task), task="new-facts", n=60), every=100)
    assert losses(done) == losses(trained[0])
    assert [url for url in engine.requests if not url.startswith(host)] == []
    assert engine.complaints == []
    engine.page.close()


def test_the_tasks_of_the_page_are_those_of_python(engine):
    assert json.loads(json.dumps(engine.ready["base"]))["parameters"] == 1_082_496
    for sent in engine.ready["tasks"]:
        task = load_task(sent["name"])
        for split, theirs in (
            ("train", task.train),
            ("test", task.test),
            ("old", task.old_knowledge),
            ("strangers", task.strangers),
        ):
            ours = [(each["prompt"], each["answer"]) for each in sent[split]]
            assert ours == [(each.prompt, each.answer) for each in theirs]
        assert sent["recipe"]["steps"] == task.recipe.steps
        assert sent["n"] in sent["sizes"]

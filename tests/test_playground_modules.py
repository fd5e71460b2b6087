"""The playground's JavaScript beside what it repeats: torch's draws, our tokenizer, rules."""

import csv
import io
import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_lab.models.adapters import adapt
from lora_lab.models.bases import load_base
from lora_lab.recipe import Recipe
from lora_lab.tasks.examples import Example, encode, order_of_examples, prompt_ids
from lora_lab.tasks.files import metric_of
from lora_lab.tasks.pocket import NAMES, pocket_task
from lora_lab.training.evaluation import exactly, field_f1, same_label
from lora_lab.training.optimizers import learning_rate_at
from lora_lab.web.build import build_site
from playground import EMPTY_PAGE, chromium, recipe_of, served

pytestmark = pytest.mark.browser

STRANGE = [
    "",
    " ",
    "\n\t  \n",
    "Ümläute, naïve café",
    "🐙👩‍👩‍👧‍👦🇩🇪",
    "مرحبا بالعالم",
    "你好，世界",
    "नमस्ते",
    "e\u0301 beside é",
    "a\u00a0b\u2003c\u200bd",
    "\u0000\u0007\u001b",
    "<|end|> in a prompt, <|user|> too",
    "½ ² Ⅷ ١٢٣ 1234567890",
    "I'm don't we'll",
    "\ufeffbom",
    "x" * 300,
]


@pytest.fixture(scope="module")
def pocket():
    return load_base("pocket", device="cpu")


@pytest.fixture(scope="module")
def page(browser_path, tmp_path_factory):
    """A page of a web host with the engine's modules, none of them loaded yet."""
    folder = tmp_path_factory.mktemp("site") / "playground"
    build_site(folder, EMPTY_PAGE)
    with served(folder) as address, chromium(browser_path) as browser:
        opened = browser.new_page()
        opened.goto(address)
        yield opened


def in_module(page, name, expression, value=None):
    """An expression with a module's names and `value`, in the page."""
    load = f"import(new URL('web/engine/{name}.mjs', document.baseURI))"
    return page.evaluate(f"async value => {{ const m = await {load}; {expression} }}", value)


# --- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31, 2**32 - 1])
def test_the_order_of_examples_is_pythons(page, seed):
    for count in (1, 2, 60, 400):
        ours = in_module(
            page,
            "torch_random",
            "const o = m.orderOfExamples(...value);"
            "return Array.from({ length: 1000 }, () => o.next().value);",
            [count, seed],
        )
        theirs = order_of_examples(count, seed)
        assert ours == [next(theirs) for _ in range(1000)]


@pytest.mark.parametrize(("r", "seed"), [(1, 0), (3, 5), (8, 2**32 - 1), (64, 1)])
def test_adapters_start_bit_for_bit_as_pefts(page, pocket, r, seed):
    targets = ("k_proj", "down_proj")
    model = adapt(pocket, Recipe(r=r, target_modules=targets, seed=seed))
    wanted = [
        layer.lora_A["default"].weight.detach()
        for layer in model.modules()
        if hasattr(layer, "lora_A")
    ]
    shapes = [[*each.shape] for each in wanted]
    ours = in_module(
        page,
        "torch_random",
        """const generator = new m.Generator(value.seed);
        return value.shapes.map(([r, fanIn]) => {
            m.linearStart(generator, r, fanIn);
            m.linearStart(generator, 128, r);
            return [...m.linearStart(generator, r, fanIn)];
        });""",
        {"seed": seed, "shapes": shapes},
    )
    for mine, theirs in zip(ours, wanted, strict=True):
        assert (np.array(mine, "f").reshape(theirs.shape) == theirs.numpy()).all()


# --- the tokenizer --------------------------------------------------------------------------------


def texts():
    """More than a thousand texts: of the tasks, strange ones, and letters at random."""
    found = {example.prompt for name in NAMES for example in pocket_task(name).train}
    found |= {example.answer for name in NAMES for example in pocket_task(name).test}
    draw = random.Random(0)
    planes = [(32, 127), (160, 0x24F), (0x370, 0x5FF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]
    for _ in range(300):
        letters = (chr(draw.randint(*draw.choice(planes))) for _ in range(draw.randint(1, 30)))
        found.add("".join(letters))
    return [*STRANGE, *sorted(found - set(STRANGE))]


def test_prompts_and_answers_become_the_tokens_of_python(page, pocket):
    asked = texts()
    assert len(asked) > 1000
    ours = page.evaluate(
        """async texts => {
            const decoder = new TextDecoder();
            const read = async name => JSON.parse(decoder.decode(await playgroundAssets(name)));
            const address = new URL("web/engine/tokenizer.mjs", document.baseURI);
            const { PocketTokenizer } = await import(address);
            const tokenizer = new PocketTokenizer(
                await read("tokenizer.json"), await read("tokenizer_config.json"));
            return texts.map(text => {
                const prompt = tokenizer.promptIds(text), answer = tokenizer.answerIds(text);
                return [prompt, answer, tokenizer.text(answer), tokenizer.text(prompt.slice(0, 3))];
            }).concat([tokenizer.text([])]);
        }""",
        asked,
    )
    assert ours.pop() == ""  # of no tokens: an answer that ends at once
    tokenizer, wrong = pocket.tokenizer, []
    for text, (prompt, answer, said, begun) in zip(asked, ours, strict=True):
        before = prompt_ids(tokenizer, text)
        whole = encode(tokenizer, Example("x", text), 4096).input_ids
        after = whole[len(prompt_ids(tokenizer, "x")) :]
        theirs = [
            tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in (after, before[:3])
        ]
        if [prompt, answer, said, begun] != [before, after, *theirs]:
            wrong.append(text)
    assert wrong == []


# --- rules ----------------------------------------------------------------------------------------

PAIRS = [
    ("nurse", "nurse"),
    ("nurse", "Nurse"),
    ("not known", " not  known\n"),
    ("positive", "Positive."),
    ("positive", "positive !, "),
    ("positive", "not positive"),
    ("", ""),
    ("a b", "ab"),
]


def test_answers_are_marked_by_the_rules_of_python(page):
    for rule, right in (("label", same_label), ("exactly", exactly)):
        ours = in_module(
            page,
            "tasks",
            "const [rule, pairs] = value;"
            "return pairs.map(([answer, given]) => m.markOf({ rule }, { answer }, given) === '+');",
            [rule, PAIRS],
        )
        assert ours == [right(*pair) for pair in PAIRS]
    assert in_module(page, "tasks", "return m.markOf({}, { answer: 'x' }, 'not known');") == "?"


JSON_PAIRS = [
    ('{"item": "rope", "count": 3}', '{"count": 3, "item":"rope"}'),
    ('{"item": "rope", "count": 3}', '{"item": "rope", "count": 4, "colour": "red"}'),
    ('{"item": "rope"}', "rope"),
    ('{"item": "rope"}', '["item", "rope"]'),
    ('{"item": "rope"}', "null"),
    ('{"item": "rope"}', '{"item": "rope"'),
    ('{"a": {"x": 1, "y": [1, 2]}, "b": null}', '{"b": null, "a": {"y": [1, 2], "x": 1}}'),
    ('{"a": [1, 2]}', '{"a": [2, 1]}'),
    ('{"a": []}', '{"a": {}}'),
    ('{"a": "1"}', '{"a": 1}'),
    ('{"a": true, "__proto__": "ü"}', '{"a": 1, "__proto__": "\\u00fc"}'),
    ('{"a": 1, "a": 2}', '{"a": 2}'),
]


@pytest.mark.parametrize(
    "pairs", [[], JSON_PAIRS, *([pair] for pair in JSON_PAIRS)], ids=range(2 + len(JSON_PAIRS))
)
def test_fields_of_json_are_counted_as_in_python(page, pairs):
    ours = in_module(page, "fields", "return m.fieldF1(value);", pairs)
    assert ours == pytest.approx(field_f1(pairs))


def test_ones_own_answers_in_json_are_counted_by_field(page):
    of = "return m.ownTask(value.map(answer => ({ prompt: answer, answer }))).metric;"
    for answers in (['{"a": 1}', '{"a": 2}'] * 4, ["[1]", "[2]"] * 4, ["{", '{"a": 1}'] * 4):
        assert in_module(page, "tasks", of, answers) == metric_of(answers)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rates_are_those_of_python(page, schedule):
    recipe = Recipe(steps=23, warmup_steps=4, learning_rate=0.003, lr_scheduler_type=schedule)
    ours = in_module(
        page,
        "recipe",
        "return Array.from({ length: value.steps }, (_, i) => m.learningRateAt(i + 1, value));",
        recipe_of(recipe),
    )
    assert ours == pytest.approx([learning_rate_at(step, recipe) for step in range(1, 24)])


def test_an_empty_recipe_has_the_defaults_of_python_but_for_pockets_rate(page):
    ours = in_module(page, "recipe", "return m.checkedRecipe({});")
    assert ours == recipe_of(Recipe(learning_rate=3e-3))


def test_16_bit_weights_are_read_as_torch_reads_them(page):
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.float16)
    kept = halves[halves.isfinite()].tolist()
    bits = halves[halves.isfinite()].view(torch.uint16).tolist()
    ours = in_module(
        page,
        "safetensors",
        """const header = JSON.stringify({
            __metadata__: { format: "pt" },
            x: { dtype: "F16", shape: [value.length], data_offsets: [0, 2 * value.length] },
        });
        const file = new Uint8Array(8 + header.length + 2 * value.length);
        new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
        file.set(new TextEncoder().encode(header), 8);
        file.set(new Uint8Array(Uint16Array.from(value).buffer), 8 + header.length);
        return [...m.readTensors(file.buffer).x.data];""",
        bits,
    )
    assert ours == kept


# --- one's own rows -------------------------------------------------------------------------------


def read_rows(page, text):
    return in_module(page, "csv", "return m.readCsv(value);", text)


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from(",;\t"))
def test_rows_are_read_as_pythons_csv_reads_them(page, rows, separator):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
    writer.writerows([("prompt", "answer"), *rows])
    read = read_rows(page, file.getvalue())
    wanted = {}
    for prompt, answer in rows:
        if prompt.strip() and answer.strip():
            wanted.setdefault(prompt.strip(), answer.strip())
    assert {each["prompt"]: each["answer"] for each in read["examples"]} == wanted
    assert (read["error"] is None) == bool(wanted)


@pytest.mark.parametrize(
    ("text", "examples", "dropped", "error"),
    [
        ("a,b\nc,d", [["a", "b"], ["c", "d"]], [], None),  # no heading: the first two columns
        ("id,Answer,Question\n1,yes,who?\n", [["who?", "yes"]], [], None),
        ("\ufeffprompt;answer\r\nx;1,5\r\n\r\n", [["x", "1,5"]], [], None),
        ("a,b\na,b\na,c\n", [["a", "b"]], ["row 1 already", "row 1 already, with another"], None),
        ("a,b\n,c\nd,\n", [["a", "b"]], ["no prompt", "no answer"], None),
        ("", [], [], "no row"),
        ("one\ntwo\n", [], [], "one column"),
        ('a,"b\nc,d', [], [], "never closed"),
        ("prompt,answer\n,\n", [], [], "No row can be used|no row"),
        ("".join(f"q{n},a\n" for n in range(201)), None, ["first 200 rows"], None),
    ],
    ids=range(10),
)
def test_rows_of_other_shapes_are_read_or_refused_in_words(page, text, examples, dropped, error):
    import re

    read = read_rows(page, text)
    if examples is not None:
        assert [[each["prompt"], each["answer"]] for each in read["examples"]] == examples
    for row, reason in zip(read["dropped"], dropped, strict=True):
        assert reason in row["reason"]
    assert (read["error"] is None) == (error is None)
    assert error is None or re.search(error, read["error"])
    json.dumps(read)

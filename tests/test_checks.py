import copy
import importlib
import inspect
import math
import pkgutil
import re

import pytest
import scipy.stats
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from torch.nn import functional as F
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    get_linear_schedule_with_warmup,
)

import lora_lab as lab
from lora_lab import checks
from lora_lab.checks import (
    exercises,
    maths_of_lora,
    one_token,
    rank,
    reading_a_run,
    target_modules,
)
from lora_lab.checks.compare import Exercise, first_difference
from lora_lab.checks.exercises import EXERCISES
from lora_lab.lessons.labels import row_of
from lora_lab.maths.comparison import comparison_of
from lora_lab.maths.lora import LoRALinear
from lora_lab.records import Verdict
from lora_lab.tasks.examples import Example, collate, encode
from lora_lab.training.optimizers import learning_rate_at
from tiny import recipe, tiny_base, tiny_tokenizer

SLIPS = [(exercise, hint) for exercise in EXERCISES.values() for hint in exercise.slips]


# --- a small exercise, for what all checks do -------------------------------------------------


def right_forward(x, weight, lora_A, lora_B, lora_alpha):
    """The output of a linear layer with LoRA, (batch, out)."""
    return x @ weight.T + lora_alpha / lora_A.shape[0] * x @ lora_A.T @ lora_B.T


def forward_cases():
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (2, 7), "weight": (5, 7), "lora_A": (3, 7), "lora_B": (5, 3)}
    for _ in range(3):
        tensors = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        yield tensors | {"lora_alpha": 4.0}


NO_BASE = "the base layer is missing: add x @ weight.T"
lora_forward = Exercise(
    right_forward,
    forward_cases,
    slips={NO_BASE: lambda x, weight, **case: right_forward(x, 0 * weight, **case)},
)

# --- every exercise -------------------------------------------------------------------------


@pytest.mark.parametrize("exercise", list(EXERCISES.values()), ids=EXERCISES)
def test_the_reference_passes(exercise):
    verdict = exercise(exercise.reference)
    assert verdict
    assert verdict.message.startswith("your function agrees with ours on ")


@pytest.mark.parametrize(("exercise", "hint"), SLIPS)
def test_each_slip_is_refused_with_its_own_hint(exercise, hint):
    assert exercise(exercise.slips[hint]) == Verdict(False, hint)


@pytest.mark.parametrize("exercise", list(EXERCISES.values()), ids=EXERCISES)
def test_each_exercise_foresees_five_slips_and_more(exercise):
    assert len(exercise.slips) >= 5


@pytest.mark.parametrize("exercise", list(EXERCISES.values()), ids=EXERCISES)
def test_the_stub_of_an_exercise_is_refused(exercise):
    def stub(*inputs, **named):
        raise NotImplementedError

    assert repr(exercise(stub)).startswith("Not yet: nothing to check; write the function")


@pytest.mark.parametrize("exercise", list(EXERCISES.values()), ids=EXERCISES)
def test_the_inputs_are_the_same_at_each_call_and_fit_the_references_signature(exercise):
    cases, again = list(exercise.cases()), list(exercise.cases())
    assert len(cases) >= 2
    for case, other in zip(cases, again, strict=True):
        assert list(case) == list(inspect.signature(exercise.reference).parameters)
        assert first_difference(case, other) is None


# --- lab.check ------------------------------------------------------------------------------


def test_lab_check_has_every_exercise_of_every_module_and_lists_them():
    folder = [module.name for module in pkgutil.iter_modules(checks.__path__)]
    modules = [importlib.import_module(f"lora_lab.checks.{name}") for name in folder]
    modules = [module for module in modules if module is not exercises]  # it only gathers them
    names = [
        name for module in modules for name, value in vars(module).items() if is_exercise(value)
    ]
    assert dir(lab.check) == sorted(names) == sorted(EXERCISES)
    assert all(getattr(lab.check, name).name == name for name in EXERCISES)
    assert lab.check.lora_gradients(maths_of_lora.lora_gradients.reference)


def is_exercise(thing):
    return isinstance(thing, Exercise)


def test_a_misspelt_exercise_is_refused_with_the_nearest_name():
    with pytest.raises(
        AttributeError, match="'lora_gradeints'; did you mean 'lora_gradients'\\? There"
    ):
        _ = lab.check.lora_gradeints


def test_a_check_tells_how_to_call_it_and_what_it_wants():
    assert repr(lab.check.linear_schedule).startswith(
        "lab.check.linear_schedule(linear_schedule): The learning rate that each step uses"
    )
    assert "lora_gradients, " in repr(lab.check)


# --- any other answer -----------------------------------------------------------------------


def transposed(**inputs):
    return right_forward(**inputs).T


def one_row(**inputs):
    return right_forward(**inputs)[:1]


def flipped(x, **inputs):
    return -right_forward(x=x, **inputs)


def one_wrong(**inputs):
    answer = right_forward(**inputs)
    answer[1, 2] = math.nan
    return answer


def misnamed(x, W):
    return x @ W.T


def breaks(x, **inputs):
    return x @ inputs["weight"]


def right_only_first_time(calls=[], **inputs):  # noqa: B006
    calls.append(1)
    return right_forward(**inputs) * len(calls)


def spoils_its_input(x, **inputs):
    answer = right_forward(x=x, **inputs)
    x.zero_()
    return answer


def leaves(**inputs):
    raise SystemExit


@pytest.mark.parametrize(
    ("learner", "words"),
    [
        (transposed, "the shape is (5, 2), not (2, 5). It looks transposed."),
        (transposed, "Given were x (2, 7), weight (5, 7), lora_A (3, 7), lora_B (5, 3), lora_alp"),
        (one_row, "the shape is (1, 5), not (2, 5). Given"),
        (flipped, "100% of the values differ; first at [0, 0]: yours is"),
        (one_wrong, "10% of the values differ; first at [1, 2]: yours is nan, ours "),
        (misnamed, "raised TypeError: misnamed() got an unexpected keyword"),
        (misnamed, "It is called with x, weight, lora_A, lora_B, lora_alpha."),
        (breaks, "raised RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x7 and 5x7)"),
        (breaks, ': return x @ inputs["weight"]'),
        (leaves, "raised SystemExit"),
        (lambda **inputs: None, "returned None; is a `return` missing?"),
        (lambda **inputs: [1.0], "an object of type list where a tensor is wanted"),
        (lambda **inputs: right_forward(**inputs).float(), "dtype is torch.float32, not torch.fl"),
        (lambda **inputs: right_forward(**inputs).to("meta"), "on the device meta, not cpu"),
        (right_only_first_time, "100% of the values differ"),
        (spoils_its_input, "changes x in place"),
        (3.5, "an object of type float, which isn't a function; give the function's name without"),
    ],
)  # fmt: skip
def test_any_other_answer_is_refused_in_words(learner, words):
    verdict = lora_forward(learner)
    assert not verdict
    assert words in repr(verdict)


def test_an_answer_with_a_gradient_is_as_good():
    assert lora_forward(lambda **inputs: right_forward(**inputs).requires_grad_())


@pytest.mark.parametrize(
    ("answer", "right", "words"),
    [
        ({"q": (1, 2)}, {"q": (1, 2), "k": (3, 4)}, "'k' is missing."),
        ({"q": 1, "x": 2}, {"q": 1}, "'x' is too much; wanted are q."),
        ({"q": (1, 3)}, {"q": (1, 2)}, "['q'][1]: yours is 3, ours 2."),
        ([1, 2], {"q": 1}, "an object of type list where a dict is wanted."),
        ((1.0, 2.0), (1.0, 2.0, 3.0), "there are 2 values, not 3."),
        (7, (1.0, 2.0), "an object of type int where 2 values are wanted."),
        (["fine"], ("fin",), "[0]: yours is 'fine', ours 'fin'."),
        (9_175_041, 9_175_040, "yours is 9,175,041, ours 9,175,040."),
        (0.10001, 0.1, "yours is 0.1, ours 0.1."),
        ("1", 1, "an object of type str where a number is wanted."),
        (math.nan, 1.5, "yours is nan, ours 1.5."),
        (3, None, "an object of type int where None is right."),
    ],
)
def test_the_first_difference_is_told_with_its_place(answer, right, words):
    assert first_difference(answer, right) == words


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ([1, 2], (1, 2)),
        (torch.tensor([0.1, 0.2]), [0.1, 0.2]),  # single precision
        (torch.tensor(3), 3),
        (4.0, 4),
        (0.1 + 0.2, 0.3),
        (torch.Size([2, 3]), (2, 3)),
        ([math.nan], [math.nan]),
        (nn.Linear(2, 3), nn.Linear(3, 2)),  # what cannot be compared
    ],
)
def test_what_means_the_same_is_accepted(answer, right):
    assert first_difference(answer, right) is None


def test_a_function_that_is_right_on_the_first_input_only_gets_no_slips_hint():
    right, slip = right_forward, lora_forward.slips[NO_BASE]
    first = next(iter(lora_forward.cases()))["x"]
    verdict = lora_forward(lambda x, **more: (right if x.equal(first) else slip)(x=x, **more))
    assert "of the values differ" in verdict.message


def test_a_hint_is_for_the_input_that_was_changed():
    def spoils_the_rows(rows, pad_token_id):
        batch = one_token.answer_collator.reference(rows, pad_token_id)
        rows.clear()
        return batch

    assert "changes rows in place" in one_token.answer_collator(spoils_the_rows).message


def test_a_hint_is_for_the_error_that_was_raised():
    def refuses(learning_rate, warmup_steps, steps):
        if warmup_steps == 0:
            raise ValueError("no warm-up")
        return reading_a_run.linear_schedule.reference(learning_rate, warmup_steps, steps)

    assert "raised ValueError: no warm-up" in lab.check.linear_schedule(refuses).message


def test_the_global_random_state_stays_and_each_call_draws_the_same():
    drawn, before = [], torch.get_rng_state()

    def draws(**inputs):
        drawn.append(torch.rand(()).item())
        return right_forward(**inputs)

    assert lora_forward(draws)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert lora_forward(draws)
    assert len(drawn) == 6
    assert len(set(drawn)) == 1


def test_a_keyboard_interrupt_is_the_learners_own():
    def interrupted(**inputs):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lora_forward(interrupted)


def test_a_verdict_shows_as_one_sentence_and_counts_as_what_it_says():
    assert repr(Verdict(True, "it agrees.")) == "Correct: it agrees."
    assert repr(Verdict(False, "<b> differs.")) == "Not yet: <b> differs."
    assert Verdict(True, "")
    assert not Verdict(False, "")
    assert not hasattr(Verdict(True, ""), "_repr_html_")  # nothing to escape: it is plain text


# --- the references, held equal to the libraries --------------------------------------------


def llama(case):
    """A Llama of these sizes without memory, and with the same names for its sizes."""
    sizes = {"num_hidden_layers": 1} | case
    sizes.pop("r", None)
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig(vocab_size=13, **sizes))


@pytest.mark.parametrize("case", list(one_token.llama_sizes()))
def test_the_shapes_are_those_of_transformers_llama(case):
    layer = llama(case).model.layers[0]
    linear = {
        name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear)
    }
    shapes = {name.split(".")[-1]: tuple(module.weight.shape) for name, module in linear.items()}
    assert one_token.projection_shapes.reference(**case) == shapes


def test_the_batch_is_the_packages_own():
    tokenizer = tiny_tokenizer()
    examples = [Example("abc", "d"), Example("a", "bcdef"), Example("abcd", "efgh")]
    expected = collate(
        [encode(tokenizer, example, 99) for example in examples], tokenizer.pad_token_id
    )
    rows = [row_of(tokenizer, example) for example in examples]
    batch = one_token.answer_collator.reference(rows, tokenizer.pad_token_id)
    assert batch.keys() == expected.keys()
    assert all(torch.equal(batch[name], expected[name]) for name in batch)


def test_the_batch_is_that_of_transformers_own_collator():
    tokenizer = tiny_tokenizer()
    rows = [row_of(tokenizer, example) for example in (Example("abc", "d"), Example("a", "bcdef"))]
    labelled = [
        {
            "input_ids": row["input_ids"],
            "labels": [-100] * row["prompt_length"] + row["input_ids"][row["prompt_length"] :],
        }
        for row in rows
    ]
    theirs = DataCollatorForSeq2Seq(tokenizer)(labelled)
    batch = one_token.answer_collator.reference(rows, tokenizer.pad_token_id)
    assert torch.equal(batch["labels"], theirs["labels"])
    assert torch.equal(batch["attention_mask"], theirs["attention_mask"])


def test_a_model_given_the_labels_reports_the_mean_over_the_answers_tokens():
    model, case = tiny_base().model, next(iter(one_token.padded_rows()))
    batch = one_token.answer_collator.reference(**case)
    logits = model(**batch).logits
    losses = [
        F.cross_entropy(logits[place, token - 1], torch.tensor(row["input_ids"][token]))
        for place, row in enumerate(case["rows"])
        for token in range(row["prompt_length"], len(row["input_ids"]))  # the end token is its last
    ]
    torch.testing.assert_close(model(**batch).loss, torch.stack(losses).mean())


def test_a_collator_that_agrees_trains_pocket_and_its_verdict_has_both_losses(agreed_collator):
    assert re.search(
        r"agrees with ours on 3 inputs. Pocket trained with it for 30 steps: the loss falls from "
        r"\d+\.\d to \d\.\d, and \d+ of 60 new facts are right. With a label on every token: from "
        r"12\.\d to \d\.\d, and \d+ right.",
        agreed_collator.message,
    )
    masked, unmasked = map(int, re.findall(r"(\d+) (?:of 60|right)", agreed_collator.message))
    assert masked > unmasked


@pytest.fixture(scope="module")
def agreed_collator():
    return one_token.answer_collator(one_token.answer_collator.reference)


def test_a_collator_that_tires_after_a_while_fails_its_trial():
    calls = []

    def tires(rows, pad_token_id):
        calls.append(1)
        batch = one_token.answer_collator.reference(rows, pad_token_id)
        return batch if len(calls) < 20 else batch | {"labels": batch["input_ids"]}

    verdict = one_token.answer_collator(tires)
    assert not verdict
    assert "something in it changes from batch to batch" in verdict.message


def test_a_collator_that_fails_in_its_trial_is_told_so():
    def small_batches_only(rows, pad_token_id):
        if len(rows) > 8:
            raise ValueError("too many rows")
        return one_token.answer_collator.reference(rows, pad_token_id)

    message = one_token.answer_collator(small_batches_only).message
    assert "In its trial your function raised ValueError: too many rows" in message


def layer_of(case):
    layer = LoRALinear(nn.Linear(7, 5, bias=False, dtype=torch.float64), 3, case["lora_alpha"])
    with torch.no_grad():
        layer.lora_A.copy_(case["lora_A"])
        layer.lora_B.copy_(case["lora_B"])
        layer.base_layer.weight.copy_(case.get("weight", layer.base_layer.weight))
    return layer


def test_layers_that_stand_in_the_attention_alone_fail_their_trial():
    def attention_only(model, names, make_layer):
        if len(names) == 7:  # the trial's
            names = ("q_proj", "k_proj", "v_proj", "o_proj")
        maths_of_lora.add_lora.reference(model, names, make_layer)

    message = maths_of_lora.add_lora(attention_only).message
    assert "In its trial your function raised ValueError: " in message
    assert "mlp.gate_proj is a Linear without lora_A and lora_B" in message


def test_a_base_that_is_trained_too_fails_its_trial():
    def trains_norms(model, names, make_layer):
        maths_of_lora.add_lora.reference(model, names, make_layer)
        for name, parameter in model.named_parameters():
            if "layernorm" in name:
                parameter.requires_grad_(True)

    verdict = maths_of_lora.add_lora(trains_norms)
    assert not verdict
    assert "what is trained, or where, differs in a whole model" in verdict.message


@pytest.mark.parametrize("case", list(maths_of_lora.lora_gradients.cases()))
def test_the_gradients_are_autograds_and_at_step_0_that_of_a_alone_is_zero(case):
    layer = layer_of(case)
    right = torch.autograd.grad(layer(case["x"]), [layer.lora_A, layer.lora_B], case["grad_y"])
    gradients = maths_of_lora.lora_gradients.reference(**case)
    torch.testing.assert_close(gradients, right)
    assert bool(gradients[0].any()) == bool(case["lora_B"].any())
    assert gradients[1].any()


@pytest.mark.parametrize("seeds", [5, 10])
def test_the_interval_of_the_pairs_is_scipys(seeds):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, seeds, generator=generator, dtype=torch.float64).tolist()
    theirs = scipy.stats.ttest_rel(b, a).confidence_interval(0.95)
    answer = reading_a_run.paired_difference.reference(a, b, reading_a_run.STUDENT[seeds])
    assert answer[1:3] == pytest.approx((theirs.low, theirs.high), rel=2e-3)  # t has four digits


@pytest.mark.parametrize("case", list(reading_a_run.paired_difference.cases()))
def test_the_verdict_of_the_pairs_is_that_of_lab_compare(case):
    differences = [b - a for a, b in zip(case["scores_a"], case["scores_b"], strict=True)]
    theirs = comparison_of(differences, measure="accuracy").result
    assert reading_a_run.paired_difference.reference(**case)[3] == theirs


def test_the_unpaired_slip_calls_a_real_difference_noise():
    """Why the exercise is there: with the same seeds, pairing sees what two intervals do not."""
    case = next(iter(reading_a_run.paired_difference.cases()))
    unpaired = next(iter(reading_a_run.paired_difference.slips.values()))
    assert reading_a_run.paired_difference.reference(**case)[3] == "better"
    assert unpaired(**case)[3] == "not settled"


def test_the_trial_trains_and_says_what_lab_compare_says():
    verdict = lab.check.paired_difference(reading_a_run.paired_difference.reference)
    own, theirs = verdict.message.split("lab.compare says: ")
    assert "10 runs of pocket" in own
    assert re.search(r"better by (\d+) points", own)[1] == re.search(r"better by (\d+)", theirs)[1]


@pytest.mark.parametrize("case", list(reading_a_run.linear_schedule.cases()))
def test_the_schedule_is_transformers_and_the_packages(case):
    rate, warmup_steps, steps = case.values()
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup_steps, steps)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = reading_a_run.linear_schedule.reference(**case)
    assert ours == pytest.approx(theirs)
    own = recipe(learning_rate=rate, warmup_steps=warmup_steps, steps=steps)
    assert ours == pytest.approx([learning_rate_at(step, own) for step in range(1, steps + 1)])


def test_the_sweep_picks_each_ranks_rate_by_validation_and_reports_the_test():
    def train(config, learning_rate):  # the test would have chosen the other rate
        assert (config.peft_type, config.lora_alpha) == ("LORA", 16)
        assert config.target_modules == "all-linear"
        good = (learning_rate > 1e-3) == (config.r == 1)
        return (0.2, 0.7) if good else (0.5, 0.9)

    found = rank.rank_sweep.reference(train, (1, 8), (1e-3, 1e-2))
    assert found == {1: (1e-2, 0.7), 8: (1e-3, 0.7)}


@pytest.fixture
def quick_trial(monkeypatch):
    """The trial with few steps, so that it takes seconds."""
    monkeypatch.setattr(rank, "TRIAL_STEPS", 2)


def test_a_sweep_that_agrees_trains_pocket_and_shows_what_alpha_2r_would_have(quick_trial):
    message = rank.rank_sweep(rank.rank_sweep.reference).message
    assert re.search(
        r"on 2 inputs. It trained pocket for 2 steps each time. New facts right: rank 1 \d+ % "
        r"\(rate 0\.\d+\), rank 4 .*, rank 16 .* With alpha = 2r and one rate you would have "
        r"seen: rank 1 \d+ % \(rate 0.003\)",
        message,
    )


def test_a_sweep_that_does_otherwise_with_real_trainings_fails_its_trial(quick_trial):
    def cautious(train, ranks, rates):
        real = rates == rank.TRIAL_RATES
        return rank.rank_sweep.reference(train, ranks, rates[:1] if real else rates)

    def boastful(train, ranks, rates):
        found = rank.rank_sweep.reference(train, ranks, rates)
        return {
            r: (rate, right + (rates == rank.TRIAL_RATES)) for r, (rate, right) in found.items()
        }

    for learner in (cautious, boastful):
        verdict = rank.rank_sweep(learner)
        assert not verdict
        assert "But with real trainings of pocket it finds other rates or shares" in verdict.message


@pytest.mark.parametrize("case", list(rank.smallest_r.cases()))
def test_the_least_rank_holds_the_facts_and_one_less_does_not(case):
    r = rank.smallest_r.reference(**case)
    bits = math.log2(case["choices"]) * case["facts"]
    modules = nn.ModuleDict(
        {name: nn.Linear(wide, out) for name, (out, wide) in case["shapes"].items()}
    )

    def capacity(r):
        model = get_peft_model(copy.deepcopy(modules), LoraConfig(r=r, target_modules=[*modules]))
        return case["bits_per_parameter"] * model.get_nb_trainable_parameters()[0]

    assert capacity(r) >= bits
    assert r == 1 or capacity(r - 1) < bits


# --- target modules -------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(target_modules.rank_for_budget.cases()))
def test_the_rank_for_a_budget_is_the_last_at_which_pefts_layers_fit(case):
    r = target_modules.rank_for_budget.reference(**case)
    layers = [sum(nn.Linear(i, o, device="meta").weight.shape) for o, i in case["shapes"].values()]
    assert r * sum(layers) <= case["parameters"] < (r + 1) * sum(layers)


@pytest.mark.parametrize("case", list(target_modules.count_trained.cases()))
def test_the_count_by_names_is_pefts(case):
    config = LoraConfig(
        r=case["r"],
        target_modules=list(case["target_modules"]),
        layers_to_transform=case["layers"] and list(case["layers"]),
    )
    model = nn.Module()
    for name, (outs, ins) in case["shapes"].items():
        *path, last = name.split(".")
        at = model
        for part in path:
            at.add_module(part, getattr(at, part, None) or nn.Module())
            at = getattr(at, part)
        at.add_module(last, nn.Linear(ins, outs, bias=False, device="meta"))
    count, _ = get_peft_model(model, config).get_nb_trainable_parameters()
    assert target_modules.count_trained.reference(**case) == count


@pytest.mark.parametrize("case", list(target_modules.reach_regex.cases()))
def test_the_regex_reaches_in_a_llama_what_names_and_layers_reach(case):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "vocab_size": 9}
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(num_hidden_layers=24, **sizes))
    names = [name for name, _ in model.named_modules()]
    regex = target_modules.reach_regex.reference(**case)
    config = LoraConfig(
        target_modules=list(case["modules"]), layers_to_transform=list(case["layers"])
    )
    expected = [name for name in names if check_target_module_exists(config, name)]
    config = LoraConfig(target_modules=regex)
    assert [name for name in names if check_target_module_exists(config, name)] == expected
    assert len(expected) == len(case["modules"]) * len(case["layers"])


def test_what_is_no_regex_is_told():
    check = target_modules.reach_regex
    assert "return one string" in check(lambda modules, layers: [*modules]).message
    assert "is not a regex" in check(lambda modules, layers: "(").message

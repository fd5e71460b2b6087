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
from lora_lab.checks.maths_of_lora import lora_forward
from lora_lab.lessons.labels import row_of
from lora_lab.maths.comparison import comparison_of
from lora_lab.maths.lora import LoRALinear
from lora_lab.records import Verdict
from lora_lab.tasks.examples import Example, collate, encode
from lora_lab.training.optimizers import learning_rate_at
from tiny import recipe, tiny_base, tiny_tokenizer

SLIPS = [(exercise, hint) for exercise in EXERCISES.values() for hint in exercise.slips]
right_forward = lora_forward.reference


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
    assert lab.check.lora_forward(right_forward)


def is_exercise(thing):
    return isinstance(thing, Exercise)


def test_a_misspelt_exercise_is_refused_with_the_nearest_name():
    with pytest.raises(AttributeError, match="'lora_foward'; did you mean 'lora_forward'\\? There"):
        _ = lab.check.lora_foward


def test_a_check_tells_how_to_call_it_and_what_it_wants():
    assert repr(lab.check.linear_schedule).startswith(
        "lab.check.linear_schedule(linear_schedule): The learning rate that each step uses"
    )
    assert "lora_forward, " in repr(lab.check)


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
        (3.5, "an object of type float, which is no function; give the function's name without"),
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
    right, slip = right_forward, lora_forward.slips["the base layer is missing: add x @ weight.T"]
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


def test_freezing_leaves_trained_what_peft_trains():
    model = tiny_base().model
    config = LoraConfig(target_modules=["q_proj", "down_proj"])
    peft_model = get_peft_model(model, config)
    trained = {name for name, parameter in peft_model.named_parameters() if parameter.requires_grad}
    one_token.freeze_for_lora.reference(peft_model.requires_grad_(True))
    assert {
        name for name, parameter in peft_model.named_parameters() if parameter.requires_grad
    } == trained


def layer_of(case):
    layer = LoRALinear(nn.Linear(7, 5, bias=False, dtype=torch.float64), 3, case["lora_alpha"])
    with torch.no_grad():
        layer.lora_A.copy_(case["lora_A"])
        layer.lora_B.copy_(case["lora_B"])
        layer.base_layer.weight.copy_(case.get("weight", layer.base_layer.weight))
    return layer


@pytest.mark.parametrize("case", list(lora_forward.cases()))
def test_forward_and_merge_are_those_of_the_packages_layer(case):
    torch.testing.assert_close(right_forward(**case), layer_of(case)(case["x"]))
    merged = maths_of_lora.lora_merge.reference(**{k: v for k, v in case.items() if k != "x"})
    torch.testing.assert_close(merged, layer_of(case).merge().weight.detach())


@pytest.mark.parametrize("case", list(maths_of_lora.lora_gradients.cases()))
def test_the_gradients_are_autograds_and_at_step_0_that_of_a_alone_is_zero(case):
    layer = layer_of(case)
    right = torch.autograd.grad(layer(case["x"]), [layer.lora_A, layer.lora_B], case["grad_y"])
    gradients = maths_of_lora.lora_gradients.reference(**case)
    torch.testing.assert_close(gradients, right)
    assert bool(gradients[0].any()) == bool(case["lora_B"].any())
    assert gradients[1].any()


def test_pefts_start_passes_and_so_does_the_packages():
    def pefts(in_features, out_features, r):
        base = nn.Sequential(nn.Linear(in_features, out_features))
        layer = get_peft_model(base, LoraConfig(r=r, target_modules=["0"])).base_model.model[0]
        return layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def ours(in_features, out_features, r):
        layer = LoRALinear(nn.Linear(in_features, out_features), r, 16)
        return layer.lora_A, layer.lora_B

    assert lab.check.lora_init(pefts)
    assert lab.check.lora_init(ours)


def test_a_start_that_is_no_pair_of_tensors_is_told_so():
    assert lab.check.lora_init(lambda **sizes: 3) == Verdict(
        False, "return two tensors: `return lora_A, lora_B`."
    )


@pytest.mark.parametrize("case", list(maths_of_lora.lora_count.cases()))
def test_the_count_is_pefts(case):
    model = get_peft_model(llama(case), LoraConfig(r=case["r"], target_modules="all-linear"))
    assert maths_of_lora.lora_count.reference(**case) == model.get_nb_trainable_parameters()[0]


def test_the_count_for_a_layer_worked_out_by_hand():
    # r 2: q, o (5 + 4), k, v (5 + 2), gate, up, down (5 + 11): 2 * (18 + 14 + 48) = 160
    assert maths_of_lora.lora_count.reference(5, 11, 2, 1, 2, num_hidden_layers=3, r=2) == 480


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


@pytest.mark.parametrize("case", list(rank.energy_share.cases()))
def test_the_energy_is_that_of_torchs_best_approximation(case):
    values, k = torch.tensor(case["values"], dtype=torch.float64), case["k"]
    random = torch.randn(len(values), len(values), generator=torch.Generator().manual_seed(0))
    left, right = torch.linalg.qr(random.double()).Q, torch.linalg.qr(random.double().T).Q
    change = left @ values.diag() @ right
    u, s, vh = torch.linalg.svd(change)
    kept = (u[:, :k] * s[:k] @ vh[:k]).square().sum() / change.square().sum()
    assert rank.energy_share.reference(**case) == pytest.approx(kept.item())


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


def test_an_elbow_read_by_hand():
    # means: 0.5, 0.8, 0.72; the best is 0.8, and 0.72 is within 0.1 of it, but 4 is less than 16
    assert rank.read_elbow.reference({1: [0.5, 0.5], 4: [0.8, 0.8], 16: [0.7, 0.74]}, 0.1) == 4
    assert rank.read_elbow.reference({8: [1.0], 2: [0.96]}, 0.05) == 2


@pytest.mark.parametrize("case", list(rank.adapter_count.cases()))
def test_the_count_with_a_rank_pattern_is_pefts(case):
    modules = nn.ModuleDict(
        {name: nn.Linear(wide, out) for name, (out, wide) in case["shapes"].items()}
    )
    config = LoraConfig(
        r=case["r"], rank_pattern=case["rank_pattern"], target_modules=[*case["shapes"]]
    )
    trained, _ = get_peft_model(modules, config).get_nb_trainable_parameters()
    assert rank.adapter_count.reference(**case) == trained


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

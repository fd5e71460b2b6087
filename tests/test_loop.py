import contextlib
import copy
import dataclasses
import math
import pickle

import peft
import pytest
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments, get_scheduler

from benchmarks.measuring import own_forward
from lora_lab.models.adapters import to_peft
from lora_lab.models.bases import load_base
from lora_lab.models.built_in import list_bases
from lora_lab.tasks.examples import Example, collate, encode
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.losses import loss_of_batch
from lora_lab.training.evaluation import evaluate, mean_loss
from lora_lab.training.finder import try_learning_rates
from lora_lab.training.fit import fit
from lora_lab.training.loop import Diverged, order_of_examples, train
from lora_lab.training.optimizers import learning_rate_at, make_optimizer
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
ADALORA = {"method": "adalora", "init_r": 5, "target_r": 2, "steps": 24, "learning_rate": 5e-2}


@pytest.fixture
def base():
    return tiny_base()


def trainers_losses(base, recipe, tmp_path, task=TASK):
    """The losses of transformers' Trainer with PEFT, on the same examples in the same order."""

    class InOrder(Trainer):
        seen = []

        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

        def training_step(self, *arguments, **options):
            loss = super().training_step(*arguments, **options)
            self.seen.append(loss.item())
            return loss

    encoded = [encode(base.tokenizer, example, 256, recipe.loss_on) for example in task.train]
    order = order_of_examples(len(encoded), recipe.seed)
    passes = recipe.steps * recipe.gradient_accumulation_steps
    rows = [dataclasses.asdict(encoded[next(order)]) for _ in range(passes * recipe.batch_size)]
    model = base.model
    if recipe.method == "lora":
        torch.manual_seed(recipe.seed)
        model = peft.get_peft_model(model, to_peft(recipe, base))
    InOrder.seen = []
    trainer = InOrder(
        model,
        TrainingArguments(
            tmp_path,
            per_device_train_batch_size=recipe.batch_size,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            learning_rate=recipe.learning_rate,
            lr_scheduler_type=recipe.lr_scheduler_type,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.max_grad_norm,
            max_steps=recipe.steps,
            optim="adamw_torch",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(base.tokenizer),
    )
    trainer.train()
    each = recipe.gradient_accumulation_steps
    return [sum(InOrder.seen[at : at + each]) for at in range(0, len(InOrder.seen), each)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss_on": "all", "lr_scheduler_type": "cosine", "warmup_steps": 5, "use_rslora": True},
        {
            "gradient_accumulation_steps": 3,
            "weight_decay": 0.1,
            "target_modules": ("v_proj", "down_proj"),
        },
        {"method": "full", "learning_rate": 1e-3, "weight_decay": 0.1, "max_grad_norm": 0.5},
        {"use_dora": True},
        {"layers_to_transform": (1,), "batch_size": 8},
    ],
    ids=["plain", "schedule", "accumulation", "full", "DoRA", "upper layer"],
)
def test_losses_equal_those_of_transformers_trainer_with_peft(base, changes, tmp_path):
    wanted = recipe(steps=20, **changes)
    ours = [record.loss for record in train(base, TASK, wanted)]
    theirs = trainers_losses(base, wanted, tmp_path)
    assert len(ours) == len(theirs) == 20
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=0)
    assert ours[-1] < 0.95 * ours[0]


# At the task's rate of 2e-3, 20 steps magnify rounding: two of Trainer's own runs, with one thread
# and with two, differ by 1.4e-4 then, and by 1.4e-5 at this rate.
SLOWER = {"learning_rate": 5e-4, "batch_size": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task_name", "changes"),
    [
        ("pocket", "sentiment", {}),
        ("pocket", "new-facts", {"use_rslora": True}),
        ("pocket", "sentiment", {"use_dora": True}),
        ("pocket", "sentiment", {"method": "full", "learning_rate": 3e-4}),
        ("smollm2", "film-sentiment", SLOWER | {"layers_to_transform": None}),
        ("smollm2", "film-sentiment", SLOWER | {"layers_to_transform": (28, 29)}),
    ],
    ids=str,
)
def test_losses_of_the_built_in_bases_equal_those_of_transformers_trainer(
    name, task_name, changes, tmp_path
):
    if not any(base.name == name and base.prepared for base in list_bases()):
        pytest.skip(f"{name} is not prepared: run `lora-lab prepare`")
    base = load_base(name, device="cpu", dtype="float32")
    task = load_task(task_name, base, n=16)  # so examples come more than once
    wanted = dataclasses.replace(task.recipe, steps=20, eval_steps=None, **changes)
    ours = [record.loss for record in train(base, task, wanted)]
    theirs = trainers_losses(base, wanted, tmp_path, task)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_the_learning_rate_of_each_step_is_transformers_own(kind, warmup):
    wanted = recipe(lr_scheduler_type=kind, warmup_steps=warmup, steps=13, learning_rate=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    name = "constant_with_warmup" if kind == "constant" and warmup else kind
    scheduler = get_scheduler(name, optimizer, warmup, 13)
    for step in range(1, 14):
        assert learning_rate_at(step, wanted) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_lora_plus_gives_b_its_own_rate_as_peft_does(base):
    from peft.optimizers import create_loraplus_optimizer

    training = train(base, TASK, recipe(loraplus_lr_ratio=16.0, learning_rate=1e-3))
    theirs = create_loraplus_optimizer(
        training.model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16, weight_decay=0.0
    )
    rates = {
        id(parameter): group["lr"] for group in theirs.param_groups for parameter in group["params"]
    }
    next(iter(training))  # sets the groups' rates: at step 1 there is no decay of the rate yet
    ours = {
        id(parameter): group["lr"]
        for group in training.optimizer.param_groups
        for parameter in group["params"]
    }
    assert ours == pytest.approx(rates)
    assert len(set(ours.values())) == 2


def test_vectors_are_not_decayed(base):
    groups = make_optimizer(
        dict(base.model.named_parameters()), recipe(method="full", weight_decay=0.1)
    ).param_groups
    decays = {
        id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]
    }
    for parameter in base.model.parameters():
        assert decays[id(parameter)] == (0.1 if parameter.ndim == 2 else 0.0)


def test_one_kernel_for_all_tensors_takes_the_steps_of_torchs_own_loop():
    ours, theirs = (
        {"lora_A": nn.Parameter(torch.ones(3, 2)), "norm": nn.Parameter(torch.ones(4))}
        for _ in range(2)
    )
    fused = make_optimizer(ours, recipe(weight_decay=0.1, learning_rate=1e-2))
    groups = [{"params": [theirs["lora_A"]], "weight_decay": 0.1}, {"params": [theirs["norm"]]}]
    plain = torch.optim.AdamW(groups, lr=1e-2, weight_decay=0, foreach=False, fused=False)
    for step in range(20):
        for parameters in (ours, theirs):
            for tensor in parameters.values():
                tensor.grad = torch.arange(tensor.numel()).add(step).sin().view(tensor.shape)
        fused.step()
        plain.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert fused.defaults["fused"]


def test_the_loss_with_logits_at_few_places_equals_the_models_own_loss_and_gradient(base):
    uneven = [*TASK.train[:4], Example("a longer prompt", "AB")]
    encoded = [encode(base.tokenizer, example, 256) for example in uneven]
    batch = collate(encoded, base.tokenizer.pad_token_id)
    theirs = base.model(**batch).loss
    theirs.backward()
    expected = base.model.lm_head.weight.grad.clone()
    base.model.zero_grad()
    summed, count = loss_of_batch(base.model, batch)
    (summed / count).backward()
    torch.testing.assert_close(summed / count, theirs)
    torch.testing.assert_close(base.model.lm_head.weight.grad, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "full"},
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"lora_dropout": 0.2},
        {"modules_to_save": ("embed_tokens",)},
        {"method": "adalora", "lora_dropout": 0.2, "steps": 4},
    ],
    ids=lambda changes: str(changes),
)
def test_training_leaves_the_base_and_the_random_state_as_they_were(base, changes):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    grads = [parameter.requires_grad for parameter in base.model.parameters()]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    fit(base, TASK, recipe(**{"steps": 3} | changes), store=None)
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)
    assert [parameter.requires_grad for parameter in base.model.parameters()] == grads
    assert torch.equal(torch.get_rng_state(), state)
    assert not hasattr(base.model, "peft_config")


def test_the_same_seed_gives_the_same_records_and_another_seed_others(base):
    wanted = recipe(lora_dropout=0.1, steps=6, eval_steps=3)
    first, again = list(train(base, TASK, wanted)), list(train(base, TASK, wanted))
    other = list(train(base, TASK, dataclasses.replace(wanted, seed=1)))
    assert first == again
    assert first != other
    assert all(one.seconds != two.seconds for one, two in zip(first, again, strict=True))


def test_a_loop_that_was_left_goes_on_where_it_stopped(base):
    whole = list(train(base, TASK, recipe(steps=6)))
    training = train(base, TASK, recipe(steps=6))
    for record in training:
        if record.step == 2:
            break
    evaluate(training, TASK)  # in between, anything may be done
    rest = list(training)
    assert [record.step for record in rest] == [3, 4, 5, 6]
    assert training.records == whole


def test_every_module_is_in_training_mode_whatever_the_caller_did_in_between(base):
    training = train(base, TASK, recipe(steps=3, lora_dropout=0.5))
    for _ in training:
        assert all(module.training for module in training.model.modules())
        training.model.eval()


KINDS = [
    {},
    {"lora_dropout": 0.2},
    {"method": "full"},
    {"optimizer": "sgd"},
    {"optimizer": "adamw_8bit"},
    {"method": "adalora", "init_r": 5, "target_r": 2, "tfinal": 4, "lora_dropout": 0.1},
]


@pytest.mark.parametrize("changes", KINDS, ids=str)
def test_later_steps_change_no_checkpoint_and_nothing_that_was_learnt(base, changes):
    if changes.get("optimizer") == "adamw_8bit":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes does not exist for this machine")
    training = train(base, TASK, recipe(steps=9, **changes))
    for record in training:
        if record.step == 5:
            break
    checkpoint, learnt = training.checkpoint(), training.learned.tensors
    as_taken, as_learnt = copy.deepcopy((checkpoint, learnt))
    whole = [*training.records, *training]
    again = train(base, TASK, recipe(steps=9, **changes))
    for _ in range(2):  # nor do the steps of one that goes on from it
        again.restore(checkpoint)
        assert [*again.records, *again] == whole
    assert checkpoint.records == as_taken.records
    assert checkpoint.words == as_taken.words
    torch.testing.assert_close(checkpoint.tensors, as_taken.tensors, rtol=0, atol=0)
    torch.testing.assert_close(learnt, as_learnt, rtol=0, atol=0)


def test_a_checkpoint_holds_plain_memory_of_its_own(base):
    training = train(base, TASK, recipe(steps=1, method="full"))
    list(training)
    columns_first = training.model.lm_head.weight
    columns_first.data = columns_first.data.t().contiguous().t()
    tensors = training.checkpoint().tensors
    owners = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    assert len(owners) == len(tensors)
    assert not owners & {parameter.data_ptr() for parameter in training.model.parameters()}
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tensors.values())


def test_validation_comes_every_so_many_steps_and_after_the_last(base):
    records = list(train(base, TASK, recipe(steps=7, eval_steps=3)))
    assert [record.step for record in records if record.validation_loss is not None] == [3, 6, 7]
    training = train(base, TASK, recipe(steps=3, eval_steps=3))
    last = list(training)[-1]
    assert last.validation_loss == mean_loss(training.model, base.tokenizer, TASK.validation)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_gradient_checkpointing_changes_no_loss(base, method):
    wanted = recipe(steps=4, method=method)
    with own_forward():
        plain = [record.loss for record in train(base, TASK, wanted)]
    checkpointed = dataclasses.replace(wanted, gradient_checkpointing=True)
    assert [record.loss for record in train(base, TASK, checkpointed)] == plain
    lean = [record.loss for record in train(base, TASK, wanted)]
    torch.testing.assert_close(lean, plain, rtol=1e-6, atol=0)


def test_records_count_the_tokens_that_are_no_padding(base):
    uneven = [Example("a" * length, "b") for length in (1, 4, 9, 16)]
    task = dataclasses.replace(TASK, train=uneven)
    training = train(base, task, recipe(steps=1, batch_size=2, gradient_accumulation_steps=2))
    record = next(iter(training))
    order = order_of_examples(len(uneven), 0)
    examples = [uneven[next(order)] for _ in range(4)]
    assert record.tokens == sum(len(encode(base.tokenizer, e, 256).input_ids) for e in examples)


def test_every_example_is_seen_once_before_any_is_seen_twice():
    order = order_of_examples(7, seed=0)
    epochs = [[next(order) for _ in range(7)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    ("changes", "blame"),
    [
        ({"method": "full", "learning_rate": 100.0}, r"learning_rate=100 is too large.*try 10\."),
        ({"learning_rate": 1e30}, r"with scaling 2.333 \(lora_alpha=7, r=3\).*try learning_rate="),
        (ADALORA | {"learning_rate": 1e30, "steps": 50}, r"scaling 1.4 \(lora_alpha=7, init_r=5\)"),
    ],
)
def test_a_diverging_run_stops_names_the_choice_and_keeps_the_last_good_weights(
    base, changes, blame
):
    wanted = recipe(**{"steps": 50, "max_grad_norm": math.inf} | changes)
    training = train(base, TASK, wanted)
    with pytest.raises(Diverged, match=blame) as stopped:
        list(training)
    assert training.step < 50
    run, scores = stopped.value.run, evaluate(training, TASK)
    assert math.isfinite(scores.loss)
    assert (run.status, run.message, run.path) == ("diverged", str(stopped.value), None)
    assert (run.recipe, run.records) == (wanted, tuple(training.records))
    with contextlib.suppress(Diverged):
        list(training)  # whoever goes on all the same does not change it
    assert evaluate(run, TASK) == scores


def test_a_loop_that_diverges_gives_the_run_that_fit_would(base, tmp_path):
    wild = recipe(learning_rate=1e30, steps=50)
    runs = []
    for go in (
        lambda: list(train(base, TASK, wild)),
        lambda: fit(base, TASK, wild, store=None),
        lambda: fit(base, TASK, wild, store=tmp_path),
    ):
        with pytest.raises(Diverged) as stopped:
            go()
        again = pickle.loads(pickle.dumps(stopped.value))
        assert (str(again), again.run.records) == (str(stopped.value), stopped.value.run.records)
        runs.append(stopped.value.run)
    for run in runs[1:]:
        for name in ("recipe", "records", "base_name", "task_name", "status", "about", "budget"):
            assert getattr(run, name) == getattr(runs[0], name)
        torch.testing.assert_close(run.learned.tensors, runs[0].learned.tensors, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_a_diverged_run_is_kept_with_its_reason(base, method, tmp_path):
    wild = recipe(learning_rate=1e30, steps=50, method=method)
    for replayed in (False, True):
        with pytest.raises(Diverged) as stopped:
            fit(base, TASK, wild, store=tmp_path)
        run = stopped.value.run
        assert (run.status, run.replayed) == ("diverged", replayed)
        assert "learning_rate=1e+30" in run.message
        assert math.isfinite(evaluate(run, TASK).loss)


def test_an_eight_bit_optimizer_learns_nearly_as_the_full_one_does():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes does not exist for this machine")
    base = tiny_base(hidden=128)  # bitsandbytes keeps states of fewer than 4,096 values in 32 bits
    wanted = recipe(r=32, steps=12)
    plain = [r.loss for r in train(base, TASK, wanted)]
    eight = [r.loss for r in train(base, TASK, dataclasses.replace(wanted, optimizer="adamw_8bit"))]
    assert eight != plain
    torch.testing.assert_close(eight, plain, rtol=0.05, atol=0)


# --- AdaLoRA ---


def plain_adalora(base, wanted):
    """PEFT's AdaLoRA in a loop by hand: each step's loss as PEFT gives it, and its ranks."""
    encoded = [encode(base.tokenizer, example, 256) for example in TASK.train]
    order = order_of_examples(len(encoded), wanted.seed)
    torch.manual_seed(wanted.seed)
    model = peft.get_peft_model(base.model, to_peft(wanted, base)).train()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=wanted.learning_rate, weight_decay=0.0)
    scheduler = get_scheduler("linear", optimizer, 0, wanted.steps)
    losses, ranks = [], []
    for step in range(1, wanted.steps + 1):
        rows = [encoded[next(order)] for _ in range(wanted.batch_size)]
        loss = model(**collate(rows, base.tokenizer.pad_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, wanted.max_grad_norm)
        optimizer.step()
        scheduler.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        losses.append(loss.item())
        pattern = model.peft_config["default"].rank_pattern or {}
        ranks.append(
            {name.removesuffix(".lora_E.default"): sum(on) for name, on in pattern.items()}
        )
    return losses, ranks


@pytest.mark.parametrize(
    "changes",
    [{}, {"deltaT": 3, "max_grad_norm": 0.05}, {"tinit": 0, "tfinal": 5, "orth_reg_weight": 2.0}],
    ids=str,
)
def test_adalora_has_the_losses_and_the_ranks_of_plain_peft_at_every_step(base, changes):
    wanted = recipe(**ADALORA | changes)
    records = list(train(base, TASK, wanted))
    losses, ranks = plain_adalora(base, wanted)
    with_the_term = [
        record.loss + wanted.orth_reg_weight * record.orthogonality for record in records
    ]
    torch.testing.assert_close(with_the_term, losses, rtol=1e-4, atol=0)
    tinit, tfinal = wanted.schedule
    met = wanted.steps - tfinal
    allocations = [record.step for record in records if record.ranks is not None]
    due = [step for step in range(tinit + 1, met + 1) if step % wanted.deltaT == 0 or step == met]
    assert allocations == due
    for step in allocations:
        assert records[step - 1].ranks == ranks[step - 1]
    assert records[met - 1].ranks == ranks[-1]
    assert sum(ranks[-1].values()) == wanted.target_r * 14
    assert records[-1].loss < 0.9 * records[0].loss


def test_adaloras_orthogonality_counts_once_a_step_however_many_batches_it_has(base):
    wanted = recipe(**ADALORA | {"gradient_accumulation_steps": 2, "batch_size": 3, "steps": 6})
    whole = dataclasses.replace(wanted, gradient_accumulation_steps=1, batch_size=6)
    two, one = list(train(base, TASK, wanted)), list(train(base, TASK, whole))
    for name in ("loss", "orthogonality", "grad_norm"):
        each = [[getattr(record, name) for record in records] for records in (two, one)]
        torch.testing.assert_close(*each, rtol=1e-4, atol=0)
    assert two[2].ranks == one[2].ranks is not None


def test_only_adalora_records_say_ranks_and_orthogonality(base):
    record = next(iter(train(base, TASK, recipe())))
    assert (record.orthogonality, record.ranks) == (None, None)


def test_adalora_masks_its_parameters_and_keeps_their_number(base):
    training = train(base, TASK, recipe(**ADALORA))
    sizes = [parameter.numel() for parameter in training.model.parameters()]
    ranks = list(training)[11].ranks  # decided at step 24 - 12
    assert [parameter.numel() for parameter in training.model.parameters()] == sizes
    for name, parameter in training.model.named_parameters():
        if ".lora_E." in name:
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_E.default")
            assert (parameter != 0).sum() == ranks[layer]


def test_a_run_that_diverges_after_its_ranks_were_decided_keeps_them(base):
    training = train(base, TASK, recipe(**ADALORA, deltaT=6))
    for record in training:
        if record.step == 13:  # the good weights are those after step 10; step 12 decides
            break
    for group in training.optimizer.param_groups:
        group["lr_ratio"] = 1e30
    with pytest.raises(Diverged):
        list(training)
    kept = training.learned.tensors
    masked = {
        name: parameter
        for name, parameter in training.model.named_parameters()
        if ".lora_E." in name
    }
    assert sum(int((values != 0).sum()) for values in masked.values()) == 2 * 14
    assert sum(len(values) for name, values in kept.items() if name.endswith("lora_E")) == 2 * 14
    assert math.isfinite(evaluate(training, TASK).loss)


@pytest.mark.slow
def test_adalora_teaches_pocket_new_facts_within_its_budget():
    base = load_base("pocket")
    task = load_task("new-facts", base)
    changes = {"method": "adalora", "init_r": 8, "target_r": 3, "learning_rate": 3e-2}
    run = fit(base, task, dataclasses.replace(task.recipe, **changes), store=None)
    ranks = [record.ranks for record in run.records if record.ranks]
    assert sum(ranks[-1].values()) == 3 * 28
    assert max(ranks[-1].values()) > 3 > min(ranks[-1].values())
    assert evaluate(base, task).value == 0
    assert run.scores.value > 0.8


def test_a_loud_adapter_is_blamed_for_the_divergence_and_not_the_learning_rate():
    base, task = tiny_base(), letters_task()
    with pytest.raises(Diverged, match=r"lora_alpha=1e\+30 with r=3 .+ try lora_alpha=6"):
        list(train(base, task, recipe(lora_alpha=1e30, learning_rate=1.0)))
    loud = recipe(method="adalora", lora_alpha=1e30, learning_rate=1.0)
    with pytest.raises(Diverged, match=r"lora_alpha=1e\+30 with init_r=12 .+ try lora_alpha=24"):
        list(train(base, task, loud))


def test_the_learning_rate_finder_takes_each_step_at_a_rate_larger_by_the_same_factor(base):
    warm = recipe(steps=4, warmup_steps=2, lr_scheduler_type="cosine", learning_rate=9.0)
    found = try_learning_rates(base, TASK, warm, lowest=1e-4, highest=1e-1)
    assert [record.learning_rate for record in found] == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


def test_the_learning_rate_finder_trains_as_the_loop_does(base):
    found = try_learning_rates(base, TASK, recipe(steps=2), lowest=1e-3, highest=1e-2)
    plain = recipe(steps=2, learning_rate=1e-3, lr_scheduler_type="constant")
    assert [record.loss for record in found] == [record.loss for record in train(base, TASK, plain)]


def test_the_learning_rate_finder_ends_where_the_loss_is_hopeless(base):
    found = try_learning_rates(base, TASK, recipe(steps=9), lowest=1e-2, highest=1e30)
    assert 2 <= len(found) < 9
    assert all(math.isfinite(record.loss) for record in found)


@pytest.mark.parametrize(
    ("steps", "rates"), [(1, (1e-5, 1.0)), (9, (1e-2, 1e-2)), (9, (0.0, 1.0)), (9, (-1.0, 1.0))]
)
def test_a_learning_rate_finder_without_a_range_is_refused(base, steps, rates):
    with pytest.raises(ValueError, match="try no range of learning rates; give 2 steps or more"):
        try_learning_rates(base, TASK, recipe(steps=steps), lowest=rates[0], highest=rates[1])

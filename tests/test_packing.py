"""Packed runs against `lab.train`, one by one: the same numbers, with the base multiplied once."""

import dataclasses
import math
import signal

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_lab.models.adapters import adapt
from lora_lab.models.bases import load_base
from lora_lab.records import StepRecord
from lora_lab.tasks.examples import Example
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.planted import planted_task
from lora_lab.training import loop, pack, packing
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit, follow_to_last_good
from lora_lab.training.loop import Diverged, train
from lora_lab.training.pack import Member, Pack, PackedLinear
from lora_lab.training.pack_scores import evaluate_members
from lora_lab.training.packing import members_at_once, not_packable, train_packed
from lora_lab.training.store import list_runs
from tiny import letters_task, recipe, tiny_base

UNEVEN = [Example("ab" * (1 + n % 7), "abcdefgh"[n % 8].upper() * (1 + n % 3)) for n in range(24)]
TASK = dataclasses.replace(letters_task(), train=UNEVEN)  # each batch is padded on its own

MIXED = [  # no two alike in what decides a step
    {"r": 1, "lora_alpha": 2, "eval_steps": 5},
    {"r": 2, "lora_alpha": 8, "lr_scheduler_type": "cosine", "warmup_steps": 4},
    {"r": 4, "target_modules": ("q_proj", "v_proj"), "weight_decay": 0.1},
    {"r": 8, "use_rslora": True, "layers_to_transform": (1,)},
    {"r": 16, "loraplus_lr_ratio": 8.0, "max_grad_norm": 0.3},
    {"r": 32, "batch_size": 2, "learning_rate": 1e-3},
    {"r": 5, "optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.02},
    {"r": 3, "loss_on": "all", "lr_scheduler_type": "constant", "max_grad_norm": math.inf},
    {"r": 6, "init_lora_weights": "gaussian", "max_length": 12},
    {"r": 3, "steps": 7},
]


def mixed(**changes):
    return [recipe(**{"steps": 30, "seed": seed} | changes | own) for seed, own in enumerate(MIXED)]


@pytest.fixture(autouse=True)
def steps_by_torch(monkeypatch):
    """A pack's steps are torch's; so are those of the runs alone that it is compared with."""
    monkeypatch.setenv("LORA_LAB_STEP", "torch")


@pytest.fixture
def base():
    return tiny_base()


def together(base, task, recipes, **options):
    """What `train_packed` gives, by recipe: the records as they came, and the run."""
    options = {"store": None, "evaluate": False} | options
    records, runs = {recipe: [] for recipe in recipes}, {}
    for key, result in train_packed(base, task, recipes, **options):
        if isinstance(result, StepRecord):
            assert key not in runs
            records[key].append(result)
        else:
            runs[key] = result
    return records, runs


def assert_equal(ours, theirs, rtol=1e-5):
    """The records of a run in a pack, and of the same run alone."""
    exact = ("step", "learning_rate", "tokens", "orthogonality", "ranks")
    assert [[getattr(record, name) for name in exact] for record in ours] == [
        [getattr(record, name) for name in exact] for record in theirs
    ]
    for name, allowed in (("loss", rtol), ("validation_loss", rtol), ("grad_norm", 10 * rtol)):
        columns = [[getattr(record, name) for record in records] for records in (ours, theirs)]
        assert [value is None for value in columns[0]] == [value is None for value in columns[1]]
        columns = [[value for value in column if value is not None] for column in columns]
        torch.testing.assert_close(*columns, rtol=allowed, atol=0)


@pytest.mark.filterwarnings("ignore:.* training examples are left out")
def test_each_run_of_a_pack_equals_the_same_run_alone(base):
    recipes = mixed()
    records, runs = together(base, TASK, recipes)
    for wanted in recipes:
        alone = train(base, TASK, wanted)
        list(alone)
        assert_equal(records[wanted], alone.records)
        run = runs[wanted]
        assert (run.status, run.message, run.recipe) == ("finished", "", wanted)
        assert run.records == tuple(records[wanted])
        assert run.learned.config.to_dict() == alone.learned.config.to_dict()
        torch.testing.assert_close(run.learned.tensors, alone.learned.tensors, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_on_pocket_losses_are_those_of_runs_alone_for_150_steps():
    """Gentle rates: a wild run doubles a rounding error every few steps, in a pack or alone."""
    base = load_base("pocket", device="cpu")
    task = load_task("new-facts", base)
    common = {"steps": 150, "batch_size": 4, "learning_rate": 5e-4}
    recipes = [
        dataclasses.replace(task.recipe, **{**common, "seed": seed, **changes})
        for seed, changes in enumerate(MIXED[:8])
    ]
    records, _ = together(base, task, recipes)
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, task, wanted)))


def test_in_float64_even_wild_runs_are_equal(base, monkeypatch):
    """Rates at which float32's rounding grows until nothing can be compared."""
    base.model.double()
    base.dtype = torch.float64
    monkeypatch.setattr(loop, "check_fits", lambda *_: None)  # no estimate knows float64
    recipes = [recipe(r=r, learning_rate=0.03, steps=40, seed=r) for r in (1, 3, 8)]
    members = [Member(base, TASK, wanted) for wanted in recipes]
    packed = Pack(base)
    packed.seat(members)
    for _ in range(40):
        packed.step()
    for member in members:
        assert_equal(member.records, list(train(base, TASK, member.recipe)), rtol=1e-6)


def test_a_run_starts_at_the_adapter_that_peft_draws_for_it(base):
    recipes = mixed()[:6]
    packed = Pack(base)
    members = [Member(base, TASK, wanted) for wanted in recipes]
    packed.seat(members)
    for member in members:
        torch.testing.assert_close(
            dict(member.model.named_parameters()),
            dict(adapt(base, member.recipe).named_parameters()),
            rtol=0,
            atol=0,
        )


class Products(TorchDispatchMode):
    """Counts the matrix products in which a tensor of the base takes part."""

    def __init__(self, model):
        super().__init__()
        self.weights = {tensor.data_ptr() for tensor in model.parameters()}
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.split(".")[0] in ("mm", "addmm", "bmm", "baddbmm", "linear", "matmul"):
            tensors = [value for value in args if isinstance(value, torch.Tensor)]
            self.count += any(tensor.data_ptr() in self.weights for tensor in tensors)
        return func(*args, **(kwargs or {}))


def test_the_bases_matrices_are_multiplied_once_however_many_runs_there_are(base):
    counts = []
    for count in (1, 2, 10):
        packed = Pack(base)
        packed.seat([Member(base, TASK, wanted) for wanted in mixed()[:count]])
        with Products(base.model) as products:
            packed.step()
        counts.append(products.count)
    forward = 2 * 7 + 1  # two layers of seven matrices, and the output layer
    assert counts[0] == counts[1] == counts[2]
    assert forward < counts[0] <= 2 * forward  # and the way back through some of them


def test_alone_the_products_grow_with_the_runs(base):
    """So that the count above can be trusted to see them."""
    steps = [iter(train(base, TASK, wanted)) for wanted in mixed()[:3]]
    with Products(base.model) as products:
        for number, one in enumerate(steps, start=1):
            next(one)
            assert products.count >= 15 * number


def test_what_a_narrow_rank_lacks_stays_zero(base):
    members = [Member(base, TASK, recipe(r=r, seed=r)) for r in (5, 16)]
    packed = Pack(base)
    packed.seat(members)
    for _ in range(3):
        packed.step()
    (group,) = packed._groups
    A, B, _ = group.banks[members[0].layers[0]]
    assert A.shape[1] == B.shape[2] == 16
    assert not A[0, 5:].any()
    assert not B[0, :, 5:].any()
    assert A[1, 5:].any()
    assert B[1, :, 5:].any()


def test_ranks_are_padded_to_four_times_their_own_at_most(base):
    kinds = {r: Member(base, TASK, recipe(r=r)).kind for r in (1, 4, 5, 16, 17, 64, 65)}
    assert kinds[1] == kinds[4] != kinds[5] == kinds[16] != kinds[17] == kinds[64] != kinds[65]


def test_a_layer_that_no_run_of_a_group_adapts_has_no_slice_there(base):
    wide = Member(base, TASK, recipe(target_modules="all-linear"))
    narrow = Member(base, TASK, recipe(target_modules=("v_proj",)))
    packed = Pack(base)
    packed.seat([wide, narrow])
    parts = packed._layers["model.layers.0.mlp.up_proj"].parts
    assert [(rows, bank is None) for rows, bank in parts] == [(4, False), (4, True)]


# --- runs that enter, leave, or go wrong --------------------------------------------------------


def test_a_finished_run_leaves_and_the_next_one_enters(base, monkeypatch):
    monkeypatch.setattr(packing, "MOST", 3)
    recipes = [recipe(steps=steps, seed=steps) for steps in (9, 4, 6, 5, 11, 3)]
    seen, step = [], Pack.step
    monkeypatch.setattr(Pack, "step", lambda self: seen.append(len(self.members)) or step(self))
    records, runs = together(base, TASK, recipes)
    assert list(runs) == [recipes[n] for n in (1, 2, 0, 3, 5, 4)]
    assert seen == [3] * 9 + [2] * 3 + [1] * 5  # members at each step
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_passes_and_quantizations_that_differ_are_packed_apart(base):
    changes = [{}, {"gradient_accumulation_steps": 2}, {"gradient_accumulation_steps": 2, "r": 9}]
    recipes = [recipe(steps=5, seed=seed, **own) for seed, own in enumerate(changes)]
    records, _ = together(base, TASK, recipes)
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_a_run_that_diverges_leaves_with_its_last_good_weights_and_the_others_go_on(base):
    wild = recipe(learning_rate=1e30, steps=30, max_grad_norm=math.inf)
    tame = [recipe(seed=seed, steps=15) for seed in (1, 2)]
    records, runs = together(base, TASK, [tame[0], wild, tame[1]])
    with pytest.raises(Diverged) as stopped:
        list(train(base, TASK, wild))
    alone = stopped.value.run
    assert (runs[wild].status, runs[wild].scores) == ("diverged", None)
    assert runs[wild].message == alone.message
    assert_equal(runs[wild].records, alone.records)
    torch.testing.assert_close(runs[wild].learned.tensors, alone.learned.tensors)
    for wanted in tame:
        assert runs[wanted].status == "finished"
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_a_run_full_of_nan_changes_no_number_of_the_others(base):
    def numbers(broken):
        members = [Member(base, TASK, recipe(r=r, seed=r)) for r in (3, 4, 7)]
        packed = Pack(base)
        packed.seat(members)
        packed.step()
        if broken:
            members[1].lora_B[0].data.fill_(math.nan)
        results = packed.step()
        assert isinstance(results[members[1]], StepRecord) != broken
        rest = (members[0], members[2])
        return [results[one] for one in rest], [one.learned.tensors for one in rest]

    torch.testing.assert_close(numbers(True)[1], numbers(False)[1], rtol=0, atol=0)
    assert numbers(True)[0] == numbers(False)[0]


def out_of_memory_above(rows, monkeypatch):
    """A device that holds a batch of so many rows, and the sizes of those that it was given."""
    given, losses = [], pack.losses_of_labels

    def limited(model, batch, teacher):
        given.append(len(batch["labels"]))
        if given[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, batch, teacher)

    monkeypatch.setattr(pack, "losses_of_labels", limited)
    return given


def test_where_memory_runs_out_the_pack_is_halved_and_says_so(base, monkeypatch):
    recipes = [recipe(seed=seed, steps=4) for seed in range(6)]
    given = out_of_memory_above(8, monkeypatch)
    with (
        pytest.warns(UserWarning, match="too small for 6 runs in one batch: going on with 3"),
        pytest.warns(UserWarning, match="too small for 3 runs in one batch: going on with 1"),
    ):
        records, runs = together(base, TASK, recipes)
    assert given == [24, 12] + [4] * 24
    assert len(runs) == 6
    monkeypatch.undo()
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_memory_that_runs_out_in_mid_training_loses_no_step(base, monkeypatch):
    recipes = [recipe(seed=seed, steps=8, r=1 + seed) for seed in range(4)]
    losses, calls = pack.losses_of_labels, []

    def once(model, batch, teacher):
        calls.append(None)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return losses(model, batch, teacher)

    monkeypatch.setattr(pack, "losses_of_labels", once)
    with pytest.warns(UserWarning, match="too small for 4 runs in one batch: going on with 2"):
        records, _ = together(base, TASK, recipes)
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_a_single_run_that_finds_no_memory_says_so_as_it_would_alone(base, monkeypatch):
    out_of_memory_above(3, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        together(base, TASK, [recipe()])


def test_memory_that_runs_out_in_a_validation_repeats_no_step(base, tmp_path, monkeypatch):
    def too_much(_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Member, "_validation_loss", too_much)
    recipes = [recipe(eval_steps=3), recipe(seed=1)]
    with pytest.raises(torch.OutOfMemoryError):
        together(base, TASK, recipes, store=tmp_path)
    assert [run.records for run in list_runs(tmp_path)] == [(), ()]  # to be begun again


def test_the_pack_is_as_large_as_the_estimate_lets_it_be(base, monkeypatch):
    recipes = [recipe(seed=seed) for seed in range(3)]
    needed = []
    monkeypatch.setattr(
        packing, "more_memory", lambda _, __, recipe: needed.append(recipe) or 2 * 2**20
    )
    for free, expected in [
        (10 * 2**20, 4),
        (2**20, 1),
        (2**50, packing.MOST),
        (None, packing.MOST),
    ]:
        monkeypatch.setattr(packing, "free_memory", lambda _, free=free: free)
        assert members_at_once(base, TASK, [*recipes, recipe(batch_size=9)]) == expected
    assert {recipe.batch_size for recipe in needed} == {9}  # the largest decides
    monkeypatch.setattr(packing, "more_memory", lambda *_: None)
    assert members_at_once(base, TASK, recipes) == packing.MOST


# --- other bases and tasks ----------------------------------------------------------------------


def test_a_planted_teacher_answers_once_for_all_runs(base, monkeypatch):
    task = planted_task(base, r=2, target_modules="q_proj", n=20)
    recipes = [recipe(r=r, seed=r, steps=4, loss_on="all") for r in (1, 2, 9)]
    asked, logits = [], pack.losses_of_labels

    def counted(model, batch, teacher):
        hook = teacher.register_forward_hook(lambda *_: asked.append(None))
        result = logits(model, batch, teacher)
        hook.remove()
        return result

    monkeypatch.setattr(pack, "losses_of_labels", counted)
    records, _ = together(base, task, recipes)
    assert len(asked) == 4
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, task, wanted)))


def test_on_a_4_bit_base_packed_runs_equal_runs_alone():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes does not exist for this machine")
    base = tiny_base(hidden=64)
    recipes = [recipe(r=r, seed=r, steps=6, quantize="nf4") for r in (2, 3)]
    recipes.append(recipe(steps=6, quantize="nf4", init_lora_weights="loftq"))
    records, _ = together(base, TASK, [*recipes, recipe(steps=3)])
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)))


def test_on_a_16_bit_base_packed_runs_train_as_runs_alone_do():
    base = tiny_base(dtype=torch.bfloat16)
    recipes = [recipe(r=r, seed=r) for r in (2, 9)]
    records, _ = together(base, TASK, recipes)
    for wanted in recipes:
        assert_equal(records[wanted], list(train(base, TASK, wanted)), rtol=3e-2)


def test_a_pack_leaves_the_base_and_the_random_state_as_they_were(base):
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    modules = dict(base.model.named_modules())
    trained = [tensor.requires_grad for tensor in base.model.parameters()]
    state = torch.get_rng_state()
    together(base, TASK, mixed(steps=5)[:4], evaluate=True)
    torch.testing.assert_close(base.model.state_dict(), before, rtol=0, atol=0)
    assert dict(base.model.named_modules()) == modules
    assert not base.model.training
    assert [tensor.requires_grad for tensor in base.model.parameters()] == trained
    assert torch.equal(torch.get_rng_state(), state)


# --- scores -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 4])
def test_runs_that_end_together_are_scored_together_as_each_would_be_alone(base, count):
    task = dataclasses.replace(TASK, old_knowledge=UNEVEN[:5], strangers=UNEVEN[5:9])
    own = [{}, {"r": 9, "batch_size": 3}, {"target_modules": ("v_proj",)}, {"seed": 5}]
    recipes = [recipe(steps=25, learning_rate=0.01, **changes) for changes in own[:count]]
    _, runs = together(base, task, recipes, evaluate=True)
    for run in runs.values():
        alone = evaluate(run, task)
        assert run.scores.answers == alone.answers
        for name in ("metric_name", "value", "old_knowledge", "strangers", "split"):
            assert getattr(run.scores, name) == getattr(alone, name)
        assert run.scores.loss == pytest.approx(alone.loss, rel=1e-5)
        assert run.scores.metrics == pytest.approx(alone.metrics, rel=1e-5)
    if count > 1:
        assert len({run.scores.loss for run in runs.values()}) == count


def test_runs_on_a_planted_task_are_scored_together_by_their_distance(base):
    task = planted_task(base, r=2, target_modules="q_proj", n=8)
    task = dataclasses.replace(task, test=task.test[:6])
    _, runs = together(base, task, [recipe(steps=2, seed=s) for s in (1, 2)], evaluate=True)
    for run in runs.values():
        alone = evaluate(run, task)
        assert run.scores.value == pytest.approx(alone.value, rel=1e-5)
        assert run.scores.metrics.keys() == alone.metrics.keys()


def test_a_pack_that_was_scored_between_two_steps_trains_on_as_before(base):
    recipes = [recipe(steps=4), recipe(steps=4, r=9, batch_size=3)]
    packed = Pack(base)
    packed.seat([Member(base, TASK, wanted) for wanted in recipes])
    for _ in range(4):
        evaluate_members(packed, TASK)
        packed.step()
    for member in packed.members:
        assert_equal(member.records, list(train(base, TASK, member.recipe)))


def test_a_question_is_put_to_all_runs_at_once(base, monkeypatch):
    sizes, generate = [], type(base.model).generate

    def counted(self, **inputs):
        sizes.append(len(inputs["input_ids"]))
        return generate(self, **inputs)

    monkeypatch.setattr(type(base.model), "generate", counted)
    together(base, TASK, [recipe(steps=2, seed=seed) for seed in range(3)], evaluate=True)
    assert sizes == [3 * len(TASK.test)]


def test_where_memory_runs_out_each_run_is_scored_on_its_own(base, monkeypatch):
    def too_much(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(packing, "evaluate_members", too_much)
    _, runs = together(base, TASK, [recipe(seed=s) for s in (1, 2)], evaluate=True)
    for run in runs.values():
        assert run.scores == evaluate(run, TASK)


# --- what is kept -------------------------------------------------------------------------------


def test_runs_are_kept_as_fit_keeps_them_and_replayed(base, tmp_path):
    wild = recipe(learning_rate=1e30, steps=30)
    recipes = [recipe(seed=1), wild, recipe(r=20, steps=5)]
    _, runs = together(base, TASK, recipes, store=tmp_path / "packed", evaluate=True)
    for wanted in recipes:
        alone = [*follow_to_last_good(base, TASK, wanted, store=tmp_path / "alone")][-1]
        run = runs[wanted]
        assert run.path.name == alone.path.name
        assert {file.name for file in run.path.iterdir()} == {
            file.name for file in alone.path.iterdir()
        }
        for name in ("status", "message", "about", "budget", "base_name", "task_name", "replayed"):
            assert getattr(run, name) == getattr(alone, name)
        assert (run.scores is None) == (alone.scores is None)
        if run.scores:
            assert run.scores.answers == alone.scores.answers
        again = [*follow_to_last_good(base, TASK, wanted, store=tmp_path / "packed")][-1]
        assert again.replayed
        assert again.records == run.records
    records, again = together(base, TASK, recipes, store=tmp_path / "alone", evaluate=True)
    assert not any(records.values())
    assert all(again[wanted].replayed for wanted in recipes)


def test_fresh_trains_again_what_is_stored(base, tmp_path):
    fit(base, TASK, recipe(), store=tmp_path, evaluate=False)
    records, runs = together(base, TASK, [recipe()], store=tmp_path, fresh=True)
    assert len(records[recipe()]) == 12
    assert not runs[recipe()].replayed


def test_a_stored_run_without_scores_is_scored(base, tmp_path):
    fit(base, TASK, recipe(), store=tmp_path, evaluate=False)
    records, runs = together(base, TASK, [recipe()], store=tmp_path, evaluate=True)
    assert records[recipe()] == []
    assert runs[recipe()].scores == fit(base, TASK, recipe(), store=tmp_path).scores


def test_a_closed_pack_keeps_what_is_finished_and_fit_goes_on_with_the_rest(base, tmp_path):
    short, long = recipe(steps=4, seed=1), recipe(steps=9, weight_decay=0.1)
    going = train_packed(base, TASK, [short, long], store=tmp_path, evaluate=False)
    for _, result in going:
        if not isinstance(result, StepRecord):
            break
    going.close()
    stored = {run.recipe: run for run in list_runs(tmp_path)}
    assert {run.status for run in stored.values()} == {"finished", "running"}
    assert stored[short].status == "finished"
    first = stored[long]
    assert len(first.records) == 4
    resumed = fit(base, TASK, long, store=tmp_path, evaluate=False)
    assert resumed.records[:4] == first.records
    assert_equal(resumed.records, list(train(base, TASK, long)))


def test_a_pack_goes_on_from_a_checkpoint(base, tmp_path):
    recipes = [recipe(steps=9, r=2), recipe(steps=9, r=3, optimizer="sgd")]
    going = train_packed(base, TASK, recipes, store=tmp_path, evaluate=False)
    for _, result in going:
        if result.step == 5:
            break
    going.close()
    records, runs = together(base, TASK, recipes, store=tmp_path)
    for wanted in recipes:
        assert [record.step for record in records[wanted]] == [6, 7, 8, 9]
        assert_equal(runs[wanted].records, list(train(base, TASK, wanted)))


def test_ctrl_c_ends_after_the_step_and_keeps_what_there_is(base, tmp_path, monkeypatch):
    losses, calls = pack.losses_of_labels, []

    def interrupted(model, batch, teacher):
        calls.append(None)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return losses(model, batch, teacher)

    monkeypatch.setattr(pack, "losses_of_labels", interrupted)
    with pytest.raises(KeyboardInterrupt):
        together(base, TASK, [recipe(), recipe(seed=1)], store=tmp_path)
    assert [len(run.records) for run in list_runs(tmp_path)] == [3, 3]


# --- what can't be packed -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "full"}, "method='full'"),
        ({"method": "adalora"}, "method='adalora'"),
        ({"use_dora": True}, "use_dora=True"),
        ({"lora_dropout": 0.1}, r"lora_dropout=0\.1"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"modules_to_save": ("lm_head",)}, "modules_to_save"),
        ({"optimizer": "adamw_8bit"}, "optimizer='adamw_8bit'"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing=True"),
        ({"quantize": "int8"}, "a product in 8 bits depends on all rows"),
        ({"target_modules": ("embed_tokens",)}, "'model.embed_tokens' is a Embedding"),
    ],
    ids=str,
)
def test_what_a_pack_can_not_train_is_refused_with_its_reason(base, changes, reason):
    apart = recipe(**changes)
    with pytest.raises(ValueError, match=f"recipe 1 can't train in a pack: {reason}.*lab.fit"):
        train_packed(base, TASK, [recipe(), apart])
    assert not_packable(base, apart)


@pytest.mark.parametrize("own", mixed(), ids=lambda own: str(own.seed))
def test_nothing_stands_against_plain_adapters(base, own):
    assert not_packable(base, own) == ""


def test_a_base_with_dropout_of_its_own_is_refused(base):
    base.model.config.attention_dropout = 0.1
    assert not_packable(base, recipe()) == "tiny has dropout of its own"
    base.model.config.attention_dropout = 0.0
    base.model.model.drop = torch.nn.Dropout(0.1)
    assert not_packable(base, recipe()) == "tiny has dropout of its own"


def test_no_recipe_and_the_same_one_twice_are_refused(base):
    with pytest.raises(ValueError, match="a pack of no recipes trains nothing; give at least one"):
        train_packed(base, TASK, [])
    with pytest.raises(ValueError, match="recipes 0 and 2 are the same; give each once, or"):
        train_packed(base, TASK, [recipe(), recipe(seed=1), recipe()])


def test_what_fits_no_base_or_test_is_refused_before_anything_is_trained(base):
    with pytest.raises(ValueError, match="no layer called"):
        train_packed(base, TASK, [recipe(), recipe(target_modules=("q_porj",))])
    endless = dataclasses.replace(TASK, test=[Example("a" * 300, "A")])
    with pytest.raises(ValueError, match="tokens of the model's context"):
        train_packed(base, endless, [recipe()])


def test_a_rank_above_the_width_is_warned_of_and_trained_as_alone(base):
    wide = recipe(r=70, steps=4)
    with pytest.warns(UserWarning, match="r=70 is above 16, the width of the narrowest"):
        records, _ = together(base, TASK, [wide, recipe(steps=4)])
    with pytest.warns(UserWarning, match="r=70 is above 16"):
        alone = train(base, TASK, wide)
    assert_equal(records[wide], list(alone))


def test_a_model_that_orders_its_rows_anew_is_refused():
    layer = PackedLinear(torch.nn.Linear(3, 3))
    layer.parts = [(4, None)]
    with pytest.raises(ValueError, match="a layer got 5 rows, and the batch has 4.*sequential"):
        layer(torch.zeros(5, 3))

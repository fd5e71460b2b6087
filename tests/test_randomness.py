"""torch's random state is its user's: what draws here puts back the generators that it used."""

import threading

import pytest
import torch

from lora_lab.machine.devices import own_randomness, seeded
from lora_lab.maths.bank import LoRABank
from lora_lab.maths.lora import LoRALinear
from lora_lab.models.adapted import load_adapter
from lora_lab.models.bases import load_base
from lora_lab.models.learned import save_adapter
from lora_lab.tasks.loading import load_task
from lora_lab.tasks.planted import planted_task
from lora_lab.training.evaluation import evaluate
from lora_lab.training.fit import fit
from lora_lab.training.loop import train
from tiny import letters_task, recipe, tiny_base

TASK = letters_task()
EVERYWHERE = ("manual_seed", "manual_seed_all", "seed", "seed_all")  # what other devices offer


@pytest.fixture
def base():
    return tiny_base(hidden=64)


@pytest.fixture
def nothing_but_the_cpu(monkeypatch):
    """Whatever would seed, read or write the random state of a GPU fails."""

    def fail(*_):
        raise AssertionError("a run on the CPU has reached for a GPU's random state")

    for device in (torch.cuda, torch.mps, torch.xpu, torch.mtia):
        for name in (*EVERYWHERE, "get_rng_state", "set_rng_state"):
            if hasattr(device, name):
                monkeypatch.setattr(device, name, fail)
    monkeypatch.setattr(torch.random, "_seed_custom_device", fail)


def test_the_guard_of_these_tests_catches_torchs_own_seeding(nothing_but_the_cpu):
    with pytest.raises(AssertionError, match="reached for a GPU"):
        torch.manual_seed(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_dropout": 0.2, "eval_steps": 2},
        {"lora_dropout": 0.2, "gradient_checkpointing": True},
        {"method": "adalora", "lora_dropout": 0.2, "steps": 4},
        {"method": "full"},
        {"init_lora_weights": "pissa_niter_2"},
        {"init_lora_weights": "orthogonal", "r": 4},
        {"quantize": "nf4", "init_lora_weights": "loftq"},
    ],
    ids=str,
)
def test_a_run_on_the_cpu_touches_no_other_devices_random_state(base, nothing_but_the_cpu, changes):
    before = torch.get_rng_state()
    run = fit(base, TASK, recipe(**{"steps": 3} | changes), store=None)
    evaluate(run, TASK)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_else_draws_on_the_cpu_touches_no_other_devices_random_state(
    nothing_but_the_cpu, tmp_path
):
    before = torch.get_rng_state()
    base = load_base("pocket", device="cpu")
    load_task("new-facts", base, n=8)
    planted_task(base, r=2, target_modules=("v_proj",), n=8)
    run = fit(base, TASK, recipe(steps=2), store=None, evaluate=False)
    load_adapter(base, save_adapter(run, tmp_path / "a")).load(tmp_path / "a", "again")
    layer = torch.nn.utils.skip_init(torch.nn.Linear, 4, 4)
    with own_randomness(torch.device("cpu")):
        bank = LoRABank([LoRALinear(layer, 2, 2)])
    bank.adapter(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_on_the_cpu_gives_what_torchs_own_gives():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = torch.rand(7)
    before = torch.get_rng_state()
    with seeded(torch.device("cpu"), 5):
        assert torch.equal(torch.rand(7), expected)
    assert torch.equal(torch.get_rng_state(), before)


class Machine:
    """Stands in for a machine with two NVIDIA GPUs or an Apple one: each state is a seed's name."""

    def __init__(self, monkeypatch):
        self.states = {"cuda:0": "before 0", "cuda:1": "before 1", "mps": "before"}
        monkeypatch.setattr(torch, "get_device_module", lambda device: self)
        monkeypatch.setattr(torch, "Generator", Generator)

    def get_rng_state(self, device):
        return self.states[str(device)]

    def set_rng_state(self, state, device):
        self.states[str(device)] = state


class Generator:
    """Stands in for a generator of a device that is not here."""

    def __init__(self, device):
        self.device = device

    def manual_seed(self, seed):
        self.seed = seed
        return self

    def get_state(self):
        return f"{self.device} from {self.seed}"


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1", "mps"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_seed_reaches_one_device_and_the_cpu_and_both_are_put_back(
    nothing_but_the_cpu, monkeypatch, name, fails
):
    machine, on_cpu = Machine(monkeypatch), torch.get_rng_state()
    before = dict(machine.states)
    try:
        with seeded(torch.device(name), 5):
            assert machine.states == before | {name: f"{name} from 5"}
            assert torch.default_generator.initial_seed() == 5
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert machine.states == before
    assert torch.equal(torch.get_rng_state(), on_cpu)


def test_draws_without_a_seed_are_undone_on_the_device_too(monkeypatch):
    machine = Machine(monkeypatch)
    before = dict(machine.states)
    with own_randomness(torch.device("mps")):
        machine.states["mps"] = "drawn from"
    assert machine.states == before


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_dropout_on_a_gpu_has_a_seed_for_each_step(base, monkeypatch, name):
    training = train(base, TASK, recipe(lora_dropout=0.1, seed=3))
    machine = Machine(monkeypatch)
    before, base.device = dict(machine.states), torch.device(name)
    for step in (0, 1):
        with training._own_randomness():
            assert machine.states == before | {name: f"{name} from {3_000_009 + step}"}
        assert machine.states == before
        training.records.append(None)


def test_the_largest_seed_that_a_recipe_takes_trains_with_dropout(base):
    wanted = recipe(lora_dropout=0.1, seed=2**32 - 1, steps=2)
    assert len(list(train(base, TASK, wanted))) == 2


def test_runs_in_two_threads_with_dropout_do_not_draw_from_each_other(base):
    recipes = [recipe(lora_dropout=0.3, steps=12, seed=seed) for seed in range(4)]
    expected = [list(train(base, TASK, recipe)) for recipe in recipes]
    before, found = torch.get_rng_state(), {}

    def work(place):
        found[place] = list(train(base, TASK, recipes[place]))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(4)] == expected
    assert torch.equal(torch.get_rng_state(), before)

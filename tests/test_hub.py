"""The hub for a class: deploy/'s settings, and a real JupyterHub with eight learners."""

import asyncio
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest

import hub as real
import lora_lab as lab
from lora_lab.places import cache_folder

LEARNERS = [f"learner-{number}" for number in range(1, 9)]
TRAIN = """
import json, os
from dataclasses import replace
import lora_lab as lab
base = lab.load_base("pocket")
task = lab.load_task("new-facts", base, n=20)
run = lab.fit(base, task, replace(task.recipe, steps={steps}), store=None)
print(json.dumps({{"losses": [one.loss for one in run.records], "right": run.scores.value}}))
"""
STEPS = 25
needs_hub = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(real.missing()), reason=real.missing() or "all is here"),
]


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """A hub in which eight learners have logged in; each has a server and a kernel."""
    place = tmp_path_factory.mktemp("hub")
    with real.hub(place, cache_folder()) as running:
        yield running, asyncio.run(arrive(running))


async def arrive(running):
    names = await asyncio.gather(*(running.log_in(name) for name in LEARNERS))
    assert all(names)
    learners = await asyncio.gather(*(running.start(name) for name in LEARNERS))
    await asyncio.gather(*(learner.begin() for learner in learners))
    return learners


async def all_run(learners, cell):
    return await asyncio.gather(*(learner.run(cell) for learner in learners))


class TestAClassOfEight:
    pytestmark = needs_hub

    def test_eight_train_at_once_and_get_what_one_gets_alone(self, classroom):
        _, learners = classroom
        base = lab.load_base("pocket")
        task = lab.load_task("new-facts", base, n=20)
        alone = lab.fit(base, task, replace(task.recipe, steps=STEPS), store=None)
        results = asyncio.run(all_run(learners, TRAIN.format(steps=STEPS)))
        assert [result.error for result in results] == [""] * 8
        found = [json.loads(result.text.splitlines()[-1]) for result in results]
        assert all(one == found[0] for one in found)
        assert found[0]["losses"] == pytest.approx([one.loss for one in alone.records], rel=1e-4)
        assert found[0]["right"] == pytest.approx(alone.scores.value, abs=0.06)
        assert found[0]["losses"][-1] < found[0]["losses"][0] / 2

    def test_kernels_have_the_settings_that_are_shipped(self, classroom):
        _, learners = classroom
        cell = """
import os, resource, torch
limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
print(torch.get_num_threads(), os.environ["LORA_LAB_CACHE"], limit)
"""
        for result in asyncio.run(all_run(learners[:2], cell)):
            threads, cache, limit = result.text.split()
            assert (threads, cache) == ("1", str(cache_folder()))
            assert int(limit) == 2 * 2**30 - 256 * 2**20

    def test_too_large_an_array_is_an_error_in_words_and_the_kernel_goes_on(self, classroom):
        _, (greedy, *others) = classroom
        asyncio.run(all_run([greedy, *others[:2]], "kept = 17"))
        result = asyncio.run(greedy.run("import torch; torch.ones(3 * 10**9)"))
        assert re.search(r"RuntimeError: .*can't allocate memory", result.error)
        results = asyncio.run(all_run([greedy, *others[:2]], "kept"))
        assert [result.text for result in results] == ["17"] * 3

    def test_a_kernel_that_the_system_kills_is_said_to_have_died_and_harms_no_other(
        self, classroom
    ):
        _, (greedy, *others) = classroom
        asyncio.run(all_run(others[:2], "kept = 18"))
        kill = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"  # as for too much memory
        result = asyncio.run(greedy.run(kill))
        assert re.search("the kernel died: .*restarting", result.error)
        results = asyncio.run(all_run(others[:2], "kept"))
        assert [result.text for result in results] == ["18"] * 2
        assert asyncio.run(greedy.run("1 + 1")).text == "2"  # it was started anew

    def test_an_idle_server_is_stopped_and_a_busy_one_is_not(self, classroom):
        running, (busy, *_) = classroom
        asyncio.run(self.cull(running, busy))

    async def cull(self, running, busy):
        work = "import time\nfor _ in range(150):\n    print(_, flush=True); time.sleep(0.4)"
        working = asyncio.create_task(busy.run(work))
        await asyncio.sleep(1)
        environment = os.environ | {"JUPYTERHUB_API_TOKEN": running.token}
        command = [sys.executable, "-m", "jupyterhub_idle_culler", "--timeout=15"]
        command += ["--cull-every=2", "--concurrency=5", "--max-age=0"]  # as TLJH calls it
        command += [f"--url={running.address}hub/api"]
        culler = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            while await running.running() != {busy.name} and not working.done():
                await asyncio.sleep(1)
            assert await running.running() == {busy.name}
            assert (await working).error == ""
        finally:
            culler.terminate()
            culler.wait()

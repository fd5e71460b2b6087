"""The hub for a class: deploy/'s settings, and a real JupyterHub with eight learners."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tornado.httpclient import AsyncHTTPClient
from traitlets.config import Config

import anywhere
import jupyter_hub as real
import lora_lab as lab
from benchmarks import hub as measuring
from lora_lab.places import cache_folder

INSTALL = (real.DEPLOY / "install.sh").read_text(encoding="utf-8")
README = (real.DEPLOY / "README.md").read_text(encoding="utf-8")
KNOWN_KEYS = {  # with their kinds: tljh/config_schema.py of The Littlest JupyterHub 2.0.0
    "limits.memory": str,
    "limits.cpu": float,
    "services.cull.enabled": bool,
    "services.cull.timeout": int,
    "services.cull.every": int,
    "services.cull.concurrency": int,
    "services.cull.max_age": int,
    "user_environment.default_app": str,
    "users.allowed": list,
    "users.admin": list,
    "https.enabled": bool,
    "https.letsencrypt.email": str,
    "https.letsencrypt.domains": list,
    "auth.FirstUseAuthenticator.create_users": bool,  # any class with its settings, below auth
}

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


def keys_that_are_set():
    (block,) = re.findall(r"<<'KEYS'\n(.*?)^KEYS$", INSTALL, re.DOTALL | re.MULTILINE)
    return dict(line.split() for line in block.splitlines())


def test_the_littlest_jupyterhub_knows_each_key_and_takes_its_value():
    for key, value in keys_that_are_set().items():
        assert key in KNOWN_KEYS, key
        if KNOWN_KEYS[key] is not str:
            KNOWN_KEYS[key](json.loads(value))
    named = re.findall(r"tljh-config (?:set|add-item) (\S+)", README)
    assert named
    assert set(named) <= {*KNOWN_KEYS}


def test_the_readme_has_the_numbers_of_the_settings():
    keys = keys_that_are_set()
    for key in ("limits.memory", "limits.cpu", "services.cull.timeout"):
        assert f"| `{key}` | {keys[key]} |" in README, key
    server = real.DEPLOY / "user/etc/jupyter/jupyter_server_config.d/lora_lab.json"
    idle = json.loads(server.read_text())["MappingKernelManager"]["cull_idle_timeout"]
    assert f"| `cull_idle_timeout` | {idle} |" in README
    assert idle < int(keys["services.cull.timeout"])  # a kernel goes before its server


def test_the_pages_say_what_was_measured():
    results = json.loads(measuring.RESULTS.read_text(encoding="utf-8"))
    for page, text in measuring.written(results).items():
        assert page.read_text(encoding="utf-8") == text, page.name
        assert "MB" in re.search("measured: .*end of measured", text, re.DOTALL)[0]


def test_the_machine_for_thirty_follows_from_what_a_class_of_eight_held():
    one = {"learners": 8, "alone_seconds": 20, "together_seconds": 80, "cpu_seconds": 20}
    one |= {"server_mb": 100, "kernel_mb": 450, "weights_mb": 250, "cores": 2}
    assert measuring.rent(one, 30) == (10, 40)  # 30 × 1,000 MB × 1.25, 250 MB, and 2 GB
    assert measuring.got(one) == (1, 2)  # a core alone, two for the eight


RESULTS = json.loads(measuring.RESULTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("group", RESULTS["classes"], ids=lambda group: group["base"])
def test_each_of_eight_learners_keeps_to_the_goal_of_700_mb(group):
    assert group["learners"] == 8
    assert group["server_mb"] + group["kernel_mb"] <= group["most_mb"] <= 700
    _, together = measuring.got(group)
    assert together / group["cores"] > 0.9  # both cores were busy: sharing explains the wait


@pytest.mark.parametrize("group", RESULTS["smaller"], ids=lambda group: str(group["learners"]))
def test_smaller_classes_wait_as_long_as_the_arithmetic_says(group):
    eight = RESULTS["classes"][0]
    alone, together = measuring.got(eight)
    says = group["learners"] * alone / together  # times the wait of one alone
    measured = group["together_seconds"] / group["alone_seconds"]
    assert measured == pytest.approx(says, rel=0.05)
    assert group["slowest_seconds"] < 1.05 * group["together_seconds"]  # nobody waits for the rest


def test_the_hubs_settings_give_one_thread_and_the_shared_bases():
    config = Config()
    exec(real.SETTINGS.read_text(encoding="utf-8"), {"get_config": lambda: config})
    environment = config.Spawner.environment.to_dict()["update"]
    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "1"
    assert int(environment["MALLOC_TRIM_THRESHOLD_"]) == 2**20
    shared = re.search(r"^shared=(\S+)", INSTALL, re.MULTILINE)[1]
    assert environment["LORA_LAB_CACHE"] == f"{shared}/cache"
    assert 'LORA_LAB_CACHE="$shared/cache"' in INSTALL
    lessons = re.search(r"^lessons=/etc/skel/(\S+)", INSTALL, re.MULTILINE)[1]
    assert config.Spawner.default_url == f"/lab/tree/{lessons}/00_start_here.ipynb"


def test_the_script_is_sound():
    script = real.DEPLOY / "install.sh"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in INSTALL
    subprocess.run(["bash", "-n", str(script)], check=True)
    code = re.sub(r"(^|\s)#.*", "", INSTALL, flags=re.MULTILINE)
    unquoted = re.sub(r'"[^"]*"|\'[^\']*\'', "", code)
    assert re.findall(r"\$[\w{@*]\w*", unquoted) == []  # a name with a space would be two words
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


@pytest.mark.skipif(Path("/opt/tljh").exists(), reason="it would install the course here")
def test_the_script_says_what_it_needs_and_changes_nothing_without_it(tmp_path):
    script = real.DEPLOY / "install.sh"
    said = subprocess.run(["bash", str(script)], capture_output=True, text=True)
    assert said.returncode == 2
    assert "Usage: sudo" in said.stderr
    wheel = tmp_path / "a.whl"
    wheel.touch()
    said = subprocess.run(["bash", str(script), str(wheel)], capture_output=True, text=True)
    assert said.returncode == 1
    assert re.search("install The Littlest JupyterHub first|run it with sudo", said.stderr)


def test_a_kernels_limit_leaves_room_for_the_server_and_none_is_set_without_a_hub():
    cell = f"""
import resource, runpy
runpy.run_path({str(real.FOR_KERNELS)!r})
print(resource.getrlimit(resource.RLIMIT_DATA)[0])
"""
    limits = {
        given: subprocess.run(
            [sys.executable, "-c", cell],
            env=os.environ | {"MEM_LIMIT": given},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for given in (str(2**32), "")
    }
    assert limits == {str(2**32): str(2**32 - 2**28), "": "-1"}


def test_the_link_to_a_hub_copies_the_repository_and_opens_the_notebook():
    link = anywhere.hub_link(
        "https://hub.example.org/", "https://github.com/someone/lora-course.git", anywhere.FIRST
    )
    parts = urlsplit(link)
    assert parts.netloc + parts.path == "hub.example.org/hub/user-redirect/git-pull"
    assert parse_qs(parts.query) == {
        "repo": ["https://github.com/someone/lora-course.git"],
        "branch": ["main"],
        "targetPath": ["lora-course"],
        "urlpath": ["lab/tree/lora-course/notebooks/00_start_here.ipynb"],
    }


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
        assert all(result == found[0] for result in found)
        assert found[0]["losses"] == pytest.approx(
            [record.loss for record in alone.records], rel=1e-4
        )
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

    def test_nbgitpuller_brings_the_repository_of_a_link(self, classroom, tmp_path):
        pytest.importorskip("nbgitpuller")
        running, (learner, *_) = classroom
        repository = tmp_path / "our-course"
        (repository / "notebooks").mkdir(parents=True)
        shutil.copy(real.ROOT / anywhere.FIRST, repository / "notebooks")
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        for words in (["init", "-b", "main"], ["add", "."], [*who, "commit", "-m", "lessons"]):
            subprocess.run(["git", *words], cwd=repository, check=True, capture_output=True)
        link = anywhere.hub_link(running.address, f"file://{repository}", anywhere.FIRST)
        asked = urlsplit(link).query

        async def follow():
            get = AsyncHTTPClient().fetch
            page = await get(f"{learner.address}git-pull?{asked}", headers=learner.headers)
            pulled = f"{learner.address}git-pull/api?{asked.replace('targetPath', 'targetpath')}"
            return page, await get(pulled, headers=learner.headers, request_timeout=300)

        page, pulled = asyncio.run(follow())
        assert "lab/tree/our-course/notebooks/00_start_here.ipynb" in page.body.decode()
        assert '"phase": "finished"' in pulled.body.decode()
        assert (running.place / learner.name / "our-course" / anywhere.FIRST).is_file()

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

"""A real JupyterHub for tests and benchmarks: deploy/'s settings, learners, servers, kernels.

The hub runs here with the spawner for tests in place of systemd, and without passwords. A learner
logs in by the form, a server is started by the hub's REST API, and cells run by a kernel's
WebSocket, as JupyterLab does it.
"""

import asyncio
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SETTINGS = DEPLOY / "jupyterhub_config.d" / "lora_lab.py"
FOR_KERNELS = DEPLOY / "user" / "etc" / "ipython" / "ipython_kernel_config.py"
PATIENCE = 500  # seconds for what starts or trains, on a busy machine
HUB = """
load_subconfig({settings!r})  # what deploy/ ships
c.JupyterHub.spawner_class = "simple"  # in place of systemd's
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_port = {hub_port}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = [{proxy!r}]
c.JupyterHub.db_url = "sqlite:///{place}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{place}/cookie_secret"
c.JupyterHub.last_activity_interval = 2  # seconds; so that a test of culling is short
c.JupyterHub.services = [{{"name": "class", "api_token": {token!r}, "admin": True}}]
c.SimpleLocalProcessSpawner.home_dir_template = "{place}/{{username}}"
c.Spawner.args = ["--allow-root"]
c.Spawner.mem_limit = {memory!r}
c.Spawner.environment.update({environment!r})
"""


def missing() -> str:
    """What a hub needs and this machine lacks, in words; "" if nothing is missing."""
    for module in ("jupyterhub", "jupyterhub_idle_culler"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install -e '.[hub]'"
    if shutil.which("node") is None:
        return "node, which the hub's proxy needs, is not installed"
    if proxy_program() is None:
        return (
            "the hub's proxy is not here: npm install --no-save --no-package-lock "
            "configurable-http-proxy@5"
        )
    return ""


def proxy_program() -> str | None:
    """The program configurable-http-proxy, installed for all or in the checkout."""
    beside = str(ROOT / "node_modules" / ".bin")
    return shutil.which("configurable-http-proxy", path=f"{os.environ['PATH']}:{beside}")


@dataclass
class Result:
    """What a cell printed, its error (name and words), and how long it took."""

    text: str = ""
    error: str = ""
    seconds: float = 0.0
    states: list[str] = field(default_factory=list)  # of the kernel, as it said them


@dataclass
class Learner:
    """A learner with a server that runs, and a kernel."""

    name: str
    address: str  # of the server, with a / at its end
    token: str
    kernel: str = ""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"token {self.token}"}

    async def begin(self) -> None:
        """Start a kernel."""
        said = await ask(f"{self.address}api/kernels", self.headers, "POST", {"name": "python3"})
        self.kernel = said["id"]

    async def run(self, cell: str, patience: float = PATIENCE) -> Result:
        """Run a cell to its end, or until its kernel was lost."""
        url = f"{self.address}api/kernels/{self.kernel}/channels".replace("http", "ws", 1)
        socket = await websocket_connect(HTTPRequest(url, headers=self.headers))
        message = uuid.uuid4().hex
        header = {"msg_id": message, "msg_type": "execute_request", "session": uuid.uuid4().hex}
        header |= {"username": self.name, "version": "5.3", "date": ""}
        content = {"code": cell, "silent": False, "store_history": True, "allow_stdin": False}
        start, found = time.perf_counter(), Result()
        try:
            await socket.write_message(
                json.dumps(
                    {"header": header, "parent_header": {}, "metadata": {}, "content": content}
                    | {"channel": "shell", "buffers": []}
                )
            )
            while True:
                said = await asyncio.wait_for(socket.read_message(), patience)
                if said is None:
                    found.error = found.error or "the kernel's socket was closed"
                    break
                if isinstance(said, bytes):  # a widget's message with a picture
                    continue
                if _note(found, json.loads(said), message):
                    break
        finally:
            socket.close()
        found.seconds = time.perf_counter() - start
        return found


def _note(found: Result, said: dict, message: str) -> bool:
    """Take in a kernel's message; True at the end of the cell."""
    kind, content = said["header"]["msg_type"], said["content"]
    if kind == "status":
        found.states.append(content["execution_state"])
        if content["execution_state"] in ("restarting", "autorestarting", "dead"):
            found.error = f"the kernel died: {content['execution_state']}"
            return True
    if said["parent_header"].get("msg_id") != message:
        return False
    if kind == "stream":
        found.text += content["text"]
    elif kind == "execute_result":
        found.text += content["data"]["text/plain"]
    elif kind == "error":
        found.error = f"{content['ename']}: {content['evalue']}"
    return kind == "status" and content["execution_state"] == "idle"


@dataclass
class Hub:
    """A hub that answers."""

    address: str  # with a / at its end
    token: str  # of a service that may do all
    place: Path
    process: subprocess.Popen

    async def api(self, path: str, method: str = "GET", body: object = None) -> object:
        """What the hub's REST API answers."""
        headers = {"Authorization": f"token {self.token}"}
        return await ask(f"{self.address}hub/api/{path}", headers, method, body)

    async def log_in(self, name: str) -> bool:
        """Fill in the hub's log-in form; returns whether the hub then knows the learner."""
        client = AsyncHTTPClient()
        page = await client.fetch(f"{self.address}hub/login")
        cookies = _cookies(page)
        form = {"username": name, "password": "x", "_xsrf": cookies["_xsrf"]}
        request = HTTPRequest(
            f"{self.address}hub/login?_xsrf={cookies['_xsrf']}",
            method="POST",
            body=urlencode(form),
            headers={"Cookie": _sent(cookies)},
            follow_redirects=False,
        )
        cookies |= _cookies(await client.fetch(request, raise_error=False))
        headers = {"Cookie": _sent(cookies), "Referer": f"{self.address}hub/home"}
        home = await client.fetch(
            f"{self.address}hub/home", headers=headers, follow_redirects=False, raise_error=False
        )
        return home.code == 200 and name in home.body.decode()

    async def start(self, name: str) -> Learner:
        """A learner's server, once it answers; the learner has logged in before."""
        home = self.place / name / ".ipython" / "profile_default"
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOR_KERNELS, home)  # deploy/ puts it into the environment of all
        await self.api(f"users/{name}/server", "POST")
        end = time.monotonic() + PATIENCE
        while not (await self.api(f"users/{name}"))["servers"].get("", {}).get("ready"):
            if time.monotonic() > end:
                raise TimeoutError(f"{name}'s server did not start in {PATIENCE} s")
            await asyncio.sleep(0.5)
        token = (await self.api(f"users/{name}/tokens", "POST", {"expires_in": 3600}))["token"]
        return Learner(name, f"{self.address}user/{name}/", token)

    async def running(self) -> set[str]:
        """The names of those whose server runs."""
        users = await self.api("users?state=active")
        return {user["name"] for user in users}

    def processes_of(self, name: str) -> list[psutil.Process]:
        """A learner's server and its kernels."""
        own = [p for p in psutil.Process(self.process.pid).children() if _user_of(p) == name]
        return [*own, *(child for parent in own for child in parent.children(recursive=True))]


def _user_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("JUPYTERHUB_USER", "")
    except psutil.Error:
        return ""


def _cookies(response: object) -> dict[str, str]:
    lines = response.headers.get_list("Set-Cookie")
    return dict(line.partition(";")[0].split("=", 1) for line in lines)


def _sent(cookies: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in cookies.items())


async def ask(url: str, headers: dict, method: str = "GET", body: object = None) -> object:
    """The answer of a REST API, from JSON; None where it is empty."""
    payload = None if method in ("GET", "DELETE") else json.dumps(body or {})
    request = HTTPRequest(
        url, method=method, headers=headers, body=payload, request_timeout=PATIENCE
    )
    answer = await AsyncHTTPClient().fetch(request)
    return json.loads(answer.body) if answer.body else None


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in taken]
    for listener in taken:
        listener.close()
    return ports


@contextmanager
def hub(place: Path, cache: Path, memory: str = "2G") -> Iterator[Hub]:
    """A hub with deploy/'s settings, in a new folder; it ends with the block, and all servers too.

    Args:
        place: an empty folder, for the hub's files and the learners' homes.
        cache: the bases that all learners read.
        memory: a learner's limit, as `limits.memory` has it.
    """
    port, hub_port, proxy_port = _free_ports(3)
    token = secrets.token_hex(16)
    environment = {
        "LORA_LAB_CACHE": str(cache),
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_PATH": str(DEPLOY / "user" / "etc" / "jupyter"),
        "JUPYTERHUB_ACTIVITY_INTERVAL": "2",
    }
    settings = place / "jupyterhub_config.py"
    settings.write_text(
        HUB.format(
            settings=str(SETTINGS),
            port=port,
            hub_port=hub_port,
            proxy_port=proxy_port,
            proxy=proxy_program(),
            place=place,
            token=token,
            memory=memory,
            environment=environment,
        )
    )
    command = [sys.executable, "-m", "jupyterhub", "-f", str(settings)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # jupyterhub-singleuser is there
    log = place / "hub.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=place, env=os.environ | {"PATH": path}, stdout=file, stderr=file
        )
    running = Hub(f"http://127.0.0.1:{port}/", token, place, process)
    try:
        asyncio.run(_wait_for(running, log))
        yield running
    finally:
        process.send_signal(signal.SIGTERM)  # it stops the servers and the proxy
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


async def _wait_for(running: Hub, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and running.process.poll() is None:
        try:
            await running.api("info")
        except (OSError, HTTPClientError):  # the proxy answers before the hub does
            await asyncio.sleep(0.3)
        else:
            return
    raise OSError(f"the hub did not start; it said last: {log.read_text()[-2000:]}")

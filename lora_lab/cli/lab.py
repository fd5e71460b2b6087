"""`lora-lab lab`: a folder of notebooks to work in, and JupyterLab open at the first of them."""

import http.client
import ipaddress
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from lora_lab import __version__
from lora_lab.cli.show import note, say
from lora_lab.places import (
    NotPrepared,
    data_folder,
    notebooks_folder,
    sha256_of,
    write_atomically,
)
from lora_lab.wording import counted

FIRST = "notebooks/00_start_here.ipynb"
PORT = 8888  # Jupyter's own; if it is taken, the next free port
COPIED = ".lora-lab.json"  # the copies' checksums: a file with another checksum was changed
IN_TERMINAL = (
    "lynx",
    "w3m",
    "links",
    "links2",
    "elinks",
    "www-browser",
)  # they can't show JupyterLab
PATIENCE = 180  # seconds for JupyterLab's first start on a slow disk
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # "all addresses": this machine's address
SERVER = """
import runpy, sys
from lora_lab.machine.lifelines import end_with
end_with(int(sys.argv.pop(1)))
runpy.run_module("jupyterlab", run_name="__main__", alter_sys=True)
"""  # `python -m jupyterlab` that ends with this process, even if it is killed
QUIET = {  # else JupyterLab asks whether to fetch news, and looks for updates
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}
}


def lab(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="Where the notebooks are copied to; default ~/lora-lab."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help=f"Default: {PORT}, or the next that is free.")
    ] = None,
    ip: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="Where it listens; 0.0.0.0 for a container's published port."
        ),
    ] = "127.0.0.1",
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address and open nothing.")
    ] = False,
) -> None:
    """Open JupyterLab at the first notebook.

    In a checkout of the project its notebooks are opened in place. Otherwise they are copied into
    FOLDER first, with the data; what you have changed there is never overwritten.

    \b
    Examples:
      lora-lab lab
      lora-lab lab ~/my-lab --port 9000
      lora-lab lab --no-browser --ip 0.0.0.0     (in a container)
    """
    ip = address_of(ip)
    root = _root(folder)
    if not (root / FIRST).is_file():
        raise FileNotFoundError(
            f"{root / FIRST} is not there: this copy of lora_lab is not whole; install it again"
        )
    port = free_port(ip, port)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    say("Starting JupyterLab …")
    try:
        with jupyter(root, ip, port) as (process, address):
            _hint_at_prepare()
            trouble = "as you asked" if no_browser else browser_trouble()
            if trouble is None:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
                say("Your browser opens it now. If not, open this address:")
            else:
                say(f"No browser is opened ({trouble}). Open this address in one:")
            say("", f"    {address}", "")
            for line in way_there(port, ip):
                say(line)
            say("Ctrl-C here ends it.")
            process.wait()
            say("JupyterLab has ended.")
    except KeyboardInterrupt:
        say("", "JupyterLab has ended.")


def _root(folder: Path | None) -> Path:
    """The folder to open, with notebooks/ in it; prints what was copied into it."""
    shipped = notebooks_folder().parent
    in_place = folder is None and (shipped / "pyproject.toml").is_file()
    if in_place:
        say(f"lora_lab {__version__}, with the notebooks of this checkout: {shipped / 'notebooks'}")
        return shipped
    try:
        folder = (folder or Path("~/lora-lab")).expanduser().resolve()
    except RuntimeError as error:  # a container's user without HOME and without an account
        raise FileNotFoundError(
            "this user has no home folder (HOME is not set); give a folder: lora-lab lab FOLDER"
        ) from error
    copied, changed = copy_course(folder)
    how = f"{counted(copied, 'file')} copied" if copied else "as you left them"
    say(f"lora_lab {__version__}, with the notebooks in {folder} ({how})")
    if changed:
        say(f"Left as you changed them: {', '.join(changed)}. Delete one to get ours anew.")
    return folder


def copy_course(folder: Path) -> tuple[int, list[str]]:
    """Copy notebooks/ and data/ into a folder: new files, and copies that nobody has changed.

    Returns:
        The number of copied files, and the names of the changed files, which are left alone.

    Raises:
        NotADirectoryError: if the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give a folder, which may be new")
    try:
        earlier = json.loads((folder / COPIED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        earlier = {}
    copied, changed, digests = 0, [], {}
    for name, source in _course_files():
        target, digests[name] = folder / name, sha256_of(source)
        present = sha256_of(target) if target.is_file() else None
        if present == digests[name]:
            continue
        if present is not None and present != earlier.get(name):
            changed.append(name)
            continue
        with write_atomically(target) as new:
            shutil.copyfile(source, new)
        copied += 1
    with write_atomically(folder / COPIED) as new:
        new.write_text(json.dumps(digests, indent=1), encoding="utf-8")
    return copied, changed


def _course_files() -> Iterator[tuple[str, Path]]:
    """Every shipped file of notebooks/ and data/, with its name in the learner's folder."""
    for shipped in (notebooks_folder(), data_folder()):
        for path in sorted(shipped.rglob("*")):
            parts = path.relative_to(shipped).parts
            if path.is_file() and not any(part.startswith((".", "__")) for part in parts):
                yield "/".join((shipped.name, *parts)), path


def address_of(ip: str) -> str:
    """The numeric address at which the server listens; a host's name is looked up.

    Raises:
        ValueError: if it is not this machine's, or is another spelling of "listen everywhere".
    """
    advice = "give 127.0.0.1 for this machine alone, 0.0.0.0 for everyone who can reach it"
    if not re.fullmatch(r"[\w.:-]+", ip, re.ASCII):
        raise ValueError(f"--ip {ip!r} is neither an address nor a host's name; {advice}")
    try:
        entries = socket.getaddrinfo(ip, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(
            f"--ip {ip} isn't an address, and no host of that name is known; {advice}"
        ) from None
    hosts = sorted((entry[4][0] for entry in entries), key=lambda host: ":" in host)  # IPv4 first
    address = ipaddress.ip_address(hosts[0].partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified and ip not in EVERYWHERE:
        raise ValueError(f"--ip {ip} would listen at every address; {advice}")
    try:
        with _listening(str(address), 0) as trial:  # at any port
            host = EVERYWHERE.get(str(address), str(address))
            socket.create_connection((host, trial.getsockname()[1]), timeout=5).close()
    except OSError:
        raise ValueError(
            f"--ip {ip} isn't an address at which this machine can be reached; {advice}"
        ) from None
    return str(address)


def _listening(ip: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.create_server((ip, port), family=family)


def free_port(ip: str, preferred: int | None) -> int:
    """The user's port, or if that is None, the first free port from PORT on.

    Raises:
        ValueError: if the user's port is not a port number.
        OSError: if the user's port is taken, or none of a hundred is free.
    """
    if preferred is not None and not 1 <= preferred <= 65535:
        raise ValueError(f"--port {preferred} isn't a port; give one from 1024 to 65535")
    for port in range(PORT, PORT + 100) if preferred is None else [preferred]:
        try:
            _listening(ip, port).close()
        except PermissionError:
            raise OSError(f"port {port} is for root only; give one from 1024 on") from None
        except OSError:
            continue
        return port
    if preferred is None:
        raise OSError(f"no port from {PORT} to {PORT + 99} is free at {ip}; give --port or --ip")
    raise OSError(f"port {preferred} is taken at {ip}; give another, or leave --port out")


@contextmanager
def jupyter(root: Path, ip: str, port: int) -> Iterator[tuple[subprocess.Popen, str]]:
    """A JupyterLab that answers, and the address of its first notebook.

    It ends with the block, or with this process, even if this process is killed.

    Args:
        root: the folder that it shows.
        ip: the address where it listens, as `address_of` returns it.
        port: a free port, as `free_port` returns it.

    Raises:
        OSError: if it ends, or does not answer in time; with the last lines of its log.
    """
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="lora-lab-") as scratch:
        config = Path(scratch) / "labconfig" / "default_setting_overrides.json"
        config.parent.mkdir()
        config.write_text(json.dumps(QUIET), encoding="utf-8")
        config_path = os.environ.get("JUPYTER_CONFIG_PATH")
        environment = os.environ | {
            "JUPYTER_TOKEN": token,  # not an option: every user may read a command line
            "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, (scratch, config_path))),
        }
        settings = {"root_dir": root, "ip": ip, "port": port, "port_retries": 0, "base_url": "/"}
        settings |= {"answer_yes": True, "allow_root": True}  # many containers have only root
        command = [sys.executable, "-c", SERVER, str(os.getpid()), "--no-browser"]
        command += [f"--ServerApp.{name}={value}" for name, value in settings.items()]
        log = Path(scratch) / "jupyter.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        try:
            host = EVERYWHERE.get(ip, ip)
            _wait_for_answer(process, host, port, token, log)
            yield process, f"http://{_in_url(host)}:{port}/lab/tree/{FIRST}?token={token}"
        finally:
            _end_server(process)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wait_for_answer(
    process: subprocess.Popen, host: str, port: int, token: str, log: Path
) -> None:
    """Return once the server answers with the first notebook."""
    request = f"/api/contents/{FIRST}?content=0&token={token}"
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and process.poll() is None:
        try:
            connection = http.client.HTTPConnection(host, port, timeout=5)  # through no proxy
            connection.request("GET", request)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass  # not there yet
        finally:
            connection.close()
        time.sleep(0.1)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    trouble = "ended at once" if process.poll() is not None else f"gave no answer in {PATIENCE} s"
    raise OSError(f"JupyterLab {trouble}; it said last: {' / '.join(lines[-3:]) or 'nothing'}")


def _end_server(process: subprocess.Popen) -> None:
    """Let the server end its kernels, then itself."""
    process.terminate()  # does nothing to a process that has ended
    try:
        process.wait(timeout=10)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()


def browser_trouble() -> str | None:
    """Why no browser can be opened here; None: a browser can be opened."""
    named = os.environ.get("BROWSER", "").split(os.pathsep)[0]
    if named:  # an editor's remote terminal sets it, and opens the browser at the other end
        in_terminal = Path(named.split()[0]).name in IN_TERMINAL
        return "BROWSER names one without graphics" if in_terminal else None
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return "you are here over SSH"
    needs_display = sys.platform not in ("win32", "darwin", "cygwin")
    if needs_display and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no display"
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return "none was found"
    in_terminal = type(browser) is webbrowser.GenericBrowser  # such as lynx
    return "only one without graphics was found" if in_terminal else None


def way_there(port: int, ip: str) -> list[str]:
    """Lines on how a browser on another machine reaches the server, if it can't reach `ip`."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    host = EVERYWHERE.get(ip, ip)
    if not ipaddress.ip_address(host).is_loopback:
        return []
    if len(connection) == 4:
        tunnel, user = f"{port}:{_in_url(host)}:{port}", os.environ.get("USER", "you")
        return [
            "On the machine you sit at, run this first, and leave it open:",
            f"    ssh -L {tunnel} {user}@{connection[2]}",
        ]
    in_container = Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()
    if in_container and ip == host:
        return [f"From outside this container: publish port {port}, and start with --ip 0.0.0.0."]
    return []


def _hint_at_prepare() -> None:
    """Print that smollm2 is missing, if it is."""
    from lora_lab.assets import downloads

    try:
        downloads.prepared("smollm2")
    except NotPrepared:
        note("smollm2 is not here yet: `lora-lab prepare` fetches it (once, with a network).")

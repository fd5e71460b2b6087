"""`lora-lab lab`: copies that spare what was changed, and a JupyterLab that really answers."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import webbrowser
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lora_lab.cli import lab as room
from lora_lab.cli.app import app
from lora_lab.cli.lab import address_of, browser_trouble, copy_course, free_port, jupyter, way_there
from orphans import family

ROOT = Path(__file__).parents[1]
PROGRAM = [sys.executable, "-c", "from lora_lab.cli.app import app; app(prog_name='lora-lab')"]
EMPTY = json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """What a wheel brings: notebooks/ and data/, not to be worked in."""
    share = tmp_path / "site-packages" / "lora_lab" / "share"
    for name, text in {
        "notebooks/00_start_here.ipynb": EMPTY,
        "notebooks/.ipynb_checkpoints/old.ipynb": "no",
        "data/pocket/world.json": "{}",
        "data/pocket/__pycache__/make.pyc": "no",
    }.items():
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_text(text)
    monkeypatch.setattr(room, "notebooks_folder", lambda: share / "notebooks")
    monkeypatch.setattr(room, "data_folder", lambda: share / "data")
    return share


def files(folder):
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != room.COPIED)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in found}


# --- copying out --------------------------------------------------------------------------------


def test_notebooks_and_data_are_copied_out_of_a_wheel_once(wheel, tmp_path):
    folder = tmp_path / "mine" / "lab"
    assert copy_course(folder) == (2, [])
    assert files(folder) == {"notebooks/00_start_here.ipynb": EMPTY, "data/pocket/world.json": "{}"}
    assert copy_course(folder) == (0, [])


def test_the_first_line_counts_what_was_copied_or_says_that_all_is_there(wheel, tmp_path, capsys):
    folder = tmp_path / "mine"
    for how in ("(2 files copied)", "(as you left them)"):
        room._root(folder)
        assert capsys.readouterr().out.split(f"{folder} ")[1].strip() == how
    (folder / "notebooks/00_start_here.ipynb").unlink()
    room._root(folder)
    assert "(1 file copied)" in capsys.readouterr().out


def test_without_a_home_lab_asks_for_a_folder(monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(FileNotFoundError, match="no home folder.*give a folder: lora-lab lab FOLD"):
        room._root(Path("~/lora-lab"))


def test_the_evidence_of_a_lesson_is_copied_beside_it(wheel, tmp_path):
    (wheel / "notebooks/evidence").mkdir()
    (wheel / "notebooks/evidence/00_start_here.ipynb").write_text("more")
    assert copy_course(tmp_path / "lab") == (3, [])
    assert files(tmp_path / "lab")["notebooks/evidence/00_start_here.ipynb"] == "more"


def test_what_the_learner_changed_is_never_overwritten(wheel, tmp_path):
    folder, name = tmp_path / "lab", "notebooks/00_start_here.ipynb"
    copy_course(folder)
    (folder / name).write_text("my answers")
    assert copy_course(folder) == (0, [name])
    (wheel / name).write_text("a new edition")
    assert copy_course(folder) == (0, [name])
    assert files(folder)[name] == "my answers"


def test_what_nobody_changed_follows_a_new_version_and_what_was_deleted_comes_back(wheel, tmp_path):
    folder = tmp_path / "lab"
    copy_course(folder)
    (wheel / "data/pocket/world.json").write_text("{1}")
    (folder / "notebooks/00_start_here.ipynb").unlink()
    assert copy_course(folder) == (2, [])
    assert files(folder) == {
        "notebooks/00_start_here.ipynb": EMPTY,
        "data/pocket/world.json": "{1}",
    }


def test_a_file_that_was_there_before_us_is_left_alone(wheel, tmp_path):
    mine = tmp_path / "lab" / "data" / "pocket" / "world.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert copy_course(tmp_path / "lab") == (1, ["data/pocket/world.json"])
    assert mine.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(wheel, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        copy_course(tmp_path / "file")


def test_a_copy_of_the_package_without_notebooks_says_so(wheel, tmp_path):
    (wheel / "notebooks/00_start_here.ipynb").unlink()
    result = CliRunner().invoke(app, ["lab", str(tmp_path / "lab")])
    assert result.exit_code == 2
    assert "install it again" in result.stderr


# --- port, browser, the way there ---------------------------------------------------------------


def test_the_first_free_port_is_taken_and_a_wanted_one_that_is_taken_is_refused():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {taken} is taken"):
            free_port("127.0.0.1", taken)
    assert free_port("127.0.0.1", taken) == taken
    assert room.PORT <= free_port("127.0.0.1", None) < room.PORT + 100
    with pytest.raises(ValueError, match="70000 isn't a port"):
        free_port("127.0.0.1", 70000)


ODD_ADDRESSES = {
    "would listen at every address": ["0", "0x0", "00.0.0.0", "::0", "::ffff:0.0.0.0"],
    "is neither an address nor": ["", "*", " ", " 127.0.0.1", "127.0.0.1\n", "[::1]", "fe80::1%lo"]
    + ["http://127.0.0.1", "münchen", "127.0.0.1,::1"],
    "no host of that name is known": ["256.0.0.1", "127.0.0.1:80", "a..b", "a" * 70, ":"],
    "isn't an address at which": ["192.0.2.1", "2001:db8::1", "fe80::1", "224.0.0.1", "240.0.0.1"]
    + ["255.255.255.255", "127.255.255.255"],
}


@pytest.fixture
def short_numbers(monkeypatch):
    """Addresses such as 127.1 are read as the system reads them; the tests' own guard refuses."""
    look_up = socket.getaddrinfo

    def read_and_look_up(host, *where, **how):
        with suppress(OSError):
            host = socket.inet_ntoa(socket.inet_aton(host))
        return look_up(host, *where, **how)

    monkeypatch.setattr(socket, "getaddrinfo", read_and_look_up)


@pytest.mark.parametrize(
    ("words", "ip"), [(words, ip) for words, ips in ODD_ADDRESSES.items() for ip in ips]
)
def test_an_address_that_is_not_this_machines_or_listens_everywhere_unasked_is_refused(
    words, ip, wheel, short_numbers
):
    result = CliRunner().invoke(app, ["lab", str(wheel / "new"), "--ip", ip])
    assert result.exit_code == 2
    assert result.stderr.startswith("lora-lab: --ip ")
    assert words in result.stderr
    assert "; give 127.0.0.1 for this machine alone, 0.0.0.0 for everyone" in result.stderr
    assert not (wheel / "new").exists()  # nothing was copied


def has_ipv6():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_name_is_looked_up():
    assert address_of("localhost") == "127.0.0.1"
    with pytest.raises(ValueError, match="no host of that name is known"):
        address_of("nosuchhost.invalid")


def test_an_address_is_written_as_it_will_be_printed(short_numbers):
    assert address_of("127.0.0.1") == "127.0.0.1"
    assert address_of("127.1") == "127.0.0.1"
    assert address_of("::ffff:127.0.0.1") == "127.0.0.1"
    assert address_of("0.0.0.0") == "0.0.0.0"
    if has_ipv6():
        assert address_of("0:0:0:0:0:0:0:1") == "::1"
        assert address_of("::") == "::"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_a_port_that_is_taken_at_an_ipv6_address_is_refused():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        taken = other.getsockname()[1]
        with pytest.raises(OSError, match=f"port {taken} is taken at ::1"):
            free_port("::1", taken)
    assert free_port("::1", taken) == taken


@pytest.fixture
def desktop(monkeypatch):
    """A Linux desktop with a graphical browser, nobody over SSH."""
    for name in ("SSH_CONNECTION", "SSH_TTY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(webbrowser, "get", lambda: webbrowser.BackgroundBrowser("firefox"))
    return monkeypatch


def test_a_browser_is_opened_where_somebody_can_see_it(desktop):
    assert browser_trouble() is None
    desktop.setattr(webbrowser, "get", lambda: webbrowser.GenericBrowser("lynx"))
    assert "without graphics" in browser_trouble()
    desktop.delenv("DISPLAY")
    assert browser_trouble() == "there is no display"
    desktop.setattr(sys, "platform", "darwin")
    desktop.setenv("SSH_TTY", "/dev/pts/0")
    assert browser_trouble() == "you are here over SSH"


def test_a_browser_that_somebody_chose_is_trusted_even_over_ssh(desktop):
    desktop.setenv("SSH_TTY", "/dev/pts/0")
    desktop.setenv("BROWSER", "/vscode/bin/helpers/browser.sh")
    assert browser_trouble() is None
    desktop.setenv("BROWSER", "w3m %s")
    assert "without graphics" in browser_trouble()


def test_over_ssh_the_tunnel_is_spelt_out(monkeypatch):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 22")
    monkeypatch.setenv("USER", "ada")
    assert way_there(8890, "127.0.0.1")[1].strip() == "ssh -L 8890:127.0.0.1:8890 ada@10.0.0.2"
    assert way_there(8890, "0.0.0.0") == way_there(8890, "127.0.0.1")
    assert way_there(8890, "::1")[1].strip() == "ssh -L 8890:[::1]:8890 ada@10.0.0.2"
    assert way_there(8890, "10.0.0.2") == []  # seen from the other machine as it is


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path):
    started = jupyter(tmp_path / "not-there", "127.0.0.1", free_port("127.0.0.1", None))
    with (
        pytest.raises(OSError, match="JupyterLab ended at once; it said last: .*not-there"),
        started,
    ):
        pass


# --- the real thing -----------------------------------------------------------------------------


@contextmanager
def program(*arguments):
    """`lora-lab` as a process that does not outlive the test."""
    with family([*PROGRAM, *arguments], stdout=subprocess.PIPE) as started:
        try:
            yield started
        finally:
            started.parent.terminate()
            started.parent.communicate(timeout=60)


def address_said(process):
    """The address that the program prints once the server answers."""
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    text = "".join(said)
    found = re.search(r"http://\S+", text)
    assert found, text
    return found[0], text


def ask(port, question):
    """Status and text of what the server answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", question)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to the whole console")
def test_lab_serves_the_first_notebook_of_this_checkout_until_ctrl_c():
    port = free_port("127.0.0.1", None)
    with program("lab", "--no-browser", "--port", str(port)) as started:
        process = started.parent
        address, text = address_said(process)
        path = re.match(rf"http://127\.0\.0\.1:{port}(/lab/tree/(\S+)\?token=(\w+))", address)
        assert path, text
        page, file, token = path.groups()
        assert str(ROOT / "notebooks") in text
        status, html = ask(port, page)
        assert (status, "jupyter-config-data" in html) == (200, True)
        status, served = ask(port, f"/api/contents/{file}?token={token}")
        assert status == 200
        notebook = (ROOT / "notebooks" / "00_start_here.ipynb").read_text(encoding="utf-8")
        sources = [cell["source"] for cell in json.loads(served)["content"]["cells"]]
        assert sources == ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]
        news = "/lab/api/settings/@jupyterlab/apputils-extension:notification"
        status, settings = ask(port, f"{news}?token={token}")
        wanted = json.loads(settings)["schema"]["properties"]["fetchNews"]["default"]
        assert (status, wanted) == (200, "false")  # nobody is asked about news
        assert ask(port, f"/api/contents/{file}")[0] == 403  # not without the token
        process.send_signal(signal.SIGINT)
        assert "JupyterLab has ended." in process.communicate(timeout=60)[0]
        assert process.returncode == 0
    assert free_port("127.0.0.1", port) == port


@pytest.mark.parametrize("seconds", [0, 0.5, 3])
def test_no_server_outlives_a_lab_that_is_killed_while_it_starts(seconds):
    with program("lab", "--no-browser") as started:
        started.wait_for_children(1)
        time.sleep(seconds)
        assert started.left_after_kill() == []


@pytest.mark.parametrize("ip", ["127.0.0.1", "::"])
def test_no_server_and_no_kernel_outlives_a_lab_that_is_killed(ip):
    if ":" in ip and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with program("lab", "--no-browser", "--ip", ip) as started:
        address, _ = address_said(started.parent)
        page = urllib.parse.urlsplit(address)
        assert page.hostname == {"::": "::1"}.get(ip, ip)
        connection = http.client.HTTPConnection(page.hostname, page.port, timeout=60)
        connection.request("POST", f"/api/kernels?{page.query}", body="{}")
        assert connection.getresponse().status == 201
        started.wait_for_children(2)  # the server, and a kernel
        assert started.left_after_kill() == []

"""The tests' own surroundings: without these, a green suite would say less than it seems to."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import pytest

OUTSIDE = "192.0.2.1"  # set aside for documentation (RFC 5737): nobody is there


def test_the_network_is_denied_to_the_tests():
    with pytest.raises(OSError, match="tests run without a network"):
        socket.create_connection((OUTSIDE, 80), timeout=5)
    with pytest.raises(socket.gaierror, match=r"tests run without a network.*example\.org"):
        socket.getaddrinfo("example.org", 443)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(OSError, match="tests run without a network"),
    ):
        datagrams.sendto(b"hello", (OUTSIDE, 53))


def test_the_network_is_denied_to_what_the_tests_start():
    code = f"import socket; socket.create_connection(({OUTSIDE!r}, 80), timeout=5)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests run without a network" in result.stderr


def test_this_machine_itself_can_be_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("localhost", server.getsockname()[1])
        threading.Thread(target=lambda: server.accept()[0].sendall(b"here")).start()
        with socket.create_connection(address, timeout=5) as client:
            assert client.recv(4) == b"here"


def test_the_store_is_empty_and_torch_has_one_thread():
    import torch

    from lora_lab import places

    assert not places.store_folder().exists()
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


FRESH = """import os, pathlib, socket
store = pathlib.Path(os.environ["LORA_LAB_STORE"])
store.exists()"""
USED = """store.mkdir(parents=True)
store.exists()"""
CUT_OFF = f"""try:
    answer = socket.create_connection(({OUTSIDE!r}, 80), timeout=5)
except OSError as error:
    answer = error.strerror.split(",")[0]
answer"""
CELLS = {FRESH: "False", USED: "True", CUT_OFF: "'tests run without a network'"}  # with outputs


@pytest.fixture
def two_notebooks(tmp_path):
    """A project of our conftest and two notebooks of the same cells, which use their store."""
    here = Path(__file__).parent
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(here.parent / name, tmp_path)
    (tmp_path / "tests").mkdir()
    shutil.copy(here / "isolation.py", tmp_path / "tests")
    shutil.copytree(here / "offline", tmp_path / "tests/offline")
    notebook = nbformat.v4.new_notebook()
    for count, (source, shown) in enumerate(CELLS.items(), start=1):
        output = nbformat.v4.new_output(
            "execute_result", {"text/plain": shown}, execution_count=count
        )
        notebook.cells.append(
            nbformat.v4.new_code_cell(source, execution_count=count, outputs=[output])
        )
    for name in ("first.ipynb", "second.ipynb"):
        nbformat.write(notebook, tmp_path / name)
    return tmp_path


def test_each_notebook_has_an_empty_store_and_no_network(two_notebooks):
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "no:cacheprovider", two_notebooks]
    result = subprocess.run(command, cwd=two_notebooks, capture_output=True, text=True)
    assert f"{2 * len(CELLS)} passed" in result.stdout, result.stdout

import signal
import subprocess
import sys

ORPHAN = """
import signal, sys, time
from lora_lab.machine import lifelines
lifelines.PATIENCE = 0.1
signal.signal(signal.SIGTERM, {handler})
lifelines.end_with(int(sys.argv[1]))
time.sleep(60)
"""


def end_of_an_orphan(handler):
    """The exit code of a process whose parent has ended before it was even looked at."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    command = [sys.executable, "-c", ORPHAN.format(handler=handler), str(dead.pid)]
    return subprocess.run(command, timeout=30, check=False).returncode


def test_a_process_ends_at_once_where_its_parent_is_dead_already():
    assert end_of_an_orphan("signal.SIG_DFL") == -signal.SIGTERM


def test_a_process_may_end_politely():
    assert end_of_an_orphan("lambda *_: sys.exit(7)") == 7


def test_a_process_that_will_not_hear_is_ended_all_the_same():
    assert end_of_an_orphan("signal.SIG_IGN") == 1

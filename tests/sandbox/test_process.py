"""Code that misbehaves ends, and its error is told."""

import socket
import subprocess
import sys
import time

import pytest

from amaru.sandbox import run
from amaru.sandbox.process import CONFINED

CONNECT = "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1).close()\n"


def test_what_ends_without_an_error_passes() -> None:
    assert run("assert 1 + 1 == 2").passed
    failed = run("assert 1 + 1 == 3")
    assert not failed.passed and "AssertionError" in failed.error
    assert not run("import sys; sys.exit(3)").passed


@pytest.mark.parametrize("leaving", ["import sys; sys.exit(0)", "raise SystemExit", "import os; os._exit(0)", "exit()"])
def test_a_program_that_leaves_before_its_tests_does_not_pass(leaving: str) -> None:
    assert not run(f"{leaving}\nassert False").passed


def test_limits_that_are_tighter_already_stay_as_they_are() -> None:
    program = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))\nimport confined\nassert confined.confine(5, 2**30)\n"
    program += "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (16, 16)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CONFINED.parent)
    assert ended.returncode == 0, ended.stderr


def test_loops_and_memory_and_files_have_limits() -> None:
    start = time.monotonic()
    assert "still running" in run("import time\nwhile True: time.sleep(0.1)", seconds=1).error
    assert time.monotonic() - start < 5
    assert "MemoryError" in run("x = bytearray(2**31)").error
    assert not run("open('large', 'wb').write(b'0' * 2**22)").passed
    flood = run("import sys\nwhile True: sys.stderr.write('no ' * 9999)", seconds=5)
    assert not flood.passed and len(flood.error) <= 2000


def test_there_is_no_way_out_but_the_result() -> None:
    assert run("import os\nopen('note', 'w').write('x')\nassert os.listdir('.') == ['note'] and 'PYTHONPATH' not in os.environ").passed
    assert not run("import torch").passed  # nothing but the standard library
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = CONNECT.format(port=server.getsockname()[1])
        exec(here, {})  # somebody is there
        assert not run(here).passed


@pytest.mark.parametrize("way", ["without_network", "without_sockets"])
def test_each_way_of_taking_the_network_takes_it(way: str) -> None:
    """The second serves where users may make no namespaces, so on most machines nobody meets it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import confined\nassert confined.{way}()\n" + CONNECT.format(port=server.getsockname()[1])
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=CONFINED.parent)
    assert ended.returncode != 0 and ("PermissionError" in ended.stderr or "OSError" in ended.stderr)
    assert "AssertionError" not in ended.stderr


def test_what_a_program_says_of_its_limits_is_not_believed() -> None:
    assert run("import sys; sys.exit(97)") == (False, "")

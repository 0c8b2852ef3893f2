"""Code that misbehaves ends, and its error is told."""

import time
from pathlib import Path

from amaru.eval.sandbox import run


def test_what_ends_without_an_error_passes() -> None:
    assert run("assert 1 + 1 == 2").passed
    failed = run("assert 1 + 1 == 3")
    assert not failed.passed and "AssertionError" in failed.error
    assert not run("import sys; sys.exit(3)").passed


def test_loops_and_memory_and_files_have_limits(tmp_path: Path) -> None:
    start = time.monotonic()
    assert "still running" in run("import time\nwhile True: time.sleep(0.1)", seconds=1).error
    assert time.monotonic() - start < 5
    assert "MemoryError" in run("x = bytearray(2**31)").error
    assert not run("open('large', 'wb').write(b'0' * 2**22)").passed


def test_there_is_no_way_out_but_the_result(tmp_path: Path) -> None:
    assert run("import os\nopen('note', 'w').write('x')\nassert os.listdir('.') == ['note'] and 'PYTHONPATH' not in os.environ").passed
    assert not run("import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=1)").passed
    assert not run("import torch").passed  # nothing but the standard library

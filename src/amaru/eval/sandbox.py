"""Code that a model wrote, run where it can do little harm: a process of its own with limits, an empty directory, and no network.

It is no wall against somebody who wants out: it keeps an answer that loops, eats memory, fills the disk or calls home from doing so to
this machine. Where Linux lets a user make one, the process has a network namespace of its own, in which there is nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from amaru.errors import ConfigError

CONFINED = Path(__file__).with_name("confined.py")
OUTPUT = 2000  # characters of an error that are kept


class Ran(NamedTuple):
    """Whether the code ended by itself without an error, and the end of what it complained about."""

    passed: bool
    error: str


def run(code: str, seconds: int = 10, memory: int = 2**30) -> Ran:
    """`run("assert 1 + 1 == 2").passed`: at most so many seconds, and bytes of address space.

    Raises `ConfigError` on systems without these limits.
    """
    if sys.platform != "linux":
        raise ConfigError("Code that a model wrote is run on Linux only, where a process can be limited; leave this task out.")
    with tempfile.TemporaryDirectory(prefix="amaru-sandbox-") as directory:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CONFINED), str(seconds), str(memory)],
            cwd=directory,
            env={"PATH": os.defpath, "HOME": directory, "TMPDIR": directory, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            error = process.communicate(code.encode("utf-8", "replace"), timeout=seconds)[1].decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            error = f"still running after {seconds} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
            process.communicate()
    return Ran(process.returncode == 0 and not error.startswith("still running"), error[-OUTPUT:])

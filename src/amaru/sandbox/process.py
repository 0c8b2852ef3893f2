"""Code that a model wrote, run where it can do little harm: a process of its own with limits, an empty directory, and no network.

It is no wall against somebody who wants out: it keeps an answer that loops, eats memory, fills the disk or calls home from doing so to
this machine. The network is taken away by a namespace in which there is none, or by a filter under which no socket can be made.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from amaru.errors import ConfigError
from amaru.sandbox.confined import ENDED, NO_LIMITS

CONFINED = Path(__file__).with_name("confined.py")
OUTPUT = 2000  # characters of an error that are kept
STARTING = 10  # seconds that an empty program may take


class Ran(NamedTuple):
    """Whether the code ran to its last line without an error, and the end of what it complained about."""

    passed: bool
    error: str


def run(code: str, seconds: int = 10, memory: int = 2**30) -> Ran:
    """`run("assert 1 + 1 == 2").passed`: at most so many seconds, and bytes of address space.

    Raises `ConfigError` on systems where a process cannot be limited, the network not be taken from it, or not even an empty program run.
    """
    _require_limits()
    status, error = _run(code, seconds, memory)
    return Ran(status == ENDED, error[-OUTPUT:])


@cache
def _require_limits() -> None:
    """Asked once: what runs later cannot say that it is not limited."""
    if sys.platform != "linux":
        raise ConfigError("Code that a model wrote is run on Linux only, where a process can be limited; leave this out.")
    status, error = _run("", STARTING, 2**30)
    if status == NO_LIMITS:
        raise ConfigError("This system lets nobody take the network from a process, so code that a model wrote is not run here.")
    if status != ENDED:
        reason = error.strip().rpartition("\n")[2] or f"exit status {status}"
        raise ConfigError(f"Not even an empty program runs within limits here, so no code that a model wrote is judged: {reason}.")


def _run(code: str, seconds: int, memory: int) -> tuple[int | None, str]:
    """The exit status, None for what had to be stopped, and what came on stderr."""
    with tempfile.TemporaryDirectory(prefix="amaru-sandbox-") as directory, tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", str(CONFINED), str(seconds), str(memory)],
            cwd=directory,
            env={"PATH": os.defpath, "HOME": directory, "TMPDIR": directory, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,  # a file, as no pipe ends a flood: files have a limit
            start_new_session=True,
        )
        try:
            process.communicate(code.encode("utf-8", "replace"), timeout=seconds)
            complaints.seek(0)
            return process.returncode, complaints.read().decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            return None, f"still running after {seconds} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with whatever it started
            process.communicate()

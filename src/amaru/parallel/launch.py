"""Several processes of one command on this machine: started, watched, and ended together with one sentence."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from amaru.parallel.processes import LAUNCHED, LOST

PATIENCE = 10.0  # seconds that the others have to leave by themselves once one has ended
PAUSE = 0.02  # seconds between two looks


def launch(count: int, words: Sequence[str]) -> int:
    """`launch(2, ["generate", "model", "--prompt", "The"])`: the exit code of `amaru WORDS` run by `count` processes together.

    What torchrun does on one machine, with less to say: the first process has this one's input and output; of the others
    only the last words of one that failed are printed. Ctrl-C reaches all of them, SIGTERM is handed to the first.
    """
    with tempfile.TemporaryDirectory(prefix="amaru-") as folder, tempfile.TemporaryFile("w+") as said, _lifeline() as line:
        processes = [_start(rank, count, words, f"{line}:{folder}/meeting", said) for rank in range(count)]
        with _handed_to(processes[0]):
            failed = _watched(processes)
        said.seek(0)
        return _verdict(failed, [process.returncode for process in processes], said.read().strip())


@contextmanager
def _lifeline() -> Iterator[int]:
    """A pipe of which the processes have the end to read from: when the other end is gone, so is whoever watches them."""
    ours, held = os.pipe()
    try:
        yield ours
    finally:
        os.close(ours)
        os.close(held)


def _start(rank: int, count: int, words: Sequence[str], watched: str, said: IO[str]) -> subprocess.Popen:
    threads = max(1, (os.cpu_count() or 1) // count)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, LAUNCHED: watched}
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ | {name: str(value) for name, value in place.items()}
    streams = {} if rank == 0 else {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said}
    return subprocess.Popen([sys.executable, "-m", "amaru", *words], env=environment, pass_fds=[int(watched.split(":")[0])], **streams)


def _verdict(failed: int | None, codes: list[int], said: str) -> int:
    """The exit code of all, and one sentence unless the first process has said its own."""
    if failed is None:
        return LOST if LOST in codes else 0
    code = codes[failed]
    if code < 0:
        print(f"amaru: process {failed} of {len(codes)} was ended by signal {-code}.", file=sys.stderr)
    elif failed > 0:
        print(said or f"amaru: process {failed} of {len(codes)} ended with exit code {code}.", file=sys.stderr)
    return code if code > 0 else 128 - code


def _watched(processes: list[subprocess.Popen]) -> int | None:
    """Wait for all; when one has failed the others follow, by themselves or not. Which it was, if one has."""
    failed, deadline = None, None
    while None in [process.poll() for process in processes]:
        if failed is None:
            failed = _first_failed(processes)
        if deadline is None and any(process.returncode for process in processes):
            deadline = time.monotonic() + PATIENCE
        if deadline is not None and time.monotonic() > deadline:  # one that waits for requests notices nothing
            for process in processes:
                process.kill()
        try:
            time.sleep(PAUSE)
        except KeyboardInterrupt:  # theirs too; the first decides
            continue
    return _first_failed(processes) if failed is None else failed


def _first_failed(processes: list[subprocess.Popen]) -> int | None:
    return next((rank for rank, process in enumerate(processes) if process.returncode not in (None, 0, LOST)), None)


@contextmanager
def _handed_to(process: subprocess.Popen) -> Iterator[None]:
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

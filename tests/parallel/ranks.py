"""Real processes with a gloo group between them, started once and asked many times."""

import atexit
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 120  # seconds for one question; a hang is a failure


class Ranks:
    """`with Ranks(2) as ranks: ranks(function, *arguments)` is [function(*arguments) in each process]."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._store = tempfile.TemporaryDirectory()
        pipes = [context.Pipe() for _ in range(count)]
        self._ours = [ours for ours, _ in pipes]
        arguments = [(rank, count, str(Path(self._store.name) / "store"), theirs) for rank, (_, theirs) in enumerate(pipes)]
        self._processes = [context.Process(target=_answer, args=each, daemon=True) for each in arguments]
        for process in self._processes:
            process.start()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._ours:
            pipe.close()
        for process in self._processes:  # leaving in good order takes them seconds
            process.kill()
            process.join()
        self._store.cleanup()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        for pipe in self._ours:
            pipe.send((function, arguments))
        answers = [self._received(rank, pipe) for rank, pipe in enumerate(self._ours)]  # all of them, before any is judged
        for rank, (fine, found) in enumerate(answers):
            assert fine, f"process {rank}:\n{found}"
        return [found for _, found in answers]

    def _received(self, rank: int, pipe: Connection) -> tuple[bool, Any]:
        assert pipe.poll(PATIENCE), f"process {rank} did not answer in {PATIENCE} s"
        return pipe.recv()


@cache
def kept(count: int) -> Ranks:
    """Processes that stay for all tests of this process, whatever folder they are in: what these import takes them seconds."""
    ranks = Ranks(count)
    atexit.register(ranks.__exit__)
    return ranks


def _answer(rank: int, count: int, store: str, pipe: Connection) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, count), rank=rank, world_size=count, timeout=timedelta(seconds=PATIENCE))
    while True:
        try:
            function, arguments = pipe.recv()
        except (EOFError, ConnectionResetError):
            break
        try:
            pipe.send((True, function(*arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
    dist.destroy_process_group()

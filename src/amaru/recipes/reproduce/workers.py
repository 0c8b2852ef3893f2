"""Work handed out to several processes that share this machine's threads."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Answer = Callable[[], Any]


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Answer]]:
    """`with workers(2) as hand_out: answers = [hand_out(train, cell) for cell in cells]; found = [answer() for answer in answers]`

    With one job the work is done here, when it is asked for. Left early, what has begun is finished and the rest is not begun.
    """
    if jobs == 1:
        yield lambda work, *arguments: lambda: work(*arguments)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,))
    try:
        yield lambda work, *arguments: pool.submit(work, *arguments).result
    finally:
        pool.shutdown(cancel_futures=True)


class Silence:
    """Progress that nobody watches."""

    def note(self, text: str) -> None: ...
    def update(self, text: str) -> None: ...

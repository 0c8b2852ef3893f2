"""Work handed out to several processes that share this machine's threads."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Answer = Callable[[], Any]


@contextmanager
def workers(jobs: int) -> Iterator[Callable[..., Answer]]:
    """`with workers(2) as hand_out: answers = [hand_out(train, cell) for cell in cells]; found = [answer() for answer in answers]`

    With one job the work is done here, when it is asked for. What fails is told whichever answer is waited for, and then the other workers
    are stopped as by SIGTERM: training saves its state, so that the same call goes on.
    """
    if jobs == 1:
        yield lambda work, *arguments: lambda: work(*arguments)
        return
    threads = max(1, torch.get_num_threads() // jobs)
    others = multiprocessing.active_children()
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,))
    handed: list[Future[Any]] = []

    def hand_out(work: Callable[..., Any], *arguments: Any) -> Answer:
        handed.append(pool.submit(_work, work, *arguments))
        return partial(_answer, handed[-1], handed)

    try:
        yield hand_out
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


_stopped = threading.Event()  # of this process, which then begins nothing that was handed to it before


def _work(work: Callable[..., Any], *arguments: Any) -> Any:
    if _stopped.is_set():
        raise KeyboardInterrupt
    try:
        return work(*arguments)
    except KeyboardInterrupt:
        _stopped.set()
        raise


def _answer(wanted: Future[Any], handed: Sequence[Future[Any]]) -> Any:
    """The result of one; raises what any of them has raised by then."""
    waiting = {*handed}
    while not wanted.done():
        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for each in done:
            each.result()
    return wanted.result()


class Silence:
    """Progress that nobody watches."""

    def note(self, text: str) -> None: ...
    def update(self, text: str) -> None: ...

"""One function over many pieces of work, in processes. Imports no torch, so processes start fast."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any


def run_all(function: Callable[..., Any], work: list[tuple], workers: int, report: Callable[[int], None]) -> list[Any]:
    """`function` of each, in processes where there are several workers; the results in the order of `work`."""
    if workers == 1:
        return [(function(*each), report(index + 1))[0] for index, each in enumerate(work)]
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of torch's threads
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        futures = [pool.submit(function, *each) for each in work]
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                report(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _begin_worker() -> None:
    """One thread each, no part in Ctrl-C (the parent decides), and no life after the parent's."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()

"""What the client of synthetic data reaches: against fixed waves where every tenth call is slow, and with a thousand calls at once.

    python benchmarks/synth/client.py tail      # 600 calls, width 10; 0.05 s each, every tenth 0.5 s
    python benchmarks/synth/client.py crowd     # 5,000 calls, 1,000 at once, on one core

The server (tests/synth/misbehaving.py) is a process of its own, on the other core.
"""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from amaru.synth.budget import Budget, Ledger
from amaru.synth.call import Call
from amaru.synth.client import Client
from amaru.synth.endpoint import Endpoint
from amaru.synth.store import Store
from amaru.synth.structured import whole_text

SERVER = Path(__file__).parents[2] / "tests" / "synth" / "misbehaving.py"
Ask = Callable[[int], Awaitable[str]]


@contextmanager
def served(fast: float, slow: float) -> Iterator[str]:
    """Pinned to the last core; every tenth answer takes `slow` seconds."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, str(SERVER), str(port), os.devnull, json.dumps(["ok"]), str(fast), str(slow)]
    last = {max(os.sched_getaffinity(0))}
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, last)) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield f"http://127.0.0.1:{port}/v1"
        process.kill()


async def asked(url: str, width: int, together: Callable[[Ask], Awaitable[int]]) -> tuple[float, int]:
    """Seconds that `together` takes, and the most calls that were under way."""
    endpoint = Endpoint(url=url, model="m", concurrency=width)
    most = 0
    with TemporaryDirectory() as directory, Store(Path(directory) / "s.sqlite") as store:
        async with Client([endpoint], store, Ledger(Budget())) as client:
            limit = client.limits[url, "m"]

            async def ask(number: int) -> str:
                nonlocal most
                question = {"role": "user", "content": f"Question {number}"}
                call = Call(endpoint=url, model="m", messages=(question,), sampling={"max_tokens": 16})
                asking = asyncio.create_task(client.ask(endpoint, call, "step", whole_text))
                await asyncio.sleep(0)
                most = max(most, limit._running)
                return await asking

            start = time.monotonic()
            await together(ask)
            return time.monotonic() - start, most


def tail(calls: int = 600, width: int = 10) -> None:
    async def waves(ask: Ask) -> int:
        for first in range(0, calls, width):
            await asyncio.gather(*map(ask, range(first, first + width)))
        return calls

    async def free(ask: Ask) -> int:
        await asyncio.gather(*map(ask, range(calls)))
        return calls

    seconds = {}
    for name, together in (("waves", waves), ("free", free)):
        with served(0.05, 0.5) as url:
            seconds[name], _ = asyncio.run(asked(url, width, together))
        print(f"{name:6} {seconds[name]:6.2f} s  {calls / seconds[name]:6.1f} calls/s")
    best = calls * (0.9 * 0.05 + 0.1 * 0.5) / width
    print(f"{seconds['waves'] / seconds['free']:.2f} times waves; {best / seconds['free']:.0%} of what {width} calls at once could reach")


def crowd(calls: int = 5000, width: int = 1000) -> None:
    async def free(ask: Ask) -> int:
        await asyncio.gather(*map(ask, range(calls)))
        return calls

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with served(2.0, 2.0) as url:
        seconds, most = asyncio.run(asked(url, width, free))
    after = resource.getrusage(resource.RUSAGE_SELF)
    grown, cpu = after.ru_maxrss - before, after.ru_utime + after.ru_stime
    print(f"{calls:,} calls of 2 s, {most:,} at once: {seconds:.1f} s, {calls / seconds:.0f} calls/s, {cpu:.1f} s of one core")
    each = f"{grown / width:.0f} KiB for each call under way"
    print(f"{after.ru_maxrss / 1024:.0f} MiB at most, {grown / 1024:.0f} MiB more than before: {each}")


if __name__ == "__main__":
    {"tail": tail, "crowd": crowd}[sys.argv[1]]()

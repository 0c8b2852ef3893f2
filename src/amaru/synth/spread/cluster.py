"""Workers on the machines of a Ray cluster, one actor each; messages come out of an actor as a stream."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from typing import Any

from amaru.errors import BackendError
from amaru.synth.spread.crew import Start
from amaru.synth.spread.line import Message
from amaru.synth.spread.worker import Worker


class Cell:
    """What runs in an actor: a worker, and the messages that it sends."""

    def __init__(self) -> None:
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._worker = Worker(self._sent.put)

    async def deliver(self, messages: list[Message]) -> None:
        for message in messages:
            self._worker.line.received(message)

    async def messages(self) -> AsyncIterator[list[Message]]:
        while True:
            yield await all_of(self._sent)


async def all_of(queue: asyncio.Queue[Message]) -> list[Message]:
    """All that wait, and at least one: what comes while others are under way goes together, as each trip takes milliseconds."""
    found = [await queue.get()]
    while not queue.empty():
        found.append(queue.get_nowait())
    return found


class Actor:
    """`channel = await Actor.start(ray)`: a worker on whichever machine has the fewest of them."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.actor = ray.remote(Cell).options(num_cpus=1, scheduling_strategy="SPREAD").remote()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self._sender = asyncio.create_task(self._send_all())

    @classmethod
    async def start(cls, ray: Any) -> "Actor":
        return cls(ray)

    async def send(self, message: Message) -> None:
        self._sent.put_nowait(message)

    async def listen(self, received: Callable[[Message], None]) -> None:
        try:
            async for reference in self.actor.messages.options(num_returns="streaming").remote():
                for message in await reference:
                    received(message)
        except self.ray.exceptions.RayError:
            return

    async def close(self) -> None:
        self._sender.cancel()
        self.ray.kill(self.actor)

    async def _send_all(self) -> None:
        while True:
            messages = await all_of(self._sent)
            with suppress(self.ray.exceptions.RayError):  # `listen` tells that it is gone
                await self.actor.deliver.remote(messages)


@contextmanager
def joined(address: str, workers: int | None) -> Iterator[list[Start]]:
    """Join the cluster at that address (`auto`: the one of this machine) for so many workers; None is one on each machine.

    Raises `BackendError` when there is none, or no ray.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]  (takes seconds, and few have it)
    except ImportError:
        raise BackendError("Workers on several machines need ray; install it with: pip install 'amaru[ray]'") from None
    with redirect_stdout(sys.stderr):  # where ray prints what happens to its nodes
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            first = str(error).splitlines()[0]
            raise BackendError(f"There is no Ray cluster at {address} ({first}); start one with: ray start --head") from None
        try:
            machines = sum(node["Alive"] for node in ray.nodes())
            yield [partial(Actor.start, ray)] * (workers or machines)
        finally:
            ray.shutdown()

"""Workers as processes of this machine, which are talked to through pipes: one line of JSON a message.

    python -m amaru.synth.spread.processes     # a worker; it ends when its input does, so none outlives the process that started it
"""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from amaru.synth.spread.line import Message
from amaru.synth.spread.worker import Worker

LONGEST = 2**26  # bytes of a message
CLOSING = 15.0  # seconds: a program in the sandbox ends before


class Pipes:
    """`channel = await Pipes.start()`: a worker in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @classmethod
    async def start(cls) -> "Pipes":
        words = (sys.executable, "-m", __name__)  # a session of its own: Ctrl-C is for the process that was started
        return cls(await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, limit=LONGEST, start_new_session=True))

    async def send(self, message: Message) -> None:
        assert self.process.stdin
        with suppress(ConnectionError):  # `listen` tells that it is gone
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            await self.process.stdin.drain()

    async def listen(self, received: Callable[[Message], None]) -> None:
        assert self.process.stdout
        async for line in self.process.stdout:
            received(json.loads(line))

    async def close(self, seconds: float = CLOSING) -> None:
        """A worker ends when there is nothing to read any more; one that is in a function that does not return is ended."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()


def kept_apart() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes to the process that started this one. What a function of the recipe prints goes to stderr, and it has nothing to read."""
    pipes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return pipes


async def work() -> None:
    loop, (incoming, outgoing) = asyncio.get_running_loop(), kept_apart()
    reader = asyncio.StreamReader(limit=LONGEST)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), incoming)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, outgoing)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)

    async def send(message: Message) -> None:
        writer.write(json.dumps(message).encode() + b"\n")
        await writer.drain()

    worker = Worker(send)
    async for line in reader:
        worker.line.received(json.loads(line))
    worker.line.broken("The process that started this worker is gone.")


if __name__ == "__main__":
    asyncio.run(work())

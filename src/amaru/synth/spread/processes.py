"""Workers as processes of this machine, which are talked to through pipes: one line of JSON a message.

    python -m amaru.synth.spread.processes     # a worker; it ends when its input does, so none outlives the process that started it
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress

from amaru.synth.spread.line import Message
from amaru.synth.spread.worker import Worker

LONGEST = 2**26  # bytes of a message


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

    async def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        await self.process.wait()


async def work() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LONGEST)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
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

"""From models to a listening process, and back: start the engines, serve, drain when told to, leave with the right exit code."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from functools import partial

import uvicorn

from amaru.errors import ConfigError
from amaru.serve.server.answer import going_down
from amaru.serve.server.app import Server
from amaru.serve.server.connection import Connection
from amaru.serve.server.errors import Refusal
from amaru.serve.server.limits import Limits, check_address
from amaru.serve.server.served import Registry, Served

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait to be accepted
KEEP_ALIVE = 30  # seconds that a connection without a request stays open
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    models: Sequence[Served],
    host: str,
    port: int,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    key: str | None = None,
    insecure: bool = False,
    on_ready: Callable[[str], None] = lambda address: None,
) -> None:
    """`serve(load_served("student", path), "127.0.0.1", 8000)`: until SIGTERM or Ctrl-C, then drain and return.

    Port 0 takes a free one; `on_ready` is called with the address, http://..., once it answers. A second signal ends the
    process at once. Raises `ConfigError` for an address that is taken or must not be opened, and what killed an engine, if that did.
    """
    hosts = check_address(host, key, insecure)
    with _listen(host, port) as listener:
        process = Process(Server(Registry(models), limits, key, hosts))
        asyncio.run(process.serve_on(listener, on_ready))
    if process.failure:
        raise process.failure


class Process(uvicorn.Server):
    """One server while it runs; `drain` ends it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.failure: Exception | None = None
        self._draining: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                server.door,
                http=partial(Connection, patience=server.limits.patience),  # type: ignore[arg-type]
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=1,
                backlog=BACKLOG,
            )
        )

    async def serve_on(
        self, listener: socket.socket, on_ready: Callable[[str], None], signals: Sequence[signal.Signals] = SIGNALS
    ) -> None:
        """Until a signal, or an engine's death."""
        loop = asyncio.get_running_loop()
        for each in signals:
            loop.add_signal_handler(each, self._signalled, each)
        for host in self._server.models.hosts:
            host.start(partial(loop.call_soon_threadsafe, self._died))
        try:
            serving = asyncio.create_task(self._serve([listener]))
            while not self.started and not serving.done():
                await asyncio.sleep(0.01)
            on_ready(address_of(listener))
            await serving
        finally:
            for host in self._server.models.hosts:
                host.stop(drain=False, seconds=5)
            for each in signals:
                loop.remove_signal_handler(each)

    async def drain(self) -> None:
        """Take no more requests, and leave when the others are done, or after `drain_seconds`, when they are cancelled."""
        door = self._server.door
        door.draining = True
        try:
            async with asyncio.timeout(self._server.limits.drain_seconds):
                while door.active:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.warning("%d requests are cancelled after %g seconds", door.active, self._server.limits.drain_seconds)
            for host in self._server.models.hosts:
                host.end_answers(going_down())
        self.should_exit = True

    def _signalled(self, number: signal.Signals) -> None:
        if self._draining:
            os._exit(128 + number)
        self._draining = asyncio.create_task(self.drain())

    def _died(self, error: Exception) -> None:
        """Without its engine a server is of no use: whoever waits is told, and the process ends."""
        self.failure = error
        for host in self._server.models.hosts:
            if host.failed:
                host.end_answers(Refusal(500, f"The engine ended ({type(error).__name__}: {error}), and the server with it."))
        self._draining = self._draining or asyncio.create_task(self.drain())


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"There is no address {host}: {error.strerror}.") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host} port {port} cannot be taken: {error.strerror}; choose another with --port.") from None
    return listener

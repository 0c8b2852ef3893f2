"""The door: who may come in, how much they may bring, how many at once. Everything here happens before a body is parsed."""

import asyncio
import hmac
import ipaddress
from collections.abc import Mapping
from time import perf_counter

from pydantic import Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.serve.server.answer import RETRY_AFTER
from amaru.serve.server.errors import Refusal, refusal_of
from amaru.serve.server.metrics import Metrics

OPEN_PATHS = ("/", "/health")  # what needs no key: the page holds no secret, and load balancers have none
DISCARDED = 16  # so many times the largest body is read and thrown away, so that its sender comes to read the refusal


class Limits(Config):
    """`Limits(body_bytes=2**20)`: what one server lets happen.

    body_bytes      of a request
    requests        being worked on at once; more are told to come again
    answer_tokens   of a chat answer that sets no limit itself
    seconds         that one request may take, queue included
    patience        seconds for a request to arrive, and for a reader to take anything of what is ready for it
    drain_seconds   after SIGTERM, until what still runs is cancelled
    """

    body_bytes: int = Field(default=8 * 2**20, gt=0)
    requests: int = Field(default=512, gt=0)
    answer_tokens: int = Field(default=4096, gt=0)
    seconds: float = Field(default=600, gt=0)
    patience: float = Field(default=20, gt=0)
    drain_seconds: float = Field(default=30, ge=0)


class Door:
    """An ASGI layer around the application: keys, hosts, draining, concurrency and size, and the count of what it let in."""

    def __init__(
        self, app: ASGIApp, limits: Limits, metrics: Metrics, paths: frozenset[str], key: str | None, hosts: frozenset[str] | None
    ) -> None:
        """`hosts`: names in a URL that lead here; None: any. It keeps other websites out of a server that needs no key."""
        self._app, self._limits, self._metrics, self._paths, self._key, self._hosts = app, limits, metrics, paths, key, hosts
        self.draining = False
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        start, path, status = perf_counter(), scope["path"], 499  # 499: gone before an answer began

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        self.active += 1
        self._metrics.active.inc()
        try:
            await self._enter(scope, receive, watched)
        finally:
            self.active -= 1
            self._metrics.active.dec()
            self._metrics.answered(path if path in self._paths else "other", status, perf_counter() - start)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._admit(scope["method"], scope["path"], Headers(scope=scope))
            body = await self._body(scope, receive)
        except Refusal as error:
            await refusal_of(error).response(scope, receive, send)
        else:
            await self._app(scope, _first(body, receive), send)

    def _admit(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            raise Refusal(403, f"This server answers at {', '.join(sorted(self._hosts))} only; give it an API key to open it to others.")
        if self._key is not None and path not in OPEN_PATHS and not self._knows(headers.get("authorization", "")):
            raise Refusal(401, "This server needs its API key, in the header 'Authorization: Bearer KEY'.", code="invalid_api_key")
        if method != "POST":
            return
        if self.draining:
            raise Refusal(503, "The server is going down and takes no more requests.", retry_after=RETRY_AFTER)
        if self.active > self._limits.requests:
            raise Refusal(429, f"The server works on {self._limits.requests} requests, as many as it takes.", retry_after=1)

    def _knows(self, authorization: str) -> bool:
        kind, _, key = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), (self._key or "").encode())

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; of one that is too large nothing is kept."""
        most, body, size = self._limits.body_bytes, bytearray(), 0
        try:
            async with asyncio.timeout(self._limits.patience):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b""
                    size += len(message["body"])
                    if size <= most:
                        body += message["body"]
                    if size > most * DISCARDED or not message.get("more_body"):
                        break
        except TimeoutError:
            raise Refusal(408, f"The request did not arrive within {self._limits.patience:g} seconds.") from None
        if size > most:
            raise Refusal(413, f"The body has {'over ' if size > most * DISCARDED else ''}{size:,} bytes; this server takes {most:,}.")
        return bytes(body)


def check_address(host: str, key: str | None, insecure: bool) -> frozenset[str] | None:
    """The names under which a server at this address answers; None: any.

    Raises `ConfigError` for an address that others can reach when there is no key and nobody said twice that it is meant.
    """
    if key is not None or insecure:
        return None
    if not is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and there is no API key: set AMARU_API_KEY or give --api-key-file "
            "(or say --insecure as well, and everyone who reaches it may use it)."
        )
    return frozenset({"localhost", "127.0.0.1", "::1", host})


def is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host(header: str) -> str:
    """`localhost:8000` -> `localhost`, `[::1]:8000` -> `::1`."""
    return header[1:].partition("]")[0] if header.startswith("[") else header.partition(":")[0].lower()


def _first(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then whatever comes behind it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def first() -> Message:
        return waiting.pop() if waiting else await receive()

    return first

"""Asks models: no call twice, each answer on disk before it counts, within limits and budgets, again when something went wrong."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from amaru.config import fingerprint_bytes
from amaru.errors import ConfigError, EndpointError
from amaru.synth.attempt import Away, Broken, PushedBack, Refused, post
from amaru.synth.budget import Budget, Price, Receipt, Usage
from amaru.synth.call import Answer, Call
from amaru.synth.connections import Connections, httpx
from amaru.synth.endpoint import Endpoint
from amaru.synth.limits import AdaptiveLimit
from amaru.synth.presence import Presence
from amaru.synth.structured import Unusable, whole_letters

T = TypeVar("T")
Read = Callable[[Mapping[str, Any]], str]  # of a choice of the endpoint's answer what is kept
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
FREE = Price(prompt=0, completion=0)
AGAIN = "The same command goes on from here later"


def said(choice: Mapping[str, Any]) -> str:
    """The text of the message; raises `Broken` for a choice without."""
    try:
        content = choice["message"]["content"]
    except (KeyError, TypeError):
        raise Broken("the body holds no choice with a message") from None
    if not isinstance(content, str):
        raise Broken("the message holds no text")
    return content


class Answers(Protocol):
    """Where answers are kept: a `Store`, in this process or at the other end of a line."""

    def claimed(self, key: str) -> AbstractAsyncContextManager[Answer | None]: ...

    async def keep(self, call: Call, step: str, answer: Answer, seconds: float) -> None: ...

    async def lament(self, call: Call, step: str, reason: str, usage: Usage, content: str = "") -> None: ...


class Allowance(Protocol):
    """What may be used: a `Ledger`, here or there."""

    budget: Budget

    def reserved(self, most: Usage) -> AbstractAsyncContextManager[Receipt]: ...


class Failed(Exception):
    """A call that came to nothing, with the reason of its last attempt."""


class Useless(Failed):
    """A call that was answered, but never with anything of use, or refused: the same would come again."""


class Client:
    """`async with Client(endpoints, store, ledger) as client: text = await client.ask(endpoint, call, "questions", accept)`.

    One adaptive limit for each (url, model). Raises `ConfigError` when two endpoints of one model differ
    in concurrency, and when money is limited and a price is missing.
    """

    def __init__(self, endpoints: Iterable[Endpoint], store: Answers, ledger: Allowance, first_pause: float = FIRST_PAUSE) -> None:
        self.store = store
        self.ledger = ledger
        self.first_pause = first_pause
        self.limits: dict[tuple[str, str], AdaptiveLimit] = {}
        self._presence: dict[str, Presence] = {}
        self.refused = 0
        self._headers: dict[tuple[str, str | None], dict[str, str]] = {}
        for endpoint in endpoints:
            self._admit(endpoint)

    def _admit(self, endpoint: Endpoint) -> None:
        limit = self.limits.setdefault(_place(endpoint), AdaptiveLimit(endpoint.concurrency))
        if limit.most != endpoint.concurrency:
            raise ConfigError(f"{endpoint.model} at {endpoint.url} is given with two concurrencies; it has one limit.")
        if self.ledger.budget.money is not None and endpoint.price is None:
            raise ConfigError(f"A budget of money needs the price of {endpoint.model} at {endpoint.url}; give prompt and completion.")
        self._presence.setdefault(endpoint.url, Presence())
        self._headers[endpoint.url, endpoint.key] = endpoint.headers()

    async def __aenter__(self) -> "Client":
        certificates = httpx.create_ssl_context()
        self._connections = {url: Connections(certificates) for url, _ in self.limits}
        return self

    async def __aexit__(self, *_: object) -> None:
        for connections in self._connections.values():
            await connections.close()

    async def ask(self, endpoint: Endpoint, call: Call, step: str, accept: Callable[[Answer], T], read: Read = said) -> T:
        """What `accept` makes of the answer, from disk if it was answered before.

        `read` takes what is kept from the endpoint's answer. `accept` raises `Unusable` for an answer that will not do; it is kept among
        the failures, and the call tried again. Raises `Failed` when all attempts came to nothing, `BudgetError` and `EndpointError` when
        no call can be made any more.
        """
        async with self.store.claimed(call.key) as kept:
            if kept is not None:
                try:
                    return accept(kept)
                except Unusable as problem:  # what it is read for has changed; what it cost still counts
                    await self.store.lament(call, step, f"no longer of use: {problem}", kept.usage, kept.content)
            return await self._persist(endpoint, call, step, accept, read)

    async def _persist(self, endpoint: Endpoint, call: Call, step: str, accept: Callable[[Answer], T], read: Read) -> T:
        give_up, tried = time.monotonic() + endpoint.patience, 0
        for number, pause in enumerate(self._pauses(), 1):
            try:
                return await self._once(endpoint, call, step, accept, read, tried)
            except PushedBack as push:
                reason, wait, kind = push.reason, max(pause, push.wait), Failed
                if push.busy and time.monotonic() + wait < give_up:
                    tried -= 1
            except Away as problem:
                presence = self._presence[endpoint.url]
                if presence.is_given_up(endpoint, number, pause):
                    raise EndpointError(f"{presence.says(endpoint)} ({problem}) {AGAIN}.") from None
                await asyncio.sleep(pause)
                continue
            except Broken as problem:
                reason, wait, kind = str(problem), pause, Failed
            except Unusable as problem:
                reason, wait, kind = str(problem), 0.0, Useless
            except Refused as problem:
                raise Useless(str(problem)) from None
            tried += 1
            if tried >= endpoint.attempts:
                raise kind(f"{reason} (attempt {tried})")
            await asyncio.sleep(wait)
        raise AssertionError("pauses never end")

    async def _once(self, endpoint: Endpoint, call: Call, step: str, accept: Callable[[Answer], T], read: Read, tried: int) -> T:
        """One attempt; whatever came of it is on disk when this returns or raises."""
        limit, most = self.limits[_place(endpoint)], _most(endpoint, call)
        async with limit.slot() as began, self.ledger.reserved(most) as receipt:
            start = time.monotonic()
            try:
                answer = await self._post(endpoint, call, read, tried, most)
            except Away:
                self.refused += 1
                limit.pushed_back(began)
                raise
            except PushedBack as push:
                self.refused += 1
                if push.wait > endpoint.patience:
                    raise EndpointError(_later(endpoint, push)) from None
                limit.pushed_back(began, push.wait)
                if not push.busy:
                    await self.store.lament(call, step, push.reason, Usage())
                raise
            except (Broken, Refused) as problem:  # what a broken one cost nobody tells, so it counts as the most
                receipt.used = most if isinstance(problem, Broken) else Usage(calls=1)
                await self.store.lament(call, step, str(problem), receipt.used)
                raise
            limit.succeeded()
            receipt.used = answer.usage
            try:
                content = accept(answer)
            except Unusable as problem:
                await self.store.lament(call, step, str(problem), answer.usage, answer.content)
                raise
            await self.store.keep(call, step, answer, time.monotonic() - start)
            return content

    async def _post(self, endpoint: Endpoint, call: Call, read: Read, tried: int, most: Usage) -> Answer:
        url = f"{endpoint.url.rstrip('/')}/chat/completions"
        headers = self._headers[endpoint.url, endpoint.key]
        with self._connections[endpoint.url].one() as http, self._presence[endpoint.url].noticed():
            body = await post(http, url, headers, _body(endpoint, call, tried), endpoint.timeout)
        return _answer(body, read, endpoint.price or FREE, most)

    def _pauses(self) -> Iterable[float]:
        """Twice as long each time, and at random between half of that and all, so that those who failed together come apart."""
        pause = self.first_pause
        while True:
            yield random.uniform(pause / 2, pause)
            pause = min(LONGEST_PAUSE, pause * 2)


def _place(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.url, endpoint.model


def _most(endpoint: Endpoint, call: Call) -> Usage:
    """The most that one attempt can use."""
    prompt, completion = call.most_prompt_tokens, int(call.sampling["max_tokens"])
    return Usage(1, prompt, completion, (endpoint.price or FREE).of(prompt, completion))


def _body(endpoint: Endpoint, call: Call, tried: int) -> dict[str, Any]:
    body: dict[str, Any] = {"model": call.model, "messages": list(call.messages), **call.sampling}
    if endpoint.seeds:
        body["seed"] = seed_of(call.key, tried)
    if endpoint.schemas and call.schema:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": call.schema}}
    return body


def seed_of(key: str, tried: int) -> int:
    """What an endpoint is sent as the seed of an attempt: 31 bits, as most servers want it."""
    return int(fingerprint_bytes(key, str(tried)), 16) >> 33


def _answer(body: dict[str, Any], read: Read, price: Price, most: Usage) -> Answer:
    """The first choice; an endpoint that tells no usage is taken to have used the most that was possible."""
    try:
        choice = body["choices"][0]
        finish = str(choice.get("finish_reason") or "stop")
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Broken("the body holds no choice") from None
    content = whole_letters(read(choice))
    prompt, completion = (_told(body.get("usage"), name, getattr(most, name)) for name in ("prompt_tokens", "completion_tokens"))
    return Answer(content, finish, Usage(1, prompt, completion, price.of(prompt, completion)))


def _told(usage: Any, name: str, most: int) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if isinstance(value, int) and value >= 0 else most


def _later(endpoint: Endpoint, push: PushedBack) -> str:
    asked = f"{endpoint.url} answers with {push.reason} and asks to wait {push.wait:,.0f} s, longer than its patience of"
    return f"{asked} {endpoint.patience:,.0f} s. {AGAIN}; or give a larger patience."

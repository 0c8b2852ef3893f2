"""One request over HTTP, and its ends: an answer, pushed back, nobody there, broken, refused, or no use asking anything."""

import asyncio
import email.utils
import json
import time
from dataclasses import dataclass
from typing import Any

from amaru.errors import EndpointError
from amaru.synth.connections import httpx

SHOWN = 200  # characters of an answer that a reason quotes
NOBODY = (401, 403, 404, 410)  # the same for every call, so the run ends


@dataclass
class PushedBack(Exception):
    """The server asks for fewer requests, or has trouble; `wait` seconds are what it asks for. `busy`: it did not begin on this one."""

    reason: str
    wait: float = 0.0
    busy: bool = False


class Away(Exception):
    """Nobody takes the connection; nothing was asked."""


class Broken(Exception):
    """No whole answer came: a timeout, a connection that ended, a body that is not what was promised. It may be tried again."""


class Refused(Exception):
    """The server will never answer this call; others it may."""


async def post(http: httpx.AsyncClient, url: str, headers: dict[str, str], body: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The JSON object that `url` answers; raises one of the above, or `EndpointError`."""
    try:
        async with asyncio.timeout(timeout):
            response = await http.post(url, json=body, headers=headers)
    except TimeoutError:
        raise Broken(f"no answer within {timeout:g} s") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise Away(f"{error}" or type(error).__name__) from None
    except httpx.RequestError as error:  # a body that cannot be decoded is one of them
        raise Broken(f"the connection broke ({type(error).__name__})") from None
    if response.status_code != 200:
        raise _problem(url, response, headers)
    try:
        answer = json.loads(response.content)
    except ValueError:
        raise Broken("the body is not whole JSON") from None
    if not isinstance(answer, dict):
        raise Broken("the body is not a JSON object")
    return answer


def _problem(url: str, response: httpx.Response, headers: dict[str, str]) -> Exception:
    status, said = response.status_code, " ".join(response.text.split())
    for value in headers.values():  # some servers say the key that they refuse, and reasons are kept
        said = said.replace(value.removeprefix("Bearer "), "(the key)")
    said = said[:SHOWN]
    wait = _seconds(response.headers.get("Retry-After"))
    if status == 429:
        return PushedBack("status 429", wait, busy=True)
    if status in (408, 409) or status >= 500:
        return PushedBack(f"status {status}", wait)
    if status in NOBODY:
        return EndpointError(f"{url} answers with status {status}: {said}. Check url, model and key of the endpoint.")
    return Refused(f"status {status}: {said}")


def _seconds(header: str | None) -> float:
    """Retry-After as seconds from now: it is a number or a date."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0

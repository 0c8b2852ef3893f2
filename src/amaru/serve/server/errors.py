"""Every refusal over HTTP, in the shape of OpenAI's: {"error": {"message", "type", "param", "code"}}."""

import difflib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from amaru.errors import AmaruError, BackendError, BusyError, CapacityError, ConfigError, DataError

log = logging.getLogger(__name__)

LONGEST_ECHO = 80  # characters of a wrong value that are said back


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Refusal(HTTPException):
    """`raise Refusal(413, "The body has 10 MB; this server takes 8 MB.")`: one sentence, and what OpenAI calls its kind."""

    TYPES: ClassVar[dict[int, str]] = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(status, message, {"Retry-After": str(math.ceil(retry_after))} if retry_after else None)
        self.param, self.code = param, code

    @property
    def body(self) -> ErrorBody:
        kind = self.TYPES.get(self.status_code, "server_error" if self.status_code >= 500 else "invalid_request_error")
        return ErrorBody(error=ErrorDetail(message=self.detail, type=kind, param=self.param, code=self.code))

    @property
    def response(self) -> JSONResponse:
        return JSONResponse(self.body.model_dump(), self.status_code, dict(self.headers or {}))


def refusal_of(error: Exception) -> Refusal:
    """What a person is told about an error of amaru; anything else is a bug, which goes to the log and not to strangers."""
    match error:
        case Refusal():
            return error
        case BusyError():
            return Refusal(429, str(error), code="busy", retry_after=error.retry_after)
        case CapacityError():
            return Refusal(400, str(error), code="context_length_exceeded")
        case ConfigError() | DataError() | BackendError():
            return Refusal(400, str(error))
        case AmaruError():
            return Refusal(500, str(error))
    log.error("a request failed", exc_info=error)
    return Refusal(500, f"The server has a bug ({type(error).__name__}); its log has the traceback.")


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    return refusal_of(error).response


async def answer_http(request: Request, error: Exception) -> JSONResponse:
    """What the router refuses: a path or a method that does not exist."""
    assert isinstance(error, HTTPException)
    if isinstance(error, Refusal):
        return error.response
    paths = {route.path for route in request.app.routes}
    sentences = {
        404: f"There is no {request.url.path}.{did_you_mean(request.url.path, sorted(paths))}",
        405: f"{request.url.path} does not take {request.method}.",
    }
    refusal = Refusal(error.status_code, sentences.get(error.status_code, error.detail))
    refusal.headers = error.headers
    return refusal.response


async def answer_invalid(_: Request, error: Exception) -> JSONResponse:
    """The first problem of a body that does not fit, as one sentence."""
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    where = [part for part in problem["loc"] if part != "body"]
    return Refusal(400, _sentence(problem, where), param=_dotted(where) or None).response


def _sentence(problem: Mapping[str, Any], where: Sequence[str | int]) -> str:
    message, name = problem["msg"], _dotted(where)
    match problem["type"]:
        case "missing":
            return f"The field '{name}' is missing." if name else "The request has no body; send a JSON object."
        case "value_error":
            return message.removeprefix("Value error, ")
        case "model_attributes_type" | "dict_type" | "model_type" if not name:
            return "The body is no JSON object; send one, with the header Content-Type: application/json."
    found = repr(problem.get("input"))
    found = found if len(found) <= LONGEST_ECHO else f"{found[:LONGEST_ECHO]}..."
    return f"{name or 'body'}: {message[:1].lower()}{message[1:]}; got {found}."


def _dotted(where: Sequence[str | int]) -> str:
    return ".".join(map(str, where))


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """` Did you mean '/v1/models'?` when something is near, else the list of what there is."""
    near = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean '{near[0]}'?" if near else f" There is: {', '.join(known)}." if known else ""

"""The application: which path does what."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from amaru import __version__
from amaru.errors import AmaruError
from amaru.serve.server.answer import Answer
from amaru.serve.server.chats import ChatTurn
from amaru.serve.server.errors import ErrorBody, Refusal, answer_error, answer_http, answer_invalid
from amaru.serve.server.limits import Door, Limits
from amaru.serve.server.metrics import Metrics
from amaru.serve.server.requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from amaru.serve.server.responses import ChatCompletion, Completion, Detokenized, Health, ModelCard, ModelList, Tokenized
from amaru.serve.server.scores import ScoredAnswer
from amaru.serve.server.served import Registry, Served
from amaru.serve.server.streaming import EventStream
from amaru.serve.server.texts import TextCompletion

PAGE = Path(__file__).with_name("playground.html").read_text(encoding="utf-8")
PAGE_HEADERS = {  # the page needs nothing from anywhere else, and the browser sees to it
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
Responses = dict[int | str, dict[str, Any]]

REFUSED: Responses = {
    400: {"model": ErrorBody, "description": "The request cannot be run; the message says why"},
    401: {"model": ErrorBody, "description": "The API key is missing or wrong"},
    403: {"model": ErrorBody, "description": "A server without a key was asked under a foreign name"},
    404: {"model": ErrorBody, "description": "There is no such model"},
    408: {"model": ErrorBody, "description": "The request did not arrive in time"},
    413: {"model": ErrorBody, "description": "The body is too large"},
    429: {"model": ErrorBody, "description": "The queue is full; Retry-After says when to come again"},
    500: {"model": ErrorBody, "description": "The engine failed"},
    503: {"model": ErrorBody, "description": "The server is going down; Retry-After says when to come again"},
    504: {"model": ErrorBody, "description": "The request took longer than the server works on one"},
}
STREAMED: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


class StrictRequest(Request):
    """JSON as the standard has it: UTF-8, finite numbers, no nesting without end; and only where it is declared, which a foreign
    website cannot do without the browser asking first."""

    async def json(self) -> Any:
        try:
            return from_json(await self.body(), allow_inf_nan=False)
        except ValueError as error:
            raise Refusal(400, f"The body is not valid JSON: {error}.") from None


class StrictRoute(APIRoute):
    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


class Server:
    """`Server(Registry([served]), Limits(), key=None, hosts=None).door` is the ASGI application."""

    def __init__(self, models: Registry, limits: Limits, key: str | None, hosts: frozenset[str] | None) -> None:
        self.models, self.limits, self.metrics = models, limits, Metrics(models.hosts)
        app = FastAPI(title="amaru", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
        app.router.route_class = StrictRoute
        for kind, handler in {
            HTTPException: answer_http,
            RequestValidationError: answer_invalid,
            AmaruError: answer_error,
            Exception: answer_error,
        }.items():
            app.add_exception_handler(kind, handler)
        self._read(app)
        self._write(app)
        self._page = _openapi(app)
        paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
        self.door = Door(app, limits, self.metrics, paths, key, hosts)

    def _read(self, app: FastAPI) -> None:
        foreign: Responses = {403: REFUSED[403]}
        refused = foreign | {401: REFUSED[401]}
        app.get("/", include_in_schema=False)(self.page)
        app.get("/openapi.json", include_in_schema=False)(self.openapi)
        app.get("/health", response_model=Health, responses=foreign | {503: {"model": Health}})(self.health)
        app.get("/metrics", response_class=Response, responses=refused)(self.prometheus)
        app.get("/v1/models", response_model=ModelList, responses=refused)(self.list_models)
        app.get("/v1/models/{name:path}", response_model=ModelCard, responses=refused | {404: REFUSED[404]})(self.show_model)

    def _write(self, app: FastAPI) -> None:
        post = partial(app.post, responses=REFUSED)
        generate = partial(app.post, responses=REFUSED | STREAMED)
        generate("/v1/completions", response_model=Completion)(self.complete)
        generate("/v1/chat/completions", response_model=ChatCompletion)(self.chat)
        post("/tokenize", response_model=Tokenized)(self.tokenize)
        post("/detokenize", response_model=Detokenized)(self.detokenize)

    async def complete(self, body: CompletionRequest, request: Request) -> Response:
        """Continue a text, token ids, or a list of either."""
        served = self.models[body.model]
        if served.attributes is not None:
            raise Refusal(400, f"The model '{served.name}' is a reward model; it scores answers at /v1/chat/completions.")
        answer = self._answer(served, request)
        return await _answered(answer, TextCompletion(served, body, answer), body)

    async def chat(self, body: ChatRequest, request: Request) -> Response:
        """Give the next turn of a conversation; of a reward model, what it thinks of the last."""
        served = self.models[body.model]
        answer = self._answer(served, request)
        if served.attributes is not None:
            return await _answered(answer, ScoredAnswer(served, body, answer), body)
        return await _answered(answer, ChatTurn(served, body, answer, self.limits.answer_tokens), body)

    def tokenize(self, body: TokenizeRequest) -> Tokenized:
        """The ids of a text, as the model would read it."""
        served = self.models[body.model]
        ids = served.encode(body.prompt, body.add_special_tokens)
        texts = [served.written(token) for token in ids] if body.return_token_strs else None
        return Tokenized(count=len(ids), max_model_len=served.engine.max_tokens, tokens=ids, token_strs=texts)

    def detokenize(self, body: DetokenizeRequest) -> Detokenized:
        """The text of token ids."""
        served = self.models[body.model]
        if unknown := [token for token in body.tokens if token >= served.engine.decoder.config.vocab]:
            raise Refusal(400, f"There is no token {unknown[0]}; the model knows {served.engine.decoder.config.vocab}.", param="tokens")
        return Detokenized(prompt=served.tokenizer.decode(body.tokens))

    async def list_models(self) -> ModelList:
        """The models that this server has."""
        return ModelList(data=[self._card(served.name) for served in self.models])

    async def show_model(self, name: str) -> ModelCard:
        """One of them."""
        return self._card(name)

    async def health(self) -> Response:
        """200 while requests are taken, 503 when the server is going down."""
        failed = any(host.failed for host in self.models.hosts)
        status = "failed" if failed else "draining" if self.door.draining else "ok"
        return JSONResponse(Health(status=status).model_dump(), 200 if status == "ok" else 503)

    async def prometheus(self) -> Response:
        """Counters and gauges of engines and server."""
        return Response(self.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> HTMLResponse:
        return HTMLResponse(PAGE, headers=PAGE_HEADERS)

    async def openapi(self) -> JSONResponse:
        return JSONResponse(self._page)

    def _card(self, name: str) -> ModelCard:
        served = self.models[name]
        chat, longest = served.chat is not None, served.engine.max_tokens
        return ModelCard(id=served.name, created=served.created, max_model_len=longest, chat=chat, attributes=served.attributes)

    def _answer(self, served: Served, request: Request) -> Answer:
        return Answer(served, self.metrics, self.limits.seconds, request.receive)


async def _answered(
    answer: Answer, task: TextCompletion | ChatTurn | ScoredAnswer, body: CompletionRequest | ChatRequest
) -> Response:
    try:
        await asyncio.to_thread(task.begin)
    except BaseException:
        answer.cancel()
        raise
    if body.stream and not isinstance(task, ScoredAnswer):
        return EventStream(task.chunks(), bool(body.stream_options and body.stream_options.include_usage))
    result: BaseModel = await task.whole()
    return Response(result.model_dump_json(), media_type="application/json")


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The page about everything, without FastAPI's own 422: a body that does not fit is a 400 here, as it is with OpenAI."""
    page = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in page["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        page["components"]["schemas"].pop(name, None)
    return page

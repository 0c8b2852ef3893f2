"""Server-sent events: one `data:` line per chunk, errors among them in the usual shape, and `[DONE]` at the end."""

from collections.abc import AsyncIterator

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from amaru.serve.server.errors import refusal_of

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # proxies hold nothing back either


class EventStream(Response):
    """`EventStream(task.chunks(), include_usage=True)`; the last chunk, which holds the usage alone, is sent only on request."""

    media_type = "text/event-stream"

    def __init__(self, chunks: AsyncIterator[BaseModel], include_usage: bool) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._chunks, self._include_usage = chunks, include_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for line in self._lines():
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _lines(self) -> AsyncIterator[bytes]:
        left_out = None if self._include_usage else {"usage"}
        try:
            async for chunk in self._chunks:
                if self._include_usage or getattr(chunk, "usage", None) is None:
                    yield f"data: {chunk.model_dump_json(exclude=left_out)}\n\n".encode()
        except Exception as error:
            yield f"data: {refusal_of(error).body.model_dump_json()}\n\n".encode()

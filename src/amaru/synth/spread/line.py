"""A line between two processes: either side calls the other by name, and an error comes back as the error that it was."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from itertools import count
from typing import Any

from amaru import errors
from amaru.errors import ProcessError
from amaru.synth.client import Failed
from amaru.synth.row import Dropped, Matched

Message = dict[str, Any]
ERRORS: dict[str, type[Exception]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.AmaruError)
}


class Line:
    """`await line.call("make", 3, row)` runs `make` at the other end and gives what it gives, or raises what it raises.

    send    takes a message (plain values that JSON knows) to the other end
    serve   is given the name and the values of a call from there

    Whoever reads what comes gives it to `received`, and says `broken` when nothing will come any more.
    """

    def __init__(self, send: Callable[[Message], Awaitable[None]], serve: Callable[..., Awaitable[Any]]) -> None:
        self._send = send
        self._serve = serve
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._broken: str | None = None

    async def call(self, name: str, *values: Any) -> Any:
        if self._broken:
            raise ProcessError(self._broken)
        number = next(self._numbers)
        self._waiting[number] = answer = asyncio.get_running_loop().create_future()
        try:
            await self._send({"call": number, "name": name, "values": values})
            return await answer
        finally:
            self._waiting.pop(number, None)

    def received(self, message: Message) -> None:
        if "call" in message:
            task = asyncio.create_task(self._answer(message))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        elif (answer := self._waiting.get(message["answer"])) and not answer.done():
            error = message.get("error")
            answer.set_exception(_error(error)) if error else answer.set_result(message["value"])

    def broken(self, why: str) -> None:
        """Nothing comes any more: calls under way raise `ProcessError`, and so does every call from now on."""
        self._broken = why
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ProcessError(why))
        for task in self._serving:
            task.cancel()

    async def _answer(self, message: Message) -> None:
        try:
            reply = {"value": await self._serve(message["name"], *message["values"])}
        except Exception as error:
            reply = {"error": _told(error)}
        await self._send({"answer": message["call"], **reply})


def _told(error: Exception) -> Message:
    matched = error.matched if isinstance(error, Dropped) else None
    return {"kind": type(error).__name__, "message": str(error), "matched": asdict(matched) if matched else None}


def _error(told: Message) -> Exception:
    match told["kind"]:
        case "Dropped":
            return Dropped(told["message"], Matched(**told["matched"]) if told["matched"] else None)
        case "Failed" | "Useless":
            return Failed(told["message"])
        case kind if kind in ERRORS and kind != "BusyError":
            return ERRORS[kind](told["message"])
    return ProcessError(f"A worker ended in {told['kind']}: {told['message']}.")

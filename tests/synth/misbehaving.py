"""A server that speaks the OpenAI protocol and misbehaves on schedule. Its answers follow from the question alone.

    python misbehaving.py PORT LOG '["ok", "429", "hang"]' FAST SLOW

Request n gets fault n of the cycle; every tenth answer takes SLOW seconds, the others FAST. Each question that is answered whole and
well is a line of LOG.
"""

import asyncio
import hashlib
import json
import sys
from contextlib import suppress
from pathlib import Path

FAULTS = ["ok", "429", "500", "hang", "cut", "truncated", "schema", "duplicates", "short", "fenced", "html"]
TEMPLATE_MARK = "Answer with one JSON object of this schema and nothing else:\n"


class Misbehaving:
    """`async with Misbehaving(["ok", "429"]) as server: server.url`."""

    def __init__(self, faults=("ok",), fast=0.0, slow=0.0, log=None, port=0, hold=0):
        self.faults, self.fast, self.slow, self.log, self.port = list(faults), fast, slow, log, port
        self.hold, self.all_here = hold, asyncio.Event()  # nobody is answered before so many are under way
        self.requests, self.under_way, self.most_under_way = 0, 0, 0
        self.seen, self.answered, self.headers, self.connections = [], [], [], set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=2048)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for connection in self.connections:
            connection.cancel()
        await asyncio.gather(*self.connections, return_exceptions=True)

    async def serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.headers.append(headers)
                if not await self.answer(body, writer):
                    break
        writer.close()

    async def answer(self, body, writer):
        """Whether the connection stays open."""
        number, question = self.requests, body["messages"][-1]["content"]
        self.requests += 1
        fault = self.faults[number % len(self.faults)]
        self.seen.append(question)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        if self.under_way == self.hold:
            self.all_here.set()
        try:
            if self.hold:
                await self.all_here.wait()
            await asyncio.sleep(self.slow if number % 10 == 0 else self.fast)
            return await self.reply(fault, question, writer)
        finally:
            self.under_way -= 1

    async def reply(self, fault, question, writer):
        if fault in ("429", "500", "401", "400"):
            retry = "Retry-After: 0.05\r\n" if fault == "429" else ""
            writer.write(f"HTTP/1.1 {fault} No\r\n{retry}Content-Length: 2\r\n\r\nno".encode())
            return True
        if fault == "hang":
            await asyncio.sleep(3600)
        content, finish = spoiled(fault, written(question))
        usage = {"prompt_tokens": len(question) // 4, "completion_tokens": len(content) // 4}
        answer = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": finish}], "usage": usage}
        data = b"<html>busy</html>" if fault == "html" else json.dumps(answer).encode()
        length = len(data) + (100 if fault == "cut" else 0)
        if fault in ("ok", "fenced"):
            self.note(question)
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode() + data)
        await writer.drain()
        return fault != "cut"

    def note(self, question):
        self.answered.append(question)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps(question) + "\n")


def written(question):
    """What a good model writes: words that follow from the question."""
    name = hashlib.sha256(question.encode()).hexdigest()[:8]
    if TEMPLATE_MARK not in question:
        return f"A text about {name}."
    schema = json.loads(question.split(TEMPLATE_MARK)[1])
    if "items" in schema["properties"]:
        return json.dumps({"items": [f"{name} number {index}" for index in range(schema["properties"]["items"]["minItems"])]})
    values = {"string": name, "integer": int(name[:4], 16) % 5, "number": 0.5, "boolean": int(name, 16) % 2 == 0}
    return json.dumps({key: inner.get("enum", [values[inner["type"]]])[0] for key, inner in schema["properties"].items()})


def spoiled(fault, content):
    match fault:
        case "truncated":
            return content[: len(content) // 2], "length"
        case "schema":
            return '{"answer": 42}' if content.startswith("{") else "", "stop"
        case "duplicates" | "short" if "items" in content:
            items = json.loads(content)["items"]
            return json.dumps({"items": items[:1] * len(items) if fault == "duplicates" else items[:-1]}), "stop"
        case "duplicates" | "short":
            return "", "stop"
        case "fenced" if content.startswith("{"):
            return f"Sure! Here it is:\n```json\n{content}\n```\nAnything else?", "stop"
    return content, "stop"


async def main(port, log, faults, fast, slow):
    async with Misbehaving(json.loads(faults), float(fast), float(slow), Path(log), int(port)):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

"""A judge behind HTTP whose verdicts follow from what it is shown: a rating by the length of the last answer, the longer of two."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWER = re.compile(r"Answer of (the assistant|assistant A|assistant B):\n(.*?)(?=\n\nUser:\n|\n\n</conversation)", re.DOTALL)


def rating(answer: str) -> int:
    """From 1 to 10."""
    return 1 + len(answer) % 10


class Scripted(ThreadingHTTPServer):
    """`seen` are the questions; every `stubborn`th answer (from the first on) has no verdict; with `favours` A always wins."""

    def __init__(self, stubborn: int = 0, favours: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str] = []
        self.stubborn, self.favours = stubborn, favours

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def verdict(self, question: str) -> str:
        found = ANSWER.findall(question)
        if found[0][0] == "the assistant":
            return f"It says something. Rating: [[{rating(found[-1][1])}]]"
        lengths = [sum(len(text) for who, text in found if who == name) for name in ("assistant A", "assistant B")]
        letter = "A" if self.favours or lengths[0] > lengths[1] else "C" if lengths[0] == lengths[1] else "B"
        return f"The longer one. [[{letter}]]"


class Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        self.server.seen.append(question)
        mute = self.server.stubborn and len(self.server.seen) % self.server.stubborn == 1
        content = "I would rather not say." if mute else self.server.verdict(question)
        message = {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]}
        data = json.dumps(message | {"usage": {"prompt_tokens": 9, "completion_tokens": 5}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def scripted(**how: Any) -> Iterator[Scripted]:
    with Scripted(**how) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()

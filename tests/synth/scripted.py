"""A server whose answers are a function of the request, and that notes each request as a whole."""

import asyncio
import hashlib
import json
import re
import threading
from contextlib import contextmanager

from tests.synth.misbehaving import Misbehaving, written

PROGRAM = "Here it is:\n```python\ndef f(x):\n    return x + {n}\n\nassert f(1) == {result}\n```\n"
SIDES = re.compile(r"The first answer:\n(.*)\n\nThe second answer:\n(.*)\n\nWhich one", re.DOTALL)
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


class Scripted(Misbehaving):
    """`async with Scripted(answer) as server`: `answer(body)` is a text, or a dict of attributes with their scores."""

    def __init__(self, script=None, **settings):
        super().__init__(**settings)
        self.script, self.bodies = script or usual, []

    async def answer(self, body, writer):
        self.requests += 1
        await asyncio.sleep(self.fast)
        said = self.script(body)
        scores = [{"token": name, "logprob": score} for name, score in said.items()] if isinstance(said, dict) else None
        choice = {"message": {"role": "assistant", "content": "" if scores else said}, "finish_reason": "stop"}
        choice |= {"logprobs": {"content": scores}} if scores else {}
        self.bodies.append(body)
        data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 20, "completion_tokens": 10}}).encode()
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return True


def number(*texts, below):
    return int(hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8], 16) % below


def usual(body):
    """What a good model says: scores where it is a reward model, programs for tasks, verdicts that follow from the answers alone."""
    question, seed = body["messages"][-1]["content"], str(body.get("seed"))
    if body["model"] == "reward":
        return {name: number(question, name, below=400) / 100 for name in ATTRIBUTES}
    if "assert statements" in question:
        n = number(question, below=9)
        return PROGRAM.format(n=n, result=1 + n if n else 0)  # one in nine fails its test
    if sides := SIDES.search(question):
        first, second = (number(side, below=1000) for side in sides.groups())
        return json.dumps({"reason": "it is", "better": "first" if first > second else "second" if second > first else "neither"})
    if '"tested"' in question:
        return json.dumps({"clear": True, "correct": number(question, below=5) > 0, "tested": True})
    text = written(question)
    return text if text.startswith("{") else f"{text[:-1]} ({number(question, seed, below=10**6)})."


def served(script=None, **settings):
    """A server in a thread of its own, for what runs in this one or in another process."""
    return in_thread(Scripted(script, **settings))


@contextmanager
def in_thread(server):
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve():
        async with server:
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()

"""A small random model behind a real server on a free port, in this process, for tests that speak HTTP."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import httpx
import openai
from tests.models.random_models import random_config, random_model

from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.server.app import Server
from amaru.serve.server.limits import Limits
from amaru.serve.server.run import Process, address_of
from amaru.serve.server.served import Host, Registry, Served

TEXT = "def f(x):\n    return x + 1  # añade «uno»\n" * 5
SPECIAL = ("<|endoftext|>", "<|padding|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ENGINE = EngineConfig(memory=2**26, max_running=4, max_waiting=40, max_tokens=400, chunk_tokens=64, prefix_every=64)


def tokenizer_with(template: str | None = TEMPLATE) -> Tokenizer:
    tokenizer = Tokenizer.train([TEXT], vocab=300, special=SPECIAL)
    config = json.loads(tokenizer.companions["tokenizer_config.json"]) | ({"chat_template": template} if template else {})
    return Tokenizer(tokenizer.backend, {"tokenizer_config.json": json.dumps(config)})


@cache
def model() -> Decoder:
    return random_model(replace(random_config(0, "M-*-M"), vocab=tokenizer_with().vocab_size), 0)


def served(name: str = "small", template: str | None = TEMPLATE, config: EngineConfig = ENGINE) -> Served:
    tokenizer = tokenizer_with(template)
    return Served(name, Host(name, Engine(model(), tokenizer, config)), tokenizer, [tokenizer.eos_id])


@dataclass(frozen=True)
class Running:
    """`url` without a path; the process that answers there, for what only the inside shows."""

    url: str
    process: Process
    server: Server

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=300)

    @property
    def engine(self) -> Engine:
        return next(iter(self.server.models)).engine

    def post(self, path: str, body: object = None, **more) -> httpx.Response:
        return httpx.post(self.url + path, **({"json": body} if body is not None else {}), timeout=300, **more)

    def socket(self) -> socket.socket:
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=300)


LIMITS = Limits()


@contextmanager
def running(
    *models: Served, limits: Limits = LIMITS, key: str | None = None, hosts: frozenset[str] | None = frozenset({"127.0.0.1"})
) -> Iterator[Running]:
    server = Server(Registry(models or (served(),)), limits, key, hosts)
    process, ready = Process(server), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = address_of(listener)
        thread = threading.Thread(target=lambda: asyncio.run(process.serve_on(listener, lambda _: ready.set(), signals=())))
        thread.start()
        assert ready.wait(30)
        try:
            yield Running(url, process, server)
        finally:
            process.should_exit = True
            thread.join(30)
            assert not thread.is_alive()

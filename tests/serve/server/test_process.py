"""What happens around the requests: an engine that dies takes the server with it, and a page needs nothing but the server."""

import re

import httpx
import pytest
from tests.serve.server.running import ENGINE, model, running, tokenizer_with

from amaru.serve.engine import Engine
from amaru.serve.server.served import Host, Served


class Dying(Engine):
    """Fails outside of what an engine can blame on one request."""

    def step(self) -> bool:
        raise ArithmeticError("the machine is on fire")


def test_an_engine_that_dies_tells_its_clients_and_ends_the_server(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tokenizer_with()
    served = Served("small", Host("small", Dying(model(), tokenizer, ENGINE)), tokenizer, [tokenizer.eos_id])
    with running(served) as server:
        answer = server.post("/v1/completions", {"prompt": "x"})
        assert answer.status_code == 500 and "(ArithmeticError: the machine is on fire" in answer.json()["error"]["message"]
        assert isinstance(server.process.failure, ArithmeticError)
    assert server.process.should_exit
    assert "the engine of small ended" in caplog.text


def test_the_page_needs_nothing_from_anywhere_else() -> None:
    with running() as server:
        page = httpx.get(server.url + "/")
        policy = page.headers["content-security-policy"]
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "http" not in policy
        assert not re.search(r"(https?:)?//[\w.]+\.\w", page.text.replace("<!doctype html>", ""))
        document = httpx.get(server.url + "/openapi.json").json()
    paths = ("/v1/completions", "/v1/chat/completions", "/v1/models", "/tokenize", "/detokenize", "/health", "/metrics")
    assert {*paths} <= document["paths"].keys()
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]

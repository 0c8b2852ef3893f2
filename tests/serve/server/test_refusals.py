"""What must not get through, and what must not get stuck: every refusal a sentence, every slot given back."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tests.serve.server.running import ENGINE, Running, running, served

from amaru.config import from_dict, to_dict
from amaru.errors import ConfigError
from amaru.serve.config import EngineConfig
from amaru.serve.server.limits import Limits, check_address

LIMITS = Limits(body_bytes=2**20, patience=0.8, seconds=20, requests=30)
ASK = {"prompt": "def f", "max_tokens": 2}
LONG = {"prompt": "def f", "max_tokens": 380, "ignore_eos": True}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(limits=LIMITS) as server:
        yield server


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def sentence(response: httpx.Response, status: int) -> str:
    """The message of a refusal, which has the shape of OpenAI's."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].endswith((".", "?")) and len(error["message"]) < 400
    return error["message"]


def raw(server: Running, data: bytes, wait: float = 10) -> bytes:
    """All that the server answers to these bytes."""
    with server.socket() as connection:
        connection.settimeout(wait)
        connection.sendall(data)
        return connection.makefile("rb").read()


def request(body: bytes, path: str = "/v1/completions", headers: str = "Connection: close\r\n") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def everything_is_given_back(server: Running) -> bool:
    stats = server.engine.stats()
    return (stats.running, stats.waiting, stats.free_slots) == (0, 0, stats.slots)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": "x"',
        b"[]",
        b'"text"',
        b"null",
        b"3",
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "x", "temperature": NaN}',
        b'{"prompt": "x", "temperature": Infinity}',
        b'{"prompt": "x", "temperature": 1e999}',
        b'{"prompt": "x", "max_tokens": ' + b"9" * 5000 + b"}",
        b"[" * 50_000,
        b'{"prompt": ' * 5_000,
        b'{"prompt": "x", "chat_template_kwargs": ' + b'{"a":' * 150 + b"1" + b"}" * 151,
        b"\x00\x01\x02",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_request_is_a_400_with_a_sentence(server: Running, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"):
        sentence(server.post(path, content=body, headers={"content-type": "application/json"}), 400)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", []),
        ("prompt", ""),
        ("prompt", [[]]),
        ("prompt", ["a", 1]),
        ("prompt", [1.5]),
        ("prompt", [True]),
        ("prompt", [-1]),
        ("prompt", [10**30]),
        ("prompt", {"a": 1}),
        ("prompt", "x" * 400_000),
        ("prompt", ["x"] * 100),
        ("max_tokens", -1),
        ("max_tokens", 2.5),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("max_tokens", 10**9),
        ("max_tokens", 10**40),
        ("n", 0),
        ("n", 10**6),
        ("n", 100),
        ("temperature", -0.1),
        ("temperature", 1e300),
        ("temperature", "hot"),
        ("top_p", 0),
        ("top_p", 1.01),
        ("top_k", 0),
        ("min_p", -1),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("seed", 2**70),
        ("seed", 0.5),
        ("logprobs", 21),
        ("logprobs", -1),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("stop_token_ids", [-4]),
        ("min_tokens", 3),
        ("stream", "yes"),
        ("stream_options", {"include_usage": True}),
        ("model", 3),
        ("echo", 1),
        ("nonsense", 1),
        ("x" * 100_000, 1),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_field_that_does_not_fit_is_a_400_with_a_sentence(server: Running, field: str, value: Any) -> None:
    sentence(server.post("/v1/completions", ASK | {field: value}), 400)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        {},
        "hello",
        [{"role": "user"}] * 0 + [{"content": "x"}],
        [{"role": "king", "content": "x"}],
        [{"role": "user", "content": 5}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}],
        [{"role": "user", "content": "x", "contents": "y"}],
        [{"role": "user", "content": "x" * 400_000}],
    ],
    ids=lambda value: repr(value)[:40],
)
def test_messages_that_do_not_fit_are_a_400_with_a_sentence(server: Running, messages: Any) -> None:
    sentence(server.post("/v1/chat/completions", {"messages": messages}), 400)


def test_a_typo_is_answered_with_what_was_meant(server: Running) -> None:
    assert "Did you mean 'max_tokens'?" in sentence(server.post("/v1/completions", ASK | {"max_token": 3}), 400)
    nested = ASK | {"stream": True, "stream_options": {"include_usag": True}}
    assert "Did you mean 'include_usage'?" in sentence(server.post("/v1/completions", nested), 400)
    assert "Did you mean '/v1/completions'?" in sentence(server.post("/v1/completion", ASK), 404)
    assert "does not take GET" in sentence(httpx.get(server.url + "/v1/completions"), 405)


def test_null_means_left_out(server: Running) -> None:
    names = ("model", "max_tokens", "temperature", "logprobs", "stop", "seed", "stream", "stream_options", "suffix", "best_of", "user")
    assert server.post("/v1/completions", {"prompt": "x", **dict.fromkeys(names)}).status_code == 200


def test_only_json_that_says_so_is_read(server: Running) -> None:
    """A foreign website can send text/plain without the browser asking; it must not get through."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {"content-type": kind} if kind else {}
        found = sentence(server.post("/v1/completions", content=json.dumps(ASK).encode(), headers=headers), 400)
        assert "Content-Type: application/json" in found


def test_a_foreign_name_for_a_server_without_a_key_is_refused(server: Running) -> None:
    assert "127.0.0.1" in sentence(httpx.get(server.url + "/v1/models", headers={"host": "evil.example:80"}), 403)


def test_bodies_beyond_the_limit_are_refused_however_they_come(server: Running) -> None:
    huge = json.dumps(ASK | {"prompt": "x" * 10_000_000}).encode()
    assert "this server takes 1,048,576" in sentence(server.post("/v1/completions", content=huge), 413)
    pieces = (huge[place : place + 65536] for place in range(0, len(huge), 65536))
    assert "this server takes 1,048,576" in sentence(server.post("/v1/completions", content=pieces), 413)


def test_what_is_no_http_is_refused(server: Running) -> None:
    assert raw(server, b"\x16\x03\x01\x02\x00hello\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert raw(server, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 4")
    assert raw(server, request(b"").replace(b"Content-Length: 0", b"Content-Length: -5")).startswith(b"HTTP/1.1 400")


def test_those_who_send_nothing_are_cut_off(server: Running) -> None:
    begun = time.monotonic()
    assert raw(server, b"") == b""
    assert raw(server, b"POST /v1/completions HTTP/1.1\r\nHost: 127") == b""
    slow = raw(server, request(b'{"prompt": "x"}')[:-5])
    assert slow.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.8 seconds" in slow
    assert time.monotonic() - begun < 15


def test_one_connection_may_ask_one_thing_after_another(server: Running) -> None:
    body = json.dumps(ASK).encode()
    answers = raw(server, request(body, headers="") + request(b"{", headers="") + request(body))
    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"400", b"200"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_is_cancelled(server: Running, stream: bool) -> None:
    before = server.engine.stats().cancelled
    connection = server.socket()
    connection.sendall(request(json.dumps(LONG | {"stream": stream, "n": 3}).encode()))
    if stream:
        assert b"200 OK" in connection.recv(1000)
    else:
        until(lambda: server.engine.stats().running)
    connection.close()
    until(lambda: everything_is_given_back(server))
    assert server.engine.stats().cancelled > before


def test_a_reader_that_does_not_read_is_cut_off_and_others_go_on() -> None:
    """Small buffers, so that the server's writes pile up at once; an answer with 20 alternatives per token is some kilobytes each."""
    config = EngineConfig(memory=2**26, max_running=4, max_waiting=40, max_tokens=8000, chunk_tokens=64)
    with running(served(config=config), limits=LIMITS) as server:
        lazy = socket.socket()
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, port = server.url.removeprefix("http://").split(":")
        lazy.connect((host, int(port)))
        ask = {"prompt": "x", "max_tokens": 7900, "ignore_eos": True, "stream": True, "logprobs": 20, "n": 4}
        lazy.sendall(request(json.dumps(ask).encode()))
        until(lambda: server.engine.stats().running == 4)
        assert server.post("/v1/completions", ASK).status_code == 200 or server.engine.stats().waiting
        until(lambda: server.engine.stats().cancelled == 4, 60)
        until(lambda: everything_is_given_back(server))
        assert server.post("/v1/completions", ASK).status_code == 200
        lazy.close()


def test_a_full_queue_is_a_429_that_says_when_to_come_again() -> None:
    config = from_dict(EngineConfig, to_dict(ENGINE) | {"max_running": 1, "max_waiting": 1})
    with running(served(config=config)) as server:
        one, two = server.socket(), server.socket()
        one.sendall(request(json.dumps(LONG | {"stream": True}).encode()))
        until(lambda: server.engine.stats().running == 1)
        two.sendall(request(json.dumps(LONG).encode()))
        until(lambda: server.engine.stats().waiting == 1)
        refused = server.post("/v1/completions", ASK)
        assert "try again" in sentence(refused, 429) and int(refused.headers["retry-after"]) >= 1
        assert "one request may ask for 1" in sentence(server.post("/v1/completions", ASK | {"n": 2}), 400)
        one.close()
        two.close()
        until(lambda: everything_is_given_back(server))


def test_more_requests_at_once_than_the_limit_are_a_429() -> None:
    with running(limits=Limits(requests=2)) as server:
        busy = [server.socket() for _ in range(2)]
        for connection in busy:
            connection.sendall(request(json.dumps(LONG).encode()))
        until(lambda: server.server.door.active == 2)
        refused = server.post("/v1/completions", ASK)
        assert "as many as it takes" in sentence(refused, 429) and refused.headers["retry-after"] == "1"
        assert httpx.get(server.url + "/health").status_code == 200
        for connection in busy:
            connection.close()
        until(lambda: server.post("/v1/completions", ASK).status_code == 200)


def test_a_request_may_take_its_time_and_not_more() -> None:
    with running(limits=Limits(seconds=0.3)) as server:
        config = {"prompt": "def f", "max_tokens": 390, "ignore_eos": True, "n": 4}
        assert "ended after 0.3 seconds" in sentence(server.post("/v1/completions", config), 504)
        stream = server.post("/v1/completions", config | {"stream": True})
        assert stream.status_code == 200
        *_, last, done = stream.text.strip().split("\n\n")
        assert "ended after 0.3 seconds" in json.loads(last.removeprefix("data: "))["error"]["message"] and done == "data: [DONE]"
        until(lambda: everything_is_given_back(server))


def test_a_key_is_needed_for_everything_but_the_page_and_the_health() -> None:
    with running(key="secret-key", hosts=None) as server:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret-key"}, {"authorization": "Bearer sécret"}):
            encoded = {name: value.encode() for name, value in headers.items()}
            assert "API key" in sentence(server.post("/v1/completions", ASK, headers=encoded), 401)
            assert "API key" in sentence(httpx.get(server.url + "/metrics", headers=encoded), 401)
        right = {"authorization": "Bearer secret-key"}
        assert server.post("/v1/completions", ASK, headers=right).status_code == 200
        assert httpx.get(server.url + "/v1/models", headers=right | {"host": "any.example"}).status_code == 200
        assert httpx.get(server.url + "/").status_code == httpx.get(server.url + "/health").status_code == 200


def test_an_address_that_others_reach_needs_a_key_or_two_words() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org", ""):
        with pytest.raises(ConfigError, match="AMARU_API_KEY"):
            check_address(host, None, insecure=False)
        assert check_address(host, "key", insecure=False) is check_address(host, None, insecure=True) is None
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert host in (check_address(host, None, insecure=False) or ())


def test_metrics_count_what_happened(server: Running) -> None:
    def value(line: str) -> float:
        found = [each for each in httpx.get(server.url + "/metrics").text.splitlines() if each.startswith(line + " ")]
        return float(found[0].split()[-1]) if found else 0

    names = [
        'amaru_generated_tokens_total{model="small"}',
        'amaru_prompt_tokens_total{model="small"}',
        'amaru_http_requests_total{path="/v1/completions",status="200"}',
        'amaru_first_token_seconds_count{model="small"}',
        'amaru_next_token_seconds_count{model="small"}',
    ]
    before = [value(name) for name in names]
    prompt = server.post("/v1/completions", ASK | {"max_tokens": 7, "ignore_eos": True, "n": 2}).json()["usage"]["prompt_tokens"]
    assert [value(name) - was for name, was in zip(names, before, strict=True)] == [14, 2 * prompt, 1, 2, 12]
    assert value('amaru_free_slots{model="small"}') == value('amaru_slots{model="small"}') == 4
    httpx.get(server.url + "/no/such/path")
    assert value('amaru_http_requests_total{path="other",status="404"}') >= 1

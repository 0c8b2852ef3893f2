"""`amaru serve` as a process: what it prints, what it refuses before loading anything, and how signals end it."""

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from tests.cli.server_process import server_process
from tests.cli.small_checkpoint import small_checkpoint

from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import load
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY

LONG = {"prompt": "def f", "max_tokens": 2000, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("serve") / "small=1")


@contextmanager
def stream(url: str, body: dict[str, Any]) -> Iterator[IO[bytes]]:
    """A stream whose answer has begun; what reads its rest."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=60) as connection, connection.makefile("rb") as reader:
        connection.sendall(head.encode() + data)
        assert any(line.startswith(b"data: ") for line in reader)
        yield reader


def test_models_have_names_and_sigterm_drains(checkpoint: Path) -> None:
    with server_process(str(checkpoint), f"other={checkpoint}") as (running, ready):
        assert ready["models"] == ["small=1", "other"] and ready["key"] is False
        url = ready["address"]
        assert [each["id"] for each in httpx.get(f"{url}/v1/models").json()["data"]] == ["small=1", "other"]
        assert "The field 'model' is missing" in httpx.post(f"{url}/v1/completions", json={"prompt": "x"}).text
        with stream(url, LONG | {"model": "other", "max_tokens": 400}) as reader:
            running.send_signal(signal.SIGTERM)
            until_draining(url)
            refused = httpx.post(f"{url}/v1/completions", json={"model": "other", "prompt": "x"})
            assert refused.status_code == 503 and "going down" in refused.text and int(refused.headers["retry-after"]) > 0
            assert b'"finish_reason":"length"' in (rest := reader.read()) and b"data: [DONE]" in rest, "what ran is finished"
        assert running.wait(20) == 0
        assert running.stderr is not None and "Traceback" not in running.stderr.read()


def until_draining(url: str) -> None:
    end = time.monotonic() + 10
    while httpx.get(f"{url}/health").status_code != 503:
        assert time.monotonic() < end
    assert httpx.get(f"{url}/health").json() == {"status": "draining"}


def test_what_does_not_finish_while_draining_is_told_so(checkpoint: Path) -> None:
    with server_process(str(checkpoint), "--drain", "0.5") as (running, ready):
        with stream(ready["address"], LONG | {"max_tokens": 8000}) as reader:
            running.send_signal(signal.SIGINT)
            assert b"going down and does not finish" in reader.read()
        assert running.wait(30) == 0


def test_a_second_signal_exits_at_once(checkpoint: Path) -> None:
    with server_process(str(checkpoint)) as (running, ready), stream(ready["address"], LONG | {"max_tokens": 8000}):
        running.send_signal(signal.SIGTERM)
        until_draining(ready["address"])
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 128 + signal.SIGTERM


def test_a_draft_model_changes_no_word(checkpoint: Path) -> None:
    ask = {"prompt": "def f", "max_tokens": 30, "temperature": 0}
    texts = []
    for words in ([], ["--draft", str(checkpoint)], ["--set", "speculate=lookup"]):
        with server_process(str(checkpoint), *words) as (_, ready):
            texts.append(httpx.post(f"{ready['address']}/v1/completions", json=ask).json()["choices"][0]["text"])
            metrics = httpx.get(f"{ready['address']}/metrics").text
        drafted = float(re.findall(r"amaru_accepted_tokens_total{.*} (.*)", metrics)[0])
        assert drafted > 0 if "--draft" in words else "--set" in words or drafted == 0
    assert texts[0] == texts[1] == texts[2]


def test_codes_of_every_kind_are_served_with_narrow_caches(checkpoint: Path, tmp_path: Path) -> None:
    prompt, kinds = "def f(x):", ("int8", "int4", "fp8")
    for kind in kinds:
        assert main(["quantize", str(checkpoint), "--to", kind, "--out", str(tmp_path / kind)]) == 0
    ask, totals = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "logprobs": 0, "ignore_eos": True}, set()
    with server_process(*(str(tmp_path / kind) for kind in kinds), "--kv-dtype", "fp8") as (_, ready):
        for kind in kinds:
            choice = httpx.post(f"{ready['address']}/v1/completions", json=ask | {"model": kind}, timeout=60).json()["choices"][0]
            tokenizer = Tokenizer.load(tmp_path / kind)
            wish = Settings(max_tokens=40, logprobs=0, sampling=GREEDY)
            alone = generate(load(tmp_path / kind), [tokenizer.encode(prompt)], wish, tokenizer=tokenizer, kv="fp8")[0]
            assert choice["text"] == alone.text
            assert choice["logprobs"]["token_logprobs"] == pytest.approx([token.logprob for token in alone.told], abs=1e-4)
            totals.add(round(sum(choice["logprobs"]["token_logprobs"]), 6))
    assert len(totals) == 3, "every name has its own weights"


def test_a_key_comes_from_the_environment_or_a_file(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("from-the-file\n")
    with server_process(str(checkpoint), "--api-key-file", str(file), AMARU_API_KEY="from-the-environment") as (_, ready):
        assert ready["key"] is True
        for key, status in (("from-the-file", 200), ("from-the-environment", 401)):
            assert httpx.get(f"{ready['address']}/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == status


def test_what_cannot_be_served_is_refused_in_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMARU_API_KEY", raising=False)
    empty = tmp_path / "empty"
    empty.write_text(" \n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        small = [str(checkpoint), "--memory", "64MiB", "--prefix-memory", "0"]
        refusals = {
            "no API key: set AMARU_API_KEY": [str(checkpoint), "--host", "0.0.0.0"],
            "holds no API key": [str(checkpoint), "--api-key-file", str(empty)],
            f"127.0.0.1 port {port} cannot be taken": [*small, "--port", port],
            "no address no.such.host.invalid": [*small, "--host", "no.such.host.invalid", "--insecure"],
            "need different names": [*small, small[0]],
            "There is no tokenizer.json": [str(tmp_path)],
            "is not a size": [str(checkpoint), "--max-body", "much"],
            "greater than 0": [str(checkpoint), "--timeout", "-1"],
            "Did you mean 'chunk_tokens'": [str(checkpoint), "--set", "chunk_token=5"],
            "the shortest sequence needs": [str(checkpoint), "--memory", "1KiB"],
        }
        for sentence, words in refusals.items():
            assert main(["serve", *words]) == 2, sentence
            said = capsys.readouterr()
            assert re.search(re.escape(sentence), said.err), said.err
            assert said.out == "" and said.err.count("\n") <= 2

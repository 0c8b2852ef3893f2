"""Long runs: a crowd of clients of which some hang up, a browser, and a machine that makes up requests."""

import asyncio
import json
import os
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from tests.cli.server_process import server_process
from tests.cli.small_checkpoint import small_checkpoint
from tests.serve.server import chromium
from tests.serve.server.running import Running, running, served

from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder
from amaru.models.checkpoint import load
from amaru.nn import Batch
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY

pytestmark = pytest.mark.soak
needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")

SECONDS = float(os.environ.get("AMARU_SOAK_SECONDS", "600"))
CLIENTS = 64
HANG_UPS = 0.1  # of all requests
TOKENS = 60
CLEAR = 1e-3  # nats between the likeliest token and the next: less may turn with the company in the batch


@dataclass
class Tally:
    whole: int = 0
    hung_up: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def clear_prompts(decoder: Decoder, tokenizer: Tokenizer, count: int) -> dict[str, str]:
    """Prompts and their greedy texts, none of whose choices is close."""
    found: dict[str, str] = {}
    for number in range(10 * count):
        prompt = f"def f{number}(x):\n    return x + {number * 37 % 101}"
        ids = tokenizer.encode(prompt)
        result = generate(decoder, [ids], Settings(max_tokens=TOKENS, sampling=GREEDY), tokenizer=tokenizer)[0]
        with torch.inference_mode():
            best = decoder(Batch.of([torch.tensor([*ids, *result.tokens])]))[len(ids) - 1 : -1].topk(2).values
        if float((best[:, 0] - best[:, 1]).min()) > CLEAR:
            found[prompt] = result.text
        if len(found) == count:
            return found
    raise AssertionError(f"only {len(found)} prompts are clear")


async def client(url: str, number: int, texts: dict[str, str], tally: Tally, end: float) -> None:
    draw = random.Random(number)
    async with httpx.AsyncClient(base_url=url, timeout=None) as http:
        while time.monotonic() < end:
            prompt = draw.choice(sorted(texts))
            leave = draw.randrange(1, TOKENS) if draw.random() < HANG_UPS else None
            await one_request(http, prompt, texts[prompt], leave, tally)


async def one_request(http: httpx.AsyncClient, prompt: str, expected: str, leave: int | None, tally: Tally) -> None:
    ask = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    text, chunks = "", 0
    async with http.stream("POST", "/v1/completions", json=ask) as response:
        if response.status_code == 429:
            tally.refused += 1
            await asyncio.sleep(float(response.headers["retry-after"]))
            return
        if response.status_code != 200:
            tally.wrong.append(f"{response.status_code}: {await response.aread()!r}")
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunks += 1
            if chunks == leave:
                tally.hung_up += 1
                return
            chunk = json.loads(line.removeprefix("data: "))
            text += chunk["choices"][0]["text"] if "choices" in chunk else f"[{chunk['error']['message']}]"
    tally.whole += 1
    if text != expected:
        tally.wrong.append(f"{prompt!r}: {text!r} is not {expected!r}")


async def crowd(url: str, process: psutil.Process, texts: dict[str, str]) -> tuple[Tally, list[int]]:
    """What the clients saw, and the server's memory once a second."""
    tally, end, memory = Tally(), time.monotonic() + SECONDS, []
    clients = asyncio.gather(*(client(url, number, texts, tally, end) for number in range(CLIENTS)))
    while not clients.done():
        memory.append(process.memory_info().rss)
        await asyncio.sleep(1)
    await clients
    return tally, memory


def test_a_crowd_of_which_some_hang_up_leaks_nothing_and_mixes_nothing(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path / "small")
    tokenizer = Tokenizer.load(checkpoint)
    texts = clear_prompts(load(checkpoint), tokenizer, 12)
    with server_process(str(checkpoint), "--patience", "3600", "--timeout", "3600") as (running, ready):  # of a machine that stands still
        url = ready["address"]
        tally, memory = asyncio.run(crowd(url, psutil.Process(running.pid), texts))
        time.sleep(1)
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        gauges = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("amaru_")}
    settled = memory[len(memory) // 4 :]
    print(tally.whole, "whole,", tally.hung_up, "hung up,", tally.refused, "refused,", f"memory {settled[0]:,} to {settled[-1]:,}")
    assert not tally.wrong, tally.wrong[:3]
    assert tally.whole > CLIENTS and tally.hung_up > 0
    assert (gauges["amaru_running"], gauges["amaru_waiting"], gauges["amaru_failed_total"]) == (0, 0, 0)
    assert gauges["amaru_free_slots"] == gauges["amaru_slots"] and gauges["amaru_free_pages"] == gauges["amaru_pages"]
    assert gauges["amaru_cancelled_total"] >= 0.5 * tally.hung_up, "those who leave at the very end were already done"
    assert settled[-1] - settled[0] < 32 * 2**20, f"{settled[0]:,} bytes grew to {settled[-1]:,}"


@pytest.mark.parametrize("mode", [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE])
def test_made_up_requests_never_break_the_server(mode: schemathesis.GenerationMode) -> None:
    """schemathesis makes requests from the server's own description, right ones and wrong ones."""
    statuses: set[int] = set()
    with running() as server:
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        for operation in (each.ok() for each in schema.get_all_operations()):
            with suppress(Unsatisfiable):  # nothing can be wrong about an operation without parameters

                @settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: schemathesis.Case) -> None:
                    response = case.call(timeout=60)
                    assert response.status_code < 500, response.text
                    statuses.add(response.status_code)

                check()
        assert server.post("/v1/completions", {"prompt": "x"}).status_code == 200
    assert {schemathesis.GenerationMode.POSITIVE: 200, schemathesis.GenerationMode.NEGATIVE: 400}[mode] in statuses


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_playground_in_a_browser(tmp_path: Path, scheme: str) -> None:
    with running(served(), served("a-name-as-long-as-they-come-instruct-v2")) as server, chromium.browser(tmp_path / "profile") as page:
        page.prefer(scheme)
        page.open(server.url + "/")
        page.until("models.size")
        chat(page, "add one", tokens=12)
        first = page.evaluate("document.querySelectorAll('.turn.assistant .facts')[0].textContent")
        assert re.match(r"\d+ tokens · \d+ tokens/s · first after [\d.]+ s · prompt \d+, 0 reused$", first), first
        chat(page, "and two", tokens=12)
        assert page.evaluate("sums.reused") > 0 and "%" in page.evaluate("$('reused').textContent")
        assert page.evaluate("turns.length") == 4
        continue_text(page)
        stop_early(page, server)
        page.resize(390, 844)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a telephone shows all of it"
        assert {url.removeprefix(server.url) for url in page.requests} <= {"/", "/v1/models", "/v1/chat/completions", "/v1/completions"}
        assert page.complaints == []
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == {"light": "rgb(251, 250, 248)", "dark": "rgb(22, 24, 27)"}[scheme]


def chat(page: chromium.Page, question: str, tokens: int) -> None:
    page.evaluate(f"$('temperature').value = 0; $('max_tokens').value = {tokens}; $('question').value = {json.dumps(question)}; 1")
    page.evaluate("$('question').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true})); 1")
    page.until("running === null && document.querySelectorAll('.running').length === 0")


def continue_text(page: chromium.Page) -> None:
    page.evaluate("$('mode-text').click(); $('document').value = 'def f'; $('continue').click(); 1")
    page.until("running === null && !$('undo').disabled")
    assert page.evaluate("$('document').value").startswith("def f")
    page.evaluate("$('undo').click(); 1")
    assert page.evaluate("$('document').value") == "def f"


def stop_early(page: chromium.Page, server: Running) -> None:
    page.evaluate("$('max_tokens').value = 380; $('continue').click(); 1")
    page.until("$('document').value.length > 5")
    page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'})); 1")
    page.until("running === null")
    assert "stopped" in page.evaluate("$('text-facts').textContent")
    end = time.monotonic() + 10
    while server.engine.stats().running:
        assert time.monotonic() < end


@needs_chromium
def test_a_key_is_asked_for_and_kept(tmp_path: Path) -> None:
    with running(key="secret", hosts=None) as server, chromium.browser(tmp_path / "profile") as page:
        page.open(server.url + "/")
        page.until("!$('key-section').hidden && $('turn-list').textContent.includes('API key')")
        page.evaluate("$('key').value = 'secret'; $('use-key').requestSubmit(); 1")
        page.until("models.size")
        assert page.evaluate("$('key-section').hidden")

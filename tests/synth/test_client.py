"""Limits, budgets and many calls at once, against a real server or in closed form."""

import asyncio
import json
import resource
import time

import pytest
from tests.synth.misbehaving import Misbehaving

from amaru.errors import BudgetError, ConfigError, EndpointError
from amaru.synth.budget import Budget, Ledger, Price, Usage
from amaru.synth.call import Call
from amaru.synth.client import Client, Failed
from amaru.synth.endpoint import Endpoint
from amaru.synth.limits import AdaptiveLimit
from amaru.synth.store import Store
from amaru.synth.structured import whole_text


def call(url, number=0, **fields):
    content = f"Question {number}"
    fields = {"messages": ({"role": "user", "content": content},), "sampling": {"max_tokens": 16}, **fields}
    return Call(endpoint=url, model="m", **fields)


async def ask_all(server, path, calls, together=None, **settings):
    endpoint = Endpoint(url=server.url, model="m", **{"timeout": 60.0, "attempts": 8, **settings})
    with Store(path) as store:
        async with Client([endpoint], store, Ledger(Budget()), 0.005) as client:
            asking = together or (lambda ask, all_calls: asyncio.gather(*map(ask, all_calls)))
            start = time.monotonic()
            answers = await asking(lambda each: client.ask(endpoint, each, "step", whole_text), calls)
            return answers, time.monotonic() - start, client


@pytest.mark.parametrize(("calls", "fast", "times"), [(60, 0.02, 2.0), pytest.param(300, 0.05, 3.5, marks=pytest.mark.soak)])
def test_a_slow_tail_holds_nobody_up(tmp_path, calls, fast, times):
    """Every tenth call takes ten times as long; the same client in waves of its width is what it is compared with."""
    width = 10

    async def in_waves(ask, calls):
        for first in range(0, len(calls), width):
            await asyncio.gather(*map(ask, calls[first : first + width]))

    async def body(name, together):
        async with Misbehaving(fast=fast, slow=10 * fast) as server:
            return (await ask_all(server, tmp_path / name, [call(server.url, n) for n in range(calls)], together, concurrency=width))[1]

    waves = asyncio.run(body("waves", in_waves))
    free = min(asyncio.run(body(f"free{attempt}", None)) for attempt in range(2))  # whatever else the machine does takes time too
    assert waves >= times * free, f"{waves:.2f} s in waves, {free:.2f} s without"


def test_a_thousand_calls_at_once_in_bounded_memory(tmp_path):
    async def body():
        async with Misbehaving(hold=1000) as server:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answers, _, _ = await ask_all(server, tmp_path / "s", [call(server.url, n) for n in range(1000)], concurrency=1000)
            return answers, server.most_under_way, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    answers, most, grown = asyncio.run(body())
    assert (len(answers), most) == (1000, 1000)
    assert grown < 200 * 1024  # kB, of client and server together


def test_one_call_under_way_answers_all_who_ask_it(tmp_path):
    async def body():
        async with Misbehaving(fast=0.02) as server:
            answers, _, _ = await ask_all(server, tmp_path / "s", [call(server.url)] * 5)
            return answers, server.requests

    answers, requests = asyncio.run(body())
    assert (len(set(answers)), requests) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"model": "n"},
        {"messages": ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Question 0"})},
        {"sampling": {"max_tokens": 17}},
        {"schema": {"type": "object"}},
        {"template": "v2"},
        {"sample": 1},
        {"endpoint": "http://other/v1"},
    ],
)
def test_everything_that_decides_an_answer_is_in_its_key(other):
    question = {"role": "user", "content": "Question 0"}
    base = {"endpoint": "http://x/v1", "model": "m", "messages": (question,), "sampling": {"max_tokens": 16}}
    assert Call(**base).key == Call(**base).key != Call(**{**base, **other}).key


def test_a_call_that_is_never_answered_well_fails_with_its_reason_and_is_paid_for(tmp_path):
    async def body():
        async with Misbehaving(["truncated"]) as server:
            with pytest.raises(Failed, match=r"ended by 'length' before it was whole \(attempt 3\)"):
                await ask_all(server, tmp_path / "s", [call(server.url)], attempts=3)

    asyncio.run(body())
    with Store(tmp_path / "s") as store:
        assert store.usage().calls == 3
        assert store.failures() == {"the answer ended by 'length' before it was whole": 3}


def test_being_busy_costs_patience_and_not_attempts(tmp_path):
    async def body(patience):
        async with Misbehaving(["429", "429", "429", "ok"]) as server:
            return await ask_all(server, tmp_path / str(patience), [call(server.url)], attempts=1, patience=patience)

    answers, _, client = asyncio.run(body(60.0))
    assert (len(answers), client.refused) == (1, 3)
    with pytest.raises(Failed, match="status 429"):
        asyncio.run(body(0.06))
    with pytest.raises(EndpointError, match=r"status 429 and asks to wait 0 s, longer than its patience"):
        asyncio.run(body(0.04))


def test_an_endpoint_that_goes_away_is_waited_for_and_costs_no_attempts(tmp_path):
    async def body(patience, back):
        async with Misbehaving() as first:
            endpoint = Endpoint(url=first.url, model="m", attempts=1, patience=patience)
            with Store(tmp_path / f"{back}") as store:
                async with Client([endpoint], store, Ledger(Budget()), 0.01) as client:
                    await client.ask(endpoint, call(first.url), "step", whole_text)
                    await first.__aexit__()
                    asked = asyncio.gather(*(client.ask(endpoint, call(first.url, n), "step", whole_text) for n in range(1, 9)))
                    if not back:
                        return await asked
                    await asyncio.sleep(0.1)
                    async with Misbehaving(port=int(first.url.split(":")[2].split("/")[0])):
                        return len(set(await asked)), client.refused > 0, store.usage().calls

    assert asyncio.run(body(60.0, True)) == (8, True, 9)
    with pytest.raises(EndpointError, match=r"has taken no connection for \d s, and its patience is 0.2 s\. \(.*\) The same command"):
        asyncio.run(body(0.2, False))
    with Store(tmp_path / "False") as store:
        assert store.usage().calls == 1 and not store.failures()


def test_an_endpoint_that_never_was_there_ends_the_run_soon(tmp_path):
    async def body():
        async with Misbehaving() as server:
            pass
        start = time.monotonic()
        with pytest.raises(EndpointError, match=r"takes no connection; is it running, and is the url right\?"):
            await ask_all(server, tmp_path / "s", [call(server.url)], attempts=3)
        assert time.monotonic() - start < 30

    asyncio.run(body())


class Saying(Misbehaving):
    """Answers each call with a status and whatever `said` is, as JSON; `{key}` in it is the key that came."""

    def __init__(self, status, said):
        super().__init__()
        self.status, self.said = status, said

    async def reply(self, fault, question, writer):
        data = json.dumps(self.said).replace("{key}", self.headers[-1].get("authorization", "")[7:]).encode()
        writer.write(f"HTTP/1.1 {self.status} It\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()
        return True


def choices(content):
    return {"choices": [{"message": {"content": content}, "finish_reason": None}]}


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": None, "completion_tokens": "many"}, {"prompt_tokens": -1}])
def test_a_usage_that_tells_nothing_counts_as_the_most(tmp_path, usage):
    async def body():
        async with Saying(200, choices("Yes \ud83d") | {"usage": usage}) as server:
            return (await ask_all(server, tmp_path / "s", [call(server.url)]))[0]

    assert asyncio.run(body()) == ["Yes \ufffd"]  # half a letter cannot be kept
    with Store(tmp_path / "s") as store:
        assert store.usage() == Usage(1, len("Question 0") + 16, 16, 0.0)


def test_a_call_whose_answer_broke_counts_as_the_most_that_it_can_cost(tmp_path):
    async def body():
        async with Misbehaving(["html", "cut"]) as server:
            with pytest.raises(Failed, match="the connection broke"):
                await ask_all(server, tmp_path / "s", [call(server.url)], attempts=2)

    asyncio.run(body())
    with Store(tmp_path / "s") as store:
        assert store.usage() == Usage(2, 2 * (len("Question 0") + 16), 2 * 16, 0.0)


def test_a_key_is_not_kept_where_a_server_repeats_it_or_it_is_given_for_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WRITER_KEY", "sk-secret")

    async def body():
        async with Saying(400, {"error": "{key} has no credit"}) as server:
            with pytest.raises(Failed, match=r"\(the key\) has no credit"):
                await ask_all(server, tmp_path / "s", [call(server.url)], key="WRITER_KEY")

    asyncio.run(body())
    assert not any(b"sk-secret" in file.read_bytes() for file in tmp_path.iterdir())
    with pytest.raises(ConfigError, match="no name of an environment variable") as refused:
        Endpoint(url="http://x", model="m", key="sk-secret")
    assert "sk-secret" not in str(refused.value)


def test_a_limit_backs_off_once_for_calls_that_were_under_way_together_and_recovers():
    async def body():
        limit, began = AdaptiveLimit(10), []
        for _ in range(5):
            async with limit.slot() as at:
                began.append(at)
        for at in began:
            limit.pushed_back(at)
        assert limit.now == 7
        async with limit.slot() as at:
            limit.pushed_back(at, wait=0.05)
        assert limit.now == 4  # 4.9
        start = time.monotonic()
        async with limit.slot():
            assert time.monotonic() - start >= 0.049
        for _ in range(60):
            limit.succeeded()
        assert limit.now == 10

    asyncio.run(body())


def test_a_limit_admits_no_more_than_it_says_even_when_who_waits_is_cancelled():
    async def body():
        limit, inside, most = AdaptiveLimit(3), 0, 0

        async def work():
            nonlocal inside, most
            async with limit.slot():
                inside += 1
                most = max(most, inside)
                try:
                    await asyncio.sleep(0.001)
                finally:
                    inside -= 1

        tasks = [asyncio.create_task(work()) for _ in range(60)]
        await asyncio.sleep(0.002)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most == 3
        async with limit.slot(), limit.slot(), limit.slot():  # no place was lost
            pass

    asyncio.run(asyncio.wait_for(body(), 5))


def test_what_is_set_aside_is_waited_for_and_never_overspent():
    async def body():
        ledger, done = Ledger(Budget(money=1.0)), 0
        most = Usage(1, 0, 0, 0.4)

        async def one():
            nonlocal done
            async with ledger.reserved(most) as receipt:
                await asyncio.sleep(0.001)
                receipt.used = Usage(1, 0, 0, 0.1)
                done += 1

        results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
        assert ledger.spent.money == pytest.approx(0.7)  # after seven, 0.4 more may not fit
        assert done == 7 and sum(isinstance(result, BudgetError) for result in results) == 13

    asyncio.run(body())


def test_prices_are_for_a_million_tokens_and_a_budget_of_money_needs_them(tmp_path):
    assert Price(prompt=0.5, completion=1.5).of(2_000_000, 1_000_000) == 2.5
    with Store(tmp_path / "s") as store, pytest.raises(ConfigError, match="needs the price of m"):
        Client([Endpoint(url="http://x", model="m")], store, Ledger(Budget(money=1.0)))

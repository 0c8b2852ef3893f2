"""A recipe made by several processes: the rows of one process, each call asked once, whoever is killed."""

import asyncio
import os
import signal

import pytest
from tests.synth.misbehaving import FAULTS, Misbehaving
from tests.synth.recipes import FIVE_STEPS, bound, run

from amaru.config import to_dict
from amaru.errors import BudgetError, EndpointError, ProcessError
from amaru.synth.budget import Ledger
from amaru.synth.reading import read_rows, results
from amaru.synth.running import Running
from amaru.synth.spread.crew import Crew
from amaru.synth.spread.line import Line
from amaru.synth.spread.processes import Pipes
from amaru.synth.store import Store

SAME = {"name": "same", "kind": "text", "model": "writer", "prompt": "Say it for {{ level }} people.", "column": "said"}
LOUD = {"name": "loud", "kind": "python", "function": "rows.py:loud"}
DISTINCT = {"name": "distinct", "kind": "unique", "column": "question"}


async def run_spread(recipe, path, workers=2, meanwhile=None):
    """Tallies, rows, and the crew."""
    with Store(path) as store:
        ledger = Ledger(recipe.recipe.budget, store.usage())
        async with Crew(recipe, store, ledger, [Pipes.start] * workers, 0.005) as crew:
            running = asyncio.create_task(Running(recipe, store, crew, wide=workers).run())
            if meanwhile:
                await meanwhile(crew)
            tallies = await running
        return tallies, list(results(recipe, read_rows(recipe, store))), crew


def test_several_processes_make_the_rows_of_one_and_ask_each_call_once(tmp_path):
    (tmp_path / "rows.py").write_text("def loud(row):\n    print('{')\n    return row\n")

    async def body():
        async with Misbehaving() as server:
            recipe = bound(server.url, [*FIVE_STEPS[:3], SAME, LOUD, DISTINCT], directory=tmp_path, concurrency=8)
            tallies, rows, _ = await run_spread(recipe, tmp_path / "spread.sqlite", 2)
            spread = list(server.seen)
            again, _, _ = await run_spread(recipe, tmp_path / "spread.sqlite", 1)
            assert len(server.seen) == len(spread)
            _, expected = await run(recipe, tmp_path / "one.sqlite")
            return tallies, rows, expected, spread, server.seen[len(spread) :], again

    _, rows, expected, spread, alone, again = asyncio.run(body())
    assert rows == expected and len(rows) == 20
    assert sorted(spread) == sorted(alone) and len(set(spread)) == len(spread) == 1 + 4 + 2  # what all rows ask is asked once
    assert [tally.kept_from_before for tally in again.values()] == [1, 4, 20, 20, 20, 0]


def test_a_lost_worker_s_rows_go_to_the_others(tmp_path):
    async def kill_one(crew):
        while crew.store.usage().calls < 8:
            await asyncio.sleep(0.01)
        os.kill(crew._members["worker 1"].channel.process.pid, signal.SIGKILL)

    async def body():
        faults = [fault for bad in FAULTS for fault in ("ok", "ok", "ok", bad)]
        async with Misbehaving() as well, Misbehaving(faults, fast=0.01) as ill:
            _, expected = await run(bound(well.url), tmp_path / "well.sqlite")
            recipe = bound(ill.url, timeout=0.5, concurrency=4)
            return expected, *await run_spread(recipe, tmp_path / "ill.sqlite", 2, kill_one)

    expected, tallies, rows, crew = asyncio.run(body())
    assert crew.lost == ["worker 1 ended"]
    assert [(row["topic"], row["question"]) for row in rows] == [(row["topic"], row["question"]) for row in expected]
    assert not any(tally.failed for tally in tallies.values())


@pytest.mark.soak
def test_without_workers_the_run_ends_and_the_next_goes_on(tmp_path):
    async def kill_all(crew):
        while crew.store.usage().calls < 8:
            await asyncio.sleep(0.01)
        for member in crew._members.values():
            os.kill(member.channel.process.pid, signal.SIGKILL)

    async def body():
        async with Misbehaving(fast=0.02) as server:
            recipe = bound(server.url, concurrency=2)
            with pytest.raises(ProcessError, match="No worker is left"):
                await run_spread(recipe, tmp_path / "s.sqlite", 2, kill_all)
            _, rows, _ = await run_spread(recipe, tmp_path / "s.sqlite", 1)
            return rows, server.requests

    rows, requests = asyncio.run(body())
    assert len(rows) == 20 and 45 <= requests <= 45 + 4  # what was under way when they were killed is asked again


def test_a_worker_in_a_function_that_never_returns_is_ended(tmp_path):
    (tmp_path / "rows.py").write_text("import pathlib, time\n\ndef loud(row):\n    pathlib.Path(row['at']).touch()\n    time.sleep(999)\n")

    async def body():
        own = {"name": "own", "kind": "seeds", "rows": [{"at": str(tmp_path / "in")}]}
        recipe = bound("http://127.0.0.1:1/v1", [own, LOUD], None, tmp_path)
        channel = await Pipes.start()
        line = Line(channel.send, None)
        listening = asyncio.create_task(channel.listen(line.received))
        await line.call("begin", to_dict(recipe.recipe), str(tmp_path), 0.005)
        making = asyncio.create_task(line.call("make", 1, (0, 0), "key", {"at": str(tmp_path / "in")}))
        while not (tmp_path / "in").exists():
            await asyncio.sleep(0.01)
        await channel.close(0.2)
        making.cancel()
        await listening
        return channel.process.returncode

    assert asyncio.run(asyncio.wait_for(body(), 30)) == -signal.SIGKILL


class Garbling:
    """A worker that begins, and then says what is no message."""

    @classmethod
    async def start(cls):
        return cls()

    def __init__(self):
        self.told = asyncio.Queue()

    async def send(self, message):
        self.told.put_nowait(message)

    async def listen(self, received):
        received({"answer": (await self.told.get())["call"], "value": None})
        await self.told.get()
        raise ValueError("a line without an end")

    async def close(self):
        pass


def test_a_worker_that_cannot_be_understood_is_lost_and_told(tmp_path):
    async def body():
        recipe = bound("http://127.0.0.1:1/v1")
        with Store(tmp_path / "s.sqlite") as store:
            async with Crew(recipe, store, Ledger(recipe.recipe.budget), [Garbling.start], 0.005) as crew:
                await Running(recipe, store, crew).run()

    with pytest.raises(ProcessError, match=r"No worker is left \(worker 0 sent what cannot be read \(a line without an end\)\)"):
        asyncio.run(asyncio.wait_for(body(), 20))


def test_a_budget_is_one_for_all_workers_and_errors_come_back_as_what_they_are(tmp_path, monkeypatch):
    async def body():
        async with Misbehaving() as server:
            with pytest.raises(BudgetError, match="calls 30, of which 30 are spent"):
                await run_spread(bound(server.url, budget={"calls": 30}), tmp_path / "s.sqlite")
            assert server.requests == 30
            monkeypatch.setenv("WRITER_KEY", "sk")
            recipe = bound(server.url, key="WRITER_KEY")
            monkeypatch.delenv("WRITER_KEY")
            with pytest.raises(EndpointError, match="WRITER_KEY"):
                await run_spread(recipe, tmp_path / "s.sqlite", 1)
        async with Misbehaving(["ok", "400"]) as server:
            few = {"name": "few", "kind": "filter", "where": "question | length > 1000"}
            tallies, _, _ = await run_spread(bound(server.url, [*FIVE_STEPS[:2], few]), tmp_path / "t.sqlite", 1)
            return tallies

    tallies = asyncio.run(body())
    assert tallies["questions"].failed.keys() == {"status 400: no"}
    assert tallies["few"].dropped == {"not: question | length > 1000": tallies["few"].taken}

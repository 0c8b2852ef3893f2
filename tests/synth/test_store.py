"""The store: on disk when an await returns, one process at a time, sums over runs."""

import asyncio
import sqlite3

import pytest

from amaru.errors import ArtifactError, StorageError
from amaru.synth.budget import Usage
from amaru.synth.call import Answer, Call
from amaru.synth.row import FAILED, Made
from amaru.synth.store import Store


def call(number=0):
    return Call(endpoint="http://x", model="m", messages=({"role": "user", "content": str(number)},))


def test_what_was_awaited_is_seen_by_another_connection_and_sums_go_on_over_runs(tmp_path):
    path = tmp_path / "deep" / "s.sqlite"

    async def keep(store, numbers):
        await asyncio.gather(*(store.keep(call(n), "step", Answer("yes", "stop", Usage(1, 10, 2, 0.5)), 0.1) for n in numbers))
        with sqlite3.connect(path) as other:
            assert other.execute("SELECT count(*) FROM answers").fetchone()[0] == max(numbers) + 1

    for numbers in (range(100), range(100, 150)):
        with Store(path) as store:
            asyncio.run(keep(store, numbers))
    with Store(path) as store:
        asyncio.run(store.lament(call(), "other", "cut", Usage(1, 7, 0, 0.25)))
        assert store.usage() == Usage(151, 1507, 300, 75.25)
        assert store.usage("other") == Usage(1, 7, 0, 0.25)
        assert store.answer(call(149).key) == Answer("yes", "stop", Usage(1, 10, 2, 0.5))
        assert store.answer(call(150).key) is None


def test_a_unit_is_finished_whole_and_a_failed_one_may_be_finished_again(tmp_path):
    with Store(tmp_path / "s") as store:
        asyncio.run(store.finish("unit", "step", "parent", (), FAILED, "no answer"))
        assert store.finished("unit") is None and store.outcome("unit") == (FAILED, "no answer")
        made = tuple(Made(f"row{n}", {"text": "ö" * n}, ("call",)) for n in range(12))
        asyncio.run(store.finish("unit", "step", "parent", made))
        assert store.finished("unit") == made
        assert store.origin("row3") == ("step", "parent", ["call"])
        assert store.finished("another") is None


def test_one_process_at_a_time(tmp_path):
    with Store(tmp_path / "s"), pytest.raises(ArtifactError, match="Another process"), Store(tmp_path / "s"):
        pass
    with Store(tmp_path / "s"):
        pass


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "s").write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(ArtifactError, match="is not a store of synthetic data"), Store(tmp_path / "s"):
        pass


def test_what_cannot_be_written_is_told_and_the_next_is_written(tmp_path):
    async def body(store):
        with pytest.raises(UnicodeEncodeError):
            await store.keep(call(0), "step", Answer("half a letter: \ud83d", "stop", Usage()), 0.1)
        await store.keep(call(1), "step", Answer("yes", "stop", Usage()), 0.1)

    with Store(tmp_path / "s") as store:
        asyncio.run(asyncio.wait_for(body(store), 10))
        assert store.answer(call(0).key) is None and store.answer(call(1).key)


def test_who_looks_on_makes_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="holds no synthetic data"), Store(tmp_path / "none" / "s", reading=True):
        pass
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_is_told_to_all_who_wait(tmp_path):
    async def body(store):
        with sqlite3.connect(tmp_path / "s") as other:
            other.execute("DROP TABLE answers")
        writes = (store.keep(call(n), "step", Answer("yes", "stop", Usage()), 0.1) for n in range(3))
        return await asyncio.gather(*writes, return_exceptions=True)

    with Store(tmp_path / "s") as store:
        assert all(isinstance(result, StorageError) for result in asyncio.run(body(store)))

"""Work handed out to processes: answers, and a failure that nobody waits for."""

import multiprocessing
import threading
import time

import pytest

from amaru.errors import ConfigError
from amaru.recipes.reproduce import workers as module
from amaru.recipes.reproduce.workers import workers


def doubled(number: int) -> int:
    return 2 * number


def refused() -> None:
    raise ConfigError("This one cannot be made.")


def long() -> None:
    time.sleep(120)


@pytest.mark.parametrize("jobs", [1, 2])
def test_answers_come_to_those_who_asked(jobs: int) -> None:
    with workers(jobs) as hand_out:
        answers = [hand_out(doubled, number) for number in range(5)]
        assert [answer() for answer in answers] == [0, 2, 4, 6, 8]


def test_a_failure_is_told_while_another_is_waited_for_and_the_others_are_stopped() -> None:
    bystander = multiprocessing.get_context("spawn").Process(target=long, daemon=True)
    bystander.start()
    start = time.monotonic()
    with pytest.raises(ConfigError, match="cannot be made"), workers(2) as hand_out:
        first, _ = hand_out(long), hand_out(refused)
        first()
    assert time.monotonic() - start < 100
    assert bystander.is_alive(), "a process of somebody else is left alone"
    bystander.kill()
    bystander.join()


def interrupted() -> None:
    raise KeyboardInterrupt


def test_who_was_told_to_stop_begins_nothing_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_stopped", threading.Event())
    assert module._work(doubled, 2) == 4
    for work in (interrupted, long):
        with pytest.raises(KeyboardInterrupt):
            module._work(work)

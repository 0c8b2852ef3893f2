"""The engine against `generate` alone: company, reuse, windows, stopping, cancelling and failing change no one's tokens."""

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import random_config, random_hymba, random_ids, random_model

from amaru.data.tokenizer import Tokenizer
from amaru.errors import BusyError, CapacityError, ConfigError
from amaru.models import Decoder
from amaru.nn import Batch
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.generate import generate
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sampler import GREEDY, Sampling

CONFIG = EngineConfig(memory=2**26, max_running=3, max_tokens=300, chunk_tokens=40, prefix_every=32)


@pytest.fixture(params=["nemotron_h", "hymba"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    config = random_config(0, "MM-*-M") if request.param == "nemotron_h" else random_hymba(1)
    return random_model(config, 0)


@pytest.fixture
def prompts(decoder: Decoder) -> list[list[int]]:
    return [ids.tolist() for ids in random_ids(decoder.config.vocab, 33, 1, 120, 50, 7, 90)]


class Collected:
    """What a request was told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.handle: Handle | None = None

    def __call__(self, handle: Handle, event: Event) -> None:
        self.handle = handle
        self.events.append(event)

    @property
    def tokens(self) -> list[int]:
        return [token.id for event in self.events for token in event.tokens]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    @property
    def finish(self) -> str | None:
        return self.events[-1].finish if self.events else None


def run(engine: Engine, *requests: tuple[list[int], Settings]) -> list[Collected]:
    told = [Collected() for _ in requests]
    for (prompt, settings), each in zip(requests, told, strict=True):
        engine.submit(prompt, settings, each)
    while engine.step():
        pass
    return told


def alone(decoder: Decoder, prompt: list[int], settings: Settings) -> list[int]:
    return generate(decoder, [prompt], settings)[0].tokens


def everything_is_given_back(engine: Engine) -> bool:
    if engine._prefixes is not None:
        engine._prefixes.free_pages(dict.fromkeys(engine._pool.pages, 2 ** 60))
    stats = engine.stats()
    return (stats.free_slots, stats.free_pages, stats.running, stats.waiting) == (stats.slots, stats.pages, 0, 0)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, seed=3)], ids=["greedy", "sampled"])
def test_more_requests_than_slots_each_give_what_they_give_alone(decoder: Decoder, prompts: list[list[int]], sampling: Sampling) -> None:
    engine, settings = Engine(decoder, config=CONFIG), Settings(max_tokens=12, sampling=sampling)
    told = run(engine, *((prompt, settings) for prompt in prompts))
    assert [each.tokens for each in told] == [alone(decoder, prompt, settings) for prompt in prompts]
    assert {each.finish for each in told} == {"length"}
    assert everything_is_given_back(engine)


@torch.no_grad()
def test_a_conversation_reuses_its_past_and_gives_the_tokens_of_a_cold_run(decoder: Decoder) -> None:
    engine, settings = Engine(decoder, config=replace(CONFIG, prefix_bytes=2**28)), Settings(max_tokens=9, logprobs=0, sampling=GREEDY)
    history, prompt_tokens = [], 0
    for turn in range(8):
        history = history + random_ids(decoder.config.vocab, 14, seed=turn)[0].tolist()
        cold = run(Engine(decoder, config=replace(CONFIG, prefix_bytes=0)), (history, settings))[0]
        warm = run(engine, (history, settings))[0]
        assert warm.tokens == cold.tokens
        logprobs = [[token.logprob for event in each.events for token in event.tokens] for each in (warm, cold)]
        assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
        prompt_tokens += len(history)
        history = history + warm.tokens
    stats = engine.stats()
    assert stats.reused_tokens / stats.prompt_tokens > 0.7 and stats.prompt_tokens == prompt_tokens
    assert everything_is_given_back(engine)


def test_a_prompt_that_comes_again_is_not_computed_again(decoder: Decoder, prompts: list[list[int]]) -> None:
    engine, settings = Engine(decoder, config=CONFIG), Settings(max_tokens=5, sampling=GREEDY)
    first, second = (run(engine, (prompts[2], settings))[0] for _ in range(2))
    assert first.tokens == second.tokens
    assert first.handle and second.handle and (first.handle.reused_tokens, second.handle.reused_tokens) == (0, len(prompts[2]))


def test_two_that_share_a_beginning_do_not_disturb_each_other(decoder: Decoder, prompts: list[list[int]]) -> None:
    engine, settings = Engine(decoder, config=CONFIG), Settings(max_tokens=20, sampling=GREEDY)
    shared = prompts[2][:70]
    run(engine, (shared, settings))
    ends = [shared + prompts[3][:9], shared + prompts[5][:30], shared]
    told = run(engine, *((prompt, settings) for prompt in ends))
    assert [each.tokens for each in told] == [alone(decoder, prompt, settings) for prompt in ends]
    assert all(each.handle and each.handle.reused_tokens == 70 for each in told)


def test_little_memory_makes_requests_wait_and_snapshots_leave(decoder: Decoder, prompts: list[list[int]]) -> None:
    large = Engine(decoder, config=CONFIG)
    memory = large._pool.fixed_bytes * 2 + sum(large._pool.page_bytes[sight] * 8 for sight in large._pool.pages)
    engine = Engine(decoder, config=replace(CONFIG, memory=memory, max_running=8))
    settings = Settings(max_tokens=12, sampling=GREEDY)
    for _ in range(2):
        told = run(engine, *((prompt, settings) for prompt in prompts))
        assert [each.tokens for each in told] == [alone(decoder, prompt, settings) for prompt in prompts]
    assert everything_is_given_back(engine)


def test_what_can_never_fit_is_refused_at_once(decoder: Decoder) -> None:
    engine = Engine(decoder, config=CONFIG)
    with pytest.raises(CapacityError, match="at most 300"):
        engine.submit([1] * 290, Settings(max_tokens=11), Collected())
    with pytest.raises(ConfigError, match="no token"):
        engine.submit([], Settings(), Collected())
    with pytest.raises(CapacityError, match="bytes"):
        Engine(decoder, config=replace(CONFIG, memory=10))


def test_a_full_queue_says_so_and_when_to_come_again(decoder: Decoder) -> None:
    engine = Engine(decoder, config=replace(CONFIG, max_waiting=2))
    for _ in range(2):
        engine.submit([1], Settings(max_tokens=1), Collected())
    with pytest.raises(BusyError) as caught:
        engine.submit([1], Settings(max_tokens=1), Collected())
    assert caught.value.retry_after >= 1


def test_a_cancelled_request_ends_and_gives_back(decoder: Decoder, prompts: list[list[int]]) -> None:
    engine, told = Engine(decoder, config=CONFIG), [Collected() for _ in prompts]
    handles = [
        engine.submit(prompt, Settings(max_tokens=50, sampling=GREEDY), each) for prompt, each in zip(prompts, told, strict=True)
    ]
    for _ in range(4):
        engine.step()
    handles[0].cancel()  # runs
    handles[5].cancel()  # waits
    while engine.step():
        pass
    assert [each.finish for each in told] == ["cancelled", "length", "length", "length", "length", "cancelled"]
    assert told[1].tokens == alone(decoder, prompts[1], Settings(max_tokens=50, sampling=GREEDY))
    assert engine.stats().cancelled == 2 and everything_is_given_back(engine)


def test_a_receiver_that_fails_ends_its_own_request_only(
    decoder: Decoder, prompts: list[list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(handle: Handle, event: Event) -> None:
        raise RuntimeError("gone")

    engine, told, settings = Engine(decoder, config=CONFIG), Collected(), Settings(max_tokens=8, sampling=GREEDY)
    engine.submit(prompts[0], settings, fail)
    engine.submit(prompts[1], settings, told)
    while engine.step():
        pass
    assert told.tokens == alone(decoder, prompts[1], settings) and everything_is_given_back(engine)
    assert "gone" in caplog.text


@torch.no_grad()
def test_logprobs_are_the_models_own(decoder: Decoder, prompts: list[list[int]]) -> None:
    settings = Settings(max_tokens=4, logprobs=3, prompt_logprobs=True, sampling=Sampling(temperature=0.3, seed=1))
    told = run(Engine(decoder, config=CONFIG), (prompts[3], settings))[0]
    assert told.handle
    ids = prompts[3] + told.tokens
    expected = decoder(Batch.of([torch.tensor(ids)])).log_softmax(-1)
    given = [*told.handle.prompt_logprobs, *(token for event in told.events for token in event.tokens)]
    assert [token.id for token in given] == ids[1:]
    for place, token in enumerate(given):
        best = expected[place].topk(3)
        assert token.logprob == pytest.approx(float(expected[place, ids[place + 1]]), abs=1e-4)
        assert [id for id, _ in token.top] == best.indices.tolist()
        assert [value for _, value in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize("penalties", [{"repetition_penalty": 1.3}, {"presence_penalty": 1.5}, {"frequency_penalty": 0.7}])
def test_penalties_are_those_of_their_definitions(decoder: Decoder, prompts: list[list[int]], penalties: dict[str, float]) -> None:
    """Repetition divides or multiplies what prompt and answer hold; presence and frequency are taken from what the answer holds."""
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    repetition, presence, frequency = (neutral | penalties).values()
    settings = Settings(max_tokens=24, sampling=Sampling(temperature=0, **penalties))  # type: ignore[arg-type]
    found = run(Engine(decoder, config=CONFIG), (prompts[1], settings))[0].tokens
    ids = list(prompts[1])
    for _ in range(24):
        logits = decoder(Batch.of([torch.tensor(ids)]))[-1].tolist()
        answer = ids[len(prompts[1]) :]
        for token in set(ids):
            logits[token] *= 1 / repetition if logits[token] > 0 else repetition
        for token in answer:
            logits[token] -= frequency
        for token in set(answer):
            logits[token] -= presence
        ids.append(max(range(len(logits)), key=logits.__getitem__))
    assert found == ids[len(prompts[1]) :] != alone(decoder, prompts[1], Settings(max_tokens=24, sampling=GREEDY))


def test_nothing_ends_an_answer_before_its_least_length(decoder: Decoder, prompts: list[list[int]]) -> None:
    free = alone(decoder, prompts[0], Settings(max_tokens=12, sampling=GREEDY))
    stop = (free[2],)
    short = run(Engine(decoder, config=CONFIG), (prompts[0], Settings(max_tokens=12, stop=stop, sampling=GREEDY)))[0]
    assert short.tokens == free[: free.index(stop[0])] and short.finish == "stop"
    long = run(Engine(decoder, config=CONFIG), (prompts[0], Settings(max_tokens=12, min_tokens=7, stop=stop, sampling=GREEDY)))[0]
    assert len(long.tokens) >= 7 and stop[0] not in long.tokens[:7]


def byte_tokenizer() -> Tokenizer:
    return Tokenizer.train(["abc abc"], 260)


def test_a_stop_string_is_never_shown_though_it_comes_in_pieces() -> None:
    tokenizer = byte_tokenizer()
    decoder = random_model(replace(random_config(3, "M-*-"), vocab=tokenizer.vocab_size), 3)
    settings = Settings(max_tokens=60, sampling=Sampling(temperature=1, seed=4))
    free = run(Engine(decoder, tokenizer, CONFIG), (tokenizer.encode("a"), settings))[0]
    for start, stop in ((10, 13), (20, 21), (0, 2)):
        wanted = free.text[start:stop]
        told = run(Engine(decoder, tokenizer, CONFIG), (tokenizer.encode("a"), replace(settings, stop_strings=("never seen", wanted))))[0]
        assert told.text == free.text[: free.text.index(wanted)] and told.finish == "stop"


def test_a_thread_of_its_own_drains_or_stops_at_once(decoder: Decoder, prompts: list[list[int]]) -> None:
    def ended(drain: bool) -> list[Collected]:
        engine, told = Engine(decoder, config=CONFIG), [Collected() for _ in prompts]
        first = threading.Event()
        thread = threading.Thread(target=engine.run)
        thread.start()
        for prompt, each in zip(prompts, told, strict=True):
            engine.submit(prompt, Settings(max_tokens=30, sampling=GREEDY), _then(each, first.set))
        assert first.wait(60)
        engine.stop(drain)
        with pytest.raises(BusyError):
            engine.submit([1], Settings(), Collected())
        thread.join(60)
        assert not thread.is_alive() and everything_is_given_back(engine)
        return told

    assert {each.finish for each in ended(drain=True)} == {"length"}
    assert "cancelled" in {each.finish for each in ended(drain=False)}


def _then(told: Collected, call: Callable[[], None]) -> Callable[[Handle, Event], None]:
    def receive(handle: Handle, event: Event) -> None:
        told(handle, event)
        call()

    return receive


@pytest.mark.parametrize("speculate", ["off", "lookup"])
def test_an_engine_that_nobody_has_is_gone_with_its_pool_though_a_handle_is_kept(decoder: Decoder, speculate: str) -> None:
    gc.collect()
    gc.disable()
    try:
        engine = Engine(decoder, config=replace(CONFIG, speculate=speculate))
        handle = engine.submit([1, 2, 3], Settings(max_tokens=4, sampling=GREEDY), lambda handle, event: None)
        while engine.step():
            pass
        left = weakref.ref(engine), weakref.ref(engine._pool)
        del engine
        assert [each() for each in left] == [None, None]
        handle.cancel()  # which nobody hears
    finally:
        gc.enable()

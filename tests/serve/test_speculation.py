"""Guessing ahead changes no token, no log-probability and no reuse: every test runs beside an engine that does not guess."""

import copy
import random
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tests.models.random_models import random_config, random_hymba, random_ids, random_llama, random_model
from tests.serve.teaching import taught
from tests.serve.test_engine import Collected, everything_is_given_back, run
from torch import Tensor

from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models import Decoder
from amaru.nn import Batch
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.lookup import Runs
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sampler import GREEDY, Sampling
from amaru.serve.speculation import Pace

CONFIG = EngineConfig(
    memory=2**24, max_running=10, max_tokens=400, chunk_tokens=60, prefix_every=32, prefix_bytes=2**20, draft_memory=2**23, draft_step=60
)
SAMPLED = Sampling(temperature=0.6, min_p=0.02, frequency_penalty=0.01, seed=3)
Source = Literal["lookup", "draft"]


def phrases(vocab: int, length: int, seed: int) -> list[int]:
    """Text of a language with ten sentences of seven words."""
    language, draw = random.Random(0), random.Random(seed)
    sentences = [[language.randrange(vocab) for _ in range(7)] for _ in range(10)]
    return [word for _ in range(length) for word in draw.choice(sentences)]


def taught_phrases(decoder: Decoder) -> Decoder:
    """It knows the sentences, and not which comes next."""
    texts = [torch.tensor(phrases(decoder.config.vocab, 6, seed)) for seed in range(40)]
    return taught(decoder, (Batch.of(texts[step % 5 * 8 :][:8]) for step in range(40)), loss_at_most=2.5)


@pytest.fixture(scope="module", params=["nemotron_h", "hymba", "llama"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    configs = {"nemotron_h": random_config(0, "MM-*-M"), "hymba": random_hymba(1), "llama": random_llama(2)}
    return taught_phrases(random_model(configs[request.param], 0))


@pytest.fixture(scope="module")
def hybrid() -> Decoder:
    return taught_phrases(random_model(random_config(0, "MM-*-M"), 0))


@torch.no_grad()
def blurred(decoder: Decoder, noise: float = 0.1) -> Decoder:
    """A model that is right often, and wrong often enough."""
    student, generator = copy.deepcopy(decoder), torch.Generator().manual_seed(7)
    for parameter in student.parameters():
        parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return student


def guessing(decoder: Decoder, source: Source, config: EngineConfig = CONFIG, draft: Decoder | None = None) -> Engine:
    student = (draft or blurred(decoder)) if source == "draft" else None
    return Engine(decoder, config=replace(config, speculate=source), draft=student)


def logprobs(told: Collected) -> list[float | None]:
    return [token.logprob for event in told.events for token in event.tokens]


def twenty(decoder: Decoder) -> list[list[int]]:
    return [phrases(decoder.config.vocab, 6, 100 + seed)[: 3 + 2 * seed] for seed in range(20)]


@pytest.mark.parametrize("source", ["lookup", "draft"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_twenty_of_twenty_answers_are_those_without_guesses(decoder: Decoder, source: Source, sampling: Sampling) -> None:
    settings = Settings(max_tokens=70, logprobs=0, sampling=sampling)
    engine, plain = guessing(decoder, source), Engine(decoder, config=CONFIG)
    ours, theirs = (run(each, *((prompt, settings) for prompt in twenty(decoder))) for each in (engine, plain))
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert logprobs(one) == pytest.approx(logprobs(other), abs=1e-4)
    stats = engine.stats()
    assert 0.1 * stats.drafted_tokens < stats.accepted_tokens < stats.drafted_tokens
    assert stats.steps < plain.stats().steps
    assert sum(each.handle.accepted_tokens for each in ours if each.handle) == stats.accepted_tokens
    assert everything_is_given_back(engine)


def test_a_draft_that_is_the_model_is_always_right(decoder: Decoder) -> None:
    engine = guessing(decoder, "draft", draft=decoder)
    (told,) = run(engine, (twenty(decoder)[9], Settings(max_tokens=61, sampling=GREEDY)))
    stats = engine.stats()
    assert stats.accepted_tokens == stats.drafted_tokens == 50  # ten passes of one and five more, after the prompt's
    assert len(told.tokens) == 61


def test_guesses_fill_a_step_and_no_more_and_everyone_has_a_part(hybrid: Decoder) -> None:
    """Four that run and guesses that are right: 4 and 4 tokens a step, so that 20 steps behind the prompts give 40 tokens each."""
    engine = guessing(hybrid, "draft", replace(CONFIG, draft_step=8), draft=hybrid)
    told = run(engine, *((prompt[:9], Settings(max_tokens=41, sampling=GREEDY)) for prompt in twenty(hybrid)[4:8]))
    stats = engine.stats()
    assert (stats.steps, stats.drafted_tokens, stats.accepted_tokens) == (21, 80, 80)
    assert [each.handle.accepted_tokens for each in told if each.handle] == [20, 20, 20, 20]
    crowded = guessing(hybrid, "draft", replace(CONFIG, draft_step=4), draft=hybrid)
    run(crowded, *((prompt[:9], Settings(max_tokens=41, sampling=GREEDY)) for prompt in twenty(hybrid)[4:8]))
    assert (crowded.stats().steps, crowded.stats().drafted_tokens) == (41, 0)


def test_some_guess_and_some_do_not(decoder: Decoder) -> None:
    kinds = [Settings(max_tokens=30 + seed, speculate=seed % 2 == 0, sampling=Sampling(temperature=0.7, seed=seed)) for seed in range(8)]
    requests = list(zip(twenty(decoder), kinds, strict=False))
    ours, theirs = (run(engine, *requests) for engine in (guessing(decoder, "lookup"), Engine(decoder, config=CONFIG)))
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    drafted = [each.handle.drafted_tokens for each in ours if each.handle]
    assert not any(drafted[1::2]) and sum(drafted[::2]) > 0


@pytest.mark.parametrize("source", ["lookup", "draft"])
def test_what_stops_an_answer_stops_it_inside_a_guess(decoder: Decoder, source: Source) -> None:
    prompt = twenty(decoder)[12]
    (whole,) = run(Engine(decoder, config=CONFIG), (prompt, Settings(max_tokens=60, sampling=GREEDY)))
    stops = sorted({*whole.tokens[5:40]})
    requests = [(prompt, Settings(max_tokens=60, stop=(stop,), sampling=GREEDY)) for stop in stops]
    for stop, told in zip(stops, run(guessing(decoder, source), *requests), strict=True):
        assert (told.tokens, told.finish) == (whole.tokens[: whole.tokens.index(stop)], "stop")


@pytest.mark.parametrize("after", range(9, 16))
def test_cancelling_inside_a_guess_is_immediate_and_leaks_nothing(decoder: Decoder, after: int) -> None:
    engine, told = guessing(decoder, "draft", draft=decoder), Collected()

    def receive(handle: Handle, event: Event) -> None:
        told(handle, event)
        if len(told.tokens) == after:
            handle.cancel()

    engine.submit(twenty(decoder)[3], Settings(max_tokens=60, sampling=GREEDY), receive)
    while engine.step():
        pass
    assert (len(told.tokens), told.finish) == (after, "cancelled")
    assert everything_is_given_back(engine)


@pytest.mark.parametrize("source", ["lookup", "draft"])
def test_a_conversation_reuses_as_much_as_without_guesses(decoder: Decoder, source: Source) -> None:
    config = replace(CONFIG, prefix_bytes=2**24)
    engine, plain, history = guessing(decoder, source, config), Engine(decoder, config=config), []
    for turn in range(6):
        history = history + phrases(decoder.config.vocab, 2, turn)
        ours, theirs = (run(each, (history, Settings(max_tokens=21, logprobs=0, sampling=GREEDY)))[0] for each in (engine, plain))
        assert ours.tokens == theirs.tokens and logprobs(ours) == pytest.approx(logprobs(theirs), abs=1e-4)
        history = history + ours.tokens
    assert engine.stats().reused_tokens == plain.stats().reused_tokens > 0
    assert everything_is_given_back(engine)


def test_a_schema_is_kept_to_ahead_as_well() -> None:
    tokenizer = Tokenizer.train(["[true, false, true]"], 270)
    decoder = random_model(replace(random_config(0, "M-*"), vocab=tokenizer.vocab_size), 0)
    schema = {"type": "array", "items": {"enum": ["yes", "no", "perhaps"]}, "minItems": 6, "maxItems": 9}
    settings = Settings(max_tokens=300, schema=schema, sampling=Sampling(temperature=1.0, seed=2))
    engines = [Engine(decoder, tokenizer, replace(CONFIG, speculate=source)) for source in ("lookup", "off")]
    ours, theirs = (run(engine, ([9], settings))[0] for engine in engines)
    assert (ours.text, ours.tokens, ours.finish) == (theirs.text, theirs.tokens, "stop")
    assert engines[0].stats().accepted_tokens > 0


def test_a_small_chunk_leaves_room_for_prompts_and_small_guesses(hybrid: Decoder) -> None:
    config = replace(CONFIG, chunk_tokens=7)
    requests = [(prompt, Settings(max_tokens=25, sampling=GREEDY)) for prompt in twenty(hybrid)]
    engines = guessing(hybrid, "lookup", config), Engine(hybrid, config=config)
    ours, theirs = (run(engine, *requests) for engine in engines)
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]


def test_whoever_finds_no_room_in_the_drafts_pool_runs_without(hybrid: Decoder) -> None:
    draft = blurred(hybrid)
    one = Engine(draft, config=replace(CONFIG, max_running=1, prefix_bytes=0)).stats().bytes
    requests = [(prompt, Settings(max_tokens=count, sampling=GREEDY)) for prompt, count in zip(twenty(hybrid), (200, 20, 20), strict=False)]
    engine = guessing(hybrid, "draft", replace(CONFIG, draft_memory=one), draft)
    ours, theirs = run(engine, *requests), run(Engine(hybrid, config=CONFIG), *requests)
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    assert [each.handle.drafted_tokens > 0 for each in ours if each.handle] == [True, False, False]


class Failing(Decoder):
    """Fails at its tenth pass."""

    passes = 0

    def embed(self, ids: Tensor) -> Tensor:
        self.passes += 1
        if self.passes > 10:
            raise RuntimeError("the draft model fell over")
        return super().embed(ids)


def test_a_draft_that_fails_costs_no_one_an_answer(hybrid: Decoder, caplog: pytest.LogCaptureFixture) -> None:
    draft = Failing(hybrid.config)
    draft.load_state_dict(hybrid.state_dict())
    requests = [(prompt, Settings(max_tokens=40, sampling=GREEDY)) for prompt in twenty(hybrid)[:3]]
    engine = guessing(hybrid, "draft", draft=draft)
    ours, theirs = run(engine, *requests), run(Engine(hybrid, config=CONFIG), *requests)
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    assert engine.stats().accepted_tokens > 0 and caplog.text.count("go on, without guesses") == 1


def test_a_draft_belongs_to_its_setting_and_to_the_same_vocabulary(hybrid: Decoder) -> None:
    with pytest.raises(ConfigError, match="no draft model"):
        Engine(hybrid, config=replace(CONFIG, speculate="draft"))
    with pytest.raises(ConfigError, match='a draft model and "off"'):
        Engine(hybrid, config=CONFIG, draft=hybrid)
    other = random_model(replace(hybrid.config, vocab=hybrid.config.vocab + 1), 0)
    with pytest.raises(ConfigError, match="one vocabulary"):
        guessing(hybrid, "draft", draft=other)


def test_runs_are_found_as_a_search_from_the_end_finds_them() -> None:
    draw = random.Random(4)
    text, runs = [draw.randrange(4)], Runs()
    for _ in range(300):
        text += [draw.randrange(4) for _ in range(draw.randrange(1, 4))]
        assert runs.follow(text, 6) == searched(text, 6)


def searched(text: list[int], count: int) -> list[int]:
    for size in (4, 3, 2):
        for end in range(len(text) - 1, size - 1, -1):
            if len(text) > size and text[end - size : end] == text[-size:]:
                longer = list(text)
                for index in range(count):
                    longer.append(longer[end + index])
                return longer[len(text) :]
    return []


def test_pace_slows_down_for_poor_guesses_and_recovers() -> None:
    pace = Pace(8)
    lengths = []
    for accepted in (8, 3, 1, 0, 0):
        lengths.append(pace.next())
        pace.learn(accepted)
    assert lengths == [8, 8, 7, 3, 1]
    assert [pace.next() for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    pace.learn(1)
    assert pace.next() == 3


def test_random_prompts_need_not_be_guessable(decoder: Decoder) -> None:
    prompts = [ids.tolist() for ids in random_ids(decoder.config.vocab, 33, 1, 120, 50)]
    settings = Settings(max_tokens=40, sampling=Sampling(temperature=3.0, top_p=1, seed=1))
    unrelated = random_model(decoder.config, 5)
    for engine in (guessing(decoder, "lookup"), guessing(decoder, "draft", draft=unrelated)):
        ours, theirs = (run(each, *((prompt, settings) for prompt in prompts)) for each in (engine, Engine(decoder, config=CONFIG)))
        assert [each.tokens for each in ours] == [each.tokens for each in theirs]
        assert everything_is_given_back(engine)

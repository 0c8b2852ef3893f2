"""A reward model behind the server, in the hosted format: beside a language model, read by two clients, and what it refuses."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.models.reward.small import TOKENIZER, reward_model, said
from tests.serve.server.running import ENGINE, Running, running, served

from amaru.cli.main import main
from amaru.errors import ConfigError
from amaru.models.reward import Scorer
from amaru.models.reward.checkpoint import save
from amaru.serve.config import EngineConfig
from amaru.serve.request import Settings
from amaru.serve.scoring import ScoringEngine
from amaru.serve.server.served import load_served, serve_part
from amaru.synth.attributes import read_attributes

ASKED = [said(f"what is {n}?", "it is five. " * (1 + n % 5)) for n in range(12)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, model = tmp_path_factory.mktemp("served") / "reward", reward_model()
    save(model.decoder, path, TOKENIZER, model.said)
    return path


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Running]:
    with running(*load_served("reward", path, EngineConfig(max_waiting=40, max_tokens=400)), served("small", config=ENGINE)) as server:
        yield server


def test_attributes_are_tokens_with_their_values(server: Running) -> None:
    """As OpenAI's client reads them, and as amaru's own client of reward models does; equal to the bit to what the scorer says."""
    answer = server.client.chat.completions.create(model="reward", messages=ASKED[3], temperature=0.3, max_tokens=16)
    (choice,) = answer.choices
    (alone,) = Scorer(reward_model())([ASKED[3]])
    assert {each.token: each.logprob for each in choice.logprobs.content} == alone.attributes
    assert {name: float(value) for name, value in (part.split(":") for part in choice.message.content.split(","))} == alone.attributes
    assert choice.finish_reason == "stop" and answer.usage.completion_tokens == 5
    assert answer.usage.prompt_tokens == len(Scorer(reward_model()).ids(ASKED[3]))
    whole = server.post("/v1/chat/completions", {"model": "reward", "messages": ASKED[3]}).json()
    assert json.loads(read_attributes(whole["choices"][0])) == alone.attributes
    parts = [{"role": "user", "content": [{"type": "text", "text": "what is "}, {"type": "text", "text": "3?"}]}, ASKED[3][1]]
    assert server.post("/v1/chat/completions", {"model": "reward", "messages": parts}).json()["choices"] == whole["choices"]


def test_many_at_once_are_as_one_by_one(server: Running) -> None:
    def ask(messages: list) -> dict[str, float]:
        body = server.post("/v1/chat/completions", {"model": "reward", "messages": messages}).json()
        return {each["token"]: each["logprob"] for each in body["choices"][0]["logprobs"]["content"]}

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, ASKED))
    for one, other in zip(found, Scorer(reward_model(), tokens=1)(ASKED), strict=True):
        assert one == pytest.approx(other.attributes, abs=1e-5)
    told = httpx.get(f"{server.url}/metrics").text
    assert float(re.search(r'amaru_finished_total{model="reward"} (\S+)', told)[1]) >= 12 and 'amaru_waiting{model="reward"} 0.0' in told
    assert server.post("/tokenize", {"model": "reward", "prompt": "two"}).json()["count"] > 0


def test_models_side_by_side_say_what_they_are(server: Running) -> None:
    cards = {card.id: card for card in server.client.models.list()}
    assert cards["reward"].attributes == list(reward_model().said.attributes.names) and cards["small"].attributes is None
    text = server.client.chat.completions.create(model="small", messages=[{"role": "user", "content": "x"}], max_tokens=3)
    assert text.choices[0].logprobs is None


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"messages": [{"role": "user", "content": "a"}]}, "the last message is from 'user'"),
        ({"messages": [{"role": "tool", "content": "a"}, *said("a", "b")]}, "Message 1 is from 'tool'"),
        ({"messages": said("a", " ")}, "The answer is empty"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [{}]}]}, "calls tools cannot be scored"),
        ({"messages": said("a", "b " * 300)}, "this reward model reads at most 400"),
        ({"stream": True}, "is a reward model, which writes nothing; leave 'stream' out"),
        ({"n": 2}, "leave 'n' out"),
        ({"tools": [{"type": "function"}]}, "leave 'tools' out"),
        ({"response_format": {"type": "json_object"}}, "leave 'response_format' out"),
    ],
)
def test_what_cannot_be_scored_is_refused(server: Running, change: dict, sentence: str) -> None:
    answer = server.post("/v1/chat/completions", {"model": "reward", "messages": said("a", "b"), **change})
    assert answer.status_code == 400 and sentence in answer.json()["error"]["message"]


def test_it_continues_no_text(server: Running) -> None:
    answer = server.post("/v1/completions", {"model": "reward", "prompt": "two"})
    assert answer.status_code == 400 and "is a reward model; it scores answers at /v1/chat/completions" in answer.text


def test_what_a_reward_model_is_not_served_with(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", str(path), "--memory", "1GiB", "--lookup"]) == 2
    assert "so memory, speculate would have no effect; leave it out" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="serve it without draft models and adapters"):
        load_served("reward", path, adapters={"a": path})
    with pytest.raises(ConfigError, match="is served by one process"):
        serve_part([("reward", path)], EngineConfig(), None)


def test_exact_scores_do_not_depend_on_the_company() -> None:
    """The same bits, whatever is scored beside it; and a queue that is full says so."""
    heard = []
    for company in ([], ASKED[:4]):
        engine = ScoringEngine(Scorer(reward_model()), EngineConfig(exact=True, max_waiting=5))
        for messages in [*company, ASKED[7]]:
            engine.submit(engine.scorer.ids(messages), None, lambda handle, event: heard.append(event))  # type: ignore[arg-type]
        assert not engine.step()
    assert heard[0] == heard[-1] and len(heard) == 6


def test_a_receiver_that_fails_takes_no_score_from_others(caplog: pytest.LogCaptureFixture) -> None:
    engine, told = ScoringEngine(Scorer(reward_model())), []

    def failing(handle: object, event: object) -> None:
        raise RuntimeError("nobody there")

    for receiver in (failing, lambda handle, event: told.append(event.finish)):
        engine.submit(engine.scorer.ids(ASKED[0]), Settings(), receiver)
    assert not engine.step() and told == ["stop"] and engine.stats().finished == 2
    engine.submit(engine.scorer.ids(ASKED[1]), Settings(), failing)
    engine.submit(engine.scorer.ids(ASKED[1]), Settings(), lambda handle, event: told.append(event.finish))
    engine.stop(drain=False)
    engine.run()
    assert told == ["stop", "cancelled"] and engine.stats().cancelled == 2
    assert caplog.text.count("the receiver of score-") == 2

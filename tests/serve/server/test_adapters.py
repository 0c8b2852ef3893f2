"""A model and its adapters behind one server, each under its own name; the oracle is the model with that adapter in its weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests.cli.server_process import server_process
from tests.cli.small_checkpoint import small_checkpoint
from tests.serve.server.running import Running, running
from tests.serve.test_adapted import METHODS, adapted, alone

from amaru.adapters.files import save
from amaru.adapters.peft_files import write
from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models import Decoder
from amaru.models.checkpoint import load
from amaru.serve.config import EngineConfig
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY
from amaru.serve.server.served import load_served

ENGINE = EngineConfig(memory=2**26, max_running=6, max_tokens=400, chunk_tokens=64)
NAMES = ("base", *METHODS)
PROMPTS = ("def f(x):", "return", "x + 1  # añade")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, and beside it its adapters: two as amaru writes them, one as peft does."""
    directory = tmp_path_factory.mktemp("adapters")
    decoder = adapted(load(small_checkpoint(directory / "base")))
    for name in METHODS:
        (write if name == "mixer" else save)(decoder, directory / name, name)
    return directory / "base"


@pytest.fixture(scope="module")
def decoder(base: Path) -> Decoder:
    return adapted(load(base))


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Running]:
    with running(*load_served("base", base, ENGINE, adapters={name: base.parent / name for name in METHODS})) as server:
        yield server


def text_of(decoder: Decoder, base: Path, name: str, prompt: str) -> str:
    tokenizer = Tokenizer.load(base)
    settings = Settings(max_tokens=24, stop=(tokenizer.eos_id,), sampling=GREEDY)
    return generate(alone(decoder, name if name in METHODS else None), [tokenizer.encode(prompt)], settings, tokenizer=tokenizer)[0].text


def test_requests_at_once_are_each_answered_by_their_own_adapter(server: Running, decoder: Decoder, base: Path) -> None:
    client = server.client
    assert [model.id for model in client.models.list()] == [*NAMES]
    asked = [(name, prompt) for prompt in PROMPTS for name in NAMES]

    def ask(name: str, prompt: str) -> str:
        return client.completions.create(model=name, prompt=prompt, max_tokens=24, temperature=0).choices[0].text

    with ThreadPoolExecutor(len(asked)) as clients:
        answers = list(clients.map(lambda words: ask(*words), asked))
    assert answers == [text_of(decoder, base, *words) for words in asked]
    assert len(set(answers[: len(NAMES)])) == len(NAMES)


def test_what_one_read_is_not_reused_by_another(server: Running) -> None:
    ask = {"prompt": "añade\n    return x + 1\n" * 5, "max_tokens": 4, "temperature": 0}
    for seen in (False, True):
        for name in NAMES:
            details = server.post("/v1/completions", ask | {"model": name}).json()["usage"]["prompt_tokens_details"]
            assert (details["cached_tokens"] > 0) == seen
    page = httpx.get(f"{server.url}/metrics").text
    assert page.count("amaru_prompt_tokens_total{") == 1, "one engine is counted once"
    assert "There is no model 'wid'. Did you mean 'wide'?" in server.post("/v1/completions", ask | {"model": "wid"}).text


def test_the_verb_takes_adapters_by_name(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(base), "--adapter", f"one={base.parent / 'wide'}", "--adapter", str(base.parent / "tied")]
    with server_process(*words) as (_, ready):
        assert ready["models"] == ["base", "one", "tied"]
        answer = httpx.post(f"{ready['address']}/v1/completions", json={"model": "one", "prompt": "x", "max_tokens": 2}, timeout=60)
        assert answer.json()["model"] == "one" and answer.status_code == 200
    assert main(["serve", *words, str(base)]) == 2
    assert "belong to one model" in capsys.readouterr().err

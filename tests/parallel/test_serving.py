"""An engine on two processes against an engine on one: the same tokens for everyone, whoever comes, leaves or is guessed for."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.models.random_models import random_ids, random_model
from tests.parallel.ranks import Ranks
from tests.parallel.small import NEMOTRON_H, STACKS, VOCAB

from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models import DecoderConfig
from amaru.models.checkpoint import save
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sampler import GREEDY, Sampling
from amaru.serve.together import LeadingEngine, engine_part

PROMPTS = [ids.tolist() for ids in random_ids(VOCAB, *range(3, 23), seed=5)]
CONFIG = EngineConfig(memory=2**22, max_running=6, max_tokens=64, chunk_tokens=16, prefix_bytes=2**20, prefix_every=8)
SETTINGS = [Settings(max_tokens=12, sampling=Sampling(seed=n) if n % 4 == 3 else GREEDY, speculate=n % 2 == 0) for n in range(len(PROMPTS))]


def answered(engine: Engine) -> list[list[int]]:
    """What each prompt becomes while others come, one leaves in the middle, and one cannot take its first event."""
    told: list[list[int]] = [[] for _ in PROMPTS]
    thread = threading.Thread(target=engine.run)

    def hear(index: int) -> None:
        def heard(handle: Handle, event: Event) -> None:
            told[index] += [token.id for token in event.tokens]
            if index == 7 and len(told[7]) == 3:
                handle.cancel()
            assert index != 8, "nobody listens"

        engine.submit(PROMPTS[index], SETTINGS[index], heard)

    for index in range(len(PROMPTS)):
        hear(index)
        if index == 4:
            thread.start()
    engine.stop()
    thread.join()
    return told


def on_two(path: Path, config: EngineConfig) -> list[list[int]] | int:
    engine = engine_part(path, None, config, None)
    if isinstance(engine, LeadingEngine):
        return answered(engine)
    engine.follow()
    return engine.stats().generated_tokens


@pytest.mark.parametrize("speculate", ["off", "lookup"])
@pytest.mark.parametrize("name", STACKS)
def test_everyone_gets_the_tokens_of_one_process(two: Ranks, tmp_path: Path, name: str, speculate: str) -> None:
    model, config = random_model(STACKS[name], seed=1), CONFIG.__class__(**{**vars(CONFIG), "speculate": speculate})
    save(model, tmp_path / "model")
    expected = answered(Engine(model, None, config))
    told, followed = two(on_two, tmp_path / "model", config)
    assert isinstance(told, list) and isinstance(followed, int)
    for index, tokens in enumerate(told):
        if index in (7, 8):
            assert tokens == expected[index][: len(tokens)] and tokens
        else:
            assert len(tokens) == 12 and tokens == expected[index], index
    assert followed >= 12 * (len(PROMPTS) - 2)


def checkpoint(path: Path) -> Path:
    tokenizer = Tokenizer.train(["def f(x):\n    return x + 1\n" * 5], vocab=290)
    save(random_model(DecoderConfig(vocab=tokenizer.vocab_size, hidden=14, layers=NEMOTRON_H)), path, tokenizer)
    return path


def amaru(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-m", "amaru", *words], capture_output=True, text=True, timeout=120, env=environment)


def test_the_command_starts_two_processes_and_prints_what_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", str(checkpoint(tmp_path / "m")), "--prompt", "def f(", "--prompt", "x", "--max-tokens", "9", "--json"]
    both = amaru(*words, "--tensor-parallel", "2")
    assert both.returncode == 0, both.stderr
    assert main(words) == 0
    assert json.loads(both.stdout)["results"] == json.loads(capsys.readouterr().out)["results"]

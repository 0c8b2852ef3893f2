"""`amaru generate`: what it prints is what the library generates."""

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.small_checkpoint import small_checkpoint

from amaru.cli.generate import command
from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import load
from amaru.serve import Sampling, Settings, generate


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "m")


def expected(checkpoint: Path, prompt: str, tokens: int, sampling: Sampling) -> str:
    tokenizer = Tokenizer.load(checkpoint)
    settings = Settings(max_tokens=tokens, stop=(tokenizer.eos_id,), sampling=sampling)
    return tokenizer.decode(generate(load(checkpoint), [tokenizer.encode(prompt)], settings)[0].tokens)


def test_text_is_streamed_to_stdout_and_progress_to_stderr(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(checkpoint), "--prompt", "def f(", "--max-tokens", "12", "--seed", "3"]) == 0
    told = capsys.readouterr()
    assert told.out == "def f(" + expected(checkpoint, "def f(", 12, Sampling(seed=3)) + "\n"
    assert " tokens in " in told.err


def test_several_prompts_and_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", "def f(", "--prompt", "añade", "--max-tokens", "5", "--temperature", "0"]
    assert main(["generate", str(checkpoint), *words, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    greedy = Sampling(temperature=0)
    assert [row["text"] for row in results] == [expected(checkpoint, prompt, 5, greedy) for prompt in ("def f(", "añade")]
    assert main(["generate", str(checkpoint), *words]) == 0
    assert "añade" + results[1]["text"].split("\n")[0] in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--lookup"], ["--draft"]], ids=str)
def test_guesses_say_the_same_and_are_counted(words: list[str], checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draft = [str(checkpoint)] * (words == ["--draft"])
    asked = ["--prompt", "def f(", "--max-tokens", "60", "--temperature", "0", "--exact", "--json"]
    assert main(["generate", str(checkpoint), *asked, *words, *draft]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["text"] == expected(checkpoint, "def f(", 60, Sampling(temperature=0))
    assert row["tokens_per_pass"] == row["tokens"] / (row["tokens"] - row["accepted"])
    assert (row["accepted"] == row["drafted"] > 30) if draft else row["accepted"] <= row["drafted"]
    assert bool(words) or row["drafted"] == 0


def test_the_flags_default_to_the_librarys_settings() -> None:
    flags = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    assert Settings().max_tokens == flags["max_tokens"]
    assert Sampling() == Sampling(temperature=flags["temperature"], top_k=flags["top_k"], top_p=flags["top_p"], seed=flags["seed"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--prompt", ""], "no token"),
        (["--prompt", "x", "--top-p", "2"], "top_p"),
        (["--prompt", "x", "--max-tokens", "0"], "max_tokens"),
        ([], "--prompt"),
        (["--prompt", "x", "--lookup", "--draft", "elsewhere"], "one of the two"),
    ],
)
def test_wrong_words_are_sentences(words: list[str], told: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(checkpoint), *words]) == 2
    captured = capsys.readouterr()
    assert told in captured.err and captured.out == ""


def test_a_directory_without_a_tokenizer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tmp_path), "--prompt", "x"]) == 2
    assert "tokenizer.json" in capsys.readouterr().err


@pytest.mark.soak
def test_the_first_token_comes_within_three_seconds_of_the_command(checkpoint: Path) -> None:
    """Process start included, files in memory: most of it is the import of torch."""
    line = [sys.executable, "-m", "amaru", "generate", str(checkpoint), "--prompt", "def f(", "--max-tokens", "40"]
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
            assert running.stdout is not None
            told = b""
            while len(told) <= len("def f("):
                more = running.stdout.read1(64)
                assert more, "it ended without a token"
                told += more
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 3, seconds

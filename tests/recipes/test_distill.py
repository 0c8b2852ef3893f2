"""`amaru distill` through the command line: two families and one tokenizer, teachers that are on disk, students that learn for codes."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipes.small import SHORT, flags, write_corpus

from amaru.cli.main import main
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import fingerprint, load, save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.models.quantised import quantised
from amaru.nn import MLP, Attention, Mamba2
from amaru.nn.rope import Rope
from amaru.precision import Scheme, quantise

HYBRID = DecoderConfig(
    vocab=300,
    hidden=48,
    layers=(Mamba2(heads=4, channels=8, groups=2, state=8), MLP(ffn=64), Attention(query_heads=2, kv_heads=1, channels=16), MLP(ffn=64)),
)
LLAMA = DecoderConfig(
    vocab=300,
    hidden=32,
    layers=(Attention(query_heads=2, kv_heads=1, channels=16, rope=Rope()), MLP(ffn=64, gated=True, activation="silu")),
)
ROWS = ["text.row_length=64", "text.validation_share=0.2", "learning.dtype=fp32"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    corpus = write_corpus(folder / "corpus", documents=12)
    tokenizer = Tokenizer.train((path.read_text() for path in sorted(corpus.iterdir())), 300)
    for name, config in {"teacher": HYBRID, "student": LLAMA}.items():
        save(Decoder(replace(config, vocab=tokenizer.vocab_size)).initialise(7), folder / name, tokenizer)
    return folder


def words(place: Path, out: Path, *more: str, tokens: str = "2k") -> list[str]:
    models = ["--teacher", str(place / "teacher"), "--student", str(place / "student")]
    return ["distill", *models, "--data", str(place / "corpus"), "--tokens", tokens, "--out", str(out), *flags(ROWS, SHORT), *more]


def distilled(place: Path, out: Path, *more: str, **how: str) -> dict[str, Any]:
    assert main([*words(place, out, *more, **how), "--json"]) == 0
    return {"checkpoint": fingerprint(out / "model"), "losses": losses(out), **json.loads((out / "quality-model.json").read_text())}


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "model-training/metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def live(place: Path) -> dict[str, Any]:
    return distilled(place, place / "live")


def test_a_llama_learns_from_a_hybrid(place: Path, live: dict[str, Any]) -> None:
    before = json.loads((place / "live/quality-before.json").read_text())
    assert live["teacher_kl"] < before["teacher_kl"] and "forward KL" in (place / "live/report.html").read_text()


def test_a_whole_cache_in_fp32_gives_the_very_student(place: Path, live: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--cache-logits", str(place / "whole"), "--top-k", "full", *flags(["cache.stored=fp32"])]
    found = distilled(place, place / "cached", *cache)
    assert (found["checkpoint"], found["losses"]) == (live["checkpoint"], live["losses"])
    assert "bytes a token; 2,0" in capsys.readouterr().err
    assert distilled(place, place / "again", *cache) == found, "another run reads what is there"
    assert ", 0 of them computed now" in " ".join(capsys.readouterr().err.split()).replace("; 0 of", ", 0 of")


def test_killed_with_a_cache_it_ends_in_the_same_student(place: Path, tmp_path: Path) -> None:
    def cached(name: str) -> list[str]:
        more = ["--cache-logits", str(tmp_path / f"logits-{name}"), "--top-k", "8", *flags(["learning.saving.seconds=0.2"])]
        return words(place, tmp_path / name, *more, tokens="6k")

    assert main(cached("calm")) == 0
    command = [sys.executable, "-m", "amaru", *cached("killed")]
    steps, deadline = tmp_path / "killed/model-training/metrics.jsonl", time.monotonic() + 60
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (steps.exists() and steps.read_text().count("\n") >= 15) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(losses(tmp_path / "killed")) < 6_000 // 128, "it was killed while it learned"
    assert main(cached("killed")) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "calm")
    assert fingerprint(tmp_path / "killed/model") == fingerprint(tmp_path / "calm/model")


def test_a_student_that_learned_for_codes_is_written_with_those_codes(place: Path, tmp_path: Path) -> None:
    distilled(place, tmp_path / "run", "--quantise", "int4", *flags(["quantise.group=64"]))
    expected, found = load(tmp_path / "run/model"), load(tmp_path / "run/quantised")
    quantise(expected, Scheme(to="int4", group=64))
    for (name, one), other in zip(quantised(expected).items(), quantised(found).values(), strict=True):
        assert torch.equal(one.codes, other.codes) and torch.equal(one.scales, other.scales), name
    assert "student, quantised" in (tmp_path / "run/report.html").read_text()


def test_hidden_states_of_a_wider_and_deeper_teacher(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distilled(place, tmp_path / "run", "--hidden", "cosine", "--cross-entropy", "0.1", *flags(["loss.hidden.balance=dynamic"]))
    assert "hidden states behind layers of student and teacher: 0 with 1, 1 with 3" in capsys.readouterr().err
    parts = json.loads((tmp_path / "run/model-training/metrics.jsonl").read_text().splitlines()[-1])["parts"]
    assert sorted(parts) == ["cosine", "cross_entropy", "forward_kl"] and parts["cosine"] < 1
    assert not any("projections" in name for name, _ in load(tmp_path / "run/model").named_parameters())


def test_longer_rows_at_the_end(place: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "long.yaml"
    phases = [{"until": "50%", "weights": {"text": 1.0}}, {"weights": {"text": 1.0}, "row_length": 128}]
    blend = {"sources": {"text": {"data": [str(place / "corpus")]}}, "phases": phases}
    models = {"teacher": str(place / "teacher"), "student": str(place / "student")}
    text = {"blend": blend, "row_length": 64, "validation_share": 0.2}
    cache = {"directory": str(tmp_path / "logits"), "top": 8}
    recipe.write_text(json.dumps({**models, "text": text, "cache": cache, "learning": {"tokens": 2000, "batch_tokens": 256}}))
    given = [f"--{name}={path}" for name, path in models.items()]
    assert main(["distill", *given, "--recipe", str(recipe), "--out", str(tmp_path / "r")]) == 0
    drawn = json.loads((tmp_path / "r/model-training/drawn.json").read_text())
    assert [phase["row_length"] for phase in drawn["phases"]] == [64, 128]


def test_bad_input_is_a_sentence(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Tokenizer.train(["another text altogether"], 300)
    save(Decoder(replace(LLAMA, vocab=300)).initialise(7), tmp_path / "other", other)
    given = words(place, tmp_path / "run")
    assert main([str(tmp_path / "other") if word == str(place / "student") else word for word in given]) == 2
    assert "have different tokenizers: token 258 is" in capsys.readouterr().err
    assert main([*given, "--cache-logits", str(tmp_path / "c"), "--hidden", "mse"]) == 2
    assert "A logit cache holds no hidden states" in capsys.readouterr().err
    assert main([*given, "--precision", "fp8", "--quantise", "int8"]) == 2
    assert "not for both" in capsys.readouterr().err
    assert main([*given, "--cache-logits", str(tmp_path / "c"), "--top-k", "some"]) == 2
    assert "--top-k is a number of tokens, or full; got 'some'" in capsys.readouterr().err

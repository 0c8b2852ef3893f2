"""`amaru eval`: the numbers are those of `evaluate` on the same rows."""

import json
from pathlib import Path

import pytest
from tests.cli.small_checkpoint import TEXT, small_checkpoint

from amaru.cli.main import main
from amaru.data.corpus import read
from amaru.data.loader import in_order
from amaru.data.packing import pack
from amaru.data.tokenizer import Tokenizer
from amaru.eval import evaluate, token_bytes
from amaru.models.checkpoint import load


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return small_checkpoint(tmp_path / "m")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_numbers_are_those_of_the_library(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = small_checkpoint(checkpoint.parent / "t", seed=1)
    words = ["--data", str(text), "--row-length", "16", "--teacher", str(teacher)]
    assert main(["eval", str(checkpoint), *words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    tokenizer = Tokenizer.load(checkpoint)
    rows = pack(read([str(text)]).documents, tokenizer, 16)
    result = evaluate(load(checkpoint), in_order(rows, 4), load(teacher), token_bytes=token_bytes(tokenizer))
    for name in ("tokens", "loss", "next_token_accuracy", "bits_per_byte", "teacher_kl", "teacher_agreement", "perplexity"):
        assert facts[name] == pytest.approx(getattr(result, name)), name
    assert main(["eval", str(checkpoint), *words]) == 0
    assert f"{result.loss:.4f} nats/token" in capsys.readouterr().out


def test_limit_rows_takes_the_first(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["eval", str(checkpoint), "--data", str(text), "--row-length", "16", "--limit-rows", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["tokens"] == 32


def test_bad_words_are_sentences(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes("año".encode("latin-1"))
    for data, told in (("absent.txt", "absent.txt"), ("empty.txt", "no text"), ("latin.txt", "not UTF-8")):
        assert main(["eval", str(checkpoint), "--data", str(tmp_path / data)]) == 2
        assert told in capsys.readouterr().err
    assert main(["eval", str(checkpoint), "--data", str(tmp_path), "--batch-rows", "0"]) == 2


def test_strided_windows_and_agreement_by_position(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", str(checkpoint), "--data", str(text), "--row-length", "16", "--stride", "4", "--teacher", str(checkpoint)]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["stride"] == 4 and facts["by_position"][-1]["last"] == 15
    assert all(row["top1"] == row["top5"] == 1 for row in facts["by_position"])


def test_tasks_are_scored_kept_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (small_checkpoint(tmp_path / f"m{seed}", seed) for seed in (0, 1))
    (tmp_path / "words.jsonl").write_text('{"context": "def f(x):", "continuation": "return"}\n{"context": "x +", "continuation": "1"}\n')
    words = ["eval", str(one), "--tasks", str(tmp_path / "words.jsonl"), "--tasks", "recall", "--lengths", "16,32", "--samples", "2"]
    words += ["--against", str(two), "--cache", str(tmp_path / "kept.sqlite")]
    assert main([*words, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert [row["task"] for row in first["tasks"]] == [f"{tmp_path.name}/words", "recall"]
    assert {"mean", "low", "high", "p", "test"} <= first["tasks"][0]["difference"]["accuracy"].keys()
    assert list(first["tasks"][1]["cells"]) == ["16", "32"] and first["notes"] == []
    assert main([*words, "--report", str(tmp_path / "page.html")]) == 0
    shown = capsys.readouterr().out
    assert "6 items were kept from before" in shown and "perplexity" in shown and (tmp_path / "page.html").exists()


def test_text_or_tasks_but_not_both_and_not_neither(checkpoint: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(checkpoint)]) == 2
    assert main(["eval", str(checkpoint), "--data", str(text), "--tasks", "recall"]) == 2
    assert main(["eval", str(checkpoint), "--tasks", "arc"]) == 2
    assert "made here are: passkey" in capsys.readouterr().err
